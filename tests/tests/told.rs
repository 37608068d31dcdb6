//! What the window says of layers is what they are: sizes as they are stored, weights that are no numbers, numbers of groups
//! and of the whole, what the target cannot hold.

mod window;

use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::document::Document;
use lapidary::document::columns::Column;
use lapidary::document::metrics::{METRICS, metric};
use lapidary::document::model::Side;
use lapidary::theme::text;
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::target::{self, Aim, Case, Manifest, NonFinite, Severity, non_finite};
use lapidary_tests::{Weights, names_in, normals, plan, rtn, sample, small_llama, write};
use window::{open, open_sample, wait_until};

fn is_measured(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| {
        let (done, all) = model.progress();
        done == all
    })
}

#[test]
fn an_opened_export_has_one_size_everywhere() {
    let sample = sample();
    let folder = tempfile::tempdir().unwrap();
    for id in ["gptq", "compressed-tensors", "mlx", "gguf"] {
        let out = folder.path().join(id);
        let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
        let step = rtn(4).with("group_size", if id == "gguf" { 32 } else { 128 });
        let wish = plan(&sample, &[("model.layers.*_proj.weight", vec![step])]).unwrap();
        export(&sample, &wish, target::find(id).unwrap(), destination, &Silent).unwrap();
        // A GGUF file is opened itself.
        let file = names_in(&out)
            .into_iter()
            .find(|name| std::path::Path::new(name).extension() == Some("gguf".as_ref()));
        let path = file.map_or(out.clone(), |file| out.join(file));
        let screen = open(&folder.path().join("home"), &path);
        let model = screen.state().model();
        assert_eq!(model.outcome.tensor_bytes, model.checkpoint.tensor_bytes(), "{id}");
        let down = model.checkpoint.find("model.layers.3.mlp.down_proj.weight").unwrap();
        let tensor = &model.checkpoint.tensors()[down];
        let stored = tensor.stored_bits();
        assert!((4.0..4.6).contains(&stored), "{id}: {stored}");
        let cell = |column: &str| Column::find(column).unwrap().cell(model, down);
        assert_eq!(cell("bits"), text::bits(stored), "{id}");
        assert_eq!(cell("bytes"), text::bytes(tensor.bytes()), "{id}");
        assert_eq!(model.nominal_bits(down), 4, "{id}: the number on the map");
        let shown = format!("{} → {0}", text::bytes(model.checkpoint.tensor_bytes()));
        assert!(screen.query_by_label(&shown).is_some(), "{id}: {shown}");
        if id != "gguf" {
            let why =
                screen.query_all_by_label_contains("layers that are kept count as they are stored");
            assert!(why.count() > 0, "{id}");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_told_by_whether_the_plan_compresses_them() {
    let folder = tempfile::tempdir().unwrap();
    small_llama(folder.path());
    let model = Checkpoint::open(folder.path()).unwrap();
    let (up, down) = ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight");
    let mut plan = Plan::default();
    plan.set(up, Assignment::keep().with_bits(4));
    let of =
        |name: &str, nan, infinite| NonFinite { tensor: model.find(name).unwrap(), nan, infinite };
    let found =
        [of("model.norm.weight", 1, 0), of(down, 0, 2), of(up, 3, 1), of("lm_head.weight", 0, 0)];
    let lints = non_finite(&model, &plan, &found);
    let kinds: Vec<_> = lints.iter().map(|lint| (lint.severity, lint.tensors[0])).collect();
    let [norm, down, up] = [found[0].tensor, found[1].tensor, found[2].tensor];
    let warned = Severity::Warning;
    assert_eq!(kinds, [(Severity::Error, up), (warned, norm), (warned, down)]);
    assert!(lints[0].what.contains("up_proj.weight has 3 NaN and 1 infinite"), "{lints:?}");
    assert!(lints[2].what.contains("2 infinite") && lints[2].fix.is_none(), "{lints:?}");
    let aim = Aim::from(target::find("archive").unwrap());
    let manifest = Manifest::new(&model, &plan, aim.target).unwrap();
    let case = Case { checkpoint: &model, plan: &plan, aim, entries: &manifest.entries };
    let mut mended = plan.clone();
    assert!(lints[0].mend_in(&case, &mut mended));
    assert!(mended.assignment(&model.tensors()[up].name).is_keep());
    let left = non_finite(&model, &mended, &found);
    assert!(left.len() == 3 && left.iter().all(|lint| lint.severity == warned), "{left:?}");
}

#[test]
fn a_layer_with_nan_is_a_problem_as_soon_as_it_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let mut spoilt = normals(5, 64 * 128);
    (spoilt[77], spoilt[99]) = (f32::NAN, f32::INFINITY);
    let mut gain = vec![1.0; 128];
    gain[3] = f32::NAN;
    let [up, down] = ["up", "down"].map(|name| format!("model.layers.0.mlp.{name}_proj.weight"));
    let weights = Weights::new().f32(&up, &[64, 128], &spoilt).normal(&down, &[64, 128]);
    let path = folder.path().join("model");
    weights.f32("model.norm.weight", &[128], &gain).write(&path.join("model.safetensors"));
    write(&path.join("config.json"), br#"{"model_type": "llama"}"#);
    let mut screen = open(&folder.path().join("home"), &path);
    wait_until(&mut screen, "everything is measured", is_measured);
    let model = screen.state().model();
    assert_eq!(
        (model.outcome.count(Severity::Error), model.outcome.count(Severity::Warning)),
        (0, 2)
    );
    screen.state().send(Command::SelectAll);
    screen.state().send(Command::SetBits(4));
    screen.state().send(Command::SetSide(Side::Problems));
    screen.run_steps(3);
    assert_eq!(screen.state().model().outcome.count(Severity::Error), 1);
    assert!(
        screen.query_all_by_label_contains("up_proj.weight has 1 NaN and 1 infinite").count() > 0
    );
    wait_until(&mut screen, "its damage was tried", |document| {
        document.model.as_ref().is_some_and(|model| {
            let of = model.mean_damage;
            of.without == 1 && of.unknown == 0 && of.layers() == 2
        })
    });
    screen.get_by_label("Mend").click();
    screen.run_steps(3);
    let model = screen.state().model();
    assert_eq!(model.outcome.count(Severity::Error), 0);
    assert!(model.assignment(model.checkpoint.find(&up).unwrap()).is_keep());
    assert!(!model.assignment(model.checkpoint.find(&down).unwrap()).is_keep());
    assert_eq!((model.mean_damage.without, model.mean_damage.layers()), (0, 1));
    assert!(screen.query_by_label_contains("Nothing stands in the way").is_none());
}

#[test]
fn numbers_fit_their_columns_and_groups_say_which_they_show() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    wait_until(&mut screen, "everything is measured", is_measured);
    let model = screen.state().model();
    for metric in METRICS {
        let column = Column::Metric(metric);
        let digits = column.digits().unwrap();
        for layer in 0..model.checkpoint.tensors().len() {
            let cell = column.cell(model, layer);
            assert!(cell.chars().count() <= digits, "{}: {cell}", metric.id);
        }
    }
    // Effective rank is told by its least, kurtosis by its largest.
    for (group, of) in model.checkpoint.fused_groups().iter().enumerate() {
        let values = |id: &str| {
            let value = metric(id).value;
            of.members.iter().map(|&layer| value(model, layer).unwrap()).collect::<Vec<f64>>()
        };
        let least = values("rank").into_iter().fold(f64::INFINITY, f64::min);
        let largest = values("kurtosis").into_iter().fold(f64::NEG_INFINITY, f64::max);
        let [rank, kurtosis] = ["rank", "kurtosis"].map(|id| Column::find(id).unwrap());
        assert_eq!(rank.group_cell(model, group), text::percent(least));
        assert_eq!(kurtosis.group_cell(model, group), text::value(largest));
        assert!(rank.group_help(model, group).unwrap().contains("(min)"));
        assert!(kurtosis.group_help(model, group).unwrap().contains("(max)"));
        assert_eq!(Column::find("bytes").unwrap().group_help(model, group), None);
    }
    // The scale of the map is that of the matrices, and says what it is.
    let matrices = (0..model.checkpoint.tensors().len()).filter(|&layer| model.is_matrix(layer));
    let values: Vec<f64> =
        matrices.map(|layer| model.statistics(layer).unwrap().kurtosis).collect();
    screen.state().send(Command::SetMetric("kurtosis"));
    screen.run_steps(3);
    let shades = &screen.state().model().shades;
    assert_eq!(shades.low, values.iter().copied().fold(f64::INFINITY, f64::min));
    assert_eq!(shades.high, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    assert!(screen.query_all_by_label_contains(shades.kind()).count() > 0);
}
