//! Networks calibrated: what is measured is what the layers receive, however often the run was stopped.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapidary_engine::calibration::{
    Calibration, Folder, Part, Prefix, Run, Settings, calibrate, model_key,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::Encoding;
use lapidary_engine::job::{self, Limits, Measured, Sequential, StoreWeights, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::{Batch, CheckpointWeights, Network, Site, Taps};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::Plan;
use lapidary_engine::{Error, Observer, Progress, Result, Silent};
use lapidary_tests::{plan, repository, sample};
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use tempfile::TempDir;

fn settings(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Settings {
    Settings {
        model: checkpoint.title(),
        model_key: model_key(checkpoint, None, &Silent).expect("a key"),
        texts: vec![],
        sequence_tokens: sequences[0].len() as u64,
        tokens: sequences.iter().map(|ids| ids.len() as u64).sum(),
        seed: 0,
        prefix: Prefix::Original,
        has_grams: true,
    }
}

fn sequences(network: &Network<'_>, n: usize, length: usize) -> Vec<Vec<u32>> {
    let mut random = Random::new(3);
    let vocabulary = network.design().vocabulary as f64;
    let mut ids = || (0..length).map(|_| (random.uniform() * vocabulary) as u32).collect();
    (0..n).map(|_| ids()).collect()
}

fn golden(name: &str) -> Checkpoint {
    let path = repository().join(format!("tests/golden/networks/{name}"));
    Checkpoint::open(&path).expect("a network")
}

fn run<'a>(
    network: &'a Network<'a>,
    sequences: &'a [Vec<u32>],
    checkpoint: &Checkpoint,
) -> Run<'a> {
    Run {
        network,
        compressed: None,
        in_turn: None,
        sequences: sequences.iter().map(Vec::as_slice).collect(),
        settings: settings(checkpoint, sequences),
    }
}

/// Every input, as it was.
#[derive(Default)]
struct Kept(BTreeMap<String, Vec<Array2<f32>>>);

impl Taps for Kept {
    fn input(&mut self, site: &Site<'_>, x: ArrayView2<'_, f32>) -> Result<()> {
        for &layer in &site.layers {
            self.0.entry(layer.to_owned()).or_default().push(x.to_owned());
        }
        Ok(())
    }
}

#[test]
fn records_are_those_of_the_inputs_of_every_layer_and_expert() {
    for name in ["mixtral", "gpt2", "bert", "phi3"] {
        let checkpoint = golden(name);
        let weights = CheckpointWeights::new(&checkpoint);
        let network =
            Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
        let sequences = sequences(&network, 3, 20);
        let root = TempDir::new().expect("a folder");
        let run = run(&network, &sequences, &checkpoint);
        let found = calibrate(&run, root.path(), &Silent).expect("a calibration");
        let folder = Folder::create(root.path(), run.settings.clone()).expect("the folder");
        assert!(found.is_finished && folder.is_finished());

        let mut kept = Kept::default();
        let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let mut x = network.embed(&views, 0, &Silent).expect("states");
        for block in 0..network.design().blocks.len() {
            let block = network.load(block, &Silent).expect("a block");
            network
                .run(&block, Batch::new(&mut x, &[20, 20, 20]), &mut kept, &Silent)
                .expect("states");
        }
        let head = network.load_head(&Silent).expect("a head");
        network.tap_head(&head, x.view(), &mut kept, &Silent).expect("the head's input");
        for (layer, inputs) in &kept.0 {
            let views: Vec<_> = inputs.iter().map(|x| x.view()).collect();
            let x = concatenate(Axis(0), &views).expect("one width");
            let record = found.record(layer).unwrap_or_else(|| panic!("{name} lacks {layer}"));
            assert_eq!(record.inputs.tokens, x.nrows() as u64, "{layer}");
            let gram = folder.gram(record).expect("a Gram matrix").to_dense();
            let wide = x.mapv(f64::from);
            let exact = wide.t().dot(&wide);
            let scale = exact.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
            for ((at, found), exact) in gram.indexed_iter().zip(&exact) {
                assert!(
                    (found - exact).abs() < 1e-5 * scale,
                    "{layer} {at:?}: {found} for {exact}"
                );
            }
            let squares = record.inputs.mean_square.iter().zip(exact.diag());
            for (found, exact) in squares {
                assert!((f64::from(*found) * x.nrows() as f64 - exact).abs() < 1e-5 * scale);
            }
        }
        let experts = found.records().iter().filter(|record| record.routed_of.is_some());
        let seen: u64 = experts.clone().map(|record| record.inputs.tokens).sum();
        if name == "mixtral" {
            // Two of the experts see each token, through gate and up and through down, in every block.
            assert_eq!(seen, 60 * 2 * 2 * network.design().blocks.len() as u64);
            assert!(experts.clone().all(|record| record.routed_of == Some(60)));
        } else {
            assert_eq!(experts.count(), 0);
        }
    }
}

/// Cancels the n-th time it is asked after progress in a block.
struct CancelAt {
    reports: usize,
    seen: AtomicUsize,
}

impl Observer for CancelAt {
    fn progress(&self, _progress: Progress) {
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.reports
    }
}

fn whole(found: &Calibration) -> String {
    format!("{:?}", found.records())
}

#[test]
fn a_run_stopped_anywhere_ends_as_one_that_was_not() {
    let checkpoint = golden("qwen3_moe");
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let sequences = sequences(&network, 3, 1000);
    let at_once = TempDir::new().expect("a folder");
    let run = run(&network, &sequences, &checkpoint);
    let wanted = calibrate(&run, at_once.path(), &Silent).expect("a calibration");
    let stopped = TempDir::new().expect("a folder");
    let mut parts_kept = 0;
    for reports in 1.. {
        let observer = CancelAt { reports, seen: AtomicUsize::new(0) };
        let folder = Folder::create(stopped.path(), run.settings.clone()).expect("a folder");
        match calibrate(&run, stopped.path(), &observer) {
            Err(Error::Cancelled) => {
                assert!(!folder.is_finished());
                assert!(folder.parts().len() >= parts_kept, "finished blocks are kept");
                parts_kept = folder.parts().len();
            }
            Err(other) => panic!("{}", other.sentence()),
            Ok(found) => {
                assert!(parts_kept > 0, "some blocks were finished before");
                assert_eq!(whole(&found), whole(&wanted));
                break;
            }
        }
        // What was being measured when it stopped is begun again: only whole blocks go on.
        assert!(reports < 40, "it never ends");
    }
}

#[test]
fn the_number_of_threads_changes_no_byte_of_a_calibration() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let sequences = sequences(&network, 2, 128);
    let on = |threads: usize| {
        let root = TempDir::new().expect("a folder");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let run = run(&network, &sequences, &checkpoint);
        pool.install(|| calibrate(&run, root.path(), &Silent)).expect("a calibration");
        let folder = Folder::create(root.path(), run.settings.clone()).expect("the folder");
        lapidary_tests::read_folder(folder.path())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn calibrating_behind_compressed_blocks_measures_what_comes_through_them() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let network = Network::open(config, &weights).expect("a network");
    let sequences = sequences(&network, 2, 30);
    // A compressed network whose first block adds nothing: the second then receives the embedding.
    let names = ["self_attn.o_proj", "mlp.down_proj"];
    let zero = |part: &str| {
        let name = format!("model.layers.0.{part}.weight");
        let matrix = checkpoint.weights(checkpoint.find(&name).expect("a layer"), &Silent);
        (name, std::sync::Arc::new(matrix.expect("weights") * 0.0))
    };
    let by = names.map(zero).into_iter().collect();
    let changed = lapidary_engine::network::Replaced {
        base: &weights,
        by,
        shifts: std::collections::HashMap::new(),
    };
    let compressed = Network::open(config, &changed).expect("a network");
    let root = TempDir::new().expect("a folder");
    let mut of_compressed = run(&network, &sequences, &checkpoint);
    of_compressed.compressed = Some(&compressed);
    of_compressed.settings.prefix = Prefix::Compressed { plan: "1".to_owned() };
    let found = calibrate(&of_compressed, root.path(), &Silent).expect("a calibration");
    let original = run(&network, &sequences, &checkpoint);
    let plain = calibrate(&original, root.path(), &Silent).expect("a calibration");
    let squares = |of: &Calibration, block: usize| {
        let name = format!("model.layers.{block}.self_attn.q_proj.weight");
        of.record(&name).expect("a record").inputs.mean_square.clone()
    };
    assert_eq!(squares(&found, 0), squares(&plain, 0), "the first block receives the same");
    assert_ne!(squares(&found, 1), squares(&plain, 1));
    let mut kept = Kept::default();
    let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let mut x = network.embed(&views, 0, &Silent).expect("states");
    let block = network.load(1, &Silent).expect("a block");
    network.run(&block, Batch::new(&mut x, &[30, 30]), &mut kept, &Silent).expect("states");
    let inputs = &kept.0["model.layers.1.self_attn.q_proj.weight"][0];
    let exact = inputs.mapv(|x| f64::from(x).powi(2)).mean_axis(Axis(0)).expect("means");
    for (found, exact) in squares(&found, 1).iter().zip(&exact) {
        assert!((f64::from(*found) - exact).abs() < 1e-5 * exact, "{found} for {exact}");
    }
}

#[test]
fn values_that_are_not_finite_are_told_with_their_block_and_what_came_before_is_kept() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let name = "model.layers.1.mlp.down_proj.weight";
    let matrix = checkpoint.weights(checkpoint.find(name).expect("a layer"), &Silent);
    let mut matrix = matrix.expect("weights");
    matrix[(0, 0)] = f32::NAN;
    let by = std::iter::once((name.to_owned(), std::sync::Arc::new(matrix))).collect();
    let broken = lapidary_engine::network::Replaced {
        base: &weights,
        by,
        shifts: std::collections::HashMap::new(),
    };
    let network = Network::open(config, &broken).expect("a network");
    let sequences = sequences(&network, 2, 30);
    let root = TempDir::new().expect("a folder");
    let run = run(&network, &sequences, &checkpoint);
    let error = calibrate(&run, root.path(), &Silent).expect_err("NaN");
    assert!(error.sentence().contains("from block 1 on"), "{}", error.sentence());
    let folder = Folder::create(root.path(), run.settings.clone()).expect("the folder");
    assert_eq!(folder.parts(), [Part::Block(0)]);
}

/// Stages reported, so that a window can show how much is left.
#[derive(Default)]
struct Reports(Mutex<Vec<Progress>>);

impl Observer for Reports {
    fn progress(&self, progress: Progress) {
        self.0.lock().expect("the list").push(progress);
    }
}

#[test]
fn progress_counts_tokens_up_to_all_of_them() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let sequences = sequences(&network, 5, 1000);
    let root = TempDir::new().expect("a folder");
    let reports = Reports::default();
    calibrate(&run(&network, &sequences, &checkpoint), root.path(), &reports)
        .expect("a calibration");
    let reports = reports.0.into_inner().expect("the list");
    assert!(reports.len() >= 9, "{}", reports.len());
    assert!(reports.windows(2).all(|pair| pair[0].done <= pair[1].done));
    assert!(reports.iter().all(|report| report.total == 5000 && report.done < 5000));
}

/// A plan that rounds every projection to 3 bits by GPTQ.
fn gptq_plan(checkpoint: &Checkpoint) -> Plan {
    let step = Step::new("gptq").with("bits", 3).with("group_size", 16);
    plan(checkpoint, &[("*_proj.weight", vec![step])]).expect("a plan")
}

fn calibrated_in_turn<'a>(
    (network, checkpoint, plan): (&'a Network<'a>, &'a Checkpoint, &'a Plan),
    sequences: &'a [Vec<u32>],
    root: &std::path::Path,
    observer: &dyn Observer,
) -> Result<(Folder, Vec<Encoding>)> {
    let made = Sequential::new(checkpoint, plan, Limits::default(), None, &Silent)?;
    let weights = made.weights();
    let compressed = Network::open(checkpoint.config().expect("a config"), &weights)?;
    let mut run = run(network, sequences, checkpoint);
    run.compressed = Some(&compressed);
    run.in_turn = Some(&made);
    run.settings.prefix = Prefix::InTurn { plan: "p".to_owned() };
    calibrate(&run, root, observer)?;
    let layers = (0..checkpoint.tensors().len()).filter(|&layer| made.store().has(layer));
    let encodings = layers.map(|layer| made.store().get(layer)).collect::<Result<_, _>>()?;
    Ok((Folder::create(root, run.settings)?, encodings))
}

#[test]
fn blocks_compressed_in_turn_are_those_of_hand_made_turns_and_of_a_job_behind() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let network = Network::open(config, &weights).expect("a network");
    let (sequences, plan) = (sequences(&network, 3, 40), gptq_plan(&checkpoint));
    let root = TempDir::new().expect("a folder");
    let of = (&network, &checkpoint, &plan);
    let (folder, made) = calibrated_in_turn(of, &sequences, root.path(), &Silent).expect("blocks");
    assert_eq!(made.len(), 7 * network.design().blocks.len());
    // A job with what was kept makes the same again.
    let calibration = folder.load();
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let store = job::run(subject, &plan, Limits::default(), None, &Silent).expect("a job");
    let layers = (0..checkpoint.tensors().len()).filter(|&layer| store.has(layer));
    let again: Vec<Encoding> = layers.map(|layer| store.get(layer).expect("stored")).collect();
    assert!(again == made, "the same encodings");
    // Once all blocks are compressed, calibrating behind them measures the same: a fixed point.
    let compressed_weights = StoreWeights::new(&checkpoint, &store);
    let compressed = Network::open(config, &compressed_weights).expect("a network");
    let mut behind = run(&network, &sequences, &checkpoint);
    behind.compressed = Some(&compressed);
    behind.settings.prefix = Prefix::Compressed { plan: "p".to_owned() };
    let behind = calibrate(&behind, root.path(), &Silent).expect("a calibration");
    assert_eq!(behind.records(), calibration.records());
    // And it is not what the original blocks give.
    let original = run(&network, &sequences, &checkpoint);
    let original = calibrate(&original, root.path(), &Silent).expect("a calibration");
    assert_ne!(original.records(), calibration.records());
    let squares = |of: &Calibration| of.records()[0].inputs.mean_square.clone();
    assert_eq!(squares(&original), squares(&calibration), "nothing lies before the first block");
}

#[test]
fn blocks_compressed_in_turn_are_the_same_when_stopped_and_on_any_number_of_threads() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let network = Network::open(config, &weights).expect("a network");
    let (sequences, plan) = (sequences(&network, 2, 30), gptq_plan(&checkpoint));
    let of = (&network, &checkpoint, &plan);
    let on = |threads: usize| {
        let root = TempDir::new().expect("a folder");
        lapidary_tests::on_threads(threads, || {
            calibrated_in_turn(of, &sequences, root.path(), &Silent).expect("blocks").1
        })
    };
    let whole = on(1);
    assert!(whole == on(3));
    // Stopped anywhere, it goes on to the same end.
    let mut stops = 0;
    for reports in (1..).step_by(5) {
        let root = TempDir::new().expect("a folder");
        let observer = CancelAt { reports, seen: AtomicUsize::new(0) };
        match calibrated_in_turn(of, &sequences, root.path(), &observer) {
            Err(Error::Cancelled) => stops += 1,
            found => {
                assert!(found.expect("blocks").1 == whole);
                break;
            }
        }
        let again = calibrated_in_turn(of, &sequences, root.path(), &Silent).expect("blocks");
        assert!(again.1 == whole, "stopped after {reports} reports");
    }
    assert!(stops > 3, "{stops}");
}

#[test]
fn a_block_that_cannot_be_compressed_ends_the_run_by_name() {
    let checkpoint = golden("llama");
    let weights = CheckpointWeights::new(&checkpoint);
    let network = Network::open(checkpoint.config().expect("a config"), &weights).expect("one");
    let (sequences, plan) = (sequences(&network, 2, 30), gptq_plan(&checkpoint));
    let root = TempDir::new().expect("a folder");
    let made = Sequential::new(&checkpoint, &plan, Limits::default(), None, &Silent).expect("one");
    let weights = made.weights();
    let compressed = Network::open(checkpoint.config().expect("a config"), &weights).expect("one");
    let mut run = run(&network, &sequences, &checkpoint);
    run.compressed = Some(&compressed);
    run.in_turn = Some(&made);
    run.settings.has_grams = false;
    let error = calibrate(&run, root.path(), &Silent).expect_err("no Gram matrices").sentence();
    assert!(error.contains("layers.0") && error.contains("did not keep"), "{error}");
}
