//! Targets: every lint has a case that triggers it and a mend that removes it, sizes are those of the files for every
//! method and shape, and what no lint stops can be exported and read back.

use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, PAGE, REPORT, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::{Kind, METHODS, Needs, Stage, Step, chain_layout, chain_needs};
use lapidary_engine::plan::{Assignment, Origin, Pattern, Plan, Rule};
use lapidary_engine::target::{
    self, Aim, Case, Fix, LINTS, Lint, Manifest, Next, PRESETS, Severity, TARGETS, lints, mend_all,
};
use lapidary_engine::tensor::{DType, MatrixShape};
use lapidary_tests::{Weights, assert_says, plan, rtn, sample, writable, write};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

/// A llama of one block; `experts` of them in its feed-forward, if any; a head that is tied, or not.
fn llama(folder: &Path, hidden: usize, experts: usize, tied: bool) -> Checkpoint {
    let mut weights = Weights::new()
        .normal("model.embed_tokens.weight", &[64, hidden])
        .normal("lm_head.weight", &[64, hidden])
        .normal("model.norm.weight", &[hidden]);
    let block = "model.layers.0";
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        weights = weights.normal(&format!("{block}.self_attn.{name}.weight"), &[hidden, hidden]);
    }
    let parents: Vec<String> = match experts {
        0 => vec![format!("{block}.mlp")],
        n => (0..n).map(|expert| format!("{block}.mlp.experts.{expert}")).collect(),
    };
    for parent in parents {
        for name in ["gate_proj", "up_proj", "down_proj"] {
            weights = weights.normal(&format!("{parent}.{name}.weight"), &[hidden, hidden]);
        }
    }
    if experts > 0 {
        weights = weights.normal(&format!("{block}.mlp.gate.weight"), &[experts, hidden]);
    }
    weights.write(&folder.join("model.safetensors"));
    let model_type = if experts > 0 { "qwen3_moe" } else { "llama" };
    let config = json!({"model_type": model_type, "tie_word_embeddings": tied});
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("a valid model")
}

/// A feed-forward with a router, whose name those of its layers begin with.
fn gated(folder: &Path) -> Checkpoint {
    let weights = ["gate", "gate_proj", "up_proj", "down_proj"];
    let weights = weights.iter().fold(Weights::new(), |weights, name| {
        weights.normal(&format!("model.layers.0.mlp.{name}.weight"), &[64, 128])
    });
    weights.write(&folder.join("model.safetensors"));
    write(&folder.join("config.json"), br#"{"model_type": "llama"}"#);
    Checkpoint::open(folder).expect("a valid model")
}

fn found(checkpoint: &Checkpoint, plan: &Plan, aim: Aim) -> Vec<Lint> {
    let manifest = Manifest::new(checkpoint, plan, aim.target).expect("layouts");
    lints(&Case { checkpoint, plan, aim, entries: &manifest.entries })
}

fn mended(checkpoint: &Checkpoint, plan: &Plan, aim: Aim, lint: &Lint) -> Plan {
    let manifest = Manifest::new(checkpoint, plan, aim.target).expect("layouts");
    let case = Case { checkpoint, plan, aim, entries: &manifest.entries };
    let mut after = plan.clone();
    assert!(lint.mend_in(&case, &mut after), "{}: its mend changes nothing", lint.id);
    after
}

fn aim(id: &str, tensor_parallel: u32) -> Aim {
    Aim { tensor_parallel, ..target::find(id).expect("a target").into() }
}

/// A lint with a plan that triggers it: lint, target, devices, rules, kind of model.
type Trigger =
    (&'static str, &'static str, u32, &'static [(&'static str, &'static str)], &'static str);

/// Plans that trigger every lint of plans.
const CASES: &[Trigger] = &[
    ("dead-rule", "dense", 1, &[("*.nothing", "4/128")], "plain"),
    (
        "unequal-fused",
        "compressed-tensors",
        1,
        &[("*.q_proj.weight", "4/128"), ("*.k_proj.weight", "8/128")],
        "plain",
    ),
    ("unequal-fused", "gptq", 1, &[("*.gate_proj.weight", "4/64")], "plain"),
    ("unequal-experts", "gguf", 1, &[("*.experts.1.up_proj.weight", "Q4_0")], "experts"),
    (
        "unequal-experts",
        "mlx",
        1,
        &[
            ("*.experts.*.down_proj.weight", "4/32"),
            ("model.layers.0.mlp.experts.0.down_proj.weight", "8/32"),
        ],
        "experts",
    ),
    (
        "several-schemes",
        "awq",
        1,
        &[("*.o_proj.weight", "4/64a"), ("*.down_proj.weight", "4/128a")],
        "plain",
    ),
    ("kept-within", "awq", 1, &[("*.mlp.*_proj.weight", "4/64a")], "gated"),
    ("several-schemes", "aqlm", 1, &[("role:o", "aqlm4"), ("role:down", "aqlm3")], "plain"),
    ("unjoined-experts", "mlx", 1, &[("*.experts.*.weight", "4/64")], "experts"),
    ("tied-head", "compressed-tensors", 1, &[("role:head", "8/128")], "tied"),
    ("cut-groups", "compressed-tensors", 2, &[("*.down_proj.weight", "4/128")], "narrow"),
    ("slow-kernel", "compressed-tensors", 1, &[("*.o_proj.weight", "4/16")], "plain"),
    ("slow-kernel", "compressed-tensors", 4, &[("*.o_proj.weight", "4/64")], "plain"),
    ("slow-kernel", "gptq-v2", 1, &[("*.o_proj.weight", "4/64a")], "plain"),
    ("in-full", "gptq", 1, &[("*.o_proj.weight", "4/64a")], "plain"),
    ("in-full", "mlx", 1, &[("*.o_proj.weight", "4/64a")], "plain"),
    ("in-full", "compressed-tensors", 1, &[("*.down_proj.weight", "5/128")], "plain"),
    ("in-full", "gguf", 1, &[("*.down_proj.weight", "6/128")], "plain"),
    ("in-full", "awq", 1, &[("*.down_proj.weight", "8/128")], "plain"),
    ("in-full", "mlx", 1, &[("*.down_proj.weight", "7/16")], "plain"),
    ("in-full", "aqlm", 1, &[("*.down_proj.weight", "4/128")], "plain"),
    ("in-full", "aqlm", 1, &[("*.experts.*.up_proj.weight", "aqlm4")], "experts"),
    ("in-full", "spqr", 1, &[("*.down_proj.weight", "3/16a")], "plain"),
    ("in-full", "compressed-tensors", 1, &[("*.down_proj.weight", "aqlm4")], "plain"),
    (
        "asymmetric-mix",
        "compressed-tensors",
        1,
        &[("*.o_proj.weight", "4/128a"), ("*.down_proj.weight", "8/128")],
        "plain",
    ),
    ("new-bias", "dense", 1, &[("*.o_proj.weight", "centred")], "experts"),
    ("adapter", "compressed-tensors", 1, &[("*.down_proj.weight", "corrected")], "plain"),
    ("scales-kept", "dense", 1, &[("*.q_proj.weight", "folded")], "plain"),
    ("sparsity-saves-nothing", "compressed-tensors", 1, &[("*.o_proj.weight", "2:4")], "plain"),
];

/// An assignment from a few characters: bits, group size, `a` for asymmetric; or 2:4; or a type of blocks.
fn assignment(text: &str) -> Assignment {
    if text.starts_with('Q') {
        return Assignment::of(vec![Step::new("gguf-blocks").with("type", text)]);
    }
    if let Some(bits) = text.strip_prefix("aqlm") {
        let step = Step::new("aqlm").with("nearest", "weights").with("codebooks", 1);
        let step = step.with("code_bits", bits.parse::<i64>().expect("bits"));
        return Assignment::of(vec![step.with("rounds", 1).with("beam", 1)]);
    }
    if text == "centred" {
        let step = Step::new("low-rank").with("nearest", "outputs").with("rank", 8);
        return Assignment::of(vec![step.with("centre", "bias")]);
    }
    if text == "corrected" {
        return Assignment::of(vec![rtn(4), Step::new("eora").with("rank", 8)]);
    }
    if text == "folded" {
        return Assignment::of(vec![Step::new("awq").with("scales", "folded")]);
    }
    if text == "2:4" {
        return Assignment::of(vec![Step::new("magnitude").with("pattern", "n-of-m")]);
    }
    let (bits, group) = text.split_once('/').expect("bits/group");
    let step = rtn(bits.parse().expect("bits"));
    let step = step.with("group_size", group.trim_end_matches('a').parse::<i64>().expect("a size"));
    let step = if group.ends_with('a') { step.with("symmetry", "asymmetric") } else { step };
    Assignment::of(vec![step])
}

#[test]
fn every_lint_is_triggered_and_its_mend_removes_it() {
    for (id, target, devices, rules, model) in CASES {
        let folder = TempDir::new().unwrap();
        let experts = if *model == "experts" { 3 } else { 0 };
        let hidden = if *model == "narrow" { 384 } else { 256 };
        let checkpoint = match *model {
            "gated" => gated(folder.path()),
            model => llama(folder.path(), hidden, experts, model == "tied"),
        };
        let rule = |(pattern, text): &(&str, &str)| Rule::new(pattern, assignment(text)).unwrap();
        let mut plan = Plan::default();
        plan.set_rules(&checkpoint, rules.iter().map(rule).collect());
        let aim = aim(target, *devices);
        let all = found(&checkpoint, &plan, aim);
        let of_kind = |all: &[Lint]| all.iter().filter(|lint| lint.id == *id).count();
        let lint = all.iter().find(|lint| lint.id == *id);
        let lint = lint.unwrap_or_else(|| panic!("{id} for {target} is not found: {all:?}"));
        assert!(!lint.what.ends_with('.') && !lint.mend.is_empty(), "{lint:?}");
        if lint.severity == Severity::Error && aim.target.about().writes {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            let limits = Limits::default();
            let destination = Destination { folder: &out, replace: false, limits };
            assert_says(export(&checkpoint, &plan, aim, destination, &Silent), &[&all[0].what]);
            assert!(!out.exists());
        }
        let after = mended(&checkpoint, &plan, aim, lint);
        let rest = found(&checkpoint, &after, aim);
        assert!(of_kind(&rest) < of_kind(&all), "{id} for {target} is still there: {rest:?}");
    }
    let mut tested: Vec<&str> = CASES.iter().map(|case| case.0).collect();
    // The first two have their cases below, the next two among those of forms and of GGUF, the last three of retyping.
    tested.extend(["no-config", "quantised-already", "newer-readers", "not-written"]);
    // Those of parts that are taken out have theirs in removing.rs.
    tested.extend(["not-removable", "removed"]);
    // What is measured of weights, has its cases in told.rs.
    tested.push("not-finite");
    tested.extend(["finished-gguf", "finished-layers", "encoded-again"]);
    for id in LINTS {
        assert!(tested.contains(id), "no case triggers {id}");
    }
}

#[test]
fn a_missing_or_quantised_config_is_mended_by_another_target() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    Weights::new().normal("model.layers.0.mlp.down_proj.weight", &[32, 32]).write(&path);
    let packed = aim("compressed-tensors", 1);
    let lone = Checkpoint::open(&path).unwrap();
    let of = |checkpoint: &Checkpoint| found(checkpoint, &Plan::default(), packed)[0].clone();
    assert_eq!((of(&lone).id, of(&lone).fix), ("no-config", Some(Fix::Target("dense"))));
    write(&folder.path().join("config.json"), br#"{"quantization_config": {"bits": 4}}"#);
    let quantised = Checkpoint::open(folder.path()).unwrap();
    let lint = of(&quantised);
    assert_eq!((lint.id, lint.fix), ("quantised-already", Some(Fix::Target("dense"))));
    let dense = aim("dense", 1);
    assert!(found(&quantised, &Plan::default(), dense).is_empty());
}

#[test]
fn locked_layers_are_never_mended_and_others_follow_them() {
    let folder = TempDir::new().unwrap();
    let checkpoint = llama(folder.path(), 256, 0, false);
    let name = |role: &str| format!("model.layers.0.self_attn.{role}_proj.weight");
    let mut plan = Plan::default();
    plan.set(&name("q"), Assignment { locked: true, ..assignment("4/128") });
    plan.set(&name("k"), assignment("8/128"));
    let packed = aim("compressed-tensors", 1);
    let lint = found(&checkpoint, &plan, packed).remove(0);
    let after = mended(&checkpoint, &plan, packed, &lint);
    for role in ["q", "k", "v"] {
        assert_eq!(after.assignment(&name(role)).steps, assignment("4/128").steps, "{role}");
    }
    plan.set(&name("v"), Assignment { locked: true, ..assignment("8/128") });
    let lint = found(&checkpoint, &plan, packed).remove(0);
    let manifest = Manifest::new(&checkpoint, &plan, packed.target).unwrap();
    let case =
        Case { checkpoint: &checkpoint, plan: &plan, aim: packed, entries: &manifest.entries };
    assert_eq!(lint.changes(&case), None, "two locks that differ need a hand");
}

#[test]
fn starting_points_fit_every_target() {
    let sample = sample();
    for preset in PRESETS {
        for target in TARGETS {
            let aim = Aim::from(*target);
            let (plan, _) = preset.plan(&sample, &Plan::default(), aim).unwrap();
            let what = format!("{} for {}", preset.id, target.about().id);
            let all = found(&sample, &plan, aim);
            let serious: Vec<&Lint> = all.iter().filter(|l| l.severity < Severity::Note).collect();
            assert!(serious.is_empty(), "{what}: {serious:?}");
            // AWQ has 4 bits or nothing, AQLM and SpQR have no integers at all.
            let has_none = ["aqlm", "spqr"].contains(&target.about().id) && preset.id != "2-of-4";
            let of_awq = ["8-bit for awq", "q5-k-m for awq"].contains(&what.as_str());
            let is_nothing = preset.id == "keep" || of_awq || has_none;
            assert_eq!(plan.is_empty(), is_nothing, "{what}");
            let again = preset.plan(&sample, &Plan::default(), aim).unwrap().0;
            assert_eq!(plan, again, "{what}");
        }
    }
    // The head and block 0 are kept by the second, whatever was locked stays.
    let four = PRESETS.iter().find(|preset| preset.id == "4-bit").unwrap();
    let mut now = Plan::default();
    let locked = Assignment { locked: true, ..assignment("8/64") };
    now.set("model.layers.2.self_attn.o_proj.weight", locked.clone());
    let packed = aim("compressed-tensors", 1);
    let (plan, _) = four.plan(&sample, &now, packed).unwrap();
    let of = |name: &str| plan.assignment(name).label();
    assert_eq!(of("model.layers.0.mlp.down_proj.weight"), "keep");
    assert_eq!(of("model.layers.5.self_attn.q_proj.weight"), "keep");
    assert_eq!(of("lm_head.weight"), "keep");
    assert_eq!(of("model.layers.3.mlp.down_proj.weight"), "4-bit g128 mse");
    assert_eq!(*plan.assignment("model.layers.2.self_attn.o_proj.weight"), locked);
}

/// One layer of each shape, every one a linear module of its own block.
fn shapes(folder: &Path) -> Checkpoint {
    let mut weights = Weights::new();
    for (block, shape) in
        [[1, 64], [64, 1], [32, 32], [33, 47], [64, 96], [8, 256], [16, 160]].iter().enumerate()
    {
        let name = format!("model.layers.{block}.mlp.down_proj.weight");
        weights = weights.normal(&name, shape);
    }
    weights.write(&folder.join("model.safetensors"));
    write(&folder.join("config.json"), br#"{"model_type": "llama"}"#);
    Checkpoint::open(folder).expect("a valid model")
}

/// Rounding at every bits, grouping and grid, and every choice of every other quantiser that needs the weights alone,
/// by itself and under a mask; masks by themselves.
fn grid() -> Vec<Vec<Step>> {
    let with_bits = |method: &str| -> Vec<Step> {
        (2..=8).map(|bits| Step::new(method).with("bits", bits)).collect()
    };
    let with_groups = |step: Step| {
        let group = |size: i64| step.clone().with("granularity", "group").with("group_size", size);
        let wide = ["channel", "tensor"].map(|wide| step.clone().with("granularity", wide));
        [16, 32].map(group).into_iter().chain(wide).collect::<Vec<_>>()
    };
    let with_grids = |step: Step| {
        ["symmetric", "symmetric-restricted", "asymmetric"]
            .map(|grid| step.clone().with("symmetry", grid))
    };
    let mut steps: Vec<Step> = with_bits("round-to-nearest")
        .into_iter()
        .flat_map(with_groups)
        .flat_map(with_grids)
        .collect();
    let quantisers = METHODS.iter().map(|method| method.about());
    let quantisers =
        quantisers.filter(|about| about.stage == Stage::Quantise && about.id != "round-to-nearest");
    for about in quantisers {
        for parameter in about.parameters {
            let Kind::Choice(options) = parameter.kind else { continue };
            steps.extend(options.iter().map(|o| Step::new(about.id).with(parameter.name, o.id)));
        }
    }
    steps.retain(|step| chain_needs(std::slice::from_ref(step)) == Needs::Weights);
    let mask = || Step::new("magnitude").with("fraction", 0.3);
    let under_mask = |step: &Step| vec![mask(), step.clone()];
    let has_zeros =
        |step: &&Step| !["low-rank", "bitstack", "onebit"].contains(&step.method.as_str());
    // Some refuse a mask before them.
    let shape = MatrixShape { rows: 64, cols: 64 };
    let is_valid = |steps: &Vec<Step>| chain_layout(steps, shape, DType::BF16).is_ok();
    let masked = steps.iter().step_by(3).filter(has_zeros).map(under_mask).filter(is_valid);
    let alone = steps.iter().map(|step| vec![step.clone()]);
    alone.chain(masked).chain([vec![mask()]]).collect()
}

#[test]
fn sizes_are_those_of_the_files_for_every_method_and_shape() {
    let folder = TempDir::new().unwrap();
    let checkpoint = shapes(&{ folder.path().join("m") });
    let mut native = 0;
    for (i, chain) in grid().into_iter().enumerate() {
        let plan = plan(&checkpoint, &[("default", chain.clone())]).unwrap();
        for target in writable() {
            let all = found(&checkpoint, &plan, Aim::from(target));
            if all.iter().any(|lint| lint.severity == Severity::Error) {
                // Small layers take smaller codebooks than others, and AQLM has one size for all.
                assert_eq!((all[0].id, target.about().id), ("several-schemes", "aqlm"));
                continue;
            }
            let manifest = Manifest::new(&checkpoint, &plan, target).unwrap();
            let out = folder.path().join(format!("{}-{i}", target.about().id));
            let limits = Limits::default();
            let destination = Destination { folder: &out, replace: false, limits };
            export(&checkpoint, &plan, target, destination, &Silent)
                .unwrap_or_else(|error| panic!("{} {chain:?}: {error}", target.about().id));
            let bytes: u64 = std::fs::read_dir(&out)
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.file_name() != REPORT && entry.file_name() != PAGE)
                .map(|entry| entry.metadata().unwrap().len())
                .sum();
            assert_eq!(bytes, manifest.total_bytes(), "{} {chain:?}", target.about().id);
            let is_native = |entry: &&target::Entry| entry.storage == target::Storage::Native;
            native += manifest.entries.iter().filter(is_native).count();
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    assert!(native > 600, "{native}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_no_lint_stops_is_exported_and_read_back(
        choices in proptest::collection::vec(0_usize..8, 9),
        devices in prop_oneof![Just(1_u32), Just(2)],
    ) {
        const POOL: [&str; 8] = ["4/128", "4/64", "8/128", "4/32a", "2:4", "5/64", "8/16a", "3/128"];
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("m");
        let checkpoint = llama(&model, 128, 0, false);
        let mut plan = Plan::default();
        let layers = checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some());
        for (tensor, &choice) in layers.zip(&choices) {
            if choice < 7 || tensor.name.contains("mlp") {
                plan.set(&tensor.name, assignment(POOL[choice]));
            }
        }
        for target in writable() {
            let aim = Aim { target, tensor_parallel: devices, shard_bytes: 0 };
            let mut plan = plan.clone();
            for is_mended in [false, true] {
                if is_mended {
                    mend_all(&checkpoint, &mut plan, aim);
                }
                let all = found(&checkpoint, &plan, aim);
                let is_legal = all.iter().all(|lint| lint.severity != Severity::Error);
                prop_assert!(is_legal || !is_mended, "{all:?}");
                let out = folder.path().join(format!("{}-{is_mended}", target.about().id));
                let limits = Limits::default();
                let destination = Destination { folder: &out, replace: false, limits };
                let done = export(&checkpoint, &plan, aim, destination, &Silent);
                prop_assert_eq!(done.is_ok(), is_legal, "{:?}", all);
                prop_assert_eq!(out.exists(), is_legal);
                if is_legal {
                    let again = Checkpoint::open(&out).unwrap();
                    prop_assert!(!again.tensors().is_empty());
                }
            }
        }
    }
}

#[test]
fn names_outrank_patterns_these_roles_these_the_default_and_the_first_of_two_wins() {
    let sample = sample();
    let of = |text: &str| Assignment::of(vec![rtn(text.parse().unwrap())]);
    let rules = [
        ("default", "8"),
        ("role:down", "7"),
        ("model.layers.1.*", "6"),
        ("*.down_proj.weight", "5"),
        ("role:q", "3"),
    ];
    let mut plan = Plan::default();
    let rule = |(pattern, bits): &(&str, &str)| Rule::new(pattern, of(bits)).unwrap();
    plan.set_rules(&sample, rules.iter().map(rule).collect());
    let name = "model.layers.1.mlp.down_proj.weight";
    let other = "model.layers.2.mlp.down_proj.weight";
    assert_eq!(plan.assignment(name).label(), "6-bit g128", "the first of two patterns");
    assert_eq!(plan.origin(name), Origin::Rule(2));
    assert_eq!(plan.assignment(other).label(), "5-bit g128", "patterns before roles");
    assert_eq!(plan.assignment("model.layers.2.self_attn.q_proj.weight").label(), "3-bit g128");
    assert_eq!(plan.assignment("lm_head.weight").label(), "8-bit g128");
    let matches = plan.matches();
    assert_eq!((matches[1].all, matches[1].decided), (6, 0), "outranked everywhere");
    assert_eq!((matches[3].all, matches[3].decided), (6, 5));
    plan.set(other, of("2"));
    assert_eq!((plan.origin(other), plan.matches()[3].decided), (Origin::ByHand, 4));
    plan.set(other, of("5"));
    assert_eq!(plan.origin(other), Origin::Rule(3), "what the rule says anyway is no entry");
    // A kept layer under a rule is set by hand.
    plan.set(other, Assignment::keep());
    assert_eq!((plan.origin(other), plan.assignment(other).is_keep()), (Origin::ByHand, true));
    plan.forget(other);
    assert_eq!(plan.assignment(other).label(), "5-bit g128");
    let summed = plan.summed_up(&sample);
    for tensor in sample.tensors() {
        assert_eq!(
            summed.assignment(&tensor.name),
            plan.assignment(&tensor.name),
            "{}",
            tensor.name
        );
    }
    assert!(summed.by_hand().count() == 0 && summed.rules().len() <= 5, "{:?}", summed.rules());
    assert_eq!(summed.rules().last().unwrap().pattern, Pattern::Default);
}

#[test]
fn the_next_step_is_one_that_the_target_holds() {
    let sample = sample();
    let down = &sample.tensors()[sample.find("model.layers.3.mlp.down_proj.weight").unwrap()];
    let step = |text: &str, next, id: &str| {
        let now = if text == "keep" { Assignment::keep() } else { assignment(text) };
        target::step_from(down, &now, next, target::find(id).unwrap()).map(|then| then.label())
    };
    let packed = "compressed-tensors";
    assert_eq!(step("4/128", Next::Up, packed).as_deref(), Some("8-bit g128"));
    assert_eq!(step("4/128", Next::Down, packed).as_deref(), Some("2-bit g128"));
    assert_eq!(step("2/128", Next::Down, packed), None);
    assert_eq!(step("8/128", Next::Up, packed).as_deref(), Some("keep"));
    assert_eq!(step("keep", Next::Down, packed).as_deref(), Some("8-bit g128"));
    assert_eq!(step("keep", Next::Up, packed), None);
    assert_eq!(step("4/32", Next::Up, "gguf").as_deref(), Some("5-bit g32"));
    assert_eq!(step("5/32", Next::Down, "gguf").as_deref(), Some("4-bit g32"));
}
