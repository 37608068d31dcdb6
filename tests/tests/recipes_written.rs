//! Plans written in other tools' words and read again: few rules, the same steps, and a sentence for whatever the
//! other tool cannot say.

use lapidary_engine::checkpoint::{Checkpoint, Tensor};
use lapidary_engine::method::Step;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::recipe::{self, DIALECTS, Exported, Imported};
use lapidary_tests::{Weights, assert_unsaid, plain_llama};
use proptest::prelude::*;

struct Model {
    _folder: tempfile::TempDir,
    checkpoint: Checkpoint,
}

fn model() -> Model {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = plain_llama(folder.path());
    Model { _folder: folder, checkpoint }
}

/// Steps with every default left out.
fn integers(bits: i64, group: i64, symmetry: &str) -> Vec<Step> {
    let mut step = Step::new("round-to-nearest");
    if bits != 4 {
        step = step.with("bits", bits);
    }
    step = match group {
        0 => step.with("granularity", "tensor"),
        -1 => step.with("granularity", "channel"),
        128 => step,
        size => step.with("group_size", size),
    };
    vec![if symmetry == "symmetric" { step } else { step.with("symmetry", symmetry) }]
}

/// Blocks of a type of llama.cpp.
fn blocks(kind: &str) -> Vec<Step> {
    vec![Step::new("gguf-blocks").with("type", kind)]
}

fn plan_of(imported: &Imported, checkpoint: &Checkpoint) -> Plan {
    let mut plan = Plan::default();
    for (index, steps) in &imported.layers {
        plan.set(&checkpoint.tensors()[*index].name, Assignment::of(steps.clone()));
    }
    plan.check(checkpoint).expect("a valid plan");
    plan
}

fn plan(checkpoint: &Checkpoint, entries: &[(&str, Vec<Step>)]) -> Plan {
    let mut plan = Plan::default();
    for (name, steps) in entries {
        plan.set(&format!("{name}.weight"), Assignment::of(steps.clone()));
    }
    plan.check(checkpoint).expect("a valid plan");
    plan
}

fn written(id: &str, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
    recipe::find(id).expect("a dialect").write(checkpoint, plan)
}

#[test]
fn rules_are_as_few_as_people_write() {
    let Model { checkpoint, .. } = &model();
    let mut entries: Vec<(String, Vec<Step>)> = Vec::new();
    for tensor in
        checkpoint.tensors().iter().filter(|t| t.place.block.is_some() && t.matrix.is_some())
    {
        let eight = tensor.name.contains("down_proj") || tensor.name.contains("1.self_attn.v");
        let steps = if eight {
            integers(8, 32, "symmetric-restricted")
        } else {
            integers(4, 32, "symmetric")
        };
        entries.push((tensor.module().to_owned(), steps));
    }
    let entries: Vec<(&str, Vec<Step>)> =
        entries.iter().map(|(n, s)| (n.as_str(), s.clone())).collect();
    let plan = plan(checkpoint, &entries);
    let types = written("tensor-types", checkpoint, &plan);
    assert!(types.unsaid.is_empty(), "{:?}", types.unsaid);
    let lines: Vec<&str> = types.text.lines().collect();
    assert!(lines.contains(&r"^blk\.\d+\.ffn_down\.weight=q8_0"), "{lines:?}");
    assert!(lines.contains(&r"^blk\.1\.attn_v\.weight=q8_0"), "{lines:?}");
    assert!(lines.contains(&r"^output\.weight=bf16"), "{lines:?}");
    assert_eq!(lines.len(), 10);
    let groups = written("compressed-tensors", checkpoint, &plan);
    let config: serde_json::Value = serde_json::from_str(&groups.text).unwrap();
    assert_eq!(config["config_groups"]["group_0"]["targets"], serde_json::json!(["Linear"]));
    let second = serde_json::json!([
        r"model.layers.1.self_attn.v_proj",
        r"re:^model\.layers\.\d+\.mlp\.down_proj$"
    ]);
    let mut found = config["config_groups"]["group_1"]["targets"].as_array().unwrap().clone();
    found.sort_by_key(ToString::to_string);
    assert_eq!(serde_json::Value::from(found), second);
    assert_eq!(config["ignore"], serde_json::json!(["lm_head"]));
    // 8-bit q8_0 leaves its lowest level unused, which compressed-tensors does not.
    assert_unsaid(&groups.unsaid, &[&["every level", "down_proj"]]);
    let gptq: serde_json::Value =
        serde_json::from_str(&written("gptq", checkpoint, &plan).text).unwrap();
    assert_eq!(gptq["dynamic"].as_object().unwrap().len(), 2, "{gptq}");
    let yaml = written("llm-compressor", checkpoint, &plan).text;
    assert!(
        yaml.contains("targets: [\"Linear\"]") && yaml.contains("ignore: [\"lm_head\"]"),
        "{yaml}"
    );
}

#[test]
fn what_a_tool_cannot_say_is_said() {
    let Model { checkpoint, .. } = &model();
    let sparse =
        [vec![Step::new("magnitude").with("pattern", "n-of-m")], integers(4, 128, "symmetric")];
    let searched = vec![Step::new("round-to-nearest").with("clipping", "mse")];
    let plan = plan(
        checkpoint,
        &[
            ("model.layers.0.mlp.up_proj", sparse.concat()),
            ("model.layers.1.mlp.up_proj", searched),
            ("model.layers.1.self_attn.q_proj", integers(7, 0, "asymmetric")),
            ("model.embed_tokens", integers(4, 128, "symmetric")),
            ("model.layers.1.self_attn.k_proj", vec![Step::new("magnitude")]),
        ],
    );
    for dialect in DIALECTS {
        let id = dialect.about().id;
        let Exported { text, unsaid } = dialect.write(checkpoint, &plan);
        let said = |parts: &[&str]| {
            let has = |sentence: &&String| parts.iter().all(|part| sentence.contains(part));
            assert_eq!(unsaid.iter().filter(has).count(), 1, "{id}: {parts:?} in {unsaid:#?}");
        };
        said(&["sparsity", "0.mlp.up_proj", "1.self_attn.k_proj"]);
        said(&["codes and scales are found", "1.mlp.up_proj"]);
        match id {
            "tensor-types" => {
                said(&["7-bit tensor asym", "q8_0", "1.self_attn.q_proj"]);
                said(&["4-bit g128", "q4_0", "model.embed_tokens"]);
            }
            "gptq" => {
                said(&["not model.embed_tokens"]);
                said(&["one a row", "1.self_attn.q_proj"]);
                said(&["7 bits", "1.self_attn.q_proj"]);
            }
            "mlx" => {
                said(&["7-bit tensor asym", "8-bit g128 asym", "1.self_attn.q_proj"]);
                said(&["4-bit g128", "4-bit g128 asym", "model.embed_tokens"]);
            }
            "evopress" => said(&["only bits", "7-bit tensor asym", "1.self_attn.q_proj"]),
            _ => assert_eq!(unsaid.len(), 2, "{id}: {unsaid:#?}"),
        }
        dialect.read(&text, checkpoint).unwrap_or_else(|error| panic!("{id}: {error}\n{text}"));
    }
}

#[test]
fn experts_share_what_tools_hold_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut weights = Weights::new().normal("model.layers.0.mlp.gate.weight", &[4, 64]);
    let name = |expert: usize| format!("model.layers.0.mlp.experts.{expert}.up_proj");
    for expert in 0..4 {
        weights = weights.normal(&format!("{}.weight", name(expert)), &[4, 64]);
    }
    let path = folder.path().join("model.safetensors");
    weights.write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let same = |bits: [i64; 4]| {
        let all = bits.into_iter().enumerate().map(|(at, bits)| (name(at), bits));
        let mut plan = Plan::default();
        for (name, bits) in all {
            let steps = integers(bits, 32, "asymmetric");
            plan.set(&format!("{name}.weight"), Assignment::of(steps));
        }
        plan
    };
    let types = (0..4).map(|at| (format!("{}.weight", name(at)), blocks("Q5_1")));
    let mut of_types = Plan::default();
    types.for_each(|(name, steps)| of_types.set(&name, Assignment::of(steps)));
    for (id, read) in [("tensor-types", of_types), ("mlx", same([5; 4]))] {
        let Exported { text, unsaid } = written(id, &checkpoint, &same([5; 4]));
        assert!(unsaid.is_empty(), "{id}: {unsaid:?}");
        let again = recipe::find(id).unwrap().read(&text, &checkpoint).unwrap();
        assert_eq!(plan_of(&again, &checkpoint), read, "{text}");
        assert_eq!(written(id, &checkpoint, &read).text, text, "{id}");
        let mixed = written(id, &checkpoint, &same([4, 4, 5, 4]));
        assert_eq!(mixed.text, text, "{id}: the finest");
        assert_unsaid(&mixed.unsaid, &[&["experts of a block in one", "up"]]);
    }
    let names = |id| written(id, &checkpoint, &same([4, 4, 5, 4])).text;
    assert!(names("gptq").contains(r"experts\\.2\\.up_proj$"), "{}", names("gptq"));
    assert_eq!(written("tensor-types", &checkpoint, &same([5; 4])).text.lines().count(), 1);
}

#[test]
fn names_of_many_layers_are_counted() {
    let Model { checkpoint, .. } = &model();
    let layers = checkpoint.tensors().iter().filter(|t| t.matrix.is_some());
    let names: Vec<&str> = layers.map(Tensor::module).collect();
    let entries: Vec<(&str, Vec<Step>)> =
        names.iter().map(|&name| (name, vec![Step::new("magnitude")])).collect();
    let unsaid = written("mlx", checkpoint, &plan(checkpoint, &entries)).unsaid;
    assert_unsaid(&unsaid, &[&["sparsity", "and 11 more"]]);
}

/// Every layer's choice by number: what it is depends on what the dialect can say.
fn choices(id: &str) -> Vec<Vec<Step>> {
    let mut all = Vec::new();
    let (bits, groups, symmetries): (&[i64], &[i64], &[&str]) = match id {
        "tensor-types" => {
            // Such a file names block types: integers of the same form come back as those.
            all.extend(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"].map(blocks));
            (&[], &[], &[])
        }
        "gptq" => (&[2, 3, 4, 8], &[-1, 16, 32, 64, 128, 256], &["symmetric", "asymmetric"]),
        "mlx" => (&[2, 3, 4, 5, 6, 8], &[32, 64, 128], &["asymmetric"]),
        "evopress" => (&[2, 3, 4, 5, 6, 7, 8], &[128], &["symmetric"]),
        _ => (&[2, 3, 4, 5, 6, 7, 8], &[-1, 0, 16, 100, 128], &["symmetric", "asymmetric"]),
    };
    for &bits in bits {
        for &group in groups {
            all.extend(symmetries.iter().map(|symmetry| integers(bits, group, symmetry)));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(
        picks in prop::collection::vec((prop::bool::weighted(0.8), 0..1000_usize), 16),
        few in 1..6_usize,
    ) {
        let Model { checkpoint, .. } = &model();
        for dialect in DIALECTS {
            let id = dialect.about().id;
            let choices = choices(id);
            let layers = checkpoint.tensors().iter().filter(|t| {
                t.matrix.is_some() && (id != "gptq" || t.place.block.is_some() || t.name.starts_with("lm_head"))
            });
            let mut plan = Plan::default();
            for (tensor, (is_quantised, pick)) in layers.zip(&picks) {
                if *is_quantised {
                    let steps = &choices[pick % few.min(choices.len()) * 7 % choices.len()];
                    plan.set(&tensor.name, Assignment::of(steps.clone()));
                }
            }
            let Exported { text, unsaid } = dialect.write(checkpoint, &plan);
            prop_assert!(unsaid.is_empty(), "{}: {:?}\n{}", id, unsaid, text);
            let imported = dialect.read(&text, checkpoint).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let again = plan_of(&imported, checkpoint);
            prop_assert_eq!(&again, &plan, "{}\n{}", id, text);
            prop_assert!(imported.unsaid.len() <= 1, "{}: {:?}\n{}", id, imported.unsaid, text);
        }
    }
}
