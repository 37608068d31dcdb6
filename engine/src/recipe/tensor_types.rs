//! llama-quantize's `--tensor-type-file`: `expression=type`, one after another, the first that is found in the
//! name of a tensor counts.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::{GgufName, to_gguf};
use crate::error::{Error, Result};
use crate::format::gguf::BlockType;
use crate::method::Step;
use crate::plan::Plan;
use crate::recipe::form::{self, Layer};
use crate::recipe::patterns::Pattern;
use crate::recipe::rules::{self, Module, Rule, RuleSet};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, block_types, check_length, compact};
use crate::tensor::DType;

/// The dialect of llama-quantize.
pub(super) struct TensorTypes;

/// The registry's entry.
pub(super) static ENTRY: TensorTypes = TensorTypes;

static ABOUT: About = About {
    id: "tensor-types",
    title: "llama-quantize tensor types",
    summary: "Expressions for GGUF tensor names with a block type each, for --tensor-type-file.",
    file_name: "tensor-types.txt",
    source: "tools/quantize/quantize.cpp and src/llama-quant.cpp of ggml-org/llama.cpp, read November 2026",
};

/// Routers, which llama-quantize never quantises.
const NEVER: &str = "ffn_gate_inp";

impl Dialect for TensorTypes {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        check_length(text)?;
        let entries = text.split_whitespace().map(entry).collect::<Result<Vec<Rule>>>()?;
        let mut unsaid = Unsaid::default();
        if entries.is_empty() {
            unsaid.say("The file is empty: it names no tensor.");
        }
        for tensor in checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some()) {
            if to_gguf(tensor.module()).is_none() {
                let before = "The names that llama.cpp gives these layers are not known here: ";
                unsaid.of(before, tensor.module(), ".");
            }
        }
        let set = RuleSet::new(entries)?;
        let mut imported = rules::import(&[set], checkpoint, see, unsaid)?;
        let taken = in_whole_blocks(checkpoint, &mut imported.layers);
        imported.unsaid.extend(taken);
        Ok(Imported { target: Some("gguf"), ..imported })
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let layers = form::layers_or_blocks(checkpoint, plan, &mut unsaid);
        let types = types(&layers, &mut unsaid);
        let mut used: Vec<&str> = types.values().copied().collect();
        used.sort_unstable();
        used.dedup();
        let mut lines = Vec::new();
        for kind in used {
            let all: Vec<(&str, bool)> =
                types.iter().map(|(name, &of)| (name.as_str(), of == kind)).collect();
            for run in compact::runs(&all) {
                // Tied to the beginning: output.weight is also found in attn_output.weight.
                lines.push(format!("^{}\\.weight={kind}\n", run.pattern));
            }
        }
        Exported { text: lines.concat(), unsaid: unsaid.sentences() }
    }
}

/// Gives layers whose rows are no whole blocks of their type the one that llama-quantize takes instead, and says so.
fn in_whole_blocks(checkpoint: &Checkpoint, layers: &mut [(usize, Vec<Step>)]) -> Vec<String> {
    let mut unsaid = Unsaid::default();
    for (index, steps) in layers {
        let tensor = &checkpoint.tensors()[*index];
        let (Some(matrix), [step]) = (tensor.matrix, steps.as_slice()) else { continue };
        let Some(kind) = block_types::of_steps(step) else { continue };
        let Some(other) = block_types::for_rows(kind, matrix.shape.cols) else { continue };
        let before = format!(
            "Rows of {} inputs are no whole blocks of {}; as llama-quantize takes it, {other} was read for ",
            matrix.shape.cols,
            kind.name()
        );
        unsaid.of(&before, tensor.module(), ".");
        *steps = block_types::steps(other).unwrap_or_else(form::keep);
    }
    unsaid.sentences()
}

/// The module under its name in GGUF, if llama-quantize may quantise it.
fn see(mut module: Module<'_>) -> Option<Module<'_>> {
    let name = to_gguf(&module.name).filter(|name| !name.tensor.contains(NEVER))?;
    module.name = format!("{}.weight", name.tensor).into();
    Some(module)
}

fn entry(text: &str) -> Result<Rule> {
    let bad = |what: &str| {
        Error::plan(
            format!("{text:?} is not a tensor type: {what}"),
            "write expression=type, as attn_q=q8_0, separated by spaces or lines",
        )
    };
    let (name, kind) = text.split_once('=').ok_or_else(|| bad("it has no ="))?;
    if name.is_empty() {
        return Err(bad("no tensor comes before the ="));
    }
    let block = BlockType::named(kind).ok_or_else(|| bad(&format!("{kind:?} is no type")))?;
    // The tool writes expressions in small letters before it uses them.
    let pattern = Pattern::anywhere(&name.to_ascii_lowercase())?;
    Ok(Rule::pattern(text, pattern, block_types::meant(block.name)))
}

/// The type of each tensor of the GGUF file.
fn types(layers: &[Layer<'_>], unsaid: &mut Unsaid) -> BTreeMap<String, &'static str> {
    let mut types: BTreeMap<String, &'static str> = BTreeMap::new();
    for layer in layers {
        let Some(GgufName { tensor, expert }) = to_gguf(layer.module) else {
            if layer.is_compressed() {
                unsaid.of(
                    "llama.cpp's name is not known here, so nothing is written for ",
                    layer.module,
                    ".",
                );
            }
            continue;
        };
        if tensor.contains(NEVER) {
            if layer.is_compressed() {
                unsaid.of("llama-quantize never quantises routers: ", layer.module, ".");
            }
            continue;
        }
        let kind = kind_of(layer, unsaid);
        let bits = |kind: &str| BlockType::named(kind).map(|b| b.bytes as f64 / b.elements as f64);
        match types.get(&tensor) {
            Some(&old) if old != kind && expert.is_some() => {
                let before = "llama.cpp holds the experts of a block in one tensor; the finest type is written for ";
                unsaid.of(before, &tensor, ".");
                if bits(kind) > bits(old) {
                    types.insert(tensor, kind);
                }
            }
            _ => {
                types.insert(tensor, kind);
            }
        }
    }
    types
}

fn kind_of(layer: &Layer<'_>, unsaid: &mut Unsaid) -> &'static str {
    if let Some(kind) = layer.blocks {
        return kind;
    }
    let (Some(integers), Some(matrix)) = (layer.form, layer.tensor.matrix) else {
        return match layer.tensor.dtype {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => "f32",
        };
    };
    let (kind, is_exact) = block_types::nearest(integers, matrix.shape.cols);
    if !is_exact {
        let before =
            format!("llama.cpp has no {} for such rows; {kind} is written for ", integers.label());
        unsaid.of(&before, layer.module, ".");
    }
    kind
}
