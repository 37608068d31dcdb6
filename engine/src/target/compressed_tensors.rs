//! compressed-tensors folders, packed for vLLM and transformers, or with one byte a weight.
//!
//! Rules: grouped integers of linear layers only; groups divide the inputs; packed codes have 2, 4 or 8 bits
//! (3, 5, 6 and 7 are packed differently before and after June 2026, so they would load wrong somewhere);
//! layers that vLLM fuses share one scheme; routers, embeddings and convolutions stay in full precision.

use std::collections::BTreeMap;

use ndarray::Array2;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, MatrixKind, Role, Tensor};
use crate::encoding::{Affine, AffineLayout, Encoding, Layout};
use crate::format::compressed_tensors::{
    Packing, Scheme, pack, quantization_config, stored, unpack,
};
use crate::format::safetensors::Spec;
use crate::numeric::grouping::Grouping;
use crate::target::{About, Entry, Problem, Storage, Target};

/// Both integer layouts of compressed-tensors.
pub(super) struct CompressedTensors {
    about: &'static About,
    packing: Packing,
}

/// The registry's entry for packed words.
pub(super) static PACKED: CompressedTensors = CompressedTensors {
    about: &About {
        id: "compressed-tensors",
        title: "vLLM, transformers (compressed-tensors)",
        summary: "Linear layers as packed 2-, 4- or 8-bit integers with scales: the format vLLM runs and transformers loads.",
        source: "vllm-project/compressed-tensors and vLLM, 2026-08",
        is_dense: false,
    },
    packing: Packing::Packed,
};

/// The registry's entry for one byte a weight.
pub(super) static INT: CompressedTensors = CompressedTensors {
    about: &About {
        id: "compressed-tensors-int",
        title: "transformers (compressed-tensors, int8)",
        summary: "Linear layers as one signed byte a weight, whatever the bits: loads in transformers. vLLM takes this form only with 8-bit activations.",
        source: "vllm-project/compressed-tensors and vLLM, 2026-08",
        is_dense: false,
    },
    packing: Packing::Int,
};

impl CompressedTensors {
    /// Why a layer of this layout cannot be stored natively.
    fn why_dense(&self, tensor: &Tensor, layout: &Layout) -> Option<String> {
        let Some(affine) = layout.affine() else {
            return Some(
                "the format holds only grouped integers, so sparsity alone saves nothing here"
                    .to_owned(),
            );
        };
        let matrix = tensor.matrix?;
        let kind = match matrix.kind {
            MatrixKind::Linear if tensor.place.role == Role::Router => {
                Some("routers of experts stay in full precision")
            }
            MatrixKind::Linear if !tensor.name.ends_with(".weight") => {
                Some("it is not the weight of a module")
            }
            MatrixKind::Linear => None,
            MatrixKind::Conv1d => {
                Some("transformers knows this layer as Conv1D, which the format does not cover")
            }
            MatrixKind::Convolution => Some("the format does not cover convolutions"),
            MatrixKind::Embedding => Some("the format does not cover embeddings"),
            MatrixKind::Unknown => Some("what kind of layer it is cannot be told from its name"),
        };
        if let Some(kind) = kind {
            return Some(kind.to_owned());
        }
        if self.packing == Packing::Packed && !matches!(affine.bits, 2 | 4 | 8) {
            return Some(format!(
                "{}-bit codes are packed differently before and after June 2026; choose 2, 4 or 8 bits",
                affine.bits
            ));
        }
        match affine.grouping {
            Grouping::Group(size) if !matrix.shape.cols.is_multiple_of(size) => {
                Some(format!("groups of {size} do not divide its {} inputs", matrix.shape.cols))
            }
            _ => None,
        }
    }
}

/// The integers of an encoding, under a mask or not: dropped weights already have the code of zero.
fn affine_of(encoding: &Encoding) -> Option<&Affine> {
    match encoding {
        Encoding::Dense(_) => None,
        Encoding::Affine(affine) => Some(affine),
        Encoding::Sparse(sparse) => affine_of(sparse.inner()),
    }
}

fn scheme_of(entry: &Entry) -> Option<Scheme> {
    let layout = entry.layout.as_ref().filter(|_| entry.storage == Storage::Native)?;
    layout.affine().map(Scheme::of)
}

/// Whether a loader would look for the layer's scheme: a linear module.
fn is_linear_module(tensor: &Tensor) -> bool {
    tensor.matrix.is_some_and(|matrix| matrix.kind == MatrixKind::Linear)
        && tensor.name.ends_with(".weight")
}

/// Members of a fused group that would not be stored alike.
fn unequal_groups(checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<Problem> {
    let unequal = checkpoint.fused_groups().iter().filter(|group| {
        group
            .members
            .windows(2)
            .any(|pair| scheme_of(&entries[pair[0]]) != scheme_of(&entries[pair[1]]))
    });
    unequal
        .map(|group| {
            let names: Vec<&str> =
                group.members.iter().map(|&i| checkpoint.tensors()[i].module()).collect();
            Problem {
                tensors: group.members.clone(),
                what: format!(
                    "{} are one layer in vLLM but would be stored differently",
                    names.join(", ")
                ),
                mend: format!(
                    "give {} of this block the same bits, grouping and symmetry",
                    group.kind.name()
                ),
            }
        })
        .collect()
}

impl Target for CompressedTensors {
    fn about(&self) -> &'static About {
        self.about
    }

    fn fuses(&self) -> bool {
        true
    }

    fn storage(&self, tensor: &Tensor, layout: &Layout) -> Storage {
        match self.why_dense(tensor, layout) {
            Some(because) => Storage::Dense { because },
            None => Storage::Native,
        }
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let (Some(affine), Some(matrix)) = (layout.affine(), tensor.matrix) else {
            return Vec::new();
        };
        let spec = |(suffix, dtype, shape)| Spec {
            name: format!("{}.{suffix}", tensor.module()),
            dtype,
            shape,
        };
        stored(self.packing, affine, matrix.shape).into_iter().map(spec).collect()
    }

    fn problems(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<Problem> {
        let mut problems = unequal_groups(checkpoint, entries);
        let quantised =
            checkpoint.config().and_then(|config| config.value().get("quantization_config"));
        if checkpoint.config().is_none() {
            problems.push(Problem {
                tensors: Vec::new(),
                what: "the checkpoint has no config.json, where loaders read how it is quantised"
                    .to_owned(),
                mend: "open the model's folder instead of a lone file, or choose the dense target"
                    .to_owned(),
            });
        } else if quantised.is_some_and(|value| !value.is_null()) {
            problems.push(Problem {
                tensors: Vec::new(),
                what: "the checkpoint's config.json says it is quantised already".to_owned(),
                mend: "start from the original checkpoint".to_owned(),
            });
        }
        problems
    }

    fn config(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Value> {
        let mut config = checkpoint.config()?.value().clone();
        let mut modules: BTreeMap<Scheme, Vec<String>> = BTreeMap::new();
        let mut ignore = Vec::new();
        for entry in entries {
            let tensor = &checkpoint.tensors()[entry.tensor];
            match scheme_of(entry) {
                Some(scheme) => modules.entry(scheme).or_default().push(tensor.module().to_owned()),
                None if is_linear_module(tensor) => ignore.push(tensor.module().to_owned()),
                None => {}
            }
        }
        if modules.is_empty() {
            return None;
        }
        // A tied head has no tensor, but loaders still ask for its scheme.
        if checkpoint.tied().is_some_and(|tied| tied.head.is_none()) {
            ignore.push("lm_head".to_owned());
        }
        let groups =
            modules.iter().map(|(scheme, targets)| scheme.config(self.packing, targets)).collect();
        let value = quantization_config(self.packing, groups, &ignore);
        config.as_object_mut()?.insert("quantization_config".to_owned(), value);
        Some(config)
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        let suffix = name.strip_prefix(tensor.module())?.strip_prefix('.')?;
        pack(self.packing, affine_of(encoding)?, suffix)
    }

    fn unpack<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Array2<f32>> {
        let affine: &AffineLayout = layout.affine()?;
        unpack(self.packing, affine, tensor.matrix?.shape, &|suffix| {
            get(&format!("{}.{suffix}", tensor.module()))
        })
    }
}
