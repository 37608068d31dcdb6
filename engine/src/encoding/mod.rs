//! The narrow waist: every way this program holds a weight matrix. In: codes and scales from a method.
//! Out: f32 weights, exact bytes, named parts for storage. Never knows which method made it or what stores it.
//!
//! A [`Layout`] describes an encoding without its data, so that sizes are exact before anything is computed.

mod affine;
mod blocks;
mod coded;
mod dense;
mod described;
mod float;
mod folded;
mod low_rank;
mod outliers;
mod palette;
mod rotated;
mod scaled;
mod shifted;
mod sparse;
mod sum;
mod vectors;

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};
use serde::{Deserialize, Serialize};

pub use affine::{Affine, AffineData, AffineLayout};
pub use blocks::{BlockType, Blocks, IQ4_LEVELS};
pub use coded::{Coded, CodedLayout};
pub use dense::Dense;
pub use described::{PartSpec, SHIFT};
pub use float::{Float, FloatData, FloatLayout, Levels, Tiling};
pub use folded::{Folded, FoldedLayout, folded};
pub use low_rank::{LowRank, LowRankLayout};
pub use outliers::{Outliers, OutliersLayout};
pub use palette::{Palette, PaletteLayout};
pub use rotated::{Rotated, RotatedLayout};
pub use scaled::{Scaled, ScaledLayout};
pub use shifted::{Shifted, ShiftedLayout};
pub use sparse::{Mask, Sparse, SparseLayout};
pub use sum::{Sum, SumLayout};
pub use vectors::{Vectors, VectorsLayout};

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
    /// Codes into tables of values.
    Palette(PaletteLayout),
    /// Small floats under scales.
    Float(FloatLayout),
    /// Blocks of llama.cpp.
    Blocks(BlockType),
    /// A product of two thin matrices.
    LowRank(LowRankLayout),
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
    /// Codes of a grid as a range coder writes them.
    Coded(CodedLayout),
    /// Another layout of a matrix of another shape.
    Folded(FoldedLayout),
}

impl Layout {
    /// Exact bytes of an encoding of this layout: codes, scales, zero points, masks.
    pub fn bytes(&self, shape: MatrixShape) -> u64 {
        self.bytes_of(shape, shape.elements())
    }

    /// Exact bytes when only `kept` of the weights are stored.
    fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        match self {
            Self::Dense(dtype) => kept as u64 * dtype.bits() / 8,
            Self::Affine(layout) => layout.bytes_of(shape, kept),
            Self::Palette(layout) => layout.bytes_of(shape, kept),
            Self::Float(layout) => layout.bytes_of(shape, kept),
            Self::Blocks(kind) => blocks::bytes_of(*kind, shape),
            Self::LowRank(layout) => layout.bytes(shape),
            Self::Outliers(layout) => layout.bytes(shape),
            Self::Sum(layout) => layout.bytes(shape),
            Self::Scaled(layout) => layout.bytes_of(shape, kept),
            Self::Sparse(layout) => layout.bytes(shape),
            Self::Shifted(layout) => layout.bytes(shape),
            Self::Vectors(layout) => layout.bytes(shape),
            Self::Rotated(layout) => layout.bytes(shape),
            Self::Coded(layout) => layout.bytes(shape),
            Self::Folded(layout) => layout.bytes(shape),
        }
    }

    /// Bits of one stored code, scales and masks apart; shown only beside the effective bits.
    pub fn nominal_bits(&self) -> u32 {
        match self {
            Self::Dense(dtype) => dtype.bits() as u32,
            Self::Affine(layout) => layout.bits,
            Self::Palette(layout) => layout.bits,
            Self::Float(layout) => layout.levels.bits(),
            Self::Blocks(kind) => kind.bits(),
            Self::LowRank(layout) => layout.left.nominal_bits(),
            Self::Outliers(layout) => layout.dtype.bits() as u32,
            Self::Sum(layout) => layout.base.nominal_bits(),
            Self::Scaled(layout) => layout.inner.nominal_bits(),
            Self::Sparse(layout) => layout.inner.nominal_bits(),
            Self::Shifted(layout) => layout.inner.nominal_bits(),
            Self::Vectors(layout) => layout.codebook.bits() / layout.codebook.dim() as u32,
            Self::Rotated(layout) => layout.inner.nominal_bits(),
            Self::Coded(layout) => layout.bits,
            Self::Folded(layout) => layout.inner.nominal_bits(),
        }
    }

    /// Share of the weights that are stored: 1 without a mask.
    pub fn density(&self, shape: MatrixShape) -> f64 {
        match self {
            Self::Sparse(layout) if shape.elements() > 0 => {
                layout.kept as f64 / shape.elements() as f64
            }
            _ => 1.0,
        }
    }

    /// Whether each row is encoded by itself, so that a row times a power of two is encoded as before but for its scales:
    /// nothing is shared by rows, and nothing is chosen among the weights of several.
    pub fn is_by_row(&self) -> bool {
        match self {
            Self::Dense(_) | Self::Blocks(_) => true,
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
            Self::LowRank(_)
            | Self::Outliers(_)
            | Self::Sum(_)
            | Self::Sparse(_)
            | Self::Coded(_)
            | Self::Folded(_)
            | Self::Shifted(_) => false,
        }
    }

    /// What lies under any mask.
    pub fn under_masks(&self) -> &Self {
        match self {
            Self::Sparse(layout) => layout.inner.under_masks(),
            other => other,
        }
    }

    /// The grouped integers under any mask, if that is what this is.
    pub fn affine(&self) -> Option<&AffineLayout> {
        match self.under_masks() {
            Self::Affine(layout) => Some(layout),
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

/// A piece of an encoding as it is stored: a small tensor of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it holds: `codes`, `scales`, `zeros`, `offsets`, `palette`, `global`, `blocks`, `mask`, `values`,
    /// `input_scales`, `shift`, `signs`, `row_signs`, `ends`, `levels`; behind `left.` and `right.` in the factors of a product, `outliers.` before those of outliers, behind `base.` or `inner.` where what
    /// lies within would have the same name as what lies around it.
    pub name: String,
    /// Element type of the bytes.
    pub dtype: DType,
    /// Little-endian bytes.
    pub bytes: Vec<u8>,
}

impl Part {
    fn new(name: &str, dtype: DType, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), dtype, bytes }
    }

    /// The part under a name that begins with `prefix`.
    fn before(self, prefix: &str) -> Self {
        Self { name: format!("{prefix}{}", self.name), ..self }
    }
}

/// A weight matrix in fewer bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoding {
    /// Every weight as it is.
    Dense(Dense),
    /// Grouped scale and zero point.
    Affine(Affine),
    /// Codes into tables of values.
    Palette(Palette),
    /// Small floats under scales.
    Float(Float),
    /// Blocks of llama.cpp.
    Blocks(Blocks),
    /// A product of two thin matrices.
    LowRank(LowRank),
    /// A few single weights, all others zero.
    Outliers(Outliers),
    /// Another encoding and a correction.
    Sum(Sum),
    /// Another encoding under a scale for each input.
    Scaled(Scaled),
    /// A mask over another encoding.
    Sparse(Sparse),
    /// Another encoding and what outputs are shifted by.
    Shifted(Shifted),
    /// Codes for several weights at once.
    Vectors(Vectors),
    /// Another encoding in a turned basis.
    Rotated(Rotated),
    /// Codes of a grid as a range coder writes them.
    Coded(Coded),
    /// Another encoding of a matrix of another shape.
    Folded(Folded),
}

impl Encoding {
    /// `[rows, cols]` = `[out, in]`.
    pub fn shape(&self) -> MatrixShape {
        match self {
            Self::Dense(dense) => dense.shape(),
            Self::Affine(affine) => affine.shape(),
            Self::Palette(palette) => palette.shape(),
            Self::Float(float) => float.shape(),
            Self::Blocks(blocks) => blocks.shape(),
            Self::LowRank(product) => product.shape(),
            Self::Outliers(few) => few.shape(),
            Self::Sum(sum) => sum.base().shape(),
            Self::Scaled(scaled) => scaled.inner().shape(),
            Self::Sparse(sparse) => sparse.inner().shape(),
            Self::Shifted(shifted) => shifted.inner().shape(),
            Self::Vectors(vectors) => vectors.shape(),
            Self::Rotated(rotated) => rotated.inner().shape(),
            Self::Coded(coded) => coded.shape(),
            Self::Folded(folded) => folded.shape(),
        }
    }

    /// What it is, without its data.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dense(dense) => Layout::Dense(dense.dtype()),
            Self::Affine(affine) => Layout::Affine(affine.layout().clone()),
            Self::Palette(palette) => Layout::Palette(palette.layout().clone()),
            Self::Float(float) => Layout::Float(*float.layout()),
            Self::Blocks(blocks) => Layout::Blocks(blocks.kind()),
            Self::LowRank(product) => Layout::LowRank(product.layout()),
            Self::Outliers(few) => Layout::Outliers(few.layout()),
            Self::Sum(sum) => Layout::Sum(sum.layout()),
            Self::Scaled(scaled) => Layout::Scaled(scaled.layout()),
            Self::Sparse(sparse) => Layout::Sparse(sparse.layout()),
            Self::Shifted(shifted) => Layout::Shifted(shifted.layout()),
            Self::Vectors(vectors) => Layout::Vectors(vectors.layout().clone()),
            Self::Rotated(rotated) => Layout::Rotated(rotated.layout()),
            Self::Coded(coded) => Layout::Coded(coded.layout()),
            Self::Folded(folded) => Layout::Folded(folded.layout()),
        }
    }

    /// What is added to the outputs of the layer beside its own bias.
    pub fn shift(&self) -> Option<&[f32]> {
        match self {
            Self::Shifted(shifted) => Some(shifted.shift()),
            _ => None,
        }
    }

    /// The weights `[rows, cols]` in f32. Rows are decoded in parallel; the result does not depend on how many.
    pub fn decode(&self) -> Array2<f32> {
        let shape = self.shape();
        let mut out = Array2::zeros((shape.rows, shape.cols));
        if shape.elements() == 0 {
            return out;
        }
        if let Some(values) = out.as_slice_mut() {
            values
                .par_chunks_mut(shape.cols)
                .enumerate()
                .for_each(|(row, out)| self.decode_row(row, out));
        }
        out
    }

    /// One row of the weights into `out` of `cols` values.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Dense(dense) => dense.decode_row(row, out),
            Self::Affine(affine) => affine.decode_row(row, out),
            Self::Palette(palette) => palette.decode_row(row, out),
            Self::Float(float) => float.decode_row(row, out),
            Self::Blocks(blocks) => blocks.decode_row(row, out),
            Self::LowRank(product) => product.decode_row(row, out),
            Self::Outliers(few) => few.decode_row(row, out),
            Self::Sum(sum) => sum.decode_row(row, out),
            Self::Scaled(scaled) => scaled.decode_row(row, out),
            Self::Sparse(sparse) => sparse.decode_row(row, out),
            Self::Shifted(shifted) => shifted.inner().decode_row(row, out),
            Self::Vectors(vectors) => vectors.decode_row(row, out),
            Self::Rotated(rotated) => rotated.decode_row(row, out),
            Self::Coded(coded) => coded.decode_row(row, out),
            Self::Folded(folded) => folded.decode_row(row, out),
        }
    }

    /// Exact bytes: the sum over [`Encoding::parts`].
    pub fn bytes(&self) -> u64 {
        self.parts().iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// The pieces to store. With the layout and the shape they restore the encoding.
    pub fn parts(&self) -> Vec<Part> {
        self.parts_under(None)
    }

    fn parts_under(&self, mask: Option<&Mask>) -> Vec<Part> {
        match self {
            Self::Dense(dense) => dense.parts(mask),
            Self::Affine(affine) => affine.parts(mask),
            Self::Palette(palette) => palette.parts(mask),
            Self::Float(float) => float.parts(mask),
            Self::Blocks(blocks) => blocks.parts(),
            Self::LowRank(product) => product.parts(),
            Self::Outliers(few) => few.parts(),
            Self::Sum(sum) => sum.parts(),
            Self::Scaled(scaled) => scaled.parts(mask),
            Self::Sparse(sparse) => sparse.parts(),
            Self::Shifted(shifted) => shifted.parts(),
            Self::Vectors(vectors) => vectors.parts(),
            Self::Rotated(rotated) => rotated.parts(),
            Self::Coded(coded) => coded.parts(),
            Self::Folded(folded) => folded.parts(),
        }
    }

    /// Restores an encoding from `part(name)`; `None` if a part is missing or has another size.
    pub fn from_parts<'a>(
        layout: &Layout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        Self::from_parts_under(layout, shape, None, part)
    }

    fn from_parts_under<'a>(
        layout: &Layout,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        Some(match layout {
            Layout::Dense(dtype) => Self::Dense(Dense::from_parts(*dtype, shape, mask, part)?),
            Layout::Affine(layout) => Self::Affine(Affine::from_parts(layout, shape, mask, part)?),
            Layout::Palette(layout) => {
                Self::Palette(Palette::from_parts(layout, shape, mask, part)?)
            }
            Layout::Float(layout) => Self::Float(Float::from_parts(layout, shape, mask, part)?),
            Layout::Blocks(kind) => Self::Blocks(Blocks::from_parts(*kind, shape, part)?),
            Layout::LowRank(layout) => Self::LowRank(LowRank::from_parts(layout, shape, part)?),
            Layout::Outliers(layout) => Self::Outliers(Outliers::from_parts(layout, shape, part)?),
            Layout::Sum(layout) => Self::Sum(Sum::from_parts(layout, shape, part)?),
            Layout::Scaled(layout) => Self::Scaled(Scaled::from_parts(layout, shape, mask, part)?),
            Layout::Sparse(layout) => Self::Sparse(Sparse::from_parts(layout, shape, part)?),
            Layout::Shifted(layout) => Self::Shifted(Shifted::from_parts(layout, shape, part)?),
            Layout::Vectors(layout) => Self::Vectors(Vectors::from_parts(layout, shape, part)?),
            Layout::Rotated(layout) => Self::Rotated(Rotated::from_parts(layout, shape, part)?),
            Layout::Coded(layout) => Self::Coded(Coded::from_parts(layout, shape, part)?),
            Layout::Folded(layout) => Self::Folded(Folded::from_parts(layout, shape, part)?),
        })
    }
}

/// The elements of `all` that `mask` keeps; all of them without a mask.
fn gather<T: Copy>(all: &[T], mask: Option<&Mask>) -> Vec<T> {
    match mask {
        None => all.to_vec(),
        Some(mask) => all
            .iter()
            .enumerate()
            .filter(|(i, _)| mask.keeps(*i))
            .map(|(_, value)| *value)
            .collect(),
    }
}

/// The inverse of [`gather`]: `fill(i)` where the mask keeps nothing.
fn scatter<T: Copy>(
    kept: &[T],
    n: usize,
    mask: Option<&Mask>,
    fill: impl Fn(usize) -> T,
) -> Option<Vec<T>> {
    let mut next = kept.iter();
    let all: Option<Vec<T>> = (0..n)
        .map(|i| {
            if mask.is_none_or(|mask| mask.keeps(i)) { next.next().copied() } else { Some(fill(i)) }
        })
        .collect();
    if next.next().is_some() { None } else { all }
}
