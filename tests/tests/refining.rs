//! Layers of a block refined together: by the error of its outputs, as stored, the same whoever does it.

use lapidary_engine::calibration::Folder;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::Encoding;
use lapidary_engine::job::{self, Limits, Measured, Sequential, StoreWeights, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::{Batch, CheckpointWeights, Network, NoTaps, Weights};
use lapidary_engine::plan::Plan;
use lapidary_engine::{Error, Observer, Progress, Silent};
use lapidary_tests::networks::{
    assert_goes_on, assert_same_in_turn, calibrated, calibrated_behind, golden,
};
use lapidary_tests::{assert_says, on_threads, plan, sample};
use ndarray::Array2;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use tempfile::TempDir;

fn aqlm() -> Step {
    Step::new("aqlm").with("codebooks", 2).with("code_bits", 3).with("run", 4)
}

fn vectors() -> Step {
    Step::new("vector-quantisation").with("code_bits", 4).with("run", 4)
}

fn refine(rounds: i64) -> Step {
    Step::new("refine").with("rounds", rounds)
}

/// A plan for the layers of this pattern.
fn plan_of(checkpoint: &Checkpoint, pattern: &str, steps: &[Step]) -> Plan {
    plan(checkpoint, &[(pattern, steps.to_vec())]).expect("a plan")
}

fn in_turn<'a>(checkpoint: &'a Checkpoint, plan: &'a Plan) -> Sequential<'a> {
    Sequential::new(checkpoint, plan, Limits::default(), None, &Silent).expect("a store")
}

/// Does something behind a calibration that compressed the blocks in turn by a plan, as its subject.
fn behind<T>(checkpoint: &Checkpoint, plan: &Plan, work: impl FnOnce(Subject<'_>) -> T) -> T {
    let (root, made) = (TempDir::new().expect("a folder"), in_turn(checkpoint, plan));
    let (folder, calibration) = calibrated_behind(checkpoint, Some(&made), &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    work(Subject { checkpoint, calibrated: &measured })
}

/// What the first block makes of a stream, with these weights.
fn first_block(
    checkpoint: &Checkpoint,
    weights: &dyn Weights,
    folder: &Folder,
) -> Vec<Array2<f32>> {
    let network = Network::open(checkpoint.config().expect("a config"), weights).expect("one");
    let block = network.load(0, &Silent).expect("a block");
    let stream = folder.stream(0).expect("a stream");
    let of_batch = |(batch, lengths): (usize, &Vec<usize>)| {
        let mut x = stream.get(batch).expect("a batch");
        network.run(&block, Batch::new(&mut x, lengths), &mut NoTaps, &Silent).expect("outputs");
        x
    };
    stream.lengths().iter().enumerate().map(of_batch).collect()
}

/// The squared error of the first block's outputs on what entered it, compressed layer by layer and refined.
fn errors(checkpoint: &Checkpoint, pattern: &str, step: &Step, rounds: i64) -> [f64; 2] {
    let root = TempDir::new().expect("a folder");
    let refined = plan_of(checkpoint, pattern, &[step.clone(), refine(rounds)]);
    let alone = plan_of(checkpoint, pattern, std::slice::from_ref(step));
    let made = in_turn(checkpoint, &refined);
    let (folder, calibration) = calibrated_behind(checkpoint, Some(&made), &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint, calibrated: &measured };
    let store = job::run(subject, &alone, Limits::default(), None, &Silent).expect("a job");
    let wanted = first_block(checkpoint, &CheckpointWeights::new(checkpoint), &folder);
    [&store, made.store()].map(|store| {
        let found = first_block(checkpoint, &StoreWeights::new(checkpoint, store), &folder);
        let pairs = found.iter().zip(&wanted);
        pairs.map(|(a, b)| (a - b).iter().map(|d| f64::from(*d).powi(2)).sum::<f64>()).sum()
    })
}

#[test]
fn the_error_of_a_blocks_outputs_falls_by_a_real_amount() {
    let layers = "*.layers.*_proj.weight";
    for (name, pattern) in [
        ("llama", layers),
        ("qwen3", layers),
        ("gemma2", layers),
        ("phi3", layers),
        ("gpt2", "*.h.*.weight"),
        ("gpt_neox", "*.layers.*.weight"),
    ] {
        let checkpoint = golden(name);
        for step in [aqlm(), vectors()] {
            let mut before = f64::INFINITY;
            for rounds in [1, 3] {
                let [alone, refined] = errors(&checkpoint, pattern, &step, rounds);
                assert!(refined < 0.9 * alone, "{name}, {step:?}: {refined} of {alone}");
                assert!(refined <= before, "{name}: more rounds are no worse");
                before = refined;
            }
        }
    }
}

#[test]
fn the_error_falls_on_the_sample() {
    let checkpoint = sample();
    let step = Step::new("aqlm").with("codebooks", 4).with("code_bits", 4).with("rounds", 2);
    let [alone, refined] = errors(&checkpoint, "*.layers.0.*_proj.weight", &step, 1);
    assert!(refined < 0.9 * alone, "{refined} of {alone}");
}

/// Queries and keys of the first block hardly show in what it gives; alone, they went hundreds of times their size.
#[test]
fn layers_stay_near_to_what_they_were() {
    let checkpoint = sample();
    let step = Step::new("aqlm").with("codebooks", 4).with("code_bits", 4).with("rounds", 2);
    let layers = "*.layers.0.*_proj.weight";
    let refined = made(&checkpoint, &plan_of(&checkpoint, layers, &[step.clone(), refine(1)]));
    let alone = made(&checkpoint, &plan_of(&checkpoint, layers, &[step]));
    assert_eq!(refined.len(), 7);
    for (refined, alone) in refined.iter().zip(&alone) {
        let [refined, alone] = [refined, alone].map(Encoding::decode);
        let squared = |weights: &Array2<f32>| weights.iter().map(|w| w * w).sum::<f32>();
        assert!(squared(&(&refined - &alone)) < squared(&alone), "by less than their size");
    }
}

#[test]
fn a_job_behind_makes_the_same_of_refined_blocks() {
    let checkpoint = golden("llama");
    let blocks = 2;
    for step in [aqlm(), vectors()] {
        let plan = plan_of(&checkpoint, "*_proj.weight", &[step, refine(2)]);
        assert_same_in_turn(&checkpoint, &plan, 7 * blocks);
    }
    // Some layers refined beside others that are not, and some that are kept.
    let mixed = [
        ("*.self_attn.*_proj.weight", vec![aqlm(), refine(1)]),
        ("*.up_proj.weight", vec![Step::new("gptq").with("bits", 3).with("group_size", 16)]),
        ("*.down_proj.weight", vec![vectors(), Step::new("polish"), refine(2)]),
    ];
    let mixed = plan(&checkpoint, &mixed).expect("a plan");
    assert_same_in_turn(&checkpoint, &mixed, 6 * blocks);
}

/// The encodings of a plan that is carried out block by block.
fn made(checkpoint: &Checkpoint, plan: &Plan) -> Vec<Encoding> {
    let (root, made) = (TempDir::new().expect("a folder"), in_turn(checkpoint, plan));
    calibrated_behind(checkpoint, Some(&made), &root);
    let layers = (0..checkpoint.tensors().len()).filter(|&layer| made.store().has(layer));
    layers.map(|layer| made.store().get(layer).expect("stored")).collect()
}

#[test]
fn the_number_of_threads_changes_no_bit_and_layouts_stay() {
    let checkpoint = golden("qwen3");
    let refined = plan_of(&checkpoint, "*_proj.weight", &[aqlm(), refine(2)]);
    let one = on_threads(1, || made(&checkpoint, &refined));
    assert!(one == on_threads(3, || made(&checkpoint, &refined)));
    let alone = made(&checkpoint, &plan_of(&checkpoint, "*_proj.weight", &[aqlm()]));
    assert_eq!(one.len(), alone.len());
    for (refined, alone) in one.iter().zip(&alone) {
        assert_eq!(refined.layout(), alone.layout());
        assert_ne!(refined, alone);
    }
}

#[test]
fn an_export_of_refined_blocks_goes_on_where_it_stopped() {
    let checkpoint = golden("llama");
    let plan = plan_of(&checkpoint, "*_proj.weight", &[aqlm(), refine(1)]);
    let root = TempDir::new().expect("a folder");
    behind(&checkpoint, &plan, |subject| {
        assert_goes_on(subject, &plan, &[3, 9, 14, 20], root.path());
    });
}

#[test]
fn what_cannot_be_refined_is_refused_in_a_sentence() {
    let checkpoint = golden("llama");
    let gptq = Step::new("gptq").with("bits", 4).with("group_size", 16);
    let sparse = Step::new("magnitude").with("fraction", 0.5);
    for steps in [vec![gptq, refine(1)], vec![sparse, aqlm(), refine(1)], vec![refine(1)]] {
        let refused =
            plan(&checkpoint, &[("*_proj.weight", steps)]).and_then(|plan| plan.check(&checkpoint));
        assert_says(refused, &["sums of codebook entries", "behind AQLM"]);
    }
    // Nothing entered the blocks of an ordinary calibration.
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let wanted = plan_of(&checkpoint, "*_proj.weight", &[aqlm(), refine(1)]);
    let run = |subject| job::run(subject, &wanted, Limits::default(), None, &Silent);
    assert_says(run(subject), &["refining block 0", "--sequential"]);
    // Nor can a layer outside the blocks be.
    let outside = plan_of(&checkpoint, "*embed_tokens.weight", &[vectors(), refine(1)]);
    let refused = job::run(subject, &outside, Limits::default(), None, &Silent);
    assert_says(refused, &["embed_tokens", "lies in no block"]);
    // Without memory for it, it says how much it takes.
    let limits = Limits { memory_bytes: 1 << 20 };
    let run = |subject: Subject<'_>| job::run(subject, &wanted, limits, None, &Silent).map(drop);
    assert_says(behind(&checkpoint, &wanted, run), &["refining block 0"]);
}

/// Says whether an estimate looked at a block that is refined.
#[derive(Default)]
struct Looks(AtomicUsize);

impl Observer for Looks {
    fn progress(&self, progress: Progress) {
        if progress.item == "refining block 0" {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

#[test]
fn what_refining_takes_is_foretold() {
    let checkpoint = golden("llama");
    let wanted = plan_of(&checkpoint, "*_proj.weight", &[aqlm(), refine(1)]);
    let alone = plan_of(&checkpoint, "*_proj.weight", &[aqlm()]);
    behind(&checkpoint, &wanted, |subject| {
        assert_eq!(job::refining_bytes(subject, &alone), 0);
        let bytes = job::refining_bytes(subject, &wanted);
        let run = |memory_bytes| job::run(subject, &wanted, Limits { memory_bytes }, None, &Silent);
        assert!(run(bytes).is_ok());
        let refused = run(bytes - 1).err();
        assert!(
            matches!(refused, Some(Error::Limit { needed_bytes, .. }) if needed_bytes == bytes),
            "{bytes}: {refused:?}"
        );
        for (plan, looked) in [(&wanted, 1), (&alone, 0)] {
            let looks = Looks::default();
            assert!(job::pace(subject, plan, &looks).expect("an estimate").seconds > 0.0);
            assert_eq!(looks.0.into_inner(), looked);
        }
    });
}

/// Stops behind so many reports of refining.
struct Stops(AtomicUsize);

impl Observer for Stops {
    fn progress(&self, progress: Progress) {
        assert!(progress.done <= progress.total);
        if progress.stage == "Refining" {
            let one_less = |left: usize| Some(left.saturating_sub(1));
            self.0.fetch_update(SeqCst, SeqCst, one_less).expect("always some");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(SeqCst) == 0
    }
}

#[test]
fn refining_stops_when_it_is_asked_to() {
    let checkpoint = golden("llama");
    let plan = plan_of(&checkpoint, "*_proj.weight", &[aqlm(), refine(2)]);
    behind(&checkpoint, &plan, |subject| {
        for reports in [1, 4, 11] {
            let stops = Stops(reports.into());
            let run = job::run(subject, &plan, Limits::default(), None, &stops);
            assert!(matches!(run, Err(Error::Cancelled)), "{:?}", run.err());
        }
    });
}
