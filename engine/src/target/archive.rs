//! Lapidary's own archive: every layer as the plan made it, whatever its encoding. No runtime loads it; this program opens
//! it, compares with it, and unpacks it. Rules: none.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::format::archive::{self, Index};
use crate::format::layer;
use crate::format::safetensors::Spec;
use crate::target::capabilities::{Capabilities, Holds};
use crate::target::{About, Entry, Ready, Storage, Target};

/// Every encoding, part by part.
pub(super) struct Archive;

/// The registry's entry.
pub(super) static ENTRY: Archive = Archive;

static ABOUT: About = About {
    id: "archive",
    title: "Archive (Lapidary's own)",
    summary: "Every layer exactly as it was compressed, whatever the method: palettes, low rank, masks and all. No runtime loads it; `lapidary unpack` makes a dense checkpoint of it.",
    source: "docs/archive.md, version 1",
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    holds: Holds::Everything,
    tied: "the embedding and the head are held apart, each as it was compressed",
    may_quantise_tied_head: true,
    sparsity: "a bit for each weight, and those that are kept",
    ..Capabilities::NONE
};

impl Target for Archive {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        tensor.matrix.map_or_else(Vec::new, |m| archive::specs(&tensor.name, layout, m.shape))
    }

    fn metadata(
        &self,
        checkpoint: &Checkpoint,
        file: usize,
        entries: &[&Entry],
    ) -> BTreeMap<String, String> {
        // What was an archive before keeps its layers, which are copied part by part.
        let before = Index::read(&checkpoint.files()[file].metadata).ok().flatten();
        let mut layers = before.map(|index| index.layers).unwrap_or_default();
        for entry in entries.iter().filter(|entry| entry.storage == Storage::Native) {
            let tensor = &checkpoint.tensors()[entry.tensor];
            if let (Some(matrix), Some(layout)) = (tensor.matrix, &entry.layout) {
                let layer = archive::Layer {
                    dtype: tensor.dtype,
                    shape: tensor.shape.clone(),
                    matrix: matrix.shape,
                    is_transposed: matrix.kind == MatrixKind::Conv1d,
                    layout: layout.clone(),
                };
                layers.insert(tensor.name.clone(), layer);
            }
        }
        if layers.is_empty() {
            return BTreeMap::new();
        }
        BTreeMap::from([(archive::KEY.to_owned(), Index::new(layers).text())])
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        archive::pack(encoding, part(tensor, name)?)
    }

    fn ready(&self, tensor: &Tensor, _layout: &Layout, name: &str) -> Option<Ready> {
        Some(Ready::Part(part(tensor, name)?.to_owned()))
    }

    fn reader<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        let form = layer::Form::Archive(layout.clone());
        form.reader(tensor.matrix?.shape, &|part| get(&format!("{}.{part}", tensor.name)))
    }
}

/// The name of a part of a layer.
fn part<'n>(tensor: &Tensor, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(tensor.name.as_str())?.strip_prefix('.')
}
