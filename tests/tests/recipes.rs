//! Recipes of other tools read: files in their real syntax are understood as meant, what cannot be taken over is
//! said, and false ones are errors that name cause and mend.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::method::{self, Step};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::Assignment;
use lapidary_engine::recipe::{self, DIALECTS, Imported};
use lapidary_tests::{assert_says, assert_unsaid, data, plain_llama, raw_file, read, write};
use proptest::prelude::*;
use serde_json::json;

struct Model {
    _folder: tempfile::TempDir,
    checkpoint: Checkpoint,
}

fn model() -> Model {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = plain_llama(folder.path());
    Model { _folder: folder, checkpoint }
}

/// What was read, as labels by module, the numbers of blocks before.
fn labels(checkpoint: &Checkpoint, imported: &Imported) -> BTreeMap<String, String> {
    let label = |(index, steps): &(usize, Vec<Step>)| {
        let module = checkpoint.tensors()[*index].module().replace("model.layers.", "");
        (module, method::chain_label(steps))
    };
    imported.layers.iter().map(label).collect()
}

/// Reads a golden file and compares it with lines of `module label`.
#[track_caller]
fn golden(id: &str, file: &str, expected: &str) -> Vec<String> {
    let model = model();
    let text = String::from_utf8(read(&data("recipes").join(file))).expect("UTF-8");
    let dialect = recipe::find(id).expect("a dialect");
    let imported = dialect.read(&text, &model.checkpoint).expect("a recipe");
    let labels = labels(&model.checkpoint, &imported);
    let found: Vec<String> = labels.iter().map(|(name, label)| format!("{name} {label}")).collect();
    let mut expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    imported.unsaid
}

#[test]
fn tensor_types_of_llama_quantize() {
    let unsaid = golden(
        "tensor-types",
        "tensor-types.txt",
        "model.embed_tokens Q8_0
         lm_head Q6_K
         0.self_attn.q_proj Q4_0
         0.self_attn.k_proj Q4_0
         0.self_attn.v_proj Q4_1
         0.self_attn.o_proj Q6_K
         0.mlp.down_proj Q5_0
         0.mlp.gate_proj keep
         0.mlp.up_proj MXFP4
         1.self_attn.q_proj Q5_1
         1.self_attn.v_proj Q4_1
         1.self_attn.o_proj Q6_K
         1.mlp.down_proj Q5_0
         1.mlp.gate_proj keep
         1.mlp.up_proj MXFP4",
    );
    // output.weight is found in attn_output.weight too, here as in llama-quantize.
    let q4 =
        ["384 inputs are no whole blocks of Q4_K", "q5_0 was read for", "layers.1.mlp.down_proj"];
    let dead = ["decide no layer", r"blk\.7\.ffn_up=q8_0"];
    assert_unsaid(&unsaid, &[&dead, &q4]);
}

#[test]
fn compressed_tensors_names_go_before_expressions_and_those_before_classes() {
    let unsaid = golden(
        "compressed-tensors",
        "compressed-tensors.json",
        "lm_head keep
         1.mlp.gate_proj keep
         0.mlp.gate_proj 4-bit g128
         0.mlp.up_proj 4-bit g128
         0.mlp.down_proj 8-bit channel
         0.self_attn.q_proj 4-bit g128
         0.self_attn.k_proj 4-bit g128
         0.self_attn.o_proj 4-bit g128
         1.mlp.up_proj 4-bit g128
         1.mlp.down_proj 8-bit channel
         1.self_attn.q_proj 8-bit channel
         1.self_attn.k_proj 4-bit g128
         1.self_attn.v_proj 4-bit g128
         1.self_attn.o_proj 4-bit g128",
    );
    let expected: [&[&str]; 4] = [
        &["Activations", "group_1"],
        &["search for scales (mse)", "group_1"],
        &["decide no layer", "re:layers"],
        &["no 8-bit float", "model.layers.0.self_attn.v_proj"],
    ];
    assert_unsaid(&unsaid, &expected);
}

#[test]
fn llm_compressor_stages_follow_each_other() {
    let attention = ["q", "k", "v", "o"].map(|p| format!("self_attn.{p}_proj 4-bit g128"));
    let mut lines: Vec<String> = attention.to_vec();
    lines.push("mlp.gate_proj keep".to_owned());
    let gptq = |name: &str| format!("{name} 8-bit channel gptq in order");
    lines.extend(["mlp.up_proj", "mlp.down_proj"].map(gptq));
    let both = |line: &String| format!("0.{line}\n1.{line}\n");
    let expected = lines.iter().map(both).collect::<String>() + "lm_head keep";
    let unsaid = golden("llm-compressor", "llm-compressor.yaml", &expected);
    assert_unsaid(&unsaid, &[&["does not have: SparseGPTModifier."]]);
}

#[test]
fn gptq_of_llm_compressor_is_read_with_its_own_parameters() {
    let Model { _folder, checkpoint } = model();
    let dialect = recipe::find("llm-compressor").expect("a dialect");
    let read = |own: &str| {
        let head = "q_stage:\n  q_modifiers:\n    GPTQModifier:\n      scheme: W4A16\n";
        let text = format!("{head}      ignore: [lm_head]\n{own}");
        let imported = dialect.read(&text, &checkpoint).expect("a recipe");
        let (_, steps) =
            imported.layers.into_iter().find(|(_, steps)| steps[0].method != "keep").expect("one");
        (steps, imported.unsaid)
    };
    let gptq = Step::new("gptq");
    let ordered = gptq.clone().with("order", "columns");
    for (own, wanted) in [
        ("", gptq.clone()),
        ("      actorder: static\n      block_size: 64\n", gptq.clone()),
        ("      actorder: weight\n      dampening_frac: 0.01\n", gptq.clone()),
        ("      actorder: null\n", ordered.clone()),
        ("      actorder: false\n      dampening_frac: 0.05\n", ordered.with("damping", 0.05)),
        ("      dampening_frac: 1\n", gptq.clone().with("damping", 1.0)),
    ] {
        let (steps, unsaid) = read(own);
        assert_eq!(steps, [wanted], "{own}");
        method::check_chain(&steps).expect("valid steps");
        assert_unsaid(&unsaid, &[]);
    }
    let (steps, unsaid) = read("      actorder: group\n");
    assert_eq!(steps, std::slice::from_ref(&gptq));
    assert_unsaid(&unsaid, &[&["actorder: group", "groups of neighbours"]]);
    let (steps, unsaid) = read("      dampening_frac: 7\n");
    assert_eq!(steps, [gptq.with("damping", 1.0)]);
    assert_unsaid(&unsaid, &[&["dampening_frac of 7 is read as 1"]]);
}

#[test]
fn the_first_dynamic_rule_of_gptq_counts() {
    let unsaid = golden(
        "gptq",
        "gptq.json",
        "0.mlp.gate_proj keep
         0.mlp.up_proj keep
         0.mlp.down_proj 4-bit g128
         0.self_attn.q_proj 4-bit g128
         0.self_attn.k_proj 4-bit g128
         0.self_attn.v_proj 4-bit g128
         0.self_attn.o_proj 4-bit g128
         1.mlp.gate_proj 4-bit g128
         1.mlp.up_proj 4-bit g128
         1.mlp.down_proj 8-bit g64
         1.self_attn.q_proj 4-bit g128
         1.self_attn.k_proj 4-bit g128
         1.self_attn.v_proj 4-bit g128 asym
         1.self_attn.o_proj 4-bit g128",
    );
    let expected: [&[&str]; 3] = [
        &["desc_act"],
        &["damp_percent", "v_proj"],
        &["decide no layer", r".*\.1\..*down.* and +:layers\.9"],
    ];
    assert_unsaid(&unsaid, &expected);
}

#[test]
fn auto_round_has_entries_by_name_and_expression() {
    let unsaid = golden(
        "auto-round",
        "auto-round.json",
        "lm_head 8-bit tensor
         0.mlp.gate_proj keep
         0.mlp.up_proj 4-bit g128
         0.mlp.down_proj 4-bit g128
         0.self_attn.q_proj 8-bit g128
         0.self_attn.k_proj keep
         0.self_attn.v_proj 4-bit g128
         0.self_attn.o_proj 4-bit g128
         1.mlp.gate_proj keep
         1.mlp.down_proj 4-bit channel asym
         1.self_attn.q_proj 4-bit g128
         1.self_attn.k_proj 4-bit g128
         1.self_attn.v_proj 4-bit g128
         1.self_attn.o_proj 4-bit g128",
    );
    assert_unsaid(&unsaid, &[&["no 4-bit mx_fp", "model.layers.1.mlp.up_proj"]]);
}

#[test]
fn mlx_quantises_all_but_what_is_false() {
    let mut expected = "model.embed_tokens 6-bit g64 asym
         lm_head keep
         0.self_attn.v_proj 8-bit g32 asym
         1.self_attn.v_proj 4-bit g64 asym
         0.mlp.down_proj 4-bit g64 asym\n"
        .to_owned();
    let rest = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
    ];
    for name in rest {
        expected.push_str(&[0, 1].map(|block| format!("{block}.{name} 4-bit g64 asym\n")).concat());
    }
    let unsaid = golden("mlx", "mlx.json", &expected);
    let expected: [&[&str]; 2] =
        [&["decide no layer", "model.layers.5.mlp.up_proj"], &["no mxfp4", "1.mlp.down_proj"]];
    assert_unsaid(&unsaid, &expected);
}

#[test]
fn evopress_says_bits() {
    let unsaid = golden(
        "evopress",
        "evopress.txt",
        "0.self_attn.k_proj 3-bit g128
         0.self_attn.v_proj 4-bit g128
         1.self_attn.k_proj 5-bit g128
         1.mlp.down_proj keep",
    );
    let expected: [&[&str]; 2] =
        [&["only bits", "groups of 128"], &["decide no layer", "layers.31"]];
    assert_unsaid(&unsaid, &expected);
}

/// The layers of Llama-2-7B with a 128th of their outputs, in zeros: weights and config.json. Parameters of layers are to
/// one another as in the original.
fn llama_2_7b(folder: &Path) -> Checkpoint {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    let mut add = |name: String, shape: [usize; 2]| {
        let begin = end;
        end += 2 * shape[0] * shape[1];
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name, entry);
    };
    add("model.embed_tokens.weight".to_owned(), [250, 4096]);
    add("lm_head.weight".to_owned(), [250, 4096]);
    for block in 0..32 {
        for (name, shape) in MODULES {
            add(format!("model.layers.{block}.{name}.weight"), shape);
        }
    }
    write(&folder.join("model.safetensors"), &raw_file(&json!(header).to_string(), &vec![0; end]));
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": false,
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 250,
    });
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("the model opens")
}

/// The layers of a block, as outputs / 128 and inputs.
const MODULES: [(&str, [usize; 2]); 7] = [
    ("self_attn.q_proj", [32, 4096]),
    ("self_attn.k_proj", [32, 4096]),
    ("self_attn.v_proj", [32, 4096]),
    ("self_attn.o_proj", [32, 4096]),
    ("mlp.gate_proj", [86, 4096]),
    ("mlp.up_proj", [86, 4096]),
    ("mlp.down_proj", [32, 11008]),
];

/// What `EvoPress` makes of a mean of `quarters`/4 bits: levels of 2 to 6, exchanged between layers of one kind.
fn levels(quarters: u32, random: &mut Random) -> Vec<[u32; 32]> {
    let mut kinds = Vec::new();
    for _ in MODULES {
        let mut levels: [u32; 32] = std::array::from_fn(|block| {
            quarters / 4 + u32::from((block as u32) % 4 < quarters % 4)
        });
        for _ in 0..200 {
            let mut draw = || (random.bits() % 32) as usize;
            let (up, down) = (draw(), draw());
            if up != down && levels[up] < 6 && levels[down] > 2 {
                levels[up] += 1;
                levels[down] -= 1;
            }
        }
        kinds.push(levels);
    }
    kinds
}

#[test]
fn level_files_of_llama_2_7b_average_the_bits_they_were_searched_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = llama_2_7b(folder.path());
    let dialect = recipe::find("evopress").expect("a dialect");
    let mut random = Random::new(27);
    for quarters in [9, 10, 12, 16] {
        let levels = levels(quarters, &mut random);
        let mut text = String::new();
        for block in 0..32 {
            for ((module, _), levels) in MODULES.iter().zip(&levels) {
                let line = format!("model.layers.{block}.{module}: {}\n", levels[block]);
                text.push_str(&line);
            }
        }
        let imported = dialect.read(&text, &checkpoint).expect("a recipe");
        assert_unsaid(&imported.unsaid, &[&["only bits", "groups of 128"]]);
        assert_eq!(imported.layers.len(), 224, "7 layers of 32 blocks, and nothing else");
        let (mut bits, mut weights) = (0, 0);
        for (index, steps) in &imported.layers {
            let tensor = &checkpoint.tensors()[*index];
            let (block, module) = tensor.module()["model.layers.".len()..].split_once('.').unwrap();
            let kind = MODULES.iter().position(|(name, _)| *name == module).unwrap();
            let layout = Assignment::of(steps.clone())
                .layout(tensor.matrix.unwrap().shape, tensor.dtype)
                .unwrap();
            let expected = levels[kind][block.parse::<usize>().unwrap()];
            assert_eq!(layout.nominal_bits(), expected, "{}", tensor.name);
            bits += u64::from(layout.nominal_bits()) * tensor.parameters();
            weights += tensor.parameters();
        }
        assert_eq!(4 * bits, u64::from(quarters) * weights, "{quarters} quarters of a bit");
    }
}

#[test]
fn malformed_recipes_name_cause_and_mend() {
    let Model { checkpoint, .. } = &model();
    let group = |weights: &str| {
        format!(
            "{{\"config_groups\": {{\"group_0\": {{\"targets\": [\"Linear\"], \"weights\": {weights}}}}}}}"
        )
    };
    let cases: &[(&str, &str, &[&str])] = &[
        ("tensor-types", "attn_q", &["attn_q", "no =", "write expression=type"]),
        ("tensor-types", "=q8_0", &["no tensor", "write expression=type"]),
        ("tensor-types", "attn_q=q9_9", &["q9_9", "no type", "write expression=type"]),
        ("tensor-types", "attn_(q=q8_0", &["attn_(q", "not understood", "correct"]),
        ("compressed-tensors", "{", &["not JSON", "correct"]),
        ("compressed-tensors", "{}", &["config_groups", "correct"]),
        (
            "compressed-tensors",
            "{\"quant_method\": \"gptq\", \"config_groups\": {}}",
            &["gptq", "another dialect"],
        ),
        ("compressed-tensors", &group("{\"strategy\": \"group\"}"), &["group_0", "group_size"]),
        ("compressed-tensors", &group("{\"strategy\": \"odd\"}"), &["group_0", "odd"]),
        ("compressed-tensors", &group("3"), &["group_0"]),
        (
            "compressed-tensors",
            "{\"config_groups\": {\"W9A16\": [\"Linear\"]}}",
            &["W9A16", "W4A16"],
        ),
        (
            "compressed-tensors",
            "{\"config_groups\": {}, \"ignore\": [\"re:(\"]}",
            &["\"(\"", "correct"],
        ),
        ("llm-compressor", "a: [", &["not YAML", "correct"]),
        ("llm-compressor", "- a", &["no map of stages"]),
        ("llm-compressor", "quant_stage: {}", &["quant_stage", "no modifiers"]),
        (
            "llm-compressor",
            "s_stage: {q_modifiers: {GPTQModifier: {scheme: 3}}}",
            &["GPTQModifier", "scheme"],
        ),
        (
            "llm-compressor",
            "s_stage: {q_modifiers: {GPTQModifier: {scheme: W4A16, actorder: odd}}}",
            &["GPTQModifier", "actorder", "odd"],
        ),
        ("llm-compressor", "run: oneshot", &["no stage with modifiers"]),
        ("gptq", "{}", &["bits", "correct"]),
        ("gptq", "{\"bits\": 4, \"quant_method\": \"awq\"}", &["awq", "another dialect"]),
        ("gptq", "{\"bits\": 4, \"group_size\": -7}", &["-7"]),
        ("gptq", "{\"bits\": 4, \"dynamic\": {\"+:(\": {}}}", &["\"(\""]),
        ("gptq", "{\"bits\": 4, \"dynamic\": {\"+:a\": 3}}", &["+:a"]),
        ("auto-round", "[]", &["AutoRound", "correct"]),
        ("auto-round", "{\"bits\": 4, \"extra_config\": {\"a\": []}}", &["a of extra_config"]),
        ("auto-round", "{\"bits\": 4, \"group_size\": -2}", &["-2"]),
        ("mlx", "{\"quantization\": {}}", &["no bits"]),
        ("mlx", "{\"bits\": 4, \"a\": []}", &["a: it is a list"]),
        ("mlx", "{\"bits\": 4, \"quant_method\": \"gptq\"}", &["gptq"]),
        ("evopress", "a: 3\nb 4", &["line 2", "no colon", "write the layer"]),
        ("evopress", "attn+mlp", &["line 1", "drops parts"]),
        ("evopress", "a: x", &["line 1", "no number"]),
        ("evopress", "a: 2.5", &["line 1", "no number of bits from 1 to 32"]),
    ];
    for (id, text, said) in cases {
        assert_says(recipe::find(id).unwrap().read(text, checkpoint), said);
    }
    assert_says(recipe::find("gguf").map(|_| ()), &["\"gguf\"", "tensor-types"]);
    // A few lines of YAML must not stand for a thousand million.
    let lines =
        (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")));
    let bomb = format!("a0: &a0 [1]\n{}", lines.collect::<String>());
    assert_says(recipe::find("llm-compressor").unwrap().read(&bomb, checkpoint), &["YAML"]);
}

proptest! {
    #[test]
    fn no_text_makes_a_dialect_panic(text in r#"[-+:=.*()\[\]{}"a-z0-9 \n\\]{0,80}"#) {
        let Model { checkpoint, .. } = &model();
        for dialect in DIALECTS {
            if let Err(error) = dialect.read(&text, checkpoint) {
                prop_assert!(error.hint().is_some());
                prop_assert!(!error.sentence().contains('\n'), "{}", error.sentence());
            }
        }
    }
}
