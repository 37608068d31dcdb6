//! Parts of an archive to weights, without the encodings that wrote them: any run of a row, straight from the bytes. What
//! a mask drops is found by counting bits. In: layout, bytes by name. Out: f32 weights, to the bit what was computed.

use crate::encoding::{
    BlockType, Layout, LowRankLayout, OutliersLayout, RotatedLayout, SplitLayout, StackLayout,
    SumLayout,
};
use crate::format::archive::additive::Sums;
use crate::format::archive::coded::Runs;
use crate::format::archive::columns::Columns;
use crate::format::archive::leaf::{Leaf, Marks, is_set};
use crate::format::archive::parted::{MixedRows, RunsOf};
use crate::format::archive::seeded::Seeds;
use crate::format::archive::turned::{Basis, Digits, Points};
use crate::format::archive::windowed::Windowed;
use crate::format::words::{floats, for_each_run};
use crate::numeric::rotation::Rotation;
use crate::tensor::MatrixShape;

pub(super) type Get<'g, 'a> = dyn Fn(&str) -> Option<&'a [u8]> + 'g;

/// The stored parts of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    node: Node<'a>,
    shape: MatrixShape,
}

/// An encoding as it is read.
#[derive(Debug)]
pub(super) enum Node<'a> {
    /// Codes or values one after another, and what each means.
    Leaf(Leaf<'a>),
    Blocks {
        kind: BlockType,
        bytes: &'a [u8],
    },
    /// The right factor `[rank, cols]` is decoded once: every row of the product needs all of it.
    LowRank {
        left: Box<Self>,
        rank: usize,
        right: Vec<f32>,
    },
    Outliers(Few),
    Points(Points<'a>),
    Sums(Sums<'a>),
    Coded(Runs<'a>),
    /// What lies within, its inputs turned.
    Turned(Box<Self>, Rotation),
    /// Weights decoded at once: every one depends on all.
    Whole(Vec<f32>),
    Runs(RunsOf<'a>),
    Mixed(MixedRows<'a>),
    Windowed(Windowed<'a>),
    Seeds(Seeds<'a>),
    /// What lies within, of another shape.
    Folded(Box<Self>, Digits),
    Sum(Box<Self>, Box<Self>),
    Scaled {
        scales: Vec<f32>,
        inner: Box<Self>,
    },
    Sparse {
        marks: Marks<'a>,
        inner: Box<Self>,
    },
    /// A bit for each weight, 1 where what lies within is negated.
    Signed(&'a [u8], Box<Self>),
    Columns(Columns, [Box<Self>; 2]),
    Stack(Vec<Self>),
}

/// A few weights of a matrix, row by row, all others zero.
#[derive(Debug)]
pub(super) struct Few {
    /// How many there are in each row and those before it.
    ends: Vec<usize>,
    columns: Vec<usize>,
    values: Vec<f32>,
}

impl Few {
    fn new(layout: &OutliersLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let ends = whole_numbers(get("outliers.ends")?, shape.rows)?;
        let columns = whole_numbers(get("outliers.columns")?, layout.kept)?;
        let values = floats(get("outliers.values")?, layout.dtype, layout.kept)?;
        let is_whole = ends.is_sorted() && ends.last().is_none_or(|&last| last == layout.kept);
        (is_whole && columns.iter().all(|&column| column < shape.cols)).then_some(Self {
            ends,
            columns,
            values,
        })
    }

    fn run(&self, (row, col): (usize, usize), out: &mut [f32]) -> Option<()> {
        out.fill(0.0);
        let first = row.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        for at in first..*self.ends.get(row)? {
            let place = self.columns[at].checked_sub(col).filter(|&place| place < out.len());
            if let Some(place) = place {
                out[place] = self.values[at];
            }
        }
        Some(())
    }
}

/// `count` little-endian whole numbers, as wide as their bytes say.
pub(super) fn whole_numbers(bytes: &[u8], count: usize) -> Option<Vec<usize>> {
    if count == 0 {
        return bytes.is_empty().then(Vec::new);
    }
    let width = bytes.len() / count;
    let number = |bytes: &[u8]| {
        let number = bytes.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).ok()
    };
    bytes.chunks_exact(width.max(1)).map(number).collect()
}

impl<'a> Reader<'a> {
    /// Reads from `get(part)`; `None` if a part is missing or of another length, or the layout makes no sense.
    pub fn new(layout: &Layout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        if !layout.is_valid(shape) {
            return None;
        }
        for part in layout.parts(shape) {
            let bits = get(&part.name)?.len() as u64 * 8;
            if bits != part.elements as u64 * part.dtype.bits() {
                return None;
            }
        }
        Some(Self { node: Node::new(layout, shape, None, get)?, shape })
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` where they are not there.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let MatrixShape { rows, cols } = self.shape;
        for_each_run(first, (cols, cols), out, |(row, _), col, values| {
            if row >= rows { None } else { self.node.run(self.shape, (row, col), values) }
        })
    }
}

/// The name that parts have within a layer or encoding around them.
pub(super) fn within<'g, 'a>(
    get: &'g Get<'_, 'a>,
    prefix: &'g str,
) -> impl Fn(&str) -> Option<&'a [u8]> + 'g {
    move |name| get(&format!("{prefix}{name}"))
}

/// `word` where a part within has a name that one around it has.
pub(super) fn prefix(inner: &Layout, own: &[&str], word: &'static str) -> &'static str {
    let parts = inner.parts(MatrixShape { rows: 1, cols: 1 });
    let is_taken = parts.iter().any(|part| own.iter().any(|own| part.name.starts_with(own)));
    if is_taken { word } else { "" }
}

impl<'a> Node<'a> {
    pub(super) fn new(
        layout: &Layout,
        shape: MatrixShape,
        marks: Option<&Marks<'a>>,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        Some(match layout {
            Layout::Dense(_)
            | Layout::Affine(_)
            | Layout::Bilevel(_)
            | Layout::Palette(_)
            | Layout::Float(_) => Self::Leaf(Leaf::new(layout, shape, marks, get)?),
            Layout::Blocks(kind) => Self::Blocks { kind: *kind, bytes: get("blocks")? },
            Layout::LowRank(product) => Self::product(product, shape, get)?,
            Layout::Outliers(few) => Self::Outliers(Few::new(few, shape, get)?),
            Layout::Additive(additive) => Self::Sums(Sums::new(additive, shape, get)?),
            Layout::Vectors(vectors) => Self::Points(Points::new(vectors, shape, get)?),
            Layout::Coded(coded) => Self::Coded(Runs::new(coded, shape, get)?),
            Layout::Seeded(seeded) => Self::Seeds(Seeds::new(*seeded, get)?),
            Layout::Windows(windows) => Self::Windowed(Windowed::new(*windows, shape, get)?),
            _ => return Self::around(layout, shape, marks, get),
        })
    }

    /// What is read through other nodes.
    fn around(
        layout: &Layout,
        shape: MatrixShape,
        marks: Option<&Marks<'a>>,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        Some(match layout {
            Layout::Sum(sum) => Self::sum(sum, shape, get)?,
            Layout::Scaled(scaled) => {
                let prefix = prefix(&scaled.inner, &["input_scales"], "inner.");
                let inner = Self::new(&scaled.inner, shape, marks, &within(get, prefix))?;
                let scales = floats(get("input_scales")?, scaled.scale_dtype, shape.cols)?;
                Self::Scaled { scales, inner: Box::new(inner) }
            }
            Layout::Folded(folded) => {
                let digits = Digits::new(folded);
                let inner = Self::new(&folded.inner, digits.shape(shape), None, get)?;
                Self::Folded(Box::new(inner), digits)
            }
            Layout::Rotated(rotated) => Self::turned(rotated, shape, get)?,
            Layout::Runs(runs) => Self::Runs(RunsOf::new(runs, shape, get)?),
            Layout::Mixed(mixed) => Self::Mixed(MixedRows::new(mixed, shape, get)?),
            Layout::Signed(signed) => {
                let prefix = prefix(&signed.inner, &["signs"], "inner.");
                let inner = Self::new(&signed.inner, shape, None, &within(get, prefix))?;
                Self::Signed(get("signs")?, Box::new(inner))
            }
            Layout::Split(split) => Self::columns(split, shape, get)?,
            Layout::Stack(stack) => Self::levels(stack, shape, get)?,
            Layout::Shifted(shifted) => {
                let prefix = prefix(&shifted.inner, &["shift"], "inner.");
                floats(get("shift")?, shifted.dtype, shape.rows)?;
                Self::new(&shifted.inner, shape, marks, &within(get, prefix))?
            }
            Layout::Sparse(sparse) => {
                let marks = Marks::new(get("mask")?, shape.elements(), sparse.kept)?;
                let prefix = prefix(&sparse.inner, &["mask"], "inner.");
                let get = within(get, prefix);
                let inner = Box::new(Self::new(&sparse.inner, shape, Some(&marks), &get)?);
                Self::Sparse { marks, inner }
            }
            _ => return None,
        })
    }

    fn turned(rotated: &RotatedLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let prefix = prefix(&rotated.inner, &["signs", "row_signs"], "inner.");
        let inner = Self::new(&rotated.inner, shape, None, &within(get, prefix))?;
        let basis = Basis::new(rotated, shape, get)?;
        if basis.rows.is_none() {
            return Some(Self::Turned(Box::new(inner), basis.cols));
        }
        let row = |row, out: &mut [f32]| inner.run(shape, (row, 0), out);
        Some(Self::Whole(basis.weights(shape, row)?))
    }

    fn sum(sum: &SumLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let parts = sum.correction.parts(MatrixShape { rows: 1, cols: 1 });
        let names: Vec<&str> = match sum.correction.as_ref() {
            Layout::LowRank(_) => vec!["left.", "right."],
            _ => parts.iter().map(|part| part.name.as_str()).collect(),
        };
        let prefix = prefix(&sum.base, &names, "base.");
        let base = Self::new(&sum.base, shape, None, &within(get, prefix))?;
        let correction = Self::new(&sum.correction, shape, None, get)?;
        Some(Self::Sum(Box::new(base), Box::new(correction)))
    }

    fn levels(stack: &StackLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let level = |(at, level): (usize, &Layout)| {
            Self::new(level, shape, None, &within(get, &format!("{at}.")))
        };
        let levels = stack.levels.iter().enumerate().map(level);
        Some(Self::Stack(levels.collect::<Option<_>>()?))
    }

    fn columns(split: &SplitLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let columns = Columns::new(get("columns")?, shape.cols, split.kept)?;
        let [apart, rest] = columns.shapes(shape);
        let apart = Self::new(&split.apart, apart, None, &within(get, "apart."))?;
        let rest = Self::new(&split.rest, rest, None, &within(get, "rest."))?;
        Some(Self::Columns(columns, [Box::new(apart), Box::new(rest)]))
    }

    fn product(layout: &LowRankLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let rank = layout.rank;
        let left = MatrixShape { rows: shape.rows, cols: rank };
        let of_right = MatrixShape { rows: rank, cols: shape.cols };
        let node = Self::new(&layout.right, of_right, None, &within(get, "right."))?;
        let mut right = vec![0.0; of_right.elements()];
        for (row, values) in right.chunks_mut(shape.cols.max(1)).enumerate() {
            node.run(of_right, (row, 0), values)?;
        }
        let left = Self::new(&layout.left, left, None, &within(get, "left."))?;
        Some(Self::LowRank { left: Box::new(left), rank, right })
    }

    /// A run of the product with a right factor of this rank: sums in f64 in the order of the rank.
    fn times(
        &self,
        (rank, right): (usize, &[f32]),
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let mut factors = vec![0.0; rank];
        self.run(MatrixShape { rows: shape.rows, cols: rank }, (row, 0), &mut factors)?;
        let mut sums = vec![0.0_f64; out.len()];
        for (k, &factor) in factors.iter().enumerate() {
            let first = k * shape.cols + col;
            let values = right.get(first..first + out.len())?;
            let products = values.iter().map(|&v| f64::from(factor) * f64::from(v));
            sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        }
        out.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum as f32);
        Some(())
    }

    /// Adds the weights from a place on to those that are there.
    fn add(&self, shape: MatrixShape, at: (usize, usize), out: &mut [f32]) -> Option<()> {
        let mut added = vec![0.0; out.len()];
        self.run(shape, at, &mut added)?;
        out.iter_mut().zip(added).for_each(|(value, added)| *value += added);
        Some(())
    }

    /// Decodes the weights of a matrix from a place on, all in one row.
    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        if out.is_empty() {
            return Some(());
        }
        match self {
            Self::Leaf(leaf) => leaf.run(shape, (row, col), out),
            Self::Blocks { kind, bytes } => blocks(*kind, bytes, shape, (row, col), out),
            Self::LowRank { left, rank, right } => {
                left.times((*rank, right), shape, (row, col), out)
            }
            Self::Outliers(few) => few.run((row, col), out),
            Self::Points(points) => points.run(shape, (row, col), out),
            Self::Sums(sums) => sums.run(shape, (row, col), out),
            Self::Runs(runs) => runs.run(shape, (row, col), out),
            Self::Mixed(mixed) => mixed.run((row, col), out),
            Self::Seeds(seeds) => seeds.run(shape, (row, col), out),
            Self::Windowed(windowed) => windowed.run(shape, (row, col), out),
            Self::Coded(runs) => runs.run(shape, (row, col), out),
            Self::Whole(weights) => {
                let first = row * shape.cols + col;
                weights.get(first..first + out.len()).map(|found| out.copy_from_slice(found))
            }
            _ => self.run_around(shape, (row, col), out),
        }
    }

    /// The same of what is read through other nodes.
    fn run_around(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        match self {
            Self::Turned(inner, cols) => {
                let mut all = vec![0.0; shape.cols];
                inner.run(shape, (row, 0), &mut all)?;
                cols.undo(&mut all);
                all.get(col..col + out.len()).map(|found| out.copy_from_slice(found))
            }
            Self::Folded(inner, digits) => {
                let of_digits = digits.shape(shape);
                digits.run(shape, (row, col), out, |at, out| inner.run(of_digits, at, out))
            }
            Self::Sum(base, correction) => {
                base.run(shape, (row, col), out)?;
                correction.add(shape, (row, col), out)
            }
            Self::Stack(levels) => {
                let (first, others) = levels.split_first()?;
                first.run(shape, (row, col), out)?;
                others.iter().try_for_each(|level| level.add(shape, (row, col), out))
            }
            Self::Signed(bits, inner) => {
                inner.run(shape, (row, col), out)?;
                negate(bits, row * shape.cols + col, out);
                Some(())
            }
            Self::Columns(columns, halves) => {
                let shapes = columns.shapes(shape);
                columns
                    .run(col, out, |half, col, out| halves[half].run(shapes[half], (row, col), out))
            }
            Self::Scaled { scales, inner } => {
                inner.run(shape, (row, col), out)?;
                let scales = scales.get(col..col + out.len())?;
                out.iter_mut().zip(scales).for_each(|(value, scale)| *value /= scale);
                Some(())
            }
            Self::Sparse { marks, inner } => {
                inner.run(shape, (row, col), out)?;
                marks.drop(row * shape.cols + col, out);
                Some(())
            }
            _ => None,
        }
    }
}

/// Negates the weights from `first` on whose bit is set.
fn negate(bits: &[u8], first: usize, out: &mut [f32]) {
    for (i, value) in out.iter_mut().enumerate() {
        if is_set(bits, first + i) {
            *value = -*value;
        }
    }
}

/// Rows of blocks; the last of a row may be partly empty.
fn blocks(
    kind: BlockType,
    bytes: &[u8],
    shape: MatrixShape,
    (row, col): (usize, usize),
    out: &mut [f32],
) -> Option<()> {
    let (n, size) = (kind.weights(), kind.bytes());
    let row = bytes.chunks_exact(shape.cols.div_ceil(n) * size).nth(row)?;
    let mut block = vec![0.0; n];
    for_each_run(col, (shape.cols, n), out, |(_, at), col, values| {
        kind.decode(row.get(at * size..(at + 1) * size)?, &mut block);
        values.copy_from_slice(&block[col % n..col % n + values.len()]);
        Some(())
    })
}
