//! Candidates scored on a real model, and budgets spent on them: bytes as exported, locks kept, damage as measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use lapidary::allocating;
use lapidary::document::allocation::{Against, Ready, Wish};
use lapidary_engine::Silent;
use lapidary_engine::allocator::{self, Problem};
use lapidary_engine::checkpoint::{Checkpoint, Role, Tensor};
use lapidary_engine::evaluation::{Baseline, From, Kept};
use lapidary_engine::job;
use lapidary_engine::method::{self, Needs, Step};
use lapidary_engine::network::design::Feed;
use lapidary_engine::network::{CheckpointWeights, Network, architectures};
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::{
    Bounds, Budget, Measuring, Metric, Promoted, Question, Ranked, Solved, active_bytes,
    cache_bytes, plan_of, solve_within, uniform,
};
use lapidary_engine::target::{self, Manifest, Target};
use lapidary_tests::networks::{calibrated, golden};
use lapidary_tests::{assert_says, repository, sample};
use serde_json::json;

fn palette() -> Vec<Assignment> {
    [4, 8].map(|bits| Assignment::keep().with_bits(bits)).to_vec()
}

fn packed() -> &'static dyn Target {
    target::find("compressed-tensors").expect("a target")
}

fn question<'a>(model: &'a Checkpoint, plan: &'a Plan, palette: &'a [Assignment]) -> Question<'a> {
    Question { subject: job::Subject::from(model), plan, palette, target: packed() }
}

fn knapsack(problem: &Problem) -> lapidary_engine::Result<allocator::Choice> {
    Ok(allocator::find("knapsack")?.solve(problem, &Silent)?.choice)
}

/// By the metric of outputs, against the same share of each layer.
#[test]
fn one_ranking_of_all_outputs_leaves_less_than_the_same_share_everywhere() {
    let root = tempfile::tempdir().expect("a folder");
    let model = golden("llama");
    let (folder, calibration) = calibrated(&model, &root);
    let measured = job::Measured { folder: &folder, calibration: &calibration };
    let subject = job::Subject { checkpoint: &model, calibrated: &measured };
    let locked = "model.layers.0.self_attn.q_proj.weight";
    let mut plan = Plan::default();
    plan.set(locked, Assignment { locked: true, ..Assignment::keep() });
    let step = "mixllm bits=2 high_bits=6 group_size=16".parse::<Assignment>().expect("a chain");
    let palette = [step.clone()];
    let target = target::find("archive").expect("a target");
    let question = Question { subject, plan: &plan, palette: &palette, target };
    let (found, ranked) = question.promote(0.25, &Silent).expect("a ranking");
    assert!(found.len() > 5);
    let sum = |of: fn(&Promoted) -> usize| found.iter().map(of).sum::<usize>();
    let (rows, promoted) = (sum(|of| of.rows), sum(|of| of.promoted));
    assert_eq!(promoted, (0.25 * rows as f64).round() as usize);
    assert!(found.iter().any(|of| 4 * of.promoted > of.rows + 8), "all alike: {found:?}");
    assert!(ranked.assignment(locked).is_keep(), "a lock holds");
    let damage = |layer: usize, assignment: Assignment| -> f64 {
        let question = Question { palette: &[assignment], ..question };
        let scores = question.score(Metric::Outputs, None, &Silent).expect("scores");
        let of = scores.iter().find(|of| of.unit.layers == [layer]).expect("the layer");
        of.options.last().expect("a candidate").damage
    };
    let alike = Assignment::of(vec![step.steps[0].clone().with("share", 0.25)]);
    let (mut by_ranking, mut by_share) = (0.0, 0.0);
    for Promoted { layer, .. } in found {
        let name = &model.tensors()[layer].name;
        by_ranking += damage(layer, Assignment::clone(&ranked.assignment(name)));
        by_share += damage(layer, alike.clone());
    }
    assert!(by_ranking < by_share, "{by_ranking} and {by_share}");
    let gptq = [Assignment::of(vec![Step::new("gptq")])];
    assert_says(Question { palette: &gptq, ..question }.promote(0.1, &Silent), &["choose MixLLM"]);
    let subject = job::Subject::from(&model);
    let refused = Question { subject, ..question }.promote(0.1, &Silent);
    assert_says(refused, &["calibrate with Gram matrices"]);
}

/// Against half of the ranks of each layer, in the bytes that those take.
#[test]
fn one_ranking_of_all_singular_values_meets_any_size_and_leaves_less_than_the_same_share() {
    let root = tempfile::tempdir().expect("a folder");
    let model = golden("llama");
    let (folder, calibration) = calibrated(&model, &root);
    let measured = job::Measured { folder: &folder, calibration: &calibration };
    let subject = job::Subject { checkpoint: &model, calibrated: &measured };
    let locked = "model.layers.0.self_attn.q_proj.weight";
    let mut plan = Plan::default();
    plan.set(locked, Assignment { locked: true, ..Assignment::keep() });
    let palette = [Assignment::of(vec![method::ranking(Needs::Gram)])];
    let target = target::find("archive").expect("a target");
    let question = Question { subject, plan: &plan, palette: &palette, target };
    let bytes =
        |plan: &Plan| Manifest::new(&model, plan, target).expect("a manifest").weight_file_bytes();
    let (all, _) = question.rank(Budget::Bits(1e6), &Silent).expect("no budget");
    assert!(all.len() > 5 && all.iter().all(|of| of.rank.is_none_or(|rank| rank < of.whole)));
    let at = |layer: usize, rank: usize| {
        let name = &model.tensors()[layer].name;
        let step = method::with_rank(&palette[0].steps[0], rank).expect("a rank");
        (name.as_str(), Assignment::of(vec![step]))
    };
    let mut half = plan.clone();
    for of in &all {
        let (name, assignment) = at(of.layer, of.whole.div_ceil(2));
        half.set(name, assignment);
    }
    let budget = bytes(&half);
    let damage = |plan: &Plan| -> f64 {
        let of = |layer: usize| {
            let assignment = Assignment::clone(&plan.assignment(&model.tensors()[layer].name));
            if assignment.is_keep() {
                return 0.0;
            }
            let question = Question { palette: &[assignment], ..question };
            let scores = question.score(Metric::Outputs, None, &Silent).expect("scores");
            let of = scores.iter().find(|of| of.unit.layers == [layer]).expect("the layer");
            of.options.last().expect("a candidate").damage
        };
        all.iter().map(|ranked| of(ranked.layer)).sum()
    };
    let (found, ranked) = question.rank(Budget::FileBytes(budget), &Silent).expect("a ranking");
    assert!(ranked.assignment(locked).is_keep(), "a lock holds");
    let (ours, theirs) = (damage(&ranked), damage(&half));
    assert!(ours < theirs, "{ours} and {theirs}");
    // Within a rank of the budget, and each size within the next.
    let step = |of: &Ranked| {
        let shape = model.tensors()[of.layer].matrix.expect("a matrix").shape;
        2 * shape.rows.max(shape.cols) as u64 + 2
    };
    let most = found.iter().map(step).max().expect("layers");
    let spent = bytes(&ranked);
    assert!((budget - most - 16..=budget).contains(&spent), "{spent} of {budget}");
    let mut before: Option<Vec<Ranked>> = None;
    for share in [70, 80, 90, 100, 110] {
        let budget = budget * share / 100;
        let (found, ranked) = question.rank(Budget::FileBytes(budget), &Silent).expect("a ranking");
        assert!(bytes(&ranked) <= budget);
        let rank = |of: &Ranked| of.rank.unwrap_or(of.whole);
        if let Some(before) = &before {
            assert!(before.iter().zip(&found).all(|(small, large)| rank(small) <= rank(large)));
        }
        before = Some(found);
    }
    assert_says(question.rank(Budget::FileBytes(10), &Silent), &["too small", "allow at least"]);
    let gptq = [Assignment::of(vec![Step::new("gptq")])];
    let refused = Question { palette: &gptq, ..question }.rank(Budget::Bits(4.0), &Silent);
    assert_says(refused, &["choose low rank"]);
    let packed = Question { target: packed(), ..question }.rank(Budget::Bits(4.0), &Silent);
    assert_says(packed, &["choose the archive"]);
}

#[test]
fn candidates_are_methods_at_bits_and_any_other_assignment() {
    let methods = ["round-to-nearest", "gptq"].map(str::to_owned);
    let sparse: Assignment =
        "magnitude pattern=n-of-m; round-to-nearest bits=4".parse().expect("a chain");
    let again = Assignment::of(vec![Step::new("gptq")]).with_bits(4);
    let others = [sparse.clone(), Assignment::keep(), again];
    let palette = allocating::palette(&methods, &[3, 4], &others).expect("candidates");
    assert_eq!(palette.len(), 5, "two by two, and one that is neither kept nor there");
    assert_eq!(palette[4], sparse);
    let model = sample();
    let plan = Plan::default();
    let target = target::find("dense").expect("a target");
    let subject = job::Subject::from(&model);
    let question = Question { subject, plan: &plan, palette: &palette, target };
    let options = question.unscored().expect("options")[0].options.clone();
    let labels: Vec<Option<usize>> = options.iter().map(|option| option.candidate).collect();
    assert_eq!(labels, [None, Some(0), Some(2), Some(4)], "gptq needs a calibration");
    let refused = |methods: &[String], bits: &[i64]| allocating::palette(methods, bits, &[]);
    assert_says(refused(&methods, &[4, 40]), &["40 bits", "choose other bits"]);
    assert_says(refused(&methods, &[]), &["no candidates"]);
    assert_says(refused(&["gptk".to_owned()], &[4]), &["gptk"]);
}

#[test]
fn candidates_have_the_bytes_of_the_export_and_fused_layers_are_one_unit() {
    let (model, palette) = (sample(), palette());
    let mut plan = Plan::default();
    let locked = Assignment { locked: true, ..Assignment::keep().with_bits(4) };
    plan.set("model.layers.2.mlp.down_proj.weight", locked);
    let scores = question(&model, &plan, &palette).score(Metric::Weights, None, &Silent).unwrap();
    assert_eq!(scores.len(), 6 * 4 + 1, "q k v, o, gate up and down of six blocks, and the head");
    for of in &scores {
        if of.unit.is_locked {
            assert_eq!(of.options.len(), 1, "a hand has decided");
            continue;
        }
        let damages: Vec<f64> = of.options.iter().map(|option| option.damage).collect();
        let bytes: Vec<u64> = of.options.iter().map(|option| option.bytes).collect();
        assert!(damages[0] == 0.0 && damages[1] > 50.0 * damages[2], "{damages:?}");
        assert!(bytes[0] > bytes[2] && bytes[2] > bytes[1], "{bytes:?}");
    }
    let choice = uniform(&scores, 0).unwrap();
    let whole = plan_of(&model, &scores, &choice, &plan);
    let manifest = Manifest::new(&model, &whole, packed()).unwrap();
    let kept: u64 = ["model.embed_tokens.weight", "model.norm.weight"]
        .iter()
        .map(|name| model.tensors()[model.find(name).unwrap()].bytes())
        .sum();
    let norms = 12 * 512;
    assert_eq!(manifest.tensor_bytes(), choice.bytes + kept + norms);
    assert!(whole.is_locked("model.layers.2.mlp.down_proj.weight"));
}

#[test]
fn a_budget_of_file_bytes_is_kept_and_no_worse_than_uniform_bits_of_that_size() {
    let (model, palette) = (sample(), palette());
    let plan = Plan::default();
    let scores = question(&model, &plan, &palette).score(Metric::Weights, None, &Silent).unwrap();
    let bounds = Bounds::default();
    let place = (&model, packed());
    let solve = |bytes: u64| {
        solve_within(place, (&scores, &plan, &bounds), Budget::FileBytes(bytes), &knapsack)
    };
    let of = |plan: &Plan| Manifest::new(&model, plan, packed()).unwrap().weight_file_bytes();
    let four = uniform(&scores, 0).unwrap();
    let bytes = of(&plan_of(&model, &scores, &four, &plan));
    let (choice, found) = solve(bytes).unwrap();
    assert!(of(&found) <= bytes && choice.damage <= four.damage * (1.0 + 1e-12));
    let (choice, found) = solve(bytes + 500_000).unwrap();
    let spent = of(&found);
    assert!(spent <= bytes + 500_000 && spent > bytes + 400_000, "{spent} of {}", bytes + 500_000);
    assert!(choice.damage < four.damage);
    assert_says(solve(1_000_000), &["bytes"]);
}

#[test]
fn floors_and_ceilings_hold_for_whole_fused_groups() {
    let (model, palette) = (sample(), palette());
    let plan = Plan::default();
    let scores = question(&model, &plan, &palette).score(Metric::Weights, None, &Silent).unwrap();
    let bounds = Bounds {
        floors: BTreeMap::from([(Role::K, 8.0)]),
        ceilings: BTreeMap::from([(Role::Down, 4.0)]),
    };
    let given = (scores.as_slice(), &plan, &bounds);
    let (_, found) = solve_within((&model, packed()), given, Budget::Bits(6.0), &knapsack).unwrap();
    let label = |name: &str| found.assignment(&format!("model.layers.3.{name}.weight")).label();
    assert!(!label("self_attn.q_proj").starts_with("4-bit"), "fused with k, which has a floor");
    assert!(label("mlp.down_proj").starts_with("4-bit"), "{}", label("mlp.down_proj"));
}

#[test]
fn measured_damage_is_the_divergence_with_one_unit_changed() {
    let (model, palette) = (sample(), palette());
    let weights = CheckpointWeights::new(&model);
    let network = Network::open(model.config().unwrap(), &weights).unwrap();
    let ids: Vec<Vec<u32>> =
        (0..3).map(|s| (0..64).map(|i| (i * 37 + s * 101) % 2048).collect()).collect();
    let baseline = Baseline::new(&network, &ids, &Silent).unwrap();
    assert_eq!(baseline.tokens(), 192);
    for from in [From::Embedding, From::Block(3), From::Head] {
        let kl = baseline.kl(&network, from, usize::MAX, &Silent).unwrap();
        assert!(kl < 1e-9, "the original against itself: {kl}");
    }
    let plan = Plan::default();
    let question = question(&model, &plan, &palette);
    let measuring = Measuring { baseline: &baseline, weights: &weights, tokens: usize::MAX };
    let mut units = question.units();
    units.retain(|unit| {
        let name = &model.tensors()[unit.layers[0]].name;
        name.contains("layers.4.") || name.contains("lm_head")
    });
    assert_eq!(units.len(), 5);
    for unit in &units {
        let options = question.options(unit).unwrap();
        let score = |at: usize| {
            let all = question.measure(unit, &options[at], measuring, &Silent);
            all.unwrap()
        };
        let [keep, four, eight] = [score(0), score(1), score(2)];
        assert!(keep == 0.0 && eight > 0.0 && four > 10.0 * eight, "{keep} {four} {eight}");
    }
}

#[test]
fn runs_are_held_against_what_the_scores_predict_for_their_plans() {
    let (model, palette) = (sample(), palette());
    let plan = Plan::default();
    let scores = question(&model, &plan, &palette).score(Metric::Weights, None, &Silent).unwrap();
    let given = (scores, palette.len());
    let solved = Solved::new((&model, packed()), given, (&plan, &Bounds::default()), &Silent);
    let solved = Arc::new(solved.unwrap());
    let wish = Wish { bits: vec![4, 8], ..Wish::default() };
    let target = packed().about().id;
    let plan_then = Arc::new(plan.clone());
    let solved_then = solved.clone();
    let ready = Ready { solved: solved_then, wish, target, plan: plan_then, refinement: None };
    let [least, most] = solved.range();
    let plans: Vec<Plan> = [0, 1, 2, 3]
        .map(|part| solved.at(least + part * (most - least) / 4).unwrap())
        .iter()
        .map(|choice| solved.plan(&model, choice, &plan))
        .collect();
    // Damage that is twice what is predicted, and a half more.
    let kl = |plan: &Plan| 0.5 + 2.0 * solved.choice_of(&model, plan).unwrap().damage;
    let mut runs: Vec<Kept> = plans.iter().map(|plan| run(&model, plan, kl(plan))).collect();
    let mut other = plans[0].clone();
    other.set("model.layers.0.mlp.down_proj.weight", Assignment::keep().with_bits(6));
    runs.insert(0, run(&model, &other, 9.0));
    let against = Against::of(&ready, &model, &runs);
    assert_eq!((against.runs.len(), against.left_out, against.text.as_str()), (4, 1, "a text"));
    assert_eq!(against.runs[0].predicted.bytes, least);
    let line = against.line.expect("a line through four");
    assert!((line.slope - 2.0).abs() < 1e-6 && (line.intercept - 0.5).abs() < 1e-9, "{line:?}");
    assert!(line.r_squared > 1.0 - 1e-9);
}

/// A run of a plan that cost `kl` nats a token, on one window.
fn run(model: &Checkpoint, plan: &Plan, kl: f64) -> Kept {
    let assigned = |tensor: &Tensor| {
        let of = plan.get(&tensor.name).filter(|of| !of.is_keep())?;
        Some((tensor.name.clone(), serde_json::to_string(&of.steps).expect("plain values")))
    };
    let against =
        json!({"nats": 20.0, "kl": 10.0 * kl, "flips": 0, "top_overlap": 50, "overlap": 9.0});
    let record = json!({
        "label": "a plan", "subject": "s", "model_key": "m", "bytes": 1, "bits_per_weight": 4.0,
        "reference": "the original",
        "text": {"name": "a text", "fingerprint": "f", "tokenizer": "t", "length": 11, "limit": null},
        "seconds": 1, "layers": {}, "blocks": [],
        "evaluation": {
            "windows": [{"tokens": 10, "nats": 30.0, "characters": 30, "against": against}],
            "planned_tokens": 10, "kl_p99": null,
        },
        "assignments": model.tensors().iter().filter_map(assigned).collect::<BTreeMap<_, _>>(),
    });
    Kept { id: "run".to_owned(), record: serde_json::from_value(record).expect("a record") }
}

#[test]
fn keys_and_values_have_the_bytes_of_the_closed_form_within_the_window() {
    let model = sample();
    let mut design = architectures::design(model.config().unwrap()).unwrap();
    // 6 blocks, 2 heads of 64 keys and as many values, two bytes each.
    let each = 2 * 2 * 64 * 2;
    assert_eq!(cache_bytes(&design, 256), 6 * each * 256);
    assert_eq!(cache_bytes(&design, 0), 0);
    design.blocks[0].attention.window = Some(100);
    assert_eq!(cache_bytes(&design, 256), each * (5 * 256 + 100));
    assert_eq!(cache_bytes(&design, 60), 6 * each * 60, "shorter than the window");
    design.causal = false;
    assert_eq!(cache_bytes(&design, 256), 0);
}

#[test]
fn a_budget_of_memory_is_spent_on_weights_beside_the_cache() {
    let (model, palette) = (sample(), palette());
    let plan = Plan::default();
    let scores = question(&model, &plan, &palette).score(Metric::Weights, None, &Silent).unwrap();
    let bounds = Bounds::default();
    let given = (scores.as_slice(), &plan, &bounds);
    let solve = |bytes, context| {
        let budget = Budget::Memory { bytes, context };
        solve_within((&model, packed()), given, budget, &knapsack)
    };
    let held = |plan: &Plan| Manifest::new(&model, plan, packed()).unwrap().tensor_bytes();
    let cache = 6 * 2 * 2 * 64 * 2 * 256;
    let (short, of_short) = solve(6_000_000, 1).unwrap();
    let (long, of_long) = solve(6_000_000, 256).unwrap();
    assert!(held(&of_long) + cache <= 6_000_000 && held(&of_short) + cache / 256 <= 6_000_000);
    assert!(held(&of_long) + cache > 5_900_000, "{}", held(&of_long) + cache);
    assert!(short.bytes > long.bytes && short.damage < long.damage);
    // The same as the bits that are left.
    let fixed = held(&of_long) - long.bytes;
    let units = (6_000_000 - cache - fixed) as f64;
    let weights: u64 = scores
        .iter()
        .flat_map(|of| &of.unit.layers)
        .map(|&layer| model.tensors()[layer].parameters())
        .sum();
    let bits = Budget::Bits((units + 0.5) * 8.0 / weights as f64);
    let (same, _) = solve_within((&model, packed()), given, bits, &knapsack).unwrap();
    assert_eq!(same, long);
    assert_says(solve(6_000_000, 1 << 40), &["keys and values", "shorter context"]);
}

#[test]
fn of_a_mixture_only_the_chosen_experts_are_read_for_a_token() {
    let folder = repository().join("tests").join("golden").join("networks").join("mixtral");
    let model = Checkpoint::open(&folder).unwrap();
    let design = architectures::design(model.config().unwrap()).unwrap();
    let manifest = Manifest::new(&model, &Plan::default(), packed()).unwrap();
    let Feed::Experts(experts) = &design.blocks[0].feed else { panic!("it has experts") };
    let (chosen, all) = (experts.chosen as u64, experts.experts.len() as u64);
    assert!(chosen < all);
    let mut expected = 0;
    for tensor in model.tensors() {
        let bytes = tensor.bytes();
        expected += match (tensor.place.expert, tensor.place.role) {
            (Some(_), _) => bytes * chosen / all,
            (None, Role::Embedding) => bytes / tensor.shape.0[0] as u64,
            _ => bytes,
        };
    }
    let found = active_bytes(&model, &manifest, &design);
    assert!(found.abs_diff(expected) <= 8 && found < manifest.tensor_bytes(), "{found} {expected}");
    let plain = sample();
    let design = architectures::design(plain.config().unwrap()).unwrap();
    let manifest = Manifest::new(&plain, &Plan::default(), packed()).unwrap();
    let row = 256 * 2;
    let found = active_bytes(&plain, &manifest, &design);
    assert_eq!(found, manifest.tensor_bytes() - 2048 * row + row, "one row of the embedding");
}
