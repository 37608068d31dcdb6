//! Calibrating through the window: a text, a run, what the inspector then shows, cancelling, experts.

mod window;

use std::path::Path;

use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::commands::allocate::Allocate;
use lapidary::document::calibrations::{Ask, Before, Form, Known, Loaded};
use lapidary::document::look::Tab;
use lapidary::document::metrics::{find, sensitive};
use lapidary::document::ranking::{Asked, Ranking};
use lapidary::document::{Document, Sheet, Slot};
use lapidary_engine::Silent;
use lapidary_engine::calibration::{Folder, Part, Prefix, Record, Settings, Text, model_key};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::job::{Moments, Sample, Weighting};
use lapidary_engine::method::Step;
use lapidary_engine::numeric::channels::Channels;
use lapidary_engine::plan::Assignment;
use lapidary_tests::{normal_matrix, repository, sample_path};
use window::{Screen, open, open_sample, wait_until};

fn form(tokens: usize) -> Form {
    let paths = vec![sample_path().join("heldout_oz.txt")];
    Form { paths, sequence_tokens: Some(64), tokens, ..Form::default() }
}

fn start(screen: &mut Screen, tokens: usize) {
    let able = |document: &Document| {
        document.model.as_ref().is_some_and(|model| model.calibrations.ability.is_some())
    };
    wait_until(screen, "it is known whether the model can be run", able);
    screen.state().send(Command::ToggleSheet(Sheet::Calibrate));
    screen.state().send(Command::Calibration(Ask::SetForm(Box::new(form(tokens)))));
    screen.run_steps(3);
    assert!(screen.query_by_label_contains("25 inputs in 6 blocks").is_some(), "the forecast");
    screen.get_by_label("Run").click();
    screen.run_steps(2);
}

fn loaded(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| model.calibrations.loaded.is_some())
}

fn calibrated(home: &Path) -> Screen {
    let mut screen = open_sample(home);
    start(&mut screen, 600);
    wait_until(&mut screen, "the calibration is there", loaded);
    screen
}

#[test]
fn a_calibration_fills_the_inspector_the_metrics_and_weights_errors() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = calibrated(folder.path());
    wait_until(&mut screen, "the layer is seen through it", |document| {
        let through = document.model.as_ref().and_then(|m| m.calibrations.through.as_ref());
        through.is_some_and(|(_, through)| through.is_done)
    });
    assert_eq!(screen.state().model().tab, Tab::Activations);
    assert_eq!(screen.state().document().sheet, None, "the form closes when it is done");
    for label in ["tokens seen", "input kurtosis", "640", "90 %, whitened"] {
        assert!(screen.query_all_by_label(label).next().is_some(), "{label}");
    }
    let model = screen.state().model();
    let layer = model.selection.cursor().unwrap();
    let record = model.record(layer).unwrap();
    let kurtosis = (find("activation-kurtosis").unwrap().value)(model, layer).unwrap();
    assert_eq!(kurtosis, record.inputs.whole.kurtosis);
    assert_eq!((find("tokens").unwrap().value)(model, layer), Some(640.0));
    let (_, through) = model.calibrations.through.as_ref().unwrap();
    let whitened = through.whitened.as_ref().unwrap().as_ref().unwrap();
    let trace: f64 = through.eigenvalues.as_ref().unwrap().as_ref().unwrap().iter().sum();
    let squares: f64 = record.inputs.mean_square.iter().map(|&square| f64::from(square)).sum();
    assert!((trace / squares - 1.0).abs() < 1e-3, "tr E[x·xᵀ] is Σ E[x²]: {trace} {squares}");
    assert!(whitened.len() == 256 && whitened.is_sorted_by(|a, b| a >= b));
    weighted_error(&mut screen, layer);
}

/// The damage of the layer is that of its outputs, as the engine says from the same Gram matrix.
fn weighted_error(screen: &mut Screen, layer: usize) {
    screen.state().send(Command::Assign(sensitive()));
    screen.run_steps(2);
    wait_until(screen, "the error is weighted", |document| {
        let damage = document.model.as_ref().and_then(|model| model.damage(layer));
        damage.is_some_and(|damage| damage.weighting == Weighting::Gram && damage.is_exact())
    });
    let model = screen.state().model();
    let sample = Sample::whole(&model.checkpoint, layer, &Silent).expect("a layer of weights");
    let plain =
        sample.damage(&sensitive().steps, &Silent).expect("a layer of weights").relative_error;
    let loaded = model.calibrations.loaded.as_ref().expect("a calibration");
    let gram =
        loaded.folder.gram(model.record(layer).expect("a calibration")).expect("a calibration");
    let moments = Moments::Gram(&gram);
    let wanted =
        sample.damage_through(&sensitive().steps, &moments, &Silent).expect("a layer of weights");
    let found = model.damage(layer).expect("a layer of weights");
    assert_eq!(found, wanted);
    assert!((found.relative_error - plain).abs() > 1e-4, "{found:?} {plain}");
}

#[test]
fn methods_that_need_data_are_grey_until_there_is_some() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let gptq = Assignment::of(vec![Step::new("gptq")]);
    screen.state().send(Command::Assign(gptq.clone()));
    let answer = |document: &Document| {
        let model = document.model.as_ref()?;
        let (_, tried, found) = model.preview.as_ref()?;
        (tried.steps == [Step::new("gptq")]).then(|| found.clone())
    };
    wait_until(&mut screen, "it was tried", |document| answer(document).is_some());
    let refused = answer(screen.state().document()).unwrap().unwrap_err();
    assert!(refused.contains("Gram matrix") && refused.contains("calibrate first"), "{refused}");
    let model = screen.state().model();
    let layer = model.selection.cursor().unwrap();
    assert_eq!(model.why_uncalibrated(layer, &gptq.steps), Some(refused));
    start(&mut screen, 600);
    wait_until(&mut screen, "the calibration is there", loaded);
    wait_until(&mut screen, "it was tried again", |document| {
        answer(document).is_some_and(|found| found.is_ok())
    });
    assert_eq!(screen.state().model().why_uncalibrated(layer, &gptq.steps), None);
    wait_until(&mut screen, "its damage is weighted", |document| {
        let damage = document.model.as_ref().and_then(|model| model.damage(layer));
        damage.is_some_and(|damage| damage.weighting == Weighting::Gram && damage.is_exact())
    });
}

#[test]
fn a_cancelled_run_keeps_its_blocks_and_goes_on_and_the_next_window_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    start(&mut screen, 6000);
    let blocks = |document: &Document| {
        let model = document.model.as_ref().unwrap();
        let progress = match &model.calibrations.run {
            Slot::Running { progress, .. } => progress.clone(),
            _ => None,
        };
        progress.is_some_and(|now| now.stage == "Calibrating" && now.item == "block 2")
    };
    wait_until(&mut screen, "two blocks are done", blocks);
    screen.state().send(Command::Calibration(Ask::Cancel));
    wait_until(&mut screen, "it has stopped", |document| {
        let calibrations = &document.model.as_ref().unwrap().calibrations;
        !calibrations.run.is_running() && !calibrations.known.is_empty()
    });
    let known: Known = screen.state().model().calibrations.known[0].clone();
    assert!(!known.is_finished && known.parts >= 2, "{known:?}");
    assert!(screen.query_by_label_contains("not finished").is_some());
    screen.get_by_label("Run").click();
    wait_until(&mut screen, "it went on to its end", loaded);
    let title = Loaded::title(&screen.state().model().calibrations.loaded.as_ref().unwrap().folder);
    assert_eq!(title, "heldout_oz.txt, 6,016 tokens in sequences of 64");
    drop(screen);
    let mut screen = open_sample(folder.path());
    wait_until(&mut screen, "the calibration is found again", loaded);
}

/// What a calibration gives after another of the original blocks, with all layers at 4 bits.
fn behind(before: Before, title: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = calibrated(folder.path());
    let plain = screen.state().model().calibrations.loaded.clone().expect("one");
    screen.state().send(Command::SelectAll);
    screen.run_steps(2);
    screen.state().send(Command::SetBits(4));
    screen.run_steps(3);
    assert!(screen.state().model().plan_compresses());
    let mut form = form(600);
    form.before = before;
    screen.state().send(Command::Calibration(Ask::SetForm(Box::new(form))));
    screen.state().send(Command::Calibration(Ask::Run));
    wait_until(&mut screen, "the second calibration is there", |document| {
        let loaded = document.model.as_ref().and_then(|m| m.calibrations.loaded.as_ref());
        loaded.is_some_and(|loaded| loaded.calibration.settings.prefix != Prefix::Original)
    });
    let behind = screen.state().model().calibrations.loaded.clone().expect("one");
    assert!(Loaded::title(&behind.folder).ends_with(title));
    let rms = |loaded: &Loaded, layer: &str| {
        loaded.calibration.record(layer).expect("measured").inputs.whole.rms
    };
    let (first, last) = ("model.layers.0.mlp.down_proj.weight", "lm_head.weight");
    assert_eq!(rms(&plain, first), rms(&behind, first), "nothing stands before the first block");
    assert_ne!(rms(&plain, last), rms(&behind, last));
}

#[test]
fn blocks_behind_compressed_ones_are_measured_as_they_will_run() {
    behind(Before::Plan, "behind compressed blocks");
}

#[test]
fn blocks_are_compressed_in_turn_while_the_text_runs() {
    behind(Before::InTurn, "behind blocks compressed in turn");
}

#[test]
fn the_spectrum_of_what_a_layer_gives_stands_beside_that_of_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = calibrated(folder.path());
    screen.state().send(Command::SetTab(Tab::Spectrum));
    screen.run_steps(3);
    wait_until(&mut screen, "both spectra are there", |document| {
        let model = document.model.as_ref().unwrap();
        let layer = model.selection.cursor().unwrap();
        let through = model.calibrations.through.as_ref();
        model.spectrum(layer).is_some()
            && through.is_some_and(|(of, through)| *of == layer && through.is_done)
    });
    screen.run_steps(3);
    assert!(screen.query_by_label_contains("scaled to the same").is_some());
    assert!(screen.query_by_label_contains("outputs ").is_some(), "the error of outputs by rank");
}

#[test]
fn a_model_without_a_tokenizer_says_why_it_cannot_be_calibrated() {
    let folder = tempfile::tempdir().unwrap();
    let path = repository().join("tests/golden/networks/mixtral");
    let mut screen = open(folder.path(), &path);
    wait_until(&mut screen, "the reason is known", |document| {
        document.model.as_ref().is_some_and(|model| model.calibrations.ability.is_some())
    });
    screen.state().send(Command::SetTab(Tab::Activations));
    screen.run_steps(3);
    assert!(screen.query_by_label_contains("no tokenizer.json").is_some());
}

#[test]
fn experts_are_shown_with_the_tokens_they_received() {
    let folder = tempfile::tempdir().unwrap();
    let path = repository().join("tests/golden/networks/mixtral");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let settings = Settings {
        model: "mixtral".to_owned(),
        model_key: model_key(&checkpoint, None, &Silent).unwrap(),
        texts: vec![Text { name: "a.txt".to_owned(), hash: "1".to_owned() }],
        sequence_tokens: 64,
        tokens: 1600,
        seed: 0,
        prefix: Prefix::Original,
        has_grams: false,
    };
    let experts = checkpoint.tensors().iter().filter(|tensor| tensor.place.expert.is_some());
    let record = |tensor: &lapidary_engine::checkpoint::Tensor| {
        let columns = tensor.matrix.unwrap().shape.cols;
        let mut sums = Channels::new(columns);
        let tokens = 500 * tensor.place.expert.unwrap() as usize;
        if tokens > 0 {
            sums.add(normal_matrix(1, tokens, columns).view());
        }
        let (layers, inputs) = (vec![tensor.name.clone()], sums.statistics());
        Record { layers, routed_of: Some(1600), inputs, gram: None }
    };
    let first =
        experts.filter(|tensor| tensor.place.block == Some(0)).map(record).collect::<Vec<_>>();
    let kept = Folder::create(&folder.path().join("calibrations"), settings).unwrap();
    kept.write_part(Part::Block(0), &first).unwrap();
    kept.finish().unwrap();
    let mut screen = open(folder.path(), &path);
    wait_until(&mut screen, "the calibration is found", loaded);
    screen.state().send(Command::ToggleSheet(Sheet::Experts));
    screen.run_steps(3);
    let model = screen.state().model();
    let experts = model.calibrations.experts(model);
    let tokens: Vec<u64> = experts.iter().map(|expert| expert.tokens).collect();
    assert_eq!(tokens, [0, 500, 1000, 1500]);
    assert!((experts[3].share - 1500.0 / 1600.0).abs() < 1e-12);
    assert!(screen.query_by_label_contains("2 received fewer than 1,000 tokens, 1 none").is_some());
}

/// Rankings of outputs and of singular values: each a step of undo, within what was asked for; refused where nothing can hold them.
#[test]
fn rankings_make_the_plan_of_all_layers_with_one_press() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let send = |screen: &mut Screen, command: Allocate| {
        screen.state().send(Command::Allocate(command));
        screen.run_steps(3);
    };
    let complaint = |screen: &Screen| {
        let notice = screen.state().document().notice.as_ref();
        notice.map(|notice| notice.text.clone()).unwrap_or_default()
    };
    send(&mut screen, Allocate::Rank(Ranking::Values(1_000_000)));
    assert!(complaint(&screen).contains("choose Archive"), "{}", complaint(&screen));
    screen.state().send(Command::SetTarget("archive"));
    screen.run_steps(3);
    send(&mut screen, Allocate::Rank(Ranking::Outputs(0.1)));
    assert!(complaint(&screen).contains("Calibrate with Gram"), "{}", complaint(&screen));
    start(&mut screen, 600);
    wait_until(&mut screen, "the calibration is there", loaded);
    let before = screen.state().model().plan().clone();
    send(&mut screen, Allocate::Toggle);
    assert!(screen.query_by_label("Rank outputs").is_some());
    let all = screen.state().model().checkpoint.tensor_bytes();
    let wanted = 6 * all / 10;
    send(&mut screen, Allocate::Ask(Asked { share: 0.25, bytes: Some(wanted) }));
    screen.get_by_label("Rank singular values").click();
    screen.run_steps(3);
    wait_until(&mut screen, "the ranking ends", |d| d.allocation.work.is_none());
    assert_eq!(screen.state().document().allocation.failed, None);
    wait_until(&mut screen, "the plan is laid out", |d| {
        d.model.as_ref().is_some_and(|model| !model.outcome.is_late)
    });
    let model = screen.state().model();
    assert_ne!(*model.plan(), before);
    let manifest = model.outcome.laid_out.manifest.as_ref().unwrap();
    let spent = manifest.weight_file_bytes();
    assert!(spent <= wanted && spent > wanted - 20_000, "{spent} of {wanted}");
    screen.state().send(Command::Undo);
    screen.run_steps(2);
    assert_eq!(*screen.state().model().plan(), before, "one step");
    screen.get_by_label("Rank outputs").click();
    screen.run_steps(3);
    wait_until(&mut screen, "the ranking ends", |d| d.allocation.work.is_none());
    assert_eq!(screen.state().document().allocation.failed, None);
    let model = screen.state().model();
    let matrices = model.checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some());
    let labels: Vec<String> =
        matrices.map(|tensor| model.plan().assignment(&tensor.name).label()).collect();
    let ranked = labels.iter().filter(|label| label.contains("mixllm")).count();
    assert!(ranked > 20, "{labels:?}");
}

/// The cuts of a tensor train stand below the spectrum of its layer, and go with the assignment.
#[test]
fn a_tensor_train_shows_its_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let layer = screen.state().model().checkpoint.find("model.layers.1.mlp.up_proj.weight");
    screen.state().send(Command::Select(vec![layer.unwrap()]));
    screen.state().send(Command::SetTarget("archive"));
    screen.run_steps(3);
    let train: Assignment = "tensor-train rank=16 cores=three".parse().unwrap();
    screen.state().send(Command::Assign(train));
    screen.state().send(Command::SetTab(Tab::Spectrum));
    screen.run_steps(3);
    wait_until(&mut screen, "cuts and spectrum are there", |document| {
        let model = document.model.as_ref().unwrap();
        model.look.cuts.is_some() && model.spectrum(layer.unwrap()).is_some()
    });
    screen.run_steps(3);
    let (_, cuts) = screen.state().model().look.cuts.as_ref().unwrap();
    let ranks: Vec<usize> = cuts.as_ref().unwrap().iter().map(|cut| cut.rank).collect();
    assert_eq!(ranks, [16, 16]);
    assert!(screen.query_by_label_contains("cut 2: rank 16 of").is_some());
    screen.state().send(Command::Assign(Assignment::keep()));
    screen.run_steps(3);
    assert!(screen.query_by_label_contains("cut 2: rank").is_none());
}
