//! What an encoding is stored in, told from its layout alone: names, types and lengths of its parts. And whether a layout
//! that somebody else wrote makes sense, so that nothing of what follows can go wrong.

use crate::encoding::outliers::index_type;
use crate::encoding::split::{COLUMNS, HALVES};
use crate::encoding::stack::prefix;
use crate::encoding::{
    AdditiveLayout, AffineLayout, BilevelLayout, FloatLayout, Layout, LowRankLayout, MixedLayout,
    OutliersLayout, PaletteLayout, RotatedLayout, RunsLayout, SparseLayout, SplitLayout,
    StackLayout, SumLayout, Tiling, VectorsLayout,
};
use crate::numeric::grouping::Grouping;
use crate::numeric::packing::dense_bytes;
use crate::tensor::{DType, MatrixShape};

/// How deep layouts may lie in one another: more than any chain of methods makes.
const MAX_DEPTH: usize = 8;
/// The most levels of a stack that are believed.
const MAX_LEVELS: usize = 64;
/// The most weights of a matrix that is believed: no product of two extents with bits or bytes overflows below it.
const MAX_ELEMENTS: usize = 1 << 48;

/// A part of an encoding without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// Its name, as in [`crate::encoding::Part`].
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Number of elements.
    pub elements: usize,
}

impl PartSpec {
    fn new(name: &str, dtype: DType, elements: usize) -> Self {
        Self { name: name.to_owned(), dtype, elements }
    }

    fn before(self, prefix: &str) -> Self {
        Self { name: format!("{prefix}{}", self.name), ..self }
    }
}

impl Layout {
    /// The parts an encoding of this layout and shape is stored in, in the order of [`crate::encoding::Encoding::parts`].
    pub fn parts(&self, shape: MatrixShape) -> Vec<PartSpec> {
        self.parts_of(shape, shape.elements())
    }

    fn parts_of(&self, shape: MatrixShape, kept: usize) -> Vec<PartSpec> {
        match self {
            Self::Dense(dtype) => vec![PartSpec::new("values", *dtype, kept)],
            Self::Affine(layout) => affine(layout, shape, kept),
            Self::Bilevel(layout) => bilevel(layout, shape, kept),
            Self::Palette(layout) => palette(layout, shape, kept),
            Self::Float(layout) => float(layout, shape, kept),
            Self::Blocks(_) => {
                vec![PartSpec::new("blocks", DType::U8, self.bytes(shape) as usize)]
            }
            Self::Vectors(layout) => vectors(layout, shape),
            Self::Rotated(layout) => rotated(layout, shape),
            Self::Mixed(layout) => mixed(layout, shape),
            Self::Runs(layout) => runs(layout, shape),
            Self::Windows(layout) => listed(layout.parts(shape)),
            Self::Folded(layout) => layout.inner.parts(layout.inner_or_none(shape)),
            Self::Coded(layout) => listed(layout.parts(shape)),
            Self::Seeded(layout) => listed(layout.parts(shape)),
            Self::Additive(layout) => additive(layout, shape),
            Self::LowRank(layout) => low_rank(layout, shape),
            Self::Outliers(layout) => outliers(layout, shape),
            Self::Signed(layout) => {
                let signs = PartSpec::new(SIGNS, DType::U8, shape.elements().div_ceil(8));
                around(signs, &layout.inner, layout.inner.parts(shape))
            }
            Self::Split(layout) => split(layout, shape),
            Self::Stack(layout) => stack(layout, shape),
            Self::Sum(layout) => {
                let prefix = layout.prefix();
                let base = layout.base.parts(shape).into_iter().map(|part| part.before(prefix));
                base.chain(layout.correction.parts(shape)).collect()
            }
            Self::Scaled(layout) => {
                let scales = PartSpec::new(INPUT_SCALES, layout.scale_dtype, shape.cols);
                around(scales, &layout.inner, layout.inner.parts_of(shape, kept))
            }
            Self::Sparse(layout) => {
                let mask = PartSpec::new(MASK, DType::U8, shape.elements().div_ceil(8));
                around(mask, &layout.inner, layout.inner.parts_of(shape, layout.kept))
            }
            Self::Shifted(layout) => {
                let shift = PartSpec::new(SHIFT, layout.dtype, shape.rows);
                around(shift, &layout.inner, layout.inner.parts(shape))
            }
        }
    }

    /// Whether an encoding of this layout and shape can be: bits, groups, types, depth and sizes within bounds. What is
    /// read from a file is asked this before anything else.
    pub fn is_valid(&self, shape: MatrixShape) -> bool {
        match self {
            Self::Shifted(layout) => {
                is_float(layout.dtype) && layout.inner.is_valid_at(shape, MAX_DEPTH - 1)
            }
            _ => self.is_valid_at(shape, MAX_DEPTH),
        }
    }

    fn is_valid_at(&self, shape: MatrixShape, depth: usize) -> bool {
        let fits = shape.rows.checked_mul(shape.cols).is_some_and(|n| n <= MAX_ELEMENTS);
        // An empty matrix still has as many rows or columns as it says.
        let is_bounded = fits && shape.rows.max(shape.cols) <= MAX_ELEMENTS;
        let Some(depth) = depth.checked_sub(1).filter(|_| is_bounded) else {
            return false;
        };
        match self {
            Self::Dense(dtype) => dtype.is_compressible(),
            Self::Affine(layout) => {
                let is_grouped = (1..=8).contains(&layout.bits) && has_width(layout.grouping);
                is_grouped && is_float(layout.scale_dtype)
            }
            Self::Bilevel(layout) => layout.is_valid() && is_float(layout.dtype),
            Self::Palette(PaletteLayout { bits, rows, value_dtype }) => {
                (1..=8).contains(bits) && *rows != Some(0) && is_float(*value_dtype)
            }
            Self::Float(layout) => is_tiled(layout.tiling) && layout.has_scale_dtype(),
            Self::Blocks(_) => true,
            Self::Windows(layout) => is_float(layout.dtype),
            Self::Vectors(layout) => layout.is_valid() && is_float(layout.scale_dtype),
            Self::Additive(layout) => {
                let is_scaled = layout.scale_dtype.is_none_or(is_float);
                is_float(layout.value_dtype) && is_scaled && layout.is_valid(shape, MAX_ELEMENTS)
            }
            Self::Outliers(layout) => layout.kept <= shape.elements() && is_float(layout.dtype),
            Self::Coded(layout) => layout.is_valid(shape),
            Self::Seeded(layout) => layout.is_valid(),
            _ => self.is_valid_around(shape, depth),
        }
    }

    /// Whether what holds other layouts can be, and they.
    fn is_valid_around(&self, shape: MatrixShape, depth: usize) -> bool {
        match self {
            Self::Rotated(layout) => {
                layout.is_valid(shape) && layout.inner.is_valid_at(shape, depth)
            }
            Self::LowRank(layout) => layout.is_valid_at(shape, depth),
            Self::Mixed(layout) => layout.is_valid_at(shape, depth),
            Self::Runs(layout) => {
                layout.is_valid(shape) && layout.inner.is_valid_at(layout.inner_shape(), depth)
            }
            Self::Sum(layout) => {
                layout.base.is_valid_at(shape, depth) && layout.correction.is_valid_at(shape, depth)
            }
            Self::Scaled(layout) => {
                is_float(layout.scale_dtype) && layout.inner.is_valid_at(shape, depth)
            }
            Self::Sparse(SparseLayout { kept, inner }) => {
                *kept <= shape.elements() && inner.is_valid_at(shape, depth)
            }
            Self::Signed(layout) => layout.inner.is_valid_at(shape, depth),
            Self::Split(layout) => layout.is_valid_at(shape, depth),
            Self::Stack(StackLayout { levels }) => {
                let is_high = (1..=MAX_LEVELS).contains(&levels.len());
                is_high && levels.iter().all(|level| level.is_valid_at(shape, depth))
            }
            Self::Folded(layout) => {
                let inner = layout.inner_shape(shape);
                inner.is_some_and(|shape| layout.inner.is_valid_at(shape, depth))
            }
            // What another holds has no outputs of its own; others hold none.
            _ => false,
        }
    }
}

impl SumLayout {
    /// What the parts of the base begin with: nothing, unless one of them has the name of a part of the correction.
    pub(super) fn prefix(&self) -> &'static str {
        match self.correction.as_ref() {
            Layout::LowRank(_) => prefix_under(&SIDES, &self.base, BASE),
            Layout::Outliers(_) => prefix_under(&[OUTLIERS], &self.base, BASE),
            other => {
                let parts = other.parts_of(MatrixShape { rows: 0, cols: 0 }, 0);
                let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
                prefix_under(&names, &self.base, BASE)
            }
        }
    }
}

impl FloatLayout {
    fn has_scale_dtype(&self) -> bool {
        let dtype = self.scale_dtype;
        is_float(dtype) || matches!(dtype, DType::F8E8M0 | DType::F8E4M3)
    }
}

impl MixedLayout {
    fn is_valid_at(&self, shape: MatrixShape, depth: usize) -> bool {
        let [high, low] = self.shapes(shape);
        let is_inside = self.rows <= shape.rows;
        is_inside && self.high.is_valid_at(high, depth) && self.low.is_valid_at(low, depth)
    }
}

impl LowRankLayout {
    fn is_valid_at(&self, shape: MatrixShape, depth: usize) -> bool {
        let [left, right] = self.shapes(shape);
        self.left.is_valid_at(left, depth) && self.right.is_valid_at(right, depth)
    }
}

impl SplitLayout {
    fn is_valid_at(&self, shape: MatrixShape, depth: usize) -> bool {
        let [apart, rest] = self.shapes(shape);
        let are_valid = self.apart.is_valid_at(apart, depth) && self.rest.is_valid_at(rest, depth);
        self.kept <= shape.cols && are_valid
    }
}

/// What the parts of the factors of a product begin with.
pub(super) const SIDES: [&str; 2] = ["left.", "right."];
/// What the parts of both encodings of rows begin with.
pub(super) const HIGH: &str = "high.";
pub(super) const LOW: &str = "low.";
/// The part with a bit for each row.
pub(super) const ROW_MASK: &str = "row_mask";
/// The part with a bit for each run of inputs.
pub(super) const RUN_MASK: &str = "run_mask";
/// What the parts of outliers begin with.
pub(super) const OUTLIERS: &str = "outliers.";
/// What the parts of the base of a sum begin with, where they need it.
const BASE: &str = "base.";
/// The part with a scale for each input.
pub(super) const INPUT_SCALES: &str = "input_scales";
/// The part with a number for each output.
pub const SHIFT: &str = "shift";
/// The part with a bit for each input.
pub(super) const SIGNS: &str = "signs";
/// The part with a bit for each output.
pub(super) const ROW_SIGNS: &str = "row_signs";
/// The part with a bit for each weight.
pub(super) const MASK: &str = "mask";

/// What parts of `inner` begin with beside parts called `own`: nothing, unless one of them has such a name too.
pub(super) fn prefix_under(own: &[&str], inner: &Layout, word: &'static str) -> &'static str {
    // Names are the same for every shape.
    let parts = inner.parts_of(MatrixShape { rows: 0, cols: 0 }, 0);
    let is_taken = |part: &PartSpec| own.iter().any(|own| part.name.starts_with(own));
    if parts.iter().any(is_taken) { word } else { "" }
}

/// A part, and those of what lies within, under names that do not hide it.
fn around(own: PartSpec, inner: &Layout, parts: Vec<PartSpec>) -> Vec<PartSpec> {
    let prefix = prefix_under(&[own.name.as_str()], inner, "inner.");
    let parts = parts.into_iter().map(|part| part.before(prefix));
    std::iter::once(own).chain(parts).collect()
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32)
}

fn is_tiled(tiling: Tiling) -> bool {
    match tiling {
        Tiling::Rows(grouping) => has_width(grouping),
        Tiling::Squares(side) => side > 0,
    }
}

fn has_width(grouping: Grouping) -> bool {
    grouping != Grouping::Group(0)
}

fn codes(kept: usize, bits: u32) -> PartSpec {
    PartSpec::new("codes", DType::U8, dense_bytes(kept, bits))
}

fn affine(layout: &AffineLayout, shape: MatrixShape, kept: usize) -> Vec<PartSpec> {
    let groups = layout.grouping.scales(shape.rows, shape.cols);
    let scales = |name| PartSpec::new(name, layout.scale_dtype, groups);
    let mut parts = vec![codes(kept, layout.bits), scales("scales")];
    if layout.has_offsets {
        parts.push(scales("offsets"));
    } else if !layout.symmetric {
        parts.push(PartSpec::new("zeros", DType::U8, dense_bytes(groups, layout.bits)));
    }
    parts
}

fn bilevel(layout: &BilevelLayout, shape: MatrixShape, kept: usize) -> Vec<PartSpec> {
    let statistics = dense_bytes(layout.groups(shape), layout.statistic_bits);
    vec![
        codes(kept, layout.bits),
        PartSpec::new("scale_codes", DType::U8, statistics),
        PartSpec::new("zero_codes", DType::U8, statistics),
        PartSpec::new("statistics", layout.dtype, 4 * layout.tiles(shape)),
    ]
}

fn float(layout: &FloatLayout, shape: MatrixShape, kept: usize) -> Vec<PartSpec> {
    let scales = PartSpec::new("scales", layout.scale_dtype, layout.tiling.scales(shape));
    let mut parts = vec![codes(kept, layout.levels.bits()), scales];
    if layout.has_global() {
        parts.push(PartSpec::new("global", DType::F32, 1));
    }
    parts
}

fn vectors(layout: &VectorsLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let codes = layout.code_bytes(shape.rows * layout.codes_per_row(shape.cols));
    let scales = layout.grouping.scales(shape.rows, shape.cols);
    let scales = PartSpec::new("scales", layout.scale_dtype, scales);
    vec![PartSpec::new("codes", DType::U8, codes), scales]
}

fn additive(layout: &AdditiveLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let codes = dense_bytes(layout.codes(shape), layout.bits);
    let values = PartSpec::new("codebooks", layout.value_dtype, layout.values(shape));
    let mut parts = vec![PartSpec::new("codes", DType::U8, codes), values];
    let scales = |dtype| PartSpec::new("scales", dtype, layout.scales(shape));
    parts.extend(layout.scale_dtype.map(scales));
    parts
}

fn rotated(layout: &RotatedLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let signs = |name, n: usize| PartSpec::new(name, DType::U8, n.div_ceil(8));
    let mut parts = vec![signs(SIGNS, shape.cols)];
    parts.extend(layout.rows.map(|_| signs(ROW_SIGNS, shape.rows)));
    let prefix = prefix_under(&[SIGNS, ROW_SIGNS], &layout.inner, "inner.");
    parts.extend(layout.inner.parts(shape).into_iter().map(|part| part.before(prefix)));
    parts
}

/// Parts by name, element type and number of elements.
fn listed<'n>(parts: impl IntoIterator<Item = (&'n str, DType, usize)>) -> Vec<PartSpec> {
    parts.into_iter().map(|(name, dtype, n)| PartSpec::new(name, dtype, n)).collect()
}

fn palette(layout: &PaletteLayout, shape: MatrixShape, kept: usize) -> Vec<PartSpec> {
    let values = layout.tables(shape) * layout.levels();
    vec![codes(kept, layout.bits), PartSpec::new("palette", layout.value_dtype, values)]
}

fn mixed(layout: &MixedLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let [high, low] = layout.shapes(shape);
    let of = |layout: &Layout, shape, prefix: &'static str| {
        layout.parts(shape).into_iter().map(move |part| part.before(prefix))
    };
    let mask = PartSpec::new(ROW_MASK, DType::U8, shape.rows.div_ceil(8));
    let both = of(&layout.high, high, HIGH).chain(of(&layout.low, low, LOW));
    std::iter::once(mask).chain(both).collect()
}

fn runs(layout: &RunsLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let mask = PartSpec::new(RUN_MASK, DType::U8, layout.runs(shape).div_ceil(8));
    let inner = layout.inner_shape();
    around(mask, &layout.inner, layout.inner.parts(inner))
}

fn outliers(layout: &OutliersLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let part = |name: &str, dtype, elements| PartSpec::new(name, dtype, elements).before(OUTLIERS);
    vec![
        part("ends", index_type(layout.kept), shape.rows),
        part("columns", index_type(shape.cols.saturating_sub(1)), layout.kept),
        part("values", layout.dtype, layout.kept),
    ]
}

fn low_rank(layout: &LowRankLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let [left, right] = layout.shapes(shape);
    let of = |side: usize, parts: Vec<PartSpec>| {
        parts.into_iter().map(move |part| part.before(SIDES[side]))
    };
    of(0, layout.left.parts(left)).chain(of(1, layout.right.parts(right))).collect()
}

fn split(layout: &SplitLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let mut parts = vec![PartSpec::new(COLUMNS, DType::U8, shape.cols.div_ceil(8))];
    let halves = [&layout.apart, &layout.rest].into_iter().zip(layout.shapes(shape));
    for (half, (inner, shape)) in HALVES.into_iter().zip(halves) {
        parts.extend(inner.parts(shape).into_iter().map(|part| part.before(half)));
    }
    parts
}

fn stack(layout: &StackLayout, shape: MatrixShape) -> Vec<PartSpec> {
    let of = |(at, level): (usize, &Layout)| {
        let prefix = prefix(at);
        level.parts(shape).into_iter().map(move |part| part.before(&prefix)).collect::<Vec<_>>()
    };
    layout.levels.iter().enumerate().flat_map(of).collect()
}
