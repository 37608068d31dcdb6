//! The report of an export: what it says of coverage and of files, and its page, which is well-formed, self-contained, safe
//! against names that look like markup, and small.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, PAGE, REPORT, Report, export, verify};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::{Silent, target};
use lapidary_tests::{
    Weights, normals, plan, read, read_json, rtn, sample, sample_path, small_llama, write,
};
use roxmltree::{Document, Node, ParsingOptions};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

fn run(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Report {
    let destination = Destination { folder, replace: false, limits: Limits::default() };
    export(checkpoint, plan, target::find(id).expect("it works"), destination, &Silent)
        .expect("it works")
}

/// The page of an output, parsed strictly.
fn with_page<T>(folder: &Path, look: impl FnOnce(&str, &Document<'_>) -> T) -> T {
    let text = String::from_utf8(read(&folder.join(PAGE))).expect("it works");
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let parsed = Document::parse_with_options(&text, options);
    look(&text, &parsed.unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn all<'a>(page: &'a Document<'_>, tag: &'a str) -> Vec<Node<'a, 'a>> {
    page.descendants().filter(|node| node.tag_name().name() == tag).collect()
}

fn text(node: &Node<'_, '_>) -> String {
    node.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).collect()
}

#[test]
fn coverage_is_said_in_a_sentence() {
    let sample = sample();
    let (attention, feed) = ("*.self_attn.*_proj.weight", "*.mlp.*_proj.weight");
    let four = || vec![rtn(4)];
    let cases: [(&str, Vec<(&str, _)>, &str); 6] = [
        (
            "compressed-tensors",
            vec![],
            "0 of 43 linear layers stored compressed; 43 kept: model.layers.0.self_attn.",
        ),
        (
            "compressed-tensors",
            vec![(attention, four()), (feed, four())],
            "42 of 43 linear layers at 4 bits; 1 kept: lm_head",
        ),
        (
            "compressed-tensors",
            vec![(attention, four()), (feed, vec![rtn(8)])],
            "24 of 43 linear layers at 4 bits, 18 at 8 bits; 1 kept: lm_head",
        ),
        (
            "dense",
            vec![(attention, four())],
            "0 of 43 linear layers stored compressed; 24 compressed but stored in full: ",
        ),
        (
            "archive",
            vec![("*", vec![rtn(3)])],
            "43 of 43 linear layers at 3 bits; 1 other tensor compressed",
        ),
        (
            "archive",
            vec![(attention, vec![Step::new("onebit")]), (feed, four())],
            "24 of 43 linear layers at 1 bit, 18 at 4 bits; 1 kept: lm_head",
        ),
    ];
    for (id, rules, wanted) in cases {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out");
        let report = run(&sample, &plan(&sample, &rules).unwrap(), id, &out);
        assert!(report.coverage.starts_with(wanted), "{id}: {}", report.coverage);
        let named = report.coverage.contains(" and 39 more");
        assert_eq!(named, rules.is_empty(), "{}", report.coverage);
        assert_eq!(read_json(&out.join(REPORT))["coverage"], *report.coverage);
        with_page(&out, |_, page| {
            assert!(text(&page.root()).contains(&report.coverage), "{id}");
        });
    }
}

#[test]
fn every_file_has_its_hash() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let wish = plan(&sample, &[("*_proj.weight", vec![rtn(4)])]).unwrap();
    let report = run(&sample, &wish, "compressed-tensors", &out);
    assert_eq!(report.sources.len(), 1);
    assert!(report.files.len() > 5);
    let sources = report.sources.iter().map(|file| (sample_path(), file));
    let output = report.files.iter().map(|file| (out.clone(), file));
    for (folder, file) in sources.chain(output) {
        let bytes = read(&folder.join(&file.name));
        assert_eq!(file.bytes, bytes.len() as u64);
        let hash = format!("{:x}", Sha256::digest(&bytes));
        assert_eq!(file.sha256, hash, "{}", file.name);
        with_page(&out, |page, _| assert!(page.contains(&hash), "{}", file.name));
    }
}

#[test]
fn the_page_has_every_layer_and_needs_nothing_else() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let rules =
        [("*.mlp.*_proj.weight", vec![rtn(4)]), ("*.self_attn.*_proj.weight", vec![rtn(8)])];
    let report = run(&sample, &plan(&sample, &rules).unwrap(), "compressed-tensors", &out);
    with_page(&out, |page, parsed| {
        for tag in ["script", "link", "img", "iframe", "object", "form"] {
            assert!(all(parsed, tag).is_empty(), "{tag}");
        }
        let without_names = page.replace("xmlns=\"http://www.w3.org/", "");
        for outside in ["http:", "https:", "url(", "@import", "src=", "href="] {
            assert!(!without_names.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
        let shown: Vec<_> = report.tensors.iter().filter(|tensor| tensor.shape.len() > 1).collect();
        let rows: Vec<Vec<String>> = all(parsed, "tr")
            .iter()
            .map(|row| row.children().filter(Node::is_element).map(|cell| text(&cell)).collect())
            .filter(|row: &Vec<String>| row.len() == 10 && row[0] != "layer")
            .collect();
        assert_eq!(rows.len(), shown.len());
        for (row, tensor) in rows.iter().zip(&shown) {
            let digits = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
            assert_eq!((&row[0], &row[2]), (&tensor.name, &tensor.method));
            assert_eq!(row[4], format!("{:.3}", tensor.effective_bits));
            assert_eq!((digits(&row[5]), digits(&row[6])), (tensor.bytes, tensor.source_bytes));
            let error = row[7].trim_end_matches(" %").parse::<f64>().unwrap_or(0.0) / 100.0;
            assert!((error - tensor.relative_error).abs() < 1e-5, "{row:?}");
        }
        // Every layer is a cell of the map, every compressed one a bar.
        let titles: Vec<String> = all(parsed, "title").iter().map(text).collect();
        for tensor in &shown {
            let bars = usize::from(tensor.stored != "copied");
            let marks = titles.iter().filter(|title| title.starts_with(&*tensor.name)).count();
            assert_eq!(marks, 1 + bars, "{}", tensor.name);
        }
        assert_eq!(all(parsed, "svg").len(), 3, "map, legend, bars");
    });
}

#[test]
fn names_that_look_like_markup_stay_names() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("<b>m & m's \"model\"");
    small_llama(&model);
    let mut weights = Weights::new();
    let names = [
        "</td><script>alert('x')</script>.weight",
        "&lt;already&gt; \"quoted\".weight",
        "model.layers.4000000000.mlp.up_proj.weight",
        "\u{1}control \u{202e}reversed 层.weight",
    ];
    for name in names {
        weights = weights.f32(name, &[8, 32], &normals(3, 256));
    }
    weights.write(&model.join("model.safetensors"));
    let checkpoint = Checkpoint::open(&model).unwrap();
    let out = folder.path().join("out");
    let report =
        run(&checkpoint, &plan(&checkpoint, &[("*", vec![rtn(4)])]).unwrap(), "archive", &out);
    assert_eq!(report.tensors.len(), 4);
    with_page(&out, |page, parsed| {
        assert!(!page.contains("<script") && !page.contains("<b>"));
        let said = text(&parsed.root());
        for name in names {
            assert!(said.contains(&name.replace('\u{1}', "\u{fffd}")), "{name:?}");
        }
        assert!(said.contains("<b>m & m's \"model\""));
    });
}

#[test]
fn a_thousand_layers_are_a_page_of_less_than_two_megabytes() {
    let folder = TempDir::new().unwrap();
    let mut weights = Weights::new();
    let values = normals(5, 64);
    let roles = ["q", "k", "v", "o"].map(|role| format!("self_attn.{role}_proj"));
    let roles = roles.into_iter().chain(["gate", "up", "down"].map(|r| format!("mlp.{r}_proj")));
    let roles: Vec<String> = roles.collect();
    for block in 0..150 {
        for role in &roles {
            let name = format!("a.long.name.of.a.model.layers.{block}.{role}.weight");
            weights = weights.f32(&name, &[2, 32], &values);
        }
    }
    let path = folder.path().join("model.safetensors");
    weights.write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let out = folder.path().join("out");
    let report =
        run(&checkpoint, &plan(&checkpoint, &[("*", vec![rtn(4)])]).unwrap(), "dense", &out);
    assert_eq!(report.tensors.len(), 1050);
    with_page(&out, |page, parsed| {
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
        assert!(all(parsed, "tr").len() > 1050);
        // A cell for each layer, and a bar for every two of them.
        assert_eq!(all(parsed, "rect").len(), 1050 + 8 + 525);
    });
}

#[test]
fn reports_of_before_are_still_read() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    small_llama(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    let out = folder.path().join("out");
    run(
        &checkpoint,
        &plan(&checkpoint, &[("*_proj.weight", vec![rtn(4)])]).unwrap(),
        "dense",
        &out,
    );
    let path = out.join(REPORT);
    let mut older = read_json(&path);
    let fields = older.as_object_mut().unwrap();
    assert!(fields.remove("coverage").is_some() && fields.remove("sources").is_some());
    for file in fields["files"].as_array_mut().unwrap() {
        assert!(file.as_object_mut().unwrap().remove("sha256").is_some());
    }
    write(&path, older.to_string().as_bytes());
    let verified = verify(&out, &checkpoint, &Silent).unwrap();
    assert!(verified.is_reported && verified.faults.is_empty(), "{:?}", verified.faults);
}
