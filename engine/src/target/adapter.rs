//! Corrections of low rank beside a format that has none: the base in the checkpoint proper, the factors in an adapter for
//! PEFT in a folder of it. Together they are one layer, for the manifest, the writer and the proof alike.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Config, Tensor};
use crate::encoding::{Encoding, Layout, LowRankLayout, Sum};
use crate::error::Result;
use crate::format::adapter::{self, CONFIG, FOLDER, Factors, KEY, PARTS, VERSION, WEIGHTS};
use crate::format::layer::Reader;
use crate::format::safetensors::{FilePlan, Spec};
use crate::target::lint::{Case, Fix, Lint, Severity};
use crate::target::mend::layers_text;
use crate::target::{Entry, OutputFile, Storage, Target, WeightFile};
use crate::tensor::{DType, Shape};

/// Why an adapter does not hold a correction, in a sentence without a full stop; `None` where it does.
pub(super) fn why_not(tensor: &Tensor, correction: &LowRankLayout) -> Option<String> {
    if tensor.place.expert.is_some() {
        let why = "PEFT has no adapters for single experts, which transformers joins in one tensor";
        return Some(why.to_owned());
    }
    let (Layout::Dense(left), Layout::Dense(right)) = (&*correction.left, &*correction.right)
    else {
        let why =
            "PEFT has no integers for the factors of a correction; choose them as the weights";
        return Some(why.to_owned());
    };
    let is_held = left == right && matches!(left, DType::F16 | DType::BF16 | DType::F32);
    (!is_held).then(|| format!("PEFT has no adapters in {left}"))
}

/// Whether this tensor of the output is a factor of a layer.
pub(super) fn is_factor(tensor: &Tensor, spec: &Spec) -> bool {
    adapter::module_of(&spec.name).is_some_and(|(module, _)| module == tensor.module())
}

/// The tensors of an entry that lie in the checkpoint proper.
pub(super) fn own_specs<'e>(
    checkpoint: &'e Checkpoint,
    entry: &'e Entry,
) -> impl Iterator<Item = &'e Spec> {
    let tensor = &checkpoint.tensors()[entry.tensor];
    entry.specs.iter().filter(move |spec| !is_factor(tensor, spec))
}

impl Entry {
    /// How a natively stored layer lies in the checkpoint proper: without a correction that is in an adapter.
    pub fn own_form(&self) -> Option<&Layout> {
        let layout = self.layout.as_ref().filter(|_| self.storage == Storage::Native)?;
        let is_in_adapter =
            || self.specs.iter().any(|spec| adapter::module_of(&spec.name).is_some());
        match layout.corrected() {
            Some((base, _)) if is_in_adapter() => Some(base),
            _ => Some(layout),
        }
    }

    /// Bytes of it in an adapter, where any are.
    pub fn adapter_bytes(&self, checkpoint: &Checkpoint) -> Option<u64> {
        let tensor = &checkpoint.tensors()[self.tensor];
        let factors = self.specs.iter().filter(|spec| is_factor(tensor, spec));
        let bytes = factors.filter_map(|spec| spec.bytes().ok()).sum();
        (bytes > 0).then_some(bytes)
    }
}

/// The tensors that hold a natively stored layer, factors in an adapter among them.
pub fn specs(target: &dyn Target, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
    let corrected = target.capabilities().in_adapter(tensor, layout);
    let (Some((base, correction)), Some(matrix)) = (corrected, tensor.matrix) else {
        return target.specs(tensor, layout);
    };
    let mut specs = target.specs(tensor, base);
    let (rank, shape) = (correction.rank, matrix.shape);
    let factors =
        [(&*correction.right, [rank, shape.cols]), (&*correction.left, [shape.rows, rank])];
    for (name, (factor, extents)) in adapter::names(tensor.module()).into_iter().zip(factors) {
        if let Layout::Dense(dtype) = factor {
            specs.push(Spec { name, dtype: *dtype, shape: Shape(extents.to_vec()) });
        }
    }
    specs
}

/// The adapter's weights, where a layer has factors there.
///
/// # Errors
/// Those of [`FilePlan::new`].
pub(super) fn file(checkpoint: &Checkpoint, entries: &[Entry]) -> Result<Option<OutputFile>> {
    let factors = |entry: &Entry| {
        let tensor = &checkpoint.tensors()[entry.tensor];
        entry.specs.iter().filter(|spec| is_factor(tensor, spec)).cloned().collect::<Vec<_>>()
    };
    let specs: Vec<Spec> = entries.iter().flat_map(factors).collect();
    if specs.is_empty() {
        return Ok(None);
    }
    let metadata = [("format", "pt"), (KEY, VERSION)];
    let metadata: BTreeMap<String, String> =
        metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let plan = WeightFile::Safetensors(FilePlan::new(specs, &metadata)?);
    Ok(Some(OutputFile { name: format!("{FOLDER}/{WEIGHTS}"), plan }))
}

/// The adapter's settings with their name, where a layer has factors there.
pub(super) fn text(checkpoint: &Checkpoint, entries: &[Entry]) -> Option<(String, Value)> {
    let rank = |entry: &Entry| {
        let tensor = &checkpoint.tensors()[entry.tensor];
        let right = entry.specs.iter().find(|spec| is_factor(tensor, spec))?;
        Some((tensor.module(), *right.shape.0.first()?))
    };
    let ranks: Vec<(&str, usize)> = entries.iter().filter_map(rank).collect();
    if ranks.is_empty() {
        return None;
    }
    let is_causal = checkpoint.config().is_some_and(Config::is_causal);
    Some((format!("{FOLDER}/{CONFIG}"), adapter::config(&ranks, is_causal)))
}

/// What the files hold of a natively stored layer, see [`Target::held`].
///
/// # Errors
/// Those of [`Target::held`].
pub fn held(target: &dyn Target, tensor: &Tensor, encoding: Encoding) -> Result<Encoding> {
    match encoding {
        Encoding::Sum(sum) if target.capabilities().has_adapter() => {
            let (base, correction) = sum.into_parts();
            Ok(Encoding::Sum(Sum::new(target.held(tensor, base)?, correction)))
        }
        encoding => target.held(tensor, encoding),
    }
}

/// The bytes of one of the [`specs`] of a natively stored layer; `None` for any other name.
pub fn pack(
    target: &dyn Target,
    tensor: &Tensor,
    encoding: &Encoding,
    name: &str,
) -> Option<Vec<u8>> {
    let corrected = match encoding {
        Encoding::Sum(sum) if target.capabilities().has_adapter() => sum.of_low_rank(),
        _ => None,
    };
    let Some((base, correction)) = corrected else { return target.pack(tensor, encoding, name) };
    let factor = match adapter::module_of(name).filter(|(module, _)| *module == tensor.module()) {
        None => return target.pack(tensor, base, name),
        Some((_, true)) => correction.left(),
        Some((_, false)) => correction.right(),
    };
    let values = factor.parts().into_iter().find(|part| part.name == "values");
    values.map(|values| values.bytes.into_owned())
}

/// Decodes a natively stored layer from `get(name)`, any run of its weights, by other code than [`pack`], for the proof.
pub fn reader<'a>(
    target: &dyn Target,
    tensor: &Tensor,
    layout: &Layout,
    get: &dyn Fn(&str) -> Option<&'a [u8]>,
) -> Option<Reader<'a>> {
    let Some((base, correction)) = target.capabilities().in_adapter(tensor, layout) else {
        return target.reader(tensor, layout, get);
    };
    let base = Box::new(target.reader(tensor, base, get)?);
    let Layout::Dense(dtype) = *correction.right else { return None };
    let (shape, [right, left]) = (tensor.matrix?.shape, adapter::names(tensor.module()));
    let part = |part: &str| get(if part == PARTS[0] { &right } else { &left });
    let factors = Factors { rank: correction.rank, dtype }.reader(shape, &part)?;
    Some(Reader::Corrected(base, factors))
}

/// Layers whose runtime needs two things to load.
pub(super) fn beside(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let is_there = |entry: &&Entry| entry.adapter_bytes(case.checkpoint).is_some();
    let tensors: Vec<usize> =
        case.entries.iter().filter(is_there).map(|entry| entry.tensor).collect();
    if tensors.is_empty() {
        return;
    }
    lints.push(Lint {
        id: "adapter",
        severity: Severity::Note,
        what: format!(
            "{}: the correction lies in the folder {FOLDER}, which PEFT or vLLM must be given beside the model; without it the base runs alone",
            layers_text(case, &tensors)
        ),
        mend: "load both, or take the corrections out".to_owned(),
        fix: Some(Fix::Uncorrected),
        tensors,
    });
}
