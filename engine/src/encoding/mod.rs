//! The narrow waist: every way this program holds a weight matrix. In: codes and scales from a method.
//! Out: f32 weights, exact bytes, named parts for storage. Never knows which method made it or what stores it.
//!
//! A [`Layout`] describes an encoding without its data, so that sizes are exact before anything is computed.

mod additive;
mod affine;
mod bilevel;
pub(crate) mod blocks;
mod coded;
mod dense;
mod described;
mod float;
mod folded;
mod layout;
mod low_rank;
mod mixed;
mod outliers;
mod palette;
mod part;
mod rotated;
mod runs;
mod scaled;
mod seeded;
mod shifted;
mod signed;
mod sparse;
mod split;
mod stack;
mod sum;
mod vectors;
mod windows;

pub use additive::{Additive, AdditiveLayout};
pub use affine::{Affine, AffineData, AffineLayout};
pub use bilevel::{Bilevel, BilevelData, BilevelLayout};
pub use blocks::{BlockLevels, BlockRun, BlockType, Blocks, IQ4_LEVELS};
pub use coded::{Coded, CodedLayout};
pub use dense::Dense;
pub use described::{PartSpec, SHIFT};
pub use float::{Float, FloatData, FloatLayout, Levels, Tiling};
pub use folded::{Folded, FoldedLayout, folded};
pub use layout::Layout;
pub use low_rank::{LowRank, LowRankLayout};
pub use mixed::{Mixed, MixedLayout};
use ndarray::Array2;
pub use outliers::{Outliers, OutliersLayout};
pub use palette::{Palette, PaletteLayout};
pub use part::Part;
use part::{gather, parts_within, scatter};
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};
pub use rotated::{Rotated, RotatedLayout};
pub use runs::{Runs, RunsLayout};
pub use scaled::{Scaled, ScaledLayout};
pub use seeded::{Seeded, SeededLayout};
pub use shifted::{Shifted, ShiftedLayout};
pub use signed::{Signed, SignedLayout};
pub use sparse::{Mask, Sparse, SparseLayout};
pub use split::{Split, SplitLayout};
pub use stack::{Stack, StackLayout};
pub use sum::{Sum, SumLayout};
pub use vectors::{Vectors, VectorsLayout};
pub use windows::{BLOCK, WindowForm, Windows, WindowsData, WindowsLayout};

use crate::tensor::MatrixShape;

/// A weight matrix in fewer bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoding {
    /// Every weight as it is.
    Dense(Dense),
    /// Grouped scale and zero point.
    Affine(Affine),
    /// Small groups whose scales and zero points are codes.
    Bilevel(Bilevel),
    /// Codes into tables of values.
    Palette(Palette),
    /// Small floats under scales.
    Float(Float),
    /// Blocks of llama.cpp.
    Blocks(Blocks),
    /// A product of two thin matrices.
    LowRank(LowRank),
    /// Rows in two encodings.
    Mixed(Mixed),
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
    /// Whole runs of inputs, kept or zero.
    Runs(Runs),
    /// Codes that share bits.
    Windows(Windows),
    /// Codes of a grid as a range coder writes them.
    Coded(Coded),
    /// A plane of signs over another encoding.
    Signed(Signed),
    /// Some inputs in one encoding, the others in another.
    Split(Split),
    /// Levels that are added.
    Stack(Stack),
    /// Sums of entries of codebooks.
    Additive(Additive),
    /// Another encoding of a matrix of another shape.
    Folded(Folded),
    /// Blocks as coefficients of columns that a seed makes.
    Seeded(Seeded),
}

impl Encoding {
    /// `[rows, cols]` = `[out, in]`.
    pub fn shape(&self) -> MatrixShape {
        match self {
            Self::Dense(dense) => dense.shape(),
            Self::Affine(affine) => affine.shape(),
            Self::Bilevel(bilevel) => bilevel.shape(),
            Self::Palette(palette) => palette.shape(),
            Self::Float(float) => float.shape(),
            Self::Blocks(blocks) => blocks.shape(),
            Self::LowRank(product) => product.shape(),
            Self::Mixed(mixed) => mixed.shape(),
            Self::Outliers(few) => few.shape(),
            Self::Sum(sum) => sum.base().shape(),
            Self::Scaled(scaled) => scaled.inner().shape(),
            Self::Sparse(sparse) => sparse.inner().shape(),
            Self::Shifted(shifted) => shifted.inner().shape(),
            Self::Vectors(vectors) => vectors.shape(),
            Self::Rotated(rotated) => rotated.inner().shape(),
            Self::Runs(runs) => runs.shape(),
            Self::Windows(windows) => windows.shape(),
            Self::Coded(coded) => coded.shape(),
            Self::Signed(signed) => signed.inner().shape(),
            Self::Split(split) => split.shape(),
            Self::Stack(stack) => stack.shape(),
            Self::Additive(additive) => additive.shape(),
            Self::Folded(folded) => folded.shape(),
            Self::Seeded(seeded) => seeded.shape(),
        }
    }

    /// What it is, without its data.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Dense(dense) => Layout::Dense(dense.dtype()),
            Self::Affine(affine) => Layout::Affine(affine.layout().clone()),
            Self::Bilevel(bilevel) => Layout::Bilevel(*bilevel.layout()),
            Self::Palette(palette) => Layout::Palette(palette.layout().clone()),
            Self::Float(float) => Layout::Float(*float.layout()),
            Self::Blocks(blocks) => Layout::Blocks(blocks.kind()),
            Self::LowRank(product) => Layout::LowRank(product.layout()),
            Self::Mixed(mixed) => Layout::Mixed(mixed.layout()),
            Self::Outliers(few) => Layout::Outliers(few.layout()),
            Self::Sum(sum) => Layout::Sum(sum.layout()),
            Self::Scaled(scaled) => Layout::Scaled(scaled.layout()),
            Self::Sparse(sparse) => Layout::Sparse(sparse.layout()),
            Self::Shifted(shifted) => Layout::Shifted(shifted.layout()),
            Self::Vectors(vectors) => Layout::Vectors(vectors.layout().clone()),
            Self::Rotated(rotated) => Layout::Rotated(rotated.layout()),
            Self::Runs(runs) => Layout::Runs(runs.layout()),
            Self::Windows(windows) => Layout::Windows(*windows.layout()),
            Self::Coded(coded) => Layout::Coded(coded.layout()),
            Self::Signed(signed) => Layout::Signed(signed.layout()),
            Self::Split(split) => Layout::Split(split.layout()),
            Self::Stack(stack) => Layout::Stack(stack.layout()),
            Self::Additive(additive) => Layout::Additive(additive.layout().clone()),
            Self::Folded(folded) => Layout::Folded(folded.layout()),
            Self::Seeded(seeded) => Layout::Seeded(*seeded.layout()),
        }
    }

    /// The first `count` levels of a stack, at least one; `None` of anything else.
    pub fn first_levels(&self, count: usize) -> Option<Self> {
        match self {
            Self::Stack(stack) => Some(Self::Stack(stack.first(count))),
            _ => None,
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
            Self::Bilevel(bilevel) => bilevel.decode_row(row, out),
            Self::Palette(palette) => palette.decode_row(row, out),
            Self::Float(float) => float.decode_row(row, out),
            Self::Blocks(blocks) => blocks.decode_row(row, out),
            Self::LowRank(product) => product.decode_row(row, out),
            Self::Mixed(mixed) => mixed.decode_row(row, out),
            Self::Outliers(few) => few.decode_row(row, out),
            Self::Sum(sum) => sum.decode_row(row, out),
            Self::Scaled(scaled) => scaled.decode_row(row, out),
            Self::Sparse(sparse) => sparse.decode_row(row, out),
            Self::Shifted(shifted) => shifted.inner().decode_row(row, out),
            Self::Vectors(vectors) => vectors.decode_row(row, out),
            Self::Rotated(rotated) => rotated.decode_row(row, out),
            Self::Runs(runs) => runs.decode_row(row, out),
            Self::Windows(windows) => windows.decode_row(row, out),
            Self::Coded(coded) => coded.decode_row(row, out),
            Self::Signed(signed) => signed.decode_row(row, out),
            Self::Split(split) => split.decode_row(row, out),
            Self::Stack(stack) => stack.decode_row(row, out),
            Self::Additive(additive) => additive.decode_row(row, out),
            Self::Folded(folded) => folded.decode_row(row, out),
            Self::Seeded(seeded) => seeded.decode_row(row, out),
        }
    }

    /// Exact bytes: the sum over [`Encoding::parts`].
    pub fn bytes(&self) -> u64 {
        self.parts().iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// The pieces to store. With the layout and the shape they restore the encoding.
    pub fn parts(&self) -> Vec<Part<'_>> {
        self.parts_under(None)
    }

    fn parts_under(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        match self {
            Self::Dense(dense) => dense.parts(mask),
            Self::Affine(affine) => affine.parts(mask),
            Self::Bilevel(bilevel) => bilevel.parts(mask),
            Self::Palette(palette) => palette.parts(mask),
            Self::Float(float) => float.parts(mask),
            Self::Blocks(blocks) => blocks.parts(),
            Self::LowRank(product) => product.parts(),
            Self::Mixed(mixed) => mixed.parts(),
            Self::Outliers(few) => few.parts(),
            Self::Sum(sum) => sum.parts(),
            Self::Scaled(scaled) => scaled.parts(mask),
            Self::Sparse(sparse) => sparse.parts(),
            Self::Shifted(shifted) => shifted.parts(),
            Self::Vectors(vectors) => vectors.parts(),
            Self::Rotated(rotated) => rotated.parts(),
            Self::Runs(runs) => runs.parts(),
            Self::Windows(windows) => windows.parts(),
            Self::Coded(coded) => coded.parts(),
            Self::Signed(signed) => signed.parts(),
            Self::Split(split) => split.parts(),
            Self::Stack(stack) => stack.parts(),
            Self::Additive(additive) => additive.parts(),
            Self::Folded(folded) => folded.parts(),
            Self::Seeded(seeded) => seeded.parts(),
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
            Layout::Bilevel(layout) => {
                Self::Bilevel(Bilevel::from_parts(layout, shape, mask, part)?)
            }
            Layout::Palette(layout) => {
                Self::Palette(Palette::from_parts(layout, shape, mask, part)?)
            }
            Layout::Float(layout) => Self::Float(Float::from_parts(layout, shape, mask, part)?),
            Layout::Blocks(kind) => Self::Blocks(Blocks::from_parts(*kind, shape, part)?),
            Layout::LowRank(layout) => Self::LowRank(LowRank::from_parts(layout, shape, part)?),
            Layout::Mixed(layout) => Self::Mixed(Mixed::from_parts(layout, shape, part)?),
            Layout::Outliers(layout) => Self::Outliers(Outliers::from_parts(layout, shape, part)?),
            Layout::Sum(layout) => Self::Sum(Sum::from_parts(layout, shape, part)?),
            Layout::Scaled(layout) => Self::Scaled(Scaled::from_parts(layout, shape, mask, part)?),
            Layout::Sparse(layout) => Self::Sparse(Sparse::from_parts(layout, shape, part)?),
            Layout::Shifted(layout) => Self::Shifted(Shifted::from_parts(layout, shape, part)?),
            Layout::Vectors(layout) => Self::Vectors(Vectors::from_parts(layout, shape, part)?),
            Layout::Rotated(layout) => Self::Rotated(Rotated::from_parts(layout, shape, part)?),
            Layout::Runs(layout) => Self::Runs(Runs::from_parts(layout, shape, part)?),
            Layout::Windows(layout) => Self::Windows(Windows::from_parts(*layout, shape, part)?),
            Layout::Coded(layout) => Self::Coded(Coded::from_parts(layout, shape, part)?),
            Layout::Signed(layout) => Self::Signed(Signed::from_parts(layout, shape, part)?),
            Layout::Split(layout) => Self::Split(Split::from_parts(layout, shape, part)?),
            Layout::Stack(layout) => Self::Stack(Stack::from_parts(layout, shape, part)?),
            Layout::Additive(layout) => Self::Additive(Additive::from_parts(layout, shape, part)?),
            Layout::Folded(layout) => Self::Folded(Folded::from_parts(layout, shape, part)?),
            Layout::Seeded(layout) => Self::Seeded(Seeded::from_parts(*layout, shape, part)?),
        })
    }
}
