//! A GGUF file written again with some of its tensors in other types: keys, values, names, order, alignment and parts are
//! those of the source, and so is every byte of a tensor that no assignment changes. Scales that lie beside a matrix are part
//! of its values, and go where it changes; one in NVFP4 gets its own.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, GgufPart, GgufTensor, GgufTensors, Tensor};
use crate::encoding::Layout;
use crate::error::Result;
use crate::format::gguf::BlockType;
use crate::format::gguf_split::{self, part_name};
use crate::format::gguf_writer::{GgufPlan, NewTensor, NewValue, Pairs};
use crate::target::gguf::file::{self, Content, GgufFile, kind_of};
use crate::target::gguf::settings::refused;
use crate::target::{Entry, OutputFile, Storage, WeightFile, added_bias};

/// Keys that say how tensors are stored.
const FILE_TYPE: &str = "general.file_type";
const VERSION: &str = "general.quantization_version";

/// Whether a layer lies in the file as this layout already.
pub(in crate::target) fn is_already(tensor: &Tensor, layout: &Layout) -> bool {
    match (layout, &tensor.coded) {
        (Layout::Blocks(_) | Layout::Float(_), Some(coded)) => {
            let kind = file::native_kind(layout).and_then(BlockType::of);
            kind.is_some_and(|kind| kind.name.eq_ignore_ascii_case(&coded.name))
        }
        (Layout::Dense(dtype), None) => *dtype == tensor.dtype,
        _ => false,
    }
}

/// The parts of the file, as many as those of the source.
///
/// # Errors
/// [`crate::Error::Plan`] for a bias that the source has not; those of laying out a header.
pub(super) fn files(
    checkpoint: &Checkpoint,
    gguf: &GgufTensors,
    entries: &[Entry],
) -> Result<Vec<OutputFile>> {
    let changed = |tensor: &GgufTensor| {
        let index = checkpoint.find(tensor.listed.as_ref()?)?;
        let is_changed = entries[index].storage != Storage::Copied;
        is_changed.then(|| (tensor.name.clone(), index))
    };
    let own = gguf.parts().iter().flat_map(|part| &part.tensors);
    let changed: BTreeMap<String, usize> = own.filter_map(changed).collect();
    let parts = gguf.parts().iter().enumerate();
    let parts = parts.map(|(at, part)| rewritten(checkpoint, (entries, &changed), (at, part)));
    let parts: Vec<(Vec<NewTensor>, Vec<Content>)> = parts.collect::<Result<_>>()?;
    let is_changed = !changed.is_empty();
    let all: Vec<&NewTensor> = parts.iter().flat_map(|(tensors, _)| tensors).collect();
    let (stem, count) = (file::stem(checkpoint), parts.len());
    let said = |key: &str| gguf.parts().iter().position(|part| part.pairs.has(key)).unwrap_or(0);
    let places = [said(FILE_TYPE), said(VERSION)];
    let keys: Vec<Pairs> = gguf.parts().iter().map(|part| part.pairs.clone()).collect();
    let keys = if is_changed { relabelled(keys, places, &all) } else { keys };
    let mut files = Vec::with_capacity(count);
    for (at, ((tensors, contents), pairs)) in parts.into_iter().zip(keys).enumerate() {
        let plan = GgufPlan::aligned_to(gguf.parts()[at].alignment, &pairs, tensors)?;
        let name = match count {
            1 => format!("{stem}.gguf"),
            _ => part_name(&stem, at + 1, count),
        };
        let plan = WeightFile::Gguf(Box::new(GgufFile { plan, contents }));
        files.push(OutputFile { name, plan });
    }
    Ok(files)
}

/// Keys that say which types there are now.
fn relabelled(mut keys: Vec<Pairs>, places: [usize; 2], tensors: &[&NewTensor]) -> Vec<Pairs> {
    let is_layer =
        |tensor: &&&NewTensor| tensor.extents.len() > 1 && tensor.name.starts_with("blk.");
    let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
    for tensor in tensors.iter().filter(is_layer) {
        *weights.entry(tensor.kind).or_default() += tensor.extents.iter().product::<u64>();
    }
    let [of_type, of_version] = places;
    if let (Some(label), Some(pairs)) = (file::label(&weights), keys.get_mut(of_type)) {
        *pairs = pairs.with(FILE_TYPE, &NewValue::U32(label));
    }
    let has_blocks =
        |tensor: &&NewTensor| BlockType::of(tensor.kind).is_some_and(|block| block.elements > 1);
    if let (true, Some(pairs)) = (tensors.iter().any(has_blocks), keys.get_mut(of_version)) {
        *pairs = pairs.with(VERSION, &NewValue::U32(file::QUANTIZATION_VERSION));
    }
    // Scales beside matrices come and go with NVFP4.
    let all = NewValue::I32(i32::try_from(tensors.len()).unwrap_or(i32::MAX));
    for pairs in keys.iter_mut().filter(|pairs| pairs.has(gguf_split::TENSORS)) {
        *pairs = pairs.with(gguf_split::TENSORS, &all);
    }
    keys
}

/// The tensors of a part, and what each is made of. What belongs to a matrix goes where that changes.
fn rewritten(
    checkpoint: &Checkpoint,
    (entries, changed): (&[Entry], &BTreeMap<String, usize>),
    (at, part): (usize, &GgufPart),
) -> Result<(Vec<NewTensor>, Vec<Content>)> {
    let (mut tensors, mut contents) = (Vec::new(), Vec::new());
    for tensor in &part.tensors {
        if tensor.belongs_to.as_ref().is_some_and(|matrix| changed.contains_key(matrix)) {
            continue;
        }
        let GgufTensor { name, extents, kind, range, .. } = tensor.clone();
        let (kind, content) = match changed.get(&name) {
            Some(&index) => changed_to(checkpoint, &entries[index])?,
            None => (kind, Content::Carried { file: at, range }),
        };
        let scale = (kind == file::NVFP4).then(|| changed.get(&name)).flatten();
        let scale = scale.map(|&index| (file::scale_of(&name), index));
        if scale.is_some() && extents.len() != 2 {
            return Err(refused(format!("{name} would need a scale for each of its matrices")));
        }
        tensors.push(NewTensor { name, extents, kind });
        contents.push(content);
        if let Some((name, index)) = scale {
            tensors.push(NewTensor::f32(name, &[1]));
            contents.push(Content::Multipliers(vec![index]));
        }
    }
    Ok((tensors, contents))
}

/// The type of a tensor that is not carried over, and what it is made of.
fn changed_to(checkpoint: &Checkpoint, entry: &Entry) -> Result<(u32, Content)> {
    let tensor = &checkpoint.tensors()[entry.tensor];
    if added_bias(tensor, entry).is_some() {
        return Err(refused(format!("{} would be given a bias", tensor.module())));
    }
    if tensor.matrix.is_none() {
        let content = Content::Vector { tensor: entry.tensor, rows: tensor.rows, plus: 0.0 };
        return Ok((0, content));
    }
    let kind = kind_of(entry)
        .ok_or_else(|| refused(format!("the tensor {} has no type in llama.cpp", tensor.name)))?;
    let content = Content::Matrices { tensors: vec![entry.tensor], rows: tensor.rows };
    Ok((kind, content))
}

/// All parts as one file, to be dealt out anew.
///
/// # Errors
/// Those of laying out a header.
pub(in crate::target) fn joined(files: Vec<OutputFile>) -> Result<Vec<OutputFile>> {
    let parts: Vec<&GgufFile> = files
        .iter()
        .filter_map(|file| match &file.plan {
            WeightFile::Gguf(part) => Some(part.as_ref()),
            WeightFile::Safetensors(_) => None,
        })
        .collect();
    let [first, ..] = parts[..] else { return Ok(files) };
    let said = [gguf_split::NUMBER, gguf_split::COUNT, gguf_split::TENSORS];
    let mut pairs = Pairs::default();
    let (mut tensors, mut contents) = (Vec::new(), Vec::new());
    for part in &parts {
        for (key, pair) in part.plan.metadata().iter() {
            if !said.contains(&key) && !pairs.has(key) {
                pairs.push_bytes(key, pair);
            }
        }
        tensors.extend(part.plan.tensors().iter().map(|(tensor, _)| tensor.clone()));
        contents.extend(part.contents.iter().cloned());
    }
    let plan = GgufPlan::aligned_to(first.plan.alignment(), &pairs, tensors)?;
    let name = &files[0].name;
    let stem = gguf_split::PartName::of(name).map(|part| part.stem.to_owned());
    let name = stem.map_or_else(|| name.clone(), |stem| format!("{stem}.gguf"));
    let plan = WeightFile::Gguf(Box::new(GgufFile { plan, contents }));
    Ok(vec![OutputFile { name, plan }])
}
