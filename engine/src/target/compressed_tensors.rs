//! compressed-tensors folders, packed for vLLM and transformers, or with one byte a weight.
//!
//! Rules: grouped integers and small floats of linear layers only; groups divide the inputs; packed codes have 2, 4 or 8 bits,
//! for the target of readers from 0.18 on also 3, 5, 6 and 7 (earlier ones pad those to whole words);
//! layers that vLLM fuses share one scheme; routers, embeddings and convolutions stay in full precision.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::{Affine, Encoding, Float, Layout, Levels, Tiling};
use crate::format::compressed_tensors::{
    self as format, Packing, Scheme, pack, quantization_config, shape_bytes, stored,
};
use crate::format::layer;
use crate::format::safetensors::Spec;
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{
    Agreement, Capabilities, Corrections, Integers, NOT_LINEAR, Which,
};
use crate::target::floats::Floats;
use crate::target::{About, Entry, MARLIN, Ready, Target, is_linear_module, suffix};
use crate::tensor::DType;

/// Both integer layouts of compressed-tensors.
pub(super) struct CompressedTensors {
    about: &'static About,
    capabilities: &'static Capabilities,
    packing: Packing,
    /// The first release of the package whose readers take what is written, where that matters.
    from_release: Option<&'static str>,
}

/// What both layouts have in common.
const BOTH: Capabilities = Capabilities {
    kept: &[
        NOT_LINEAR[0],
        NOT_LINEAR[1],
        (Which::Conv1d, "transformers knows this layer as Conv1D, which the format does not cover"),
        NOT_LINEAR[2],
        NOT_LINEAR[3],
        NOT_LINEAR[4],
    ],
    fused: Agreement::Must,
    corrections: Corrections::InAdapter,
    sparsity: "readers of compressed-tensors dropped sparse layouts in 2026-03, so zeros are stored like any weight",
    ..Capabilities::NONE
};

/// Small floats that both packed targets hold.
const FLOATS: &[Floats] = &[
    Floats::fp8(Tiling::Rows(Grouping::Channel)),
    Floats::fp8(Tiling::Rows(Grouping::Tensor)),
    Floats::fp8(Tiling::Squares(128)),
    Floats::nvfp4(16, &[]),
    Floats::microscaling(Levels::E2m1),
    Floats::microscaling(Levels::E4m3),
];

/// Codes that fill words without a rest, which readers of every age take.
const WHOLE: Integers =
    Integers { bits: &[2, 4, 8], symmetric: true, groups: &[], rows: true, inputs_multiple: 1 };

/// Name of [`DENSE`], for the note of [`PACKED`].
const DENSE_ID: &str = "compressed-tensors-0.18";

/// The registry's entry for packed words, as readers of every age take them.
pub(super) static PACKED: CompressedTensors = CompressedTensors {
    about: &About {
        id: "compressed-tensors",
        title: "vLLM, transformers (compressed-tensors)",
        summary: "Linear layers as packed 2-, 4- or 8-bit integers with scales, as FP8 (rows or squares of 128), NVFP4, MXFP4 or MXFP8: the format vLLM runs and transformers loads.",
        source: "vllm-project/compressed-tensors and vLLM, 2026-08",
        writes: true,
    },
    capabilities: &Capabilities {
        integers: &[WHOLE, Integers { symmetric: false, ..WHOLE }],
        why_not_bits: "are packed differently before and after compressed-tensors 0.18; choose 2, 4 or 8 bits, or the target for 0.18",
        kernel: Some(MARLIN),
        floats: FLOATS,
        newer: Some(DENSE_ID),
        ..BOTH
    },
    packing: Packing::Packed,
    from_release: None,
};

/// The registry's entry for packed words as readers from 0.18 on take them: codes of 3, 5, 6 and 7 bits are a stream
/// without padding too. Inputs of those are a multiple of 32, so that a row has fewer words than earlier readers ask for: those
/// refuse the layer rather than read other codes from it.
pub(super) static DENSE: CompressedTensors = CompressedTensors {
    about: &About {
        id: DENSE_ID,
        title: "vLLM, transformers (compressed-tensors 0.18)",
        summary: "The same with packed integers of 3, 5, 6 and 7 bits too: for readers with compressed-tensors 0.18 (July 2026) or later, earlier ones refuse those layers.",
        source: "compressed-tensors 0.17.0, 0.18.0 and 0.20.0 (pack_to_int32), 2026-11",
        writes: true,
    },
    capabilities: &Capabilities {
        integers: &[
            WHOLE,
            Integers { symmetric: false, ..WHOLE },
            Integers { bits: &[3, 5, 6, 7], inputs_multiple: 32, ..WHOLE },
            Integers { bits: &[3, 5, 6, 7], symmetric: false, inputs_multiple: 32, ..WHOLE },
        ],
        why_not_bits: "do not fit a byte",
        kernel: Some(MARLIN),
        floats: FLOATS,
        ..BOTH
    },
    packing: Packing::Packed,
    from_release: Some("0.18.0"),
};

/// The registry's entry for one byte a weight.
pub(super) static INT: CompressedTensors = CompressedTensors {
    about: &About {
        id: "compressed-tensors-int",
        title: "transformers (compressed-tensors, int8)",
        summary: "Linear layers as one signed byte a weight, whatever the bits: loads in transformers. vLLM takes this form only with 8-bit activations.",
        source: "vllm-project/compressed-tensors and vLLM, 2026-08",
        writes: true,
    },
    capabilities: &Capabilities {
        integers: &[
            Integers {
                bits: &[2, 3, 4, 5, 6, 7, 8],
                symmetric: true,
                groups: &[],
                rows: true,
                inputs_multiple: 1,
            },
            Integers {
                bits: &[2, 3, 4, 5, 6, 7, 8],
                symmetric: false,
                groups: &[],
                rows: true,
                inputs_multiple: 1,
            },
        ],
        why_not_bits: "do not fit a byte",
        ..BOTH
    },
    packing: Packing::Int,
    from_release: None,
};

/// The integers of an encoding, under a mask or not: dropped weights already have the code of zero.
fn affine_of(encoding: &Encoding) -> Option<&Affine> {
    match encoding {
        Encoding::Affine(affine) => Some(affine),
        Encoding::Sparse(sparse) => affine_of(sparse.inner()),
        Encoding::Dense(_)
        | Encoding::Bilevel(_)
        | Encoding::Palette(_)
        | Encoding::Float(_)
        | Encoding::Blocks(_)
        | Encoding::LowRank(_)
        | Encoding::Outliers(_)
        | Encoding::Sum(_)
        | Encoding::Scaled(_)
        | Encoding::Shifted(_)
        | Encoding::Mixed(_)
        | Encoding::Runs(_)
        | Encoding::Vectors(_)
        | Encoding::Additive(_)
        | Encoding::Windows(_)
        | Encoding::Coded(_)
        | Encoding::Folded(_)
        | Encoding::Seeded(_)
        | Encoding::Rotated(_)
        | Encoding::Signed(_)
        | Encoding::Split(_)
        | Encoding::Stack(_) => None,
    }
}

/// The small floats of an encoding, under a mask or not: dropped weights have the code of zero.
fn float_of(encoding: &Encoding) -> Option<&Float> {
    match encoding {
        Encoding::Float(float) => Some(float),
        Encoding::Sparse(sparse) => float_of(sparse.inner()),
        _ => None,
    }
}

/// Small floats and the type of their scales, if that is what lies under any mask.
fn floats_of(layout: &Layout) -> Option<(format::Floats, DType)> {
    match layout.under_masks() {
        Layout::Float(float) => Some((format::Floats::of(float)?, float.scale_dtype)),
        _ => None,
    }
}

/// How a layer is quantised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Quantised {
    Integers(Scheme),
    Floats(format::Floats),
}

impl Quantised {
    fn of(entry: &Entry) -> Option<Self> {
        let layout = entry.own_form()?;
        let integers = layout.affine().map(Scheme::of).map(Self::Integers);
        integers.or_else(|| floats_of(layout).map(|(floats, _)| Self::Floats(floats)))
    }

    fn config(&self, packing: Packing, targets: &[String]) -> Value {
        match self {
            Self::Integers(scheme) => scheme.config(packing, targets),
            Self::Floats(floats) => floats.config(targets),
        }
    }
}

impl Target for CompressedTensors {
    fn about(&self) -> &'static About {
        self.about
    }

    fn capabilities(&self) -> &'static Capabilities {
        self.capabilities
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let Some(matrix) = tensor.matrix else { return Vec::new() };
        let spec = |(suffix, dtype, shape)| Spec {
            name: format!("{}.{suffix}", tensor.module()),
            dtype,
            shape,
        };
        let stored = match (layout.affine(), floats_of(layout)) {
            (Some(affine), _) => stored(self.packing, affine, matrix.shape),
            (None, Some((floats, dtype))) => floats.stored(dtype, matrix.shape),
            (None, None) => Vec::new(),
        };
        stored.into_iter().map(spec).collect()
    }

    fn needs_config(&self) -> bool {
        true
    }

    fn config(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Value> {
        let mut config = checkpoint.config()?.value().clone();
        let mut modules: BTreeMap<Quantised, Vec<String>> = BTreeMap::new();
        let mut ignore = Vec::new();
        for entry in entries {
            let tensor = &checkpoint.tensors()[entry.tensor];
            match Quantised::of(entry) {
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
        let mut value = quantization_config(groups, &ignore);
        if let Some(release) = self.from_release {
            value["version"] = release.into();
        }
        config.as_object_mut()?.insert("quantization_config".to_owned(), value);
        Some(config)
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        let suffix = name.strip_prefix(tensor.module())?.strip_prefix('.')?;
        match float_of(encoding) {
            Some(float) => format::Floats::of(float.layout())?.pack(float, suffix),
            None => pack(self.packing, affine_of(encoding)?, suffix),
        }
    }

    fn ready(&self, tensor: &Tensor, layout: &Layout, name: &str) -> Option<Ready> {
        let (suffix, shape) = (suffix(tensor, name)?, tensor.matrix?.shape);
        if (suffix, self.packing) == ("weight_shape", Packing::Packed) {
            return Some(Ready::Bytes(shape_bytes(shape)));
        }
        let Layout::Affine(affine) = layout else { return None };
        let part = match (suffix, self.packing) {
            // Rows of whole words are one stream without a gap, as the codes of an encoding are.
            ("weight_packed", Packing::Packed) if shape.cols.is_multiple_of(32) => "codes",
            // That of a whole tensor is repeated for each row.
            ("weight_scale", _) if affine.grouping != Grouping::Tensor => "scales",
            _ => return None,
        };
        Some(Ready::Part(part.to_owned()))
    }

    fn reader<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        let form = match (floats_of(layout), layout.affine()) {
            (Some((floats, dtype)), _) => layer::Form::CompressedFloats(floats, dtype),
            (None, affine) => layer::Form::CompressedTensors(self.packing, affine?.clone()),
        };
        form.reader(tensor.matrix?.shape, &|suffix| get(&format!("{}.{suffix}", tensor.module())))
    }
}
