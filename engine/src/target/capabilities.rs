//! What a runtime and format can hold, as data, and the one function that holds a layer against it.

use serde::Serialize;

use crate::checkpoint::{MatrixKind, Role, Tensor};
use crate::encoding::{AffineLayout, BlockType, Layout, LowRankLayout};
use crate::format::{aqlm, spqr};
use crate::numeric::grouping::Grouping;
use crate::target::adapter;
use crate::target::floats::{self, Floats};
use crate::target::names::KeptNames;
use crate::tensor::{DType, MatrixShape};

/// What a runtime and format can hold.
#[derive(Debug, Serialize)]
pub struct Capabilities {
    /// Whether it holds what is listed below, or every encoding as it is.
    pub holds: Holds,
    /// Grouped integers it has a form for; empty where every layer is stored in full.
    pub integers: &'static [Integers],
    /// Why other bits are not held, for a message.
    pub why_not_bits: &'static str,
    /// Whether it has a form for integers whose zero point lies between two levels.
    pub offsets: bool,
    /// Whether it has a form for whole zero points, which differ from group to group.
    pub zero_points: bool,
    /// Blocks of llama.cpp it has a form for.
    pub blocks: &'static [BlockType],
    /// Small floats it has a form for.
    pub floats: &'static [Floats],
    /// Codes of research methods it has a form for.
    pub codes: &'static [Codes],
    /// Layers that stay in full precision, with the reason.
    pub kept: &'static [(Which, &'static str)],
    /// Inputs of a layer must be a multiple of this.
    pub inputs_multiple: usize,
    /// Outputs of a layer must be a multiple of this.
    pub outputs_multiple: usize,
    /// Whether q/k/v and gate/up must be stored alike.
    pub fused: Agreement,
    /// Whether the experts of a block must be stored alike, role by role.
    pub experts: Agreement,
    /// Whether all compressed layers of the model must share bits, grouping and symmetry.
    pub schemes: Agreement,
    /// Which modules loaders keep by the name of a kept one.
    pub kept_names: KeptNames,
    /// What a quantised head of a tied model comes to.
    pub tied: &'static str,
    /// Whether a quantised head may stand beside a tied embedding.
    pub may_quantise_tied_head: bool,
    /// What zeros save.
    pub sparsity: &'static str,
    /// The kernel that runs it fast, and what that asks for.
    pub kernel: Option<Kernel>,
    /// Element types of scales it has a form for; empty for all.
    pub scale_dtypes: &'static [DType],
    /// The target of later readers of the same format, which hold more.
    pub newer: Option<&'static str>,
    /// What becomes of corrections of low rank.
    pub corrections: Corrections,
}

/// What a format holds at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// Forms that are listed.
    Listed,
    /// Every encoding as it is.
    Everything,
}

/// Bits, symmetry and groupings that belong together.
#[derive(Debug, Serialize)]
pub struct Integers {
    /// Bits of a code.
    pub bits: &'static [u32],
    /// Grids without a zero point, or with one.
    pub symmetric: bool,
    /// Group sizes; empty for any that divides the inputs.
    pub groups: &'static [usize],
    /// Whether a scale may be for a whole output row, or the whole tensor written as equal rows.
    pub rows: bool,
    /// Inputs of a layer must be a multiple of this, and of [`Capabilities::inputs_multiple`].
    pub inputs_multiple: usize,
}

/// Codes of research methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codes {
    /// Sums of entries of codebooks, one set for all inputs, under a scale for each output.
    Additive,
    /// Small groups whose scales and zero points are codes, in `SpQR`'s tiles, with or without single weights.
    Tiles,
}

/// Layers that formats tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Routers of experts.
    Router,
    /// Layers of single experts.
    Expert,
    /// Tables looked up by row.
    Embedding,
    /// The language-model head.
    Head,
    /// Linear layers of the GPT-2 family, stored `[in, out]`.
    Conv1d,
    /// Convolutions.
    Convolution,
    /// Layers whose kind cannot be told from their name.
    Unknown,
    /// Tensors that are not `….weight`.
    NoModule,
}

/// What becomes of the factors of a correction of low rank, where its base has a form in the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corrections {
    /// They have no place: the layer is stored in full.
    InFull,
    /// They lie beside the checkpoint, in an adapter that PEFT loads.
    InAdapter,
}

/// Whether layers that belong together must be stored alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// They must.
    Must,
    /// They may differ.
    May,
}

/// What a fast kernel asks for, in each part of a layer split over devices.
#[derive(Debug, Serialize)]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// Bits it computes with.
    pub bits: &'static [u32],
    /// Group sizes; whole rows always.
    pub groups: &'static [usize],
    /// Inputs of a part must be a multiple of this.
    pub inputs_multiple: usize,
    /// Outputs of a part must be a multiple of this.
    pub outputs_multiple: usize,
    /// Whether it computes with zero points.
    pub zero_points: bool,
}

/// Layers that every format of linear modules keeps.
pub(super) const NOT_LINEAR: [(Which, &str); 5] = [
    (Which::Router, "routers of experts stay in full precision"),
    (Which::NoModule, "it is not the weight of a module"),
    (Which::Convolution, "the format does not cover convolutions"),
    (Which::Embedding, "the format does not cover embeddings"),
    (Which::Unknown, "what kind of layer it is cannot be told from its name"),
];
/// What a quantised head beside a tied embedding comes to, where loaders look for the embedding alone.
const NO_HEAD: &str =
    "a tied model has no head of its own in the file: loaders take the embedding for it";

/// Why a masked layer is not held in a form whose codes cannot stand for zero.
const NO_ZERO: &str = "the weights its mask drops would not be exactly zero in this form";

/// Why whole zero points are not held where offsets stand in their place.
const NO_WHOLE_ZEROS: &str = "the format adds an offset in place of a zero point, and a scale times a zero point has no exact form in its type; choose the symmetric grid";

impl Capabilities {
    /// A format that holds nothing compressed and asks for nothing: what the others are said against.
    pub(super) const NONE: Self = Self {
        holds: Holds::Listed,
        integers: &[],
        why_not_bits: "",
        offsets: false,
        zero_points: true,
        blocks: &[],
        floats: &[],
        codes: &[],
        kept: &[],
        inputs_multiple: 1,
        outputs_multiple: 1,
        fused: Agreement::May,
        experts: Agreement::May,
        schemes: Agreement::May,
        kept_names: KeptNames::Whole,
        tied: NO_HEAD,
        may_quantise_tied_head: false,
        sparsity: "zeros are stored like any weight, and save 0 bytes",
        kernel: None,
        scale_dtypes: &[],
        newer: None,
        corrections: Corrections::InFull,
    };
}

impl Codes {
    fn include(self, layout: &Layout) -> bool {
        match self {
            Self::Additive => matches!(layout, Layout::Additive(_)),
            Self::Tiles => match layout {
                Layout::Sum(sum) => {
                    let is_base = matches!(sum.base.under_masks(), Layout::Bilevel(_));
                    is_base && matches!(*sum.correction, Layout::Outliers(_))
                }
                _ => matches!(layout, Layout::Bilevel(_)),
            },
        }
    }
}

/// Why codes of a kind that a format has are not held.
fn why_not_codes(layout: &Layout, shape: MatrixShape, is_masked: bool) -> Option<String> {
    let is_inner_masked =
        matches!(layout, Layout::Sum(sum) if matches!(*sum.base, Layout::Sparse(_)));
    if is_masked || is_inner_masked {
        return Some(NO_ZERO.to_owned());
    }
    if let Layout::Additive(additive) = layout {
        let Some(form) = aqlm::Form::of(additive) else {
            let why =
                "the format has one set of codebooks for a layer, and a scale for each output";
            return Some(why.to_owned());
        };
        return form.stored(shape).err();
    }
    let Some(form) = spqr::Form::of(layout) else {
        let why = "the format has 3 bits for weights, scales and zero points, groups of 16 inputs and tiles of 16 outputs; choose those";
        return Some(why.to_owned());
    };
    form.stored(shape).err()
}

impl Which {
    pub(super) fn includes(self, tensor: &Tensor) -> bool {
        let kind = tensor.matrix.map(|matrix| matrix.kind);
        match self {
            Self::Router => tensor.place.role == Role::Router,
            Self::Expert => tensor.place.expert.is_some(),
            Self::Embedding => kind == Some(MatrixKind::Embedding),
            Self::Head => tensor.place.role == Role::Head,
            Self::Conv1d => kind == Some(MatrixKind::Conv1d),
            Self::Convolution => kind == Some(MatrixKind::Convolution),
            Self::Unknown => kind == Some(MatrixKind::Unknown),
            Self::NoModule => !tensor.name.ends_with(".weight"),
        }
    }
}

/// Why no format holds a layout of this form, if so.
fn why_not_form(layout: &Layout) -> Option<&'static str> {
    match layout {
        Layout::LowRank(_) => {
            Some("the format has no products of two thin matrices, so nothing is saved here")
        }
        Layout::Outliers(_) => Some("the format has no single weights beside the integers"),
        Layout::Sum(sum) => match *sum.correction {
            Layout::Outliers(_) => why_not_form(&sum.correction),
            _ => Some(
                "the format has no corrections of low rank; compressed-tensors, GPTQ and AWQ have them in an adapter",
            ),
        },
        Layout::Scaled(_) => Some(
            "the format has no scales of inputs; let them go into the norm or layer before (scales=folded), where they need no place",
        ),
        Layout::Sparse(sparse) => why_not_form(&sparse.inner),
        Layout::Shifted(shifted) => why_not_form(&shifted.inner)
            .or(Some("the format has no biases of its own for compressed layers")),
        Layout::Mixed(_) => Some("the format has no rows of different bits in one matrix"),
        Layout::Windows(_) => Some("the format has no codes that share bits"),
        Layout::Runs(_) => Some("the format has no runs of inputs that are left out"),
        Layout::Bilevel(_) => Some("the format has no codes for scales and zero points"),
        Layout::Vectors(_) => Some("the format has no codes for several weights at once"),
        Layout::Additive(_) => Some("the format has no sums of entries of codebooks"),
        Layout::Rotated(_) => Some("the format has no turned bases"),
        Layout::Folded(_) => Some("the format has no chains of cores"),
        Layout::Coded(_) => Some("the format has no codes of varying length"),
        Layout::Seeded(_) => Some("the format has no seeds of pseudo-random columns"),
        Layout::Signed(_) => Some("the format has no planes of signs over a product"),
        Layout::Split(_) => Some("the format has one form for all inputs of a layer"),
        Layout::Stack(_) => Some("the format has no levels that are added"),
        Layout::Dense(_)
        | Layout::Affine(_)
        | Layout::Palette(_)
        | Layout::Float(_)
        | Layout::Blocks(_) => None,
    }
}

impl Capabilities {
    /// Whether it holds nothing compressed at all.
    pub fn is_dense(&self) -> bool {
        self.integers.is_empty() && self.codes.is_empty() && self.holds == Holds::Listed
    }

    /// Whether corrections of low rank lie beside it, in an adapter.
    pub fn has_adapter(&self) -> bool {
        self.corrections == Corrections::InAdapter
    }

    /// What is corrected, and the correction, where an adapter holds that.
    pub(super) fn in_adapter<'l>(
        &self,
        tensor: &Tensor,
        layout: &'l Layout,
    ) -> Option<(&'l Layout, &'l LowRankLayout)> {
        let is_held = |(base, correction): &(&Layout, &LowRankLayout)| {
            base.corrected().is_none() && adapter::why_not(tensor, correction).is_none()
        };
        layout.corrected().filter(|_| self.has_adapter()).filter(is_held)
    }

    /// Why a layer of this layout is stored in full, in a sentence without a full stop; `None` where it is held.
    pub fn why_not(&self, tensor: &Tensor, layout: &Layout) -> Option<String> {
        if self.holds == Holds::Everything {
            return None;
        }
        if self.is_dense() {
            return Some("this target stores every layer in full".to_owned());
        }
        if let Layout::Dense(dtype) = layout {
            return Some(format!("layers in full have the type of the source here, not {dtype}"));
        }
        if layout.is_dense() {
            return Some(
                "the format holds no masks, so sparsity alone saves nothing here".to_owned(),
            );
        }
        let shape = tensor.matrix?.shape;
        if let Some(why) = self.kept_for(tensor) {
            return Some(why);
        }
        if let Some((base, _)) = self.in_adapter(tensor, layout) {
            return self.why_not(tensor, base);
        }
        if let Some((_, correction)) = layout.corrected().filter(|_| self.has_adapter())
            && let Some(why) = adapter::why_not(tensor, correction)
        {
            return Some(why);
        }
        let is_masked = matches!(layout, Layout::Sparse(_));
        match layout.under_masks() {
            under if self.codes.iter().any(|codes| codes.include(under)) => {
                why_not_codes(under, shape, is_masked)
            }
            Layout::Affine(_) if self.integers.is_empty() => {
                Some(format!("grouped integers {}", self.why_not_bits))
            }
            Layout::Affine(affine) => self.why_not_affine(affine, shape, is_masked),
            Layout::Blocks(kind) => self.why_not_blocks(*kind, shape, is_masked),
            Layout::Float(float) => floats::why_not(self.floats, float, (tensor, shape)),
            Layout::Palette(_) => Some("the format has no tables of values for a layer".to_owned()),
            other => why_not_form(other).map(str::to_owned),
        }
    }

    /// Why this layer is always stored in full, in a sentence without a full stop; `None` where that depends on its layout.
    pub fn kept_for(&self, tensor: &Tensor) -> Option<String> {
        let kept = self.kept.iter().find(|(which, _)| which.includes(tensor));
        kept.map(|(_, why)| (*why).to_owned())
    }

    fn why_not_affine(
        &self,
        affine: &AffineLayout,
        shape: MatrixShape,
        is_masked: bool,
    ) -> Option<String> {
        if affine.has_offsets && !self.offsets {
            let why = "the format's zero points are whole; choose whole zero points";
            return Some(why.to_owned());
        }
        if !(affine.has_offsets || affine.symmetric || self.zero_points) {
            return Some(NO_WHOLE_ZEROS.to_owned());
        }
        if affine.has_offsets && is_masked {
            return Some(NO_ZERO.to_owned());
        }
        if let Some(why) = self.why_not_integers(affine) {
            return Some(why);
        }
        let is_held = |held: &&Integers| {
            held.bits.contains(&affine.bits) && held.symmetric == affine.symmetric
        };
        let own = self.integers.iter().find(is_held).map_or(1, |held| held.inputs_multiple);
        // Both are powers of two.
        for (n, multiple, what) in [
            (shape.cols, self.inputs_multiple.max(own), "inputs"),
            (shape.rows, self.outputs_multiple, "outputs"),
        ] {
            if !n.is_multiple_of(multiple) {
                return Some(format!("its {n} {what} are no multiple of {multiple}"));
            }
        }
        if !self.scale_dtypes.is_empty() && !self.scale_dtypes.contains(&affine.scale_dtype) {
            let dtype = affine.scale_dtype;
            return Some(format!("its scales are {dtype}, and the format has 16 bits for each"));
        }
        match affine.grouping {
            Grouping::Group(size) if !shape.cols.is_multiple_of(size) => {
                Some(format!("groups of {size} do not divide its {} inputs", shape.cols))
            }
            _ => None,
        }
    }

    fn why_not_blocks(
        &self,
        kind: BlockType,
        shape: MatrixShape,
        is_masked: bool,
    ) -> Option<String> {
        if !self.blocks.contains(&kind) {
            return Some("blocks are for llama.cpp alone".to_owned());
        }
        let n = kind.weights();
        if !shape.cols.is_multiple_of(n) {
            return Some(format!("blocks of {n} do not divide its {} inputs", shape.cols));
        }
        is_masked.then(|| NO_ZERO.to_owned())
    }

    fn why_not_integers(&self, affine: &AffineLayout) -> Option<String> {
        let of_bits = || self.integers.iter().filter(|held| held.bits.contains(&affine.bits));
        if of_bits().next().is_none() {
            return Some(format!("{}-bit codes {}", affine.bits, self.why_not_bits));
        }
        let Some(held) = of_bits().find(|held| held.symmetric == affine.symmetric) else {
            let (is, other) = if affine.symmetric {
                ("symmetric", "asymmetric")
            } else {
                ("asymmetric", "symmetric")
            };
            return Some(format!(
                "the format has no {is} grid of {} bits; choose the {other} one",
                affine.bits
            ));
        };
        match affine.grouping {
            Grouping::Group(size) if !held.groups.is_empty() && !held.groups.contains(&size) => {
                let sizes: Vec<String> = held.groups.iter().map(ToString::to_string).collect();
                Some(format!("groups of {size} have no form here; choose {}", sizes.join(", ")))
            }
            Grouping::Channel | Grouping::Tensor if !held.rows => {
                let sizes: Vec<String> = held.groups.iter().map(ToString::to_string).collect();
                Some(format!("scales are for groups here; choose {}", sizes.join(", ")))
            }
            _ => None,
        }
    }
}
