//! Plans of calibrated methods carried out: from a calibration on disk, into every target, read back and proved.

use lapidary_engine::Silent;
use lapidary_engine::calibration::{Calibration, Folder, Part, Prefix, Record, Settings, Text};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::{Limits, Measured, Subject, preview};
use lapidary_engine::method::Step;
use lapidary_engine::numeric::channels::Channels;
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::target::{Manifest, find};
use lapidary_tests::{assert_says, normal_matrix, plan, rtn, small_llama, writable};
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
        (vec![group("gptq"), eora.clone()], Some("corrections of low rank")),
        (vec![Step::new("sparsegpt"), eora], Some("corrections of low rank")),
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
