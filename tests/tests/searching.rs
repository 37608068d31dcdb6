//! Choices searched on a real model: the same at any number of threads, after any pause, and within the budget.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapidary_engine::allocator::{Problem, Search, Settings, Stage, Trial};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::job::Subject;
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::{Bounds, Metric, Question, UnitScores, groups, plan_of, uniform};
use lapidary_engine::search::{self, Fitness, Task, Wish};
use lapidary_engine::target;
use lapidary_engine::{Error, Observer, Result, Silent};
use lapidary_tests::{assert_says, names_in, on_threads, read, sample, write};
use tempfile::TempDir;

/// A model, its levels, a budget between two of them, and a text.
struct Bench {
    model: Checkpoint,
    scores: Vec<UnitScores>,
    problem: Problem,
    sequences: Vec<Vec<u32>>,
}

impl Bench {
    fn new() -> Self {
        let model = sample();
        let palette = [2, 3, 4, 8].map(|bits| Assignment::keep().with_bits(bits)).to_vec();
        let target = target::find("mlx").expect("a target");
        let subject = Subject::from(&model);
        let question = Question { subject, plan: &Plan::default(), palette: &palette, target };
        let mut scores = question.score(Metric::Weights, None, &Silent).expect("scores");
        // Attention stays as it is, so that a candidate is soon measured.
        for of in &mut scores {
            let name = &model.tensors()[of.unit.layers[0]].name;
            if name.contains("self_attn") {
                of.options.truncate(1);
            }
        }
        let budget = uniform(&scores, 1).expect("three bits").bytes;
        let bounds = Bounds::default();
        let problem = Problem::new(groups(&model, &scores, &bounds), budget).expect("a problem");
        let sequences = (0..4).map(|s| (0..48).map(|i| (i * 37 + s * 101) % 2048).collect());
        let sequences = sequences.collect();
        Self { model, scores, problem, sequences }
    }

    /// Searches with a network of its own.
    fn run(
        &self,
        wish: &Wish,
        folder: &Path,
        each: &mut dyn FnMut(&Search),
        observer: &dyn Observer,
    ) -> Result<Search> {
        let weights = CheckpointWeights::new(&self.model);
        let network = Network::open(self.model.config().expect("config.json"), &weights)?;
        search::run(&self.task(&network), wish, folder, each, observer)
    }

    fn task<'a>(&'a self, network: &'a Network<'a>) -> Task<'a> {
        Task {
            subject: Subject::from(&self.model),
            identity: "the sample",
            scores: &self.scores,
            problem: &self.problem,
            network,
            sequences: &self.sequences,
        }
    }

    /// The plan of a search, as text.
    fn plan(&self, search: &Search) -> String {
        let choice = search.best(&self.problem);
        format!("{:?}", plan_of(&self.model, &self.scores, &choice, &Plan::default()))
    }
}

fn wish(generations: u64) -> Wish {
    let stage = |survivors, tokens| Stage { survivors, tokens };
    let settings = Settings {
        offspring: 5,
        generations,
        stages: vec![stage(2, 48), stage(1, 192)],
        most_exchanges: 3,
        seed: 7,
    };
    Wish { settings, start: None }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Cancels when it is told to.
#[derive(Default)]
struct Stop(AtomicBool);

impl Observer for Stop {
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Cancels at the n-th time it is asked.
struct StopAt(AtomicUsize);

impl Observer for StopAt {
    fn is_cancelled(&self) -> bool {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        left.is_err()
    }
}

#[test]
fn a_search_is_the_same_at_any_number_of_threads_and_after_any_pause() {
    let bench = Bench::new();
    let unbroken = on_threads(1, || {
        let folder = folder();
        bench.run(&wish(4), folder.path(), &mut |_| {}, &Silent).expect("a search")
    });
    assert_eq!(unbroken.generations().len(), 4);
    for threads in [2, 7] {
        let folder = folder();
        let found = on_threads(threads, || {
            bench.run(&wish(4), folder.path(), &mut |_| {}, &Silent).expect("a search")
        });
        assert_eq!(found, unbroken, "{threads} threads");
    }
    let folder = folder();
    let mut attempts = 0;
    let broken = loop {
        // Later each time, somewhere within a generation; compressing counts, too.
        let stop = StopAt(AtomicUsize::new(400 << attempts));
        match bench.run(&wish(4), folder.path(), &mut |_| {}, &stop) {
            Err(Error::Cancelled) => attempts += 1,
            result => break result.expect("a search"),
        }
        assert!(attempts < 30, "it gets nowhere");
    };
    assert!(attempts > 1, "it was interrupted");
    assert_eq!(broken, unbroken);
    assert_eq!(bench.plan(&broken), bench.plan(&unbroken));
    let another = Wish { settings: Settings { seed: 8, ..wish(4).settings }, start: None };
    let other = bench.run(&another, folder.path(), &mut |_| {}, &Silent).expect("a search");
    assert!(other.generations() != unbroken.generations(), "another seed draws others");
}

#[test]
fn every_finalist_keeps_the_budget_and_the_whole_text_as_minibatch_never_gets_worse() {
    let bench = Bench::new();
    let folder = folder();
    let mut seen = 0;
    let mut count = |search: &Search| {
        assert_eq!(search.generations().len(), seen);
        seen += 1;
    };
    let found = bench.run(&wish(6), folder.path(), &mut count, &Silent).expect("a search");
    assert_eq!(seen, 7, "once before the first generation");
    let finalists = found.generations().iter().flat_map(|generation| &generation.finalists);
    for finalist in finalists {
        assert!(bench.problem.is_allowed(&finalist.options));
        let bytes = bench.problem.choice(finalist.options.clone()).bytes;
        assert!(bytes <= bench.problem.budget(), "{bytes} of {}", bench.problem.budget());
    }
    // The last stage takes all four sequences, so fitnesses of generations can be compared but for the order of sums.
    let fitnesses: Vec<f64> =
        found.generations().iter().map(|g| g.fitness().expect("a number")).collect();
    let falls = fitnesses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-9));
    let first = found.generations()[0].finalists[0].fitness.expect("a number");
    assert!(falls && fitnesses[5] < first, "{first} {fitnesses:?}");
}

#[test]
fn the_fitness_is_the_divergence_of_the_whole_choice() {
    let bench = Bench::new();
    let folder = folder();
    let weights = CheckpointWeights::new(&bench.model);
    let network = Network::open(bench.model.config().unwrap(), &weights).unwrap();
    let task = bench.task(&network);
    let mut fitness = Fitness::new(&task, &wish(1).settings, folder.path()).unwrap();
    let mut of = |options: &[usize]| {
        fitness.of(&Trial { options, generation: 0, tokens: 192 }, &Silent).unwrap()
    };
    let n = bench.scores.len();
    assert!(of(&vec![0; n]) < 1e-9, "everything is kept");
    // One unit alone: what scores measure.
    let unit = bench.scores.iter().position(|of| of.options.len() > 1).unwrap();
    let mut options = vec![0; n];
    options[unit] = 1;
    let found = of(&options);
    let baseline =
        lapidary_engine::evaluation::Baseline::new(&network, &bench.sequences, &Silent).unwrap();
    let measuring = lapidary_engine::scores::Measuring {
        baseline: &baseline,
        weights: &weights,
        tokens: usize::MAX,
    };
    let palette = [Assignment::keep().with_bits(2)];
    let target = target::find("mlx").unwrap();
    let subject = Subject::from(&bench.model);
    let question = Question { subject, plan: &Plan::default(), palette: &palette, target };
    let of = &bench.scores[unit];
    let measured = question.measure(&of.unit, &of.options[1], measuring, &Silent).unwrap();
    assert!((found - measured).abs() < 1e-6 * measured, "{found} {measured}");
}

#[test]
fn what_is_damaged_on_disk_is_made_anew_and_a_longer_search_goes_on() {
    let bench = Bench::new();
    let folder = folder();
    let run = |generations, at: &Path| bench.run(&wish(generations), at, &mut |_| {}, &Silent);
    let three = run(3, folder.path()).unwrap();
    let state = names_in(folder.path()).into_iter().find(|name| name.ends_with(".search"));
    let state = folder.path().join(state.expect("a state"));
    let mut bytes = read(&state);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    write(&state, &bytes);
    let levels = folder.path().join("levels");
    for part in names_in(&levels) {
        for name in names_in(&levels.join(&part)) {
            let path = levels.join(&part).join(name);
            let mut bytes = read(&path);
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            write(&path, &bytes);
        }
    }
    assert_eq!(run(3, folder.path()).unwrap(), three);
    let five = run(5, folder.path()).unwrap();
    assert_eq!(five.generations()[..3], three.generations()[..]);
    let two = run(2, folder.path()).unwrap();
    assert_eq!(two.generations(), &three.generations()[..2]);
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(run(2, fresh.path()).unwrap(), two);
    assert_eq!(bench.plan(&run(2, fresh.path()).unwrap()), bench.plan(&two));
}

#[test]
fn a_search_stops_at_once_and_two_do_not_share_a_state() {
    let bench = Bench::new();
    let folder = folder();
    let stop = Stop::default();
    let mut inside = Ok(());
    let result = bench.run(
        &wish(1),
        folder.path(),
        &mut |_| {
            let second = bench.run(&wish(1), folder.path(), &mut |_| {}, &Silent);
            if inside.is_ok() {
                inside = second.map(|_| ());
            }
        },
        &Silent,
    );
    result.expect("the first one goes on");
    assert_says(inside, &["running already", "another folder"]);
    let late = Cell::new(Duration::ZERO);
    std::thread::scope(|scope| {
        let (told, when) = std::sync::mpsc::sync_channel(1);
        let stop = &stop;
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            told.send(Instant::now()).ok();
            stop.0.store(true, Ordering::Relaxed);
        });
        let result = bench.run(&wish(10_000), folder.path(), &mut |_| {}, stop);
        assert!(matches!(result, Err(Error::Cancelled)));
        late.set(when.recv().expect("a time").elapsed());
    });
    assert!(late.get() < Duration::from_millis(200), "{:?}", late.get());
}
