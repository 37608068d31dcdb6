//! Biases of layers whose outputs a plan shifts, where a target stores them in full: the layer's own bias changes, or a model
//! without biases is given some, all of those that one entry of its config.json speaks of.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Role, Tensor};
use crate::encoding::Layout;
use crate::error::Result;
use crate::format::safetensors::Spec;
use crate::target::lint::{Case, Fix, Lint, Severity};
use crate::target::mend::layers_text;
use crate::target::{Entry, Storage};
use crate::tensor::Shape;

/// Entries of config.json that give the layers of some roles biases, as transformers, vLLM and mlx-lm all read them. Not
/// those of qwen3: mlx-lm refuses its biases, and vLLM drops that of the output projection without a word.
const FLAGS: &[(&str, &str, &[Role])] = &[
    ("llama", "attention_bias", &[Role::Q, Role::K, Role::V, Role::O]),
    ("llama", "mlp_bias", &[Role::Gate, Role::Up, Role::Down]),
];

/// The entry of config.json by which a layer has a bias.
fn flag_of(checkpoint: &Checkpoint, tensor: &Tensor) -> Option<&'static str> {
    let model_type = checkpoint.config()?.model_type()?;
    let is_of = |(of, _, roles): &&(&str, &'static str, &[Role])| {
        *of == model_type && roles.contains(&tensor.place.role)
    };
    let is_layer = tensor.matrix.is_some() && tensor.place.block.is_some();
    FLAGS.iter().find(is_of).filter(|_| is_layer).map(|(_, flag, _)| *flag)
}

fn name_of(tensor: &Tensor) -> String {
    format!("{}.bias", tensor.module())
}

/// The bias of a layer in the source.
fn own_bias(checkpoint: &Checkpoint, tensor: &Tensor) -> Option<usize> {
    let rows = tensor.matrix?.shape.rows as u64;
    let index = checkpoint.find(&name_of(tensor))?;
    (checkpoint.tensors()[index].parameters() == rows).then_some(index)
}

/// The bias that a layer is given in the output and does not have in the source.
pub fn added_bias<'e>(tensor: &Tensor, entry: &'e Entry) -> Option<&'e Spec> {
    let name = tensor.matrix.map(|_| name_of(tensor))?;
    entry.specs.iter().find(|spec| spec.name == name && spec.name != tensor.name)
}

/// Gives the layers whose outputs are shifted, and that are stored in full, their biases.
///
/// # Errors
/// [`crate::Error::Limit`] for a size beyond all bounds.
pub fn place_biases(checkpoint: &Checkpoint, entries: &mut [Entry]) -> Result<()> {
    let mut flags = BTreeSet::new();
    for index in 0..entries.len() {
        let is_shifted = entries[index].layout.as_ref().is_some_and(Layout::has_shift);
        if !is_shifted || entries[index].storage == Storage::Native {
            continue;
        }
        let tensor = &checkpoint.tensors()[index];
        if let Some(bias) = own_bias(checkpoint, tensor) {
            let because = format!("it makes up for the mean that {} leaves out", tensor.module());
            entries[bias].layout = Some(Layout::Dense(checkpoint.tensors()[bias].dtype));
            entries[bias].storage = Storage::Changed { because };
            continue;
        }
        add(tensor, &mut entries[index])?;
        flags.extend(flag_of(checkpoint, tensor));
    }
    for (tensor, entry) in checkpoint.tensors().iter().zip(entries) {
        let is_spoken_of = flag_of(checkpoint, tensor).is_some_and(|flag| flags.contains(flag));
        if is_spoken_of && own_bias(checkpoint, tensor).is_none() {
            add(tensor, entry)?;
        }
    }
    Ok(())
}

fn add(tensor: &Tensor, entry: &mut Entry) -> Result<()> {
    let Some(matrix) = tensor.matrix.filter(|_| added_bias(tensor, entry).is_none()) else {
        return Ok(());
    };
    let shape = Shape(vec![matrix.shape.rows]);
    let spec = Spec { name: name_of(tensor), dtype: tensor.dtype.scale_dtype(), shape };
    entry.bytes += spec.bytes()?;
    entry.specs.push(spec);
    Ok(())
}

/// config.json with the entries by which layers have the biases they are given; `config` is what it would be otherwise,
/// where it is not that of the source.
pub(super) fn with_flags(
    checkpoint: &Checkpoint,
    entries: &[Entry],
    config: Option<Value>,
) -> Option<Value> {
    let tensors = checkpoint.tensors();
    let given = entries.iter().filter(|entry| added_bias(&tensors[entry.tensor], entry).is_some());
    let flags: BTreeSet<&str> =
        given.filter_map(|entry| flag_of(checkpoint, &tensors[entry.tensor])).collect();
    if flags.is_empty() {
        return config;
    }
    let mut config = config.or_else(|| Some(checkpoint.config()?.value().clone()))?;
    for flag in flags {
        config.as_object_mut()?.insert(flag.to_owned(), Value::Bool(true));
    }
    Some(config)
}

/// Biases that no loader would read.
pub(super) fn new_biases(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let is_gguf = case.aim.target.about().id == "gguf";
    let is_lost = |index: &usize| {
        let entry = &case.entries[*index];
        let is_shifted = entry.layout.as_ref().is_some_and(Layout::has_shift);
        let has_flag = flag_of(case.checkpoint, case.tensor(*index)).is_some();
        is_shifted && added_bias(case.tensor(*index), entry).is_some() && (is_gguf || !has_flag)
    };
    let tensors: Vec<usize> = (0..case.entries.len()).filter(is_lost).collect();
    if tensors.is_empty() {
        return;
    }
    lints.push(Lint {
        id: "new-bias",
        severity: Severity::Error,
        what: format!(
            "{}: loaders of {} read no bias there, and the plan needs one for the mean of the inputs",
            layers_text(case, &tensors),
            case.aim.target.about().title
        ),
        mend: "leave the mean in the product, or export an archive".to_owned(),
        fix: Some(Fix::Uncentred),
        tensors,
    });
}
