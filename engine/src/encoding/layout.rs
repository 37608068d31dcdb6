//! Encodings without their data, so that sizes are exact before anything is computed.

use serde::{Deserialize, Serialize};

use crate::encoding::{
    AdditiveLayout, AffineLayout, BilevelLayout, BlockType, CodedLayout, FloatLayout, FoldedLayout,
    LowRankLayout, MixedLayout, OutliersLayout, PaletteLayout, RotatedLayout, RunsLayout,
    ScaledLayout, SeededLayout, ShiftedLayout, SignedLayout, SparseLayout, SplitLayout,
    StackLayout, SumLayout, Tiling, VectorsLayout, WindowsLayout, blocks,
};
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, MatrixShape};

/// An encoding without its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Every weight as it is.
    Dense(DType),
    /// Grouped scale and zero point.
    Affine(AffineLayout),
    /// Small groups whose scales and zero points are codes.
    Bilevel(BilevelLayout),
    /// Codes into tables of values.
    Palette(PaletteLayout),
    /// Small floats under scales.
    Float(FloatLayout),
    /// Blocks of llama.cpp.
    Blocks(BlockType),
    /// A product of two thin matrices.
    LowRank(LowRankLayout),
    /// Rows in two layouts.
    Mixed(MixedLayout),
    /// A few single weights.
    Outliers(OutliersLayout),
    /// Another layout and a correction.
    Sum(SumLayout),
    /// Another layout under a scale for each input.
    Scaled(ScaledLayout),
    /// A mask over another layout.
    Sparse(SparseLayout),
    /// Another layout and what outputs are shifted by.
    Shifted(ShiftedLayout),
    /// Codes for several weights at once.
    Vectors(VectorsLayout),
    /// Another layout in a turned basis.
    Rotated(RotatedLayout),
    /// Whole runs of inputs, kept or zero.
    Runs(RunsLayout),
    /// Codes that share bits.
    Windows(WindowsLayout),
    /// Codes of a grid as a range coder writes them.
    Coded(CodedLayout),
    /// Another layout of a matrix of another shape.
    Folded(FoldedLayout),
    /// A plane of signs over another layout.
    Signed(SignedLayout),
    /// Some inputs in one layout, the others in another.
    Split(SplitLayout),
    /// Levels that are added.
    Stack(StackLayout),
    /// Sums of entries of codebooks.
    Additive(AdditiveLayout),
    /// Coefficients of columns that seeds make.
    Seeded(SeededLayout),
}

impl Layout {
    /// Exact bytes of an encoding of this layout: codes, scales, zero points, masks.
    pub fn bytes(&self, shape: MatrixShape) -> u64 {
        self.bytes_of(shape, shape.elements())
    }

    /// Exact bytes when only `kept` of the weights are stored.
    pub(super) fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        match self {
            Self::Dense(dtype) => kept as u64 * dtype.bits() / 8,
            Self::Affine(layout) => layout.bytes_of(shape, kept),
            Self::Bilevel(layout) => layout.bytes_of(shape, kept),
            Self::Palette(layout) => layout.bytes_of(shape, kept),
            Self::Float(layout) => layout.bytes_of(shape, kept),
            Self::Blocks(kind) => blocks::bytes_of(*kind, shape),
            Self::LowRank(layout) => layout.bytes(shape),
            Self::Mixed(layout) => layout.bytes(shape),
            Self::Outliers(layout) => layout.bytes(shape),
            Self::Sum(layout) => layout.bytes(shape),
            Self::Scaled(layout) => layout.bytes_of(shape, kept),
            Self::Sparse(layout) => layout.bytes(shape),
            Self::Shifted(layout) => layout.bytes(shape),
            Self::Vectors(layout) => layout.bytes(shape),
            Self::Rotated(layout) => layout.bytes(shape),
            Self::Runs(layout) => layout.bytes(shape),
            Self::Windows(layout) => layout.bytes(shape),
            Self::Coded(layout) => layout.bytes(shape),
            Self::Folded(layout) => layout.bytes(shape),
            Self::Signed(layout) => layout.bytes(shape),
            Self::Split(layout) => layout.bytes(shape),
            Self::Stack(layout) => layout.bytes(shape),
            Self::Additive(layout) => layout.bytes(shape),
            Self::Seeded(layout) => layout.bytes(shape),
        }
    }

    /// Bits of one stored code, scales and masks apart; shown only beside the effective bits.
    pub fn nominal_bits(&self) -> u32 {
        match self {
            Self::Dense(dtype) => dtype.bits() as u32,
            Self::Affine(layout) => layout.bits,
            Self::Bilevel(layout) => layout.bits,
            Self::Palette(layout) => layout.bits,
            Self::Float(layout) => layout.levels.bits(),
            Self::Blocks(kind) => kind.bits(),
            Self::LowRank(layout) => layout.left.nominal_bits(),
            Self::Mixed(layout) => layout.low.nominal_bits(),
            Self::Outliers(layout) => layout.dtype.bits() as u32,
            Self::Sum(layout) => layout.base.nominal_bits(),
            Self::Scaled(layout) => layout.inner.nominal_bits(),
            Self::Sparse(layout) => layout.inner.nominal_bits(),
            Self::Shifted(layout) => layout.inner.nominal_bits(),
            Self::Vectors(layout) => layout.codebook.bits().div_ceil(layout.codebook.dim() as u32),
            Self::Rotated(layout) => layout.inner.nominal_bits(),
            Self::Runs(layout) => layout.inner.nominal_bits(),
            Self::Windows(layout) => layout.bits(),
            Self::Coded(layout) => layout.bits,
            Self::Folded(layout) => layout.inner.nominal_bits(),
            Self::Signed(_) => 1,
            Self::Seeded(layout) => layout.bits(),
            Self::Split(layout) => layout.rest.nominal_bits(),
            Self::Stack(layout) => layout.levels.iter().map(Self::nominal_bits).sum(),
            Self::Additive(layout) => {
                (layout.bits * layout.codebooks as u32).div_ceil(layout.dim as u32)
            }
        }
    }

    /// Share of the weights that are stored: 1 without a mask.
    pub fn density(&self, shape: MatrixShape) -> f64 {
        match self {
            Self::Sparse(layout) if shape.elements() > 0 => {
                layout.kept as f64 / shape.elements() as f64
            }
            Self::Runs(layout) if layout.runs(shape) > 0 => {
                layout.kept as f64 / layout.runs(shape) as f64
            }
            _ => 1.0,
        }
    }

    /// Whether each row is encoded by itself, so that a row times a power of two is encoded as before but for its scales:
    /// nothing is shared by rows, and nothing is chosen among the weights of several.
    pub fn is_by_row(&self) -> bool {
        match self {
            Self::Dense(_) | Self::Blocks(_) | Self::Windows(_) => true,
            Self::Affine(layout) => layout.grouping != Grouping::Tensor,
            Self::Palette(layout) => layout.rows == Some(1),
            Self::Float(layout) => {
                let is_tiled_by_row =
                    matches!(layout.tiling, Tiling::Rows(grouping) if grouping != Grouping::Tensor);
                is_tiled_by_row && !layout.has_global()
            }
            Self::Scaled(layout) => layout.inner.is_by_row(),
            Self::Vectors(layout) => layout.grouping != Grouping::Tensor,
            Self::Rotated(layout) => layout.rows.is_none() && layout.inner.is_by_row(),
            Self::Stack(layout) => layout.levels.iter().all(Self::is_by_row),
            Self::Additive(_)
            | Self::Bilevel(_)
            | Self::LowRank(_)
            | Self::Mixed(_)
            | Self::Outliers(_)
            | Self::Runs(_)
            | Self::Sum(_)
            | Self::Sparse(_)
            | Self::Coded(_)
            | Self::Seeded(_)
            | Self::Folded(_)
            | Self::Shifted(_)
            | Self::Signed(_)
            | Self::Split(_) => false,
        }
    }

    /// What lies under any mask.
    pub fn under_masks(&self) -> &Self {
        match self {
            Self::Sparse(layout) => layout.inner.under_masks(),
            other => other,
        }
    }

    /// The first `count` levels of a stack, at least one; `None` of anything else.
    pub fn first_levels(&self, count: usize) -> Option<Self> {
        match self {
            Self::Stack(stack) => Some(Self::Stack(stack.first(count))),
            _ => None,
        }
    }

    /// The grouped integers under any mask, if that is what this is.
    pub fn affine(&self) -> Option<&AffineLayout> {
        match self.under_masks() {
            Self::Affine(layout) => Some(layout),
            _ => None,
        }
    }

    /// What a correction of low rank is added to, and that correction, if that is what this is.
    pub fn corrected(&self) -> Option<(&Self, &LowRankLayout)> {
        let Self::Sum(sum) = self else { return None };
        match &*sum.correction {
            Self::LowRank(correction) => Some((&sum.base, correction)),
            _ => None,
        }
    }

    /// Whether its layer's outputs are shifted.
    pub fn has_shift(&self) -> bool {
        matches!(self, Self::Shifted(_))
    }

    /// Whether weights keep the precision they have on disk, masked or not.
    pub fn is_dense(&self) -> bool {
        matches!(self.under_masks(), Self::Dense(_))
    }
}
