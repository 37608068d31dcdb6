//! Plans of calibrated methods carried out: from a calibration on disk, into every target, read back and proved.

use lapidary_engine::Silent;
use lapidary_engine::calibration::{
    Calibration, Entry, Folder, Imatrix, Part, Prefix, Record, Settings, Text, import_imatrix,
};
use lapidary_engine::checkpoint::{Checkpoint, Role};
use lapidary_engine::disk::Source;
use lapidary_engine::export::{Destination, estimate, export, forecast};
use lapidary_engine::format::gguf::{Header, Value, read_header};
use lapidary_engine::job::{Calibrated as _, Limits, Measured, Subject, compress_layer, preview};
use lapidary_engine::method::{Needs, Step};
use lapidary_engine::numeric::channels::Channels;
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{Manifest, find};
use lapidary_tests::{
    assert_says, names_in, normal_matrix, plan, read_output, rtn, sample, small_llama, writable,
};
use tempfile::TempDir;

fn small(folder: &std::path::Path) -> Checkpoint {
    small_llama(folder);
    Checkpoint::open(folder).expect("a folder of its own")
}

/// A finished calibration of every matrix of a checkpoint, each with inputs of its own.
fn calibrated(root: &std::path::Path, checkpoint: &Checkpoint) -> (Folder, Calibration) {
    let settings = Settings {
        model: "small".to_owned(),
        model_key: "1".to_owned(),
        texts: vec![Text { name: "t".to_owned(), hash: "h".to_owned() }],
        sequence_tokens: 64,
        tokens: 192,
        seed: 0,
        prefix: Prefix::Original,
        has_grams: true,
    };
    let record = |(seed, tensor): (usize, &lapidary_engine::checkpoint::Tensor)| {
        let channels = tensor.matrix?.shape.cols;
        let mut x = normal_matrix(seed as u64, 192, channels);
        for mut token in x.rows_mut() {
            (1..channels).for_each(|j| token[j] += 0.8 * token[j - 1]);
        }
        let (mut sums, mut gram) = (Channels::new(channels), Gram::new(channels));
        sums.add(x.view());
        gram.add(x.view());
        let layers = vec![tensor.name.clone()];
        Some(Record { layers, routed_of: None, inputs: sums.statistics(), gram: Some(gram) })
    };
    let records: Vec<Record> = checkpoint.tensors().iter().enumerate().filter_map(record).collect();
    let folder = Folder::create(root, settings).expect("a folder of its own");
    folder.write_part(Part::Block(0), &records).expect("a folder of its own");
    folder.finish().expect("a folder of its own");
    let calibration = folder.load();
    (folder, calibration)
}

#[test]
fn calibrated_plans_reach_every_target_as_planned_and_say_why_where_they_do_not() {
    let folder = TempDir::new().unwrap();
    let checkpoint = small(&folder.path().join("m"));
    let (kept, calibration) = calibrated(&folder.path().join("c"), &checkpoint);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let group = |method: &str| Step::new(method).with("group_size", 16);
    let eora = Step::new("eora").with("rank", 2);
    let chains = [
        (vec![group("gptq")], None),
        (vec![Step::new("wanda"), group("gptq"), Step::new("polish")], None),
        (vec![group("round-to-nearest").with("clipping", "weighted")], None),
        (vec![group("awq")], Some("scales of inputs")),
        (vec![group("gptq"), eora.clone()], None),
        (vec![Step::new("sparsegpt"), eora], Some("no masks")),
        (
            vec![Step::new("low-rank").with("nearest", "outputs").with("rank", 4)],
            Some("products of two thin matrices"),
        ),
    ];
    for (chain, why) in chains {
        let plan = plan(&checkpoint, &[("*_proj.weight", chain.clone())]).unwrap();
        for target in writable() {
            let manifest = Manifest::new(&checkpoint, &plan, target).unwrap();
            let out = folder.path().join("out");
            let destination =
                Destination { folder: &out, replace: true, limits: Limits::default() };
            let report = export(subject, &plan, target, destination, &Silent)
                .unwrap_or_else(|error| panic!("{} {chain:?}: {error}", target.about().id));
            assert_eq!(report.totals.total_bytes, manifest.total_bytes());
            if target.about().id != "compressed-tensors" {
                continue;
            }
            let layers = report.tensors.iter().filter(|t| t.name.ends_with("_proj.weight"));
            for layer in layers {
                let stored = if why.is_some() { "dense" } else { "native" };
                assert_eq!(layer.stored, stored, "{chain:?} {:?}", layer.because);
                let because = layer.because.clone().unwrap_or_default();
                assert!(because.contains(why.unwrap_or_default()), "{because}");
                assert!(layer.relative_error > 0.0 && layer.relative_error < 1.0);
            }
        }
    }
}

#[test]
fn reports_say_what_outputs_lose_where_a_step_asked_for_them() {
    let folder = TempDir::new().unwrap();
    let checkpoint = small(&folder.path().join("m"));
    let (kept, calibration) = calibrated(&folder.path().join("c"), &checkpoint);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let rules = [
        ("*.q_proj.weight", vec![Step::new("gptq").with("bits", 3).with("group_size", 16)]),
        ("*.up_proj.weight", vec![rtn(3).with("group_size", 16)]),
    ];
    let plan = plan(&checkpoint, &rules).unwrap();
    let out = folder.path().join("out");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    let report = export(subject, &plan, find("dense").unwrap(), destination, &Silent).unwrap();
    let written = Checkpoint::open(&out).unwrap();
    let mut seen = 0;
    for (index, layer) in report.tensors.iter().enumerate() {
        if !layer.name.ends_with("q_proj.weight") {
            assert_eq!(layer.output_error, None, "{}", layer.name);
            continue;
        }
        let gram = measured.inputs(&layer.name, Needs::Gram).unwrap().unwrap().gram.unwrap();
        let weights = checkpoint.weights(index, &Silent).unwrap().mapv(f64::from);
        let now = written.find(&layer.name).unwrap();
        let now = written.weights(now, &Silent).unwrap().mapv(f64::from);
        let form = |rows: &ndarray::Array2<f64>| -> f64 {
            let n = rows.ncols();
            let of_row = |row: ndarray::ArrayView1<'_, f64>| -> f64 {
                (0..n * n).map(|at| row[at / n] * gram.get(at / n, at % n) * row[at % n]).sum()
            };
            rows.rows().into_iter().map(of_row).sum()
        };
        let wanted = (form(&(&weights - &now)) / form(&weights)).sqrt();
        let told = layer.output_error.unwrap();
        assert!((told / wanted - 1.0).abs() < 1e-6, "{}: {told} {wanted}", layer.name);
        assert!(told < 0.9 * layer.relative_error, "it aims at outputs: {told}");
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn a_plan_that_needs_data_is_refused_without_and_previewed_with_it() {
    let folder = TempDir::new().unwrap();
    let checkpoint = small(&folder.path().join("m"));
    let plan = plan(&checkpoint, &[("*_proj.weight", vec![Step::new("gptq")])]).unwrap();
    let out = folder.path().join("out");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    let target = find("compressed-tensors").unwrap();
    assert_says(
        export(&checkpoint, &plan, target, destination, &Silent),
        &["_proj.weight", "Gram matrix", "calibrate first"],
    );
    assert!(!out.exists(), "nothing was left");
    let (kept, calibration) = calibrated(&folder.path().join("c"), &checkpoint);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let name = |t: &lapidary_engine::checkpoint::Tensor| t.name.ends_with("q_proj.weight");
    let layer = checkpoint.tensors().iter().position(name).unwrap();
    let walked = preview(subject, &plan, layer, None, &Silent).unwrap();
    let nearest = lapidary_tests::plan(&checkpoint, &[("*_proj.weight", vec![rtn(4)])]).unwrap();
    let nearest = preview(&checkpoint, &nearest, layer, None, &Silent).unwrap();
    assert!(walked.relative_error > nearest.relative_error, "it aims at outputs, not at weights");
}

/// The header of the GGUF file of an export, whose forecast is true to the byte.
fn gguf(subject: Subject<'_>, plan: &Plan, out: &std::path::Path) -> Header {
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    let target = find("gguf").expect("a target");
    let foretold = forecast(subject, plan, target, destination).expect("a forecast");
    export(subject, plan, target, destination, &Silent).expect("an export");
    let bytes: usize = read_output(out).values().map(Vec::len).sum();
    assert_eq!(foretold.output_bytes, bytes as u64);
    let is_gguf = |name: &String| std::path::Path::new(name).extension() == Some("gguf".as_ref());
    let name = names_in(out).into_iter().find(is_gguf);
    let source = Source::open(&out.join(name.expect("a GGUF file")));
    read_header(&source.expect("a GGUF file")).expect("a GGUF file")
}

#[test]
fn gguf_files_say_by_what_their_blocks_were_weighted() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sample = sample();
    let (kept, calibration) = calibrated(&at("c"), &sample);
    let own = Measured { folder: &kept, calibration: &calibration };
    let own = Subject { checkpoint: &sample, calibrated: &own };
    let blocks = Step::new("gguf-blocks").with("type", "Q4_0");
    let of = |step: Step| plan(&sample, &[("*.down_proj.weight", vec![step])]).unwrap();
    let (plain, weighted) = (of(blocks.clone()), of(blocks.with("importance", "inputs")));
    let keys = ["file", "dataset", "entries_count", "chunks_count"];
    let keys = keys.map(|key| format!("quantize.imatrix.{key}"));
    let said = |header: &Header| keys.clone().map(|key| header.metadata.get(&key).cloned());
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let number = |number| Some(Value::Unsigned(number));
    // Six layers ask; of all matrices it is known what they receive.
    let header = gguf(own, &weighted, &at("own"));
    let file = format!("lapidary calibration {}", calibration.settings.key());
    let known = calibration.records().len() as u64;
    assert_eq!(said(&header), [text(&file), text("t"), number(known), number(3)]);
    assert_eq!(said(&gguf(own, &plain, &at("plain"))), [const { None }; 4], "nothing was weighted");
    // An importance matrix of llama.cpp says it in its own words.
    let entry = |block: usize| {
        let sums = (0..768).map(|channel| 1.0 + channel as f32).collect();
        (format!("blk.{block}.ffn_down.weight"), Entry { sums, counts: vec![512.0] })
    };
    let matrix = Imatrix {
        datasets: vec!["wiki.txt".to_owned(), "code.txt".to_owned()],
        chunk_count: 7,
        chunk_size: 512,
        entries: (0..6).map(entry).collect(),
    };
    matrix.write(&at("of-this.gguf")).unwrap();
    let (kept, calibration, unsaid) =
        import_imatrix(&sample, &at("of-this.gguf"), (&at("i"), None), &Silent).unwrap();
    assert_eq!(unsaid, Vec::<String>::new());
    let again = Folder::open(kept.path()).unwrap();
    for (kept, out) in [(&kept, "imported"), (&again, "again")] {
        let imported = Measured { folder: kept, calibration: &calibration };
        let imported = Subject { checkpoint: &sample, calibrated: &imported };
        let header = gguf(imported, &weighted, &at(out));
        let wanted = [text("of-this.gguf"), text("wiki.txt, code.txt"), number(6), number(7)];
        assert_eq!(said(&header), wanted, "{out}");
    }
}

#[test]
fn time_is_estimated_for_what_is_left_by_every_way_to_compress() {
    let folder = TempDir::new().unwrap();
    let sample = sample();
    let (kept, calibration) = calibrated(&folder.path().join("c"), &sample);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &sample, calibrated: &measured };
    let rules = [
        ("*.down_proj.weight", vec![Step::new("gptq").with("group_size", 64)]),
        ("*_proj.weight", vec![rtn(4).with("group_size", 64)]),
    ];
    let plan = plan(&sample, &rules).unwrap();
    let out = folder.path().join("out");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    let forecast = forecast(subject, &plan, find("archive").unwrap(), destination).unwrap();
    let whole = estimate(subject, &plan, &forecast, &Silent).unwrap();
    // Down has 768 inputs, all others 256.
    assert_eq!((whole.layers.tried, whole.layers.layers), (2, 42));
    assert!(whole.layers.seconds > 0.0 && whole.hashing_seconds > 0.0);
    assert!((whole.seconds() - whole.layers.seconds - whole.hashing_seconds).abs() < 1e-9);
    let finished = lapidary_engine::export::Forecast { finished: 42, ..forecast.clone() };
    assert_eq!(estimate(subject, &plan, &finished, &Silent).unwrap().layers.seconds, 0.0);
    let nothing = estimate(&sample, &Plan::default(), &forecast, &Silent).unwrap();
    assert_eq!((nothing.layers.tried, nothing.layers.seconds), (0, 0.0));
    assert!(!out.exists(), "nothing was written");
}

/// Tokens are counted by the calibration, and rows of the embedding by them; what has no row for each token is refused, and so is a
/// calibration that counted none.
#[test]
fn rows_of_an_embedding_are_counted_by_the_tokens_of_the_text() {
    let folder = TempDir::new().expect("a folder");
    let checkpoint = small(&folder.path().join("small"));
    let (kept, calibration) = calibrated(&folder.path().join("calibrations"), &checkpoint);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let find = |role: Role| {
        checkpoint.tensors().iter().position(|tensor| tensor.place.role == role).expect("a layer")
    };
    let embedding = find(Role::Embedding);
    let chain = |how: &str| {
        format!("vector-quantisation code_bits=3 run=4 counted={how}").parse().expect("a chain")
    };
    let of = |layer: usize, how: &str| {
        let mut plan = Plan::default();
        plan.set(&checkpoint.tensors()[layer].name, chain(how));
        plan
    };
    let counted = of(embedding, "by-tokens");
    assert_says(
        subject.check_plan(&counted),
        &["which nobody counted", "calibrate first, or again"],
    );
    let ids: Vec<u32> = (0..400).map(|i| if i % 4 == 0 { 1 + i / 4 % 3 } else { 7 }).collect();
    kept.write_tokens(&ids.chunks(40).collect::<Vec<_>>()).expect("written");
    let (tokens, shares) = kept.tokens().expect("counted");
    assert_eq!((tokens, shares.len()), (400, 8));
    assert_eq!([shares[7], shares[0]], [0.75, 0.0]);
    assert!((shares[1..4].iter().sum::<f32>() - 0.25).abs() < 1e-6);
    assert_eq!(kept.parts(), [Part::Block(0)], "tokens are no layers");
    subject.check_plan(&counted).expect("all that is needed");
    let refused = subject.check_plan(&of(find(Role::Q), "by-tokens"));
    assert_says(refused, &["are no tokens", "count all of them alike"]);
    let weights = checkpoint.weights(embedding, &Silent).expect("weights");
    let [alike, counted] = ["alike", "by-tokens"].map(|how| {
        let made = compress_layer(subject, &of(embedding, how), embedding, &Silent);
        let decoded = made.expect("compressed").decode();
        let off = |row: usize| {
            let pairs = weights.row(row).into_iter().zip(decoded.row(row));
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let count = |row: usize| shares.get(row).map_or(0.0, |share| f64::from(*share));
        (0..weights.nrows()).map(|row| count(row) * off(row)).sum::<f64>()
    });
    assert!(counted < 0.97 * alike, "{counted} and {alike}");
    let path = kept.path().to_path_buf();
    kept.delete().expect("deleted");
    assert!(!path.exists(), "nothing is left");
}
