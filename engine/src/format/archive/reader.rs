//! Parts of an archive to weights, without the encodings that wrote them: any run of a row, straight from the bytes. What
//! a mask drops is found by counting bits. In: layout, bytes by name. Out: f32 weights, to the bit what was computed.

use std::sync::Arc;

use crate::encoding::{
    AffineLayout, BlockType, FloatLayout, Layout, Levels, LowRankLayout, OutliersLayout,
    PaletteLayout,
};
use crate::format::archive::turned::{Points, Turned};
use crate::format::words::{floats, for_each_run};
use crate::numeric::minifloat::{FP4, NF4};
use crate::tensor::{DType, Decoder, MatrixShape};

pub(super) type Get<'g, 'a> = dyn Fn(&str) -> Option<&'a [u8]> + 'g;

/// The stored parts of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    node: Node<'a>,
    shape: MatrixShape,
}

/// An encoding as it is read.
#[derive(Debug)]
enum Node<'a> {
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
    /// What lies within, in another basis.
    Turned(Box<Self>, Turned),
    Sum(Box<Self>, Box<Self>),
    Scaled {
        scales: Vec<f32>,
        inner: Box<Self>,
    },
    Sparse {
        marks: Marks<'a>,
        inner: Box<Self>,
    },
}

/// A few weights of a matrix, row by row, all others zero.
#[derive(Debug)]
struct Few {
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
fn whole_numbers(bytes: &[u8], count: usize) -> Option<Vec<usize>> {
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

#[derive(Debug)]
struct Leaf<'a> {
    bytes: &'a [u8],
    /// Where each weight lies, if not all are stored.
    marks: Option<Marks<'a>>,
    values: Values,
}

/// What stored numbers mean.
#[derive(Debug)]
enum Values {
    Dense(DType),
    Affine { layout: AffineLayout, scales: Vec<f32>, zeros: Vec<f32>, offsets: Vec<f32> },
    Palette { bits: u32, run: usize, tables: Vec<f32> },
    Float { layout: FloatLayout, scales: Vec<f32>, levels: Vec<f32> },
}

/// Weights in a block of marks whose bits are counted at once.
const BLOCK: usize = 512;

/// Which weights are stored, and how many before each block of them.
#[derive(Clone, Debug)]
struct Marks<'a> {
    bits: &'a [u8],
    before: Arc<[usize]>,
}

impl<'a> Marks<'a> {
    /// `None` unless there is a bit for each of `n` weights and `kept` of them are set.
    fn new(bits: &'a [u8], n: usize, kept: usize) -> Option<Self> {
        if bits.len() != n.div_ceil(8) {
            return None;
        }
        let mut before = Vec::with_capacity(n.div_ceil(BLOCK));
        let mut count = 0;
        for block in bits.chunks(BLOCK / 8) {
            before.push(count);
            count += block.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        }
        // The last byte may have bits that no weight has.
        let beyond = (n..8 * bits.len()).filter(|&i| is_set(bits, i)).count();
        (count - beyond == kept).then(|| Self { bits, before: before.into() })
    }

    /// Stored weights before weight `i`.
    fn before(&self, i: usize) -> Option<usize> {
        let first = i / BLOCK * BLOCK;
        let within = (first..i).filter(|&i| is_set(self.bits, i)).count();
        Some(self.before.get(i / BLOCK)? + within)
    }
}

pub(super) fn is_set(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}

/// Code `i` of a little-endian stream of codes of `bits` bits.
fn code(bytes: &[u8], i: usize, bits: u32) -> Option<usize> {
    let at = i * bits as usize;
    let low = u32::from(*bytes.get(at / 8)?);
    let high = u32::from(bytes.get(at / 8 + 1).copied().unwrap_or(0));
    Some(((low | high << 8) >> (at % 8) & ((1 << bits) - 1)) as usize)
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
fn within<'g, 'a>(get: &'g Get<'_, 'a>, prefix: &'g str) -> impl Fn(&str) -> Option<&'a [u8]> + 'g {
    move |name| get(&format!("{prefix}{name}"))
}

/// `word` where a part within has a name that one around it has.
fn prefix(inner: &Layout, own: &[&str], word: &'static str) -> &'static str {
    let parts = inner.parts(MatrixShape { rows: 1, cols: 1 });
    let is_taken = parts.iter().any(|part| own.iter().any(|own| part.name.starts_with(own)));
    if is_taken { word } else { "" }
}

impl<'a> Node<'a> {
    fn new(
        layout: &Layout,
        shape: MatrixShape,
        marks: Option<&Marks<'a>>,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        Some(match layout {
            Layout::Dense(_) | Layout::Affine(_) | Layout::Palette(_) | Layout::Float(_) => {
                Self::Leaf(Leaf::new(layout, shape, marks, get)?)
            }
            Layout::Blocks(kind) => Self::Blocks { kind: *kind, bytes: get("blocks")? },
            Layout::LowRank(product) => Self::product(product, shape, get)?,
            Layout::Outliers(few) => Self::Outliers(Few::new(few, shape, get)?),
            Layout::Sum(sum) => {
                let parts = sum.correction.parts(MatrixShape { rows: 1, cols: 1 });
                let names: Vec<&str> = match sum.correction.as_ref() {
                    Layout::LowRank(_) => vec!["left.", "right."],
                    _ => parts.iter().map(|part| part.name.as_str()).collect(),
                };
                let prefix = prefix(&sum.base, &names, "base.");
                let base = Self::new(&sum.base, shape, None, &within(get, prefix))?;
                let correction = Self::new(&sum.correction, shape, None, get)?;
                Self::Sum(Box::new(base), Box::new(correction))
            }
            Layout::Scaled(scaled) => {
                let prefix = prefix(&scaled.inner, &["input_scales"], "inner.");
                let inner = Self::new(&scaled.inner, shape, marks, &within(get, prefix))?;
                let scales = floats(get("input_scales")?, scaled.scale_dtype, shape.cols)?;
                Self::Scaled { scales, inner: Box::new(inner) }
            }
            Layout::Vectors(vectors) => Self::Points(Points::new(vectors, shape, get)?),
            Layout::Rotated(rotated) => {
                let prefix = prefix(&rotated.inner, &["signs", "row_signs"], "inner.");
                let inner = Self::new(&rotated.inner, shape, None, &within(get, prefix))?;
                Self::Turned(Box::new(inner), Turned::new(rotated, shape, get)?)
            }
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
        })
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

    /// Decodes the weights of a matrix from a place on, all in one row.
    fn run(&self, shape: MatrixShape, (row, col): (usize, usize), out: &mut [f32]) -> Option<()> {
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
            Self::Turned(inner, turned) => {
                let all = turned.weights(shape, |row, out| inner.run(shape, (row, 0), out))?;
                let first = row * shape.cols + col;
                out.copy_from_slice(all.get(first..first + out.len())?);
                Some(())
            }
            Self::Sum(base, correction) => {
                base.run(shape, (row, col), out)?;
                let mut added = vec![0.0; out.len()];
                correction.run(shape, (row, col), &mut added)?;
                out.iter_mut().zip(added).for_each(|(value, added)| *value += added);
                Some(())
            }
            Self::Scaled { scales, inner } => {
                inner.run(shape, (row, col), out)?;
                let scales = scales.get(col..col + out.len())?;
                out.iter_mut().zip(scales).for_each(|(value, scale)| *value /= scale);
                Some(())
            }
            Self::Sparse { marks, inner } => {
                inner.run(shape, (row, col), out)?;
                let first = row * shape.cols + col;
                for (i, value) in out.iter_mut().enumerate() {
                    if !is_set(marks.bits, first + i) {
                        *value = 0.0;
                    }
                }
                Some(())
            }
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

impl<'a> Leaf<'a> {
    fn new(
        layout: &Layout,
        shape: MatrixShape,
        marks: Option<&Marks<'a>>,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        let (name, values) = match layout {
            Layout::Dense(dtype) => ("values", Values::Dense(*dtype)),
            Layout::Affine(layout) => ("codes", Values::affine(layout, shape, get)?),
            Layout::Palette(layout) => ("codes", Values::palette(layout, shape, get)?),
            Layout::Float(layout) => ("codes", Values::float(layout, shape, get)?),
            _ => return None,
        };
        Some(Self { bytes: get(name)?, marks: marks.cloned(), values })
    }

    fn run(&self, shape: MatrixShape, (row, col): (usize, usize), out: &mut [f32]) -> Option<()> {
        let first = row * shape.cols + col;
        let Some(marks) = &self.marks else {
            for (i, value) in out.iter_mut().enumerate() {
                *value = self.values.value(self.bytes, first + i, (row, col + i), shape)?;
            }
            return Some(());
        };
        let mut at = marks.before(first)?;
        for (i, value) in out.iter_mut().enumerate() {
            *value = 0.0;
            if is_set(marks.bits, first + i) {
                *value = self.values.value(self.bytes, at, (row, col + i), shape)?;
                at += 1;
            }
        }
        Some(())
    }
}

impl Values {
    fn affine(layout: &AffineLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let groups = layout.grouping.scales(shape.rows, shape.cols);
        let floats = |name| floats(get(name)?, layout.scale_dtype, groups);
        let (mut zeros, mut offsets) = (Vec::new(), Vec::new());
        if layout.has_offsets {
            offsets = floats("offsets")?;
        } else if layout.symmetric {
            zeros = vec![(1_u32 << (layout.bits - 1)) as f32; groups];
        } else {
            let stored = get("zeros")?;
            let zero = |group| Some(code(stored, group, layout.bits)? as f32);
            zeros = (0..groups).map(zero).collect::<Option<_>>()?;
        }
        Some(Self::Affine { layout: layout.clone(), scales: floats("scales")?, zeros, offsets })
    }

    fn palette(layout: &PaletteLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let run = layout.rows.unwrap_or(shape.rows).max(1);
        let n = if shape.elements() == 0 { 0 } else { shape.rows.div_ceil(run) << layout.bits };
        let tables = floats(get("palette")?, layout.value_dtype, n)?;
        Some(Self::Palette { bits: layout.bits, run, tables })
    }

    fn float(layout: &FloatLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let (stored, n) = (get("scales")?, layout.tiling.scales(shape));
        let mut scales = match layout.scale_dtype {
            DType::F8E8M0 => stored.iter().map(|&exponent| power_of_two(exponent)).collect(),
            dtype => floats(stored, dtype, n)?,
        };
        if layout.scale_dtype == DType::F8E4M3 {
            let global = f32::from_le_bytes(get("global")?.try_into().ok()?);
            for scale in &mut scales {
                *scale /= global;
            }
        }
        (scales.len() == n).then(|| Self::Float {
            layout: *layout,
            scales,
            levels: levels(layout.levels),
        })
    }

    /// The weight whose number is the `at`-th stored, and whose place is `(row, col)`.
    fn value(
        &self,
        bytes: &[u8],
        at: usize,
        (row, col): (usize, usize),
        shape: MatrixShape,
    ) -> Option<f32> {
        match self {
            Self::Dense(dtype) => {
                let size = (dtype.bits() / 8) as usize;
                let mut value = [0.0];
                let stored = bytes.get(at * size..(at + 1) * size)?;
                Decoder::new(*dtype)?.f32s(stored, &mut value);
                Some(value[0])
            }
            Self::Affine { layout, scales, zeros, offsets } => {
                let group = layout.grouping.first_scale(row, shape.cols)
                    + col / layout.grouping.width(shape.cols);
                let (code, scale) = (code(bytes, at, layout.bits)? as f32, *scales.get(group)?);
                match offsets.get(group) {
                    Some(offset) => Some(scale * code + offset),
                    None => Some(scale * (code - zeros.get(group)?)),
                }
            }
            Self::Palette { bits, run, tables } => {
                tables.get(((row / run) << bits) + code(bytes, at, *bits)?).copied()
            }
            Self::Float { layout, scales, levels } => {
                let tile = layout.tiling.first_scale(row, shape.cols)
                    + col / layout.tiling.width(shape.cols);
                let level = levels.get(code(bytes, at, layout.levels.bits())?)?;
                Some(level * scales.get(tile)?)
            }
        }
    }
}

/// 2^(e − 127); the highest exponent is no number.
fn power_of_two(exponent: u8) -> f32 {
    if exponent == u8::MAX { f32::INFINITY } else { 2_f32.powi(i32::from(exponent) - 127) }
}

/// The value of every code; 0 for those of no number.
fn levels(levels: Levels) -> Vec<f32> {
    let of_bytes = |dtype: DType, largest: u8| {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let mut values = vec![0.0; codes.len()];
        if let Some(decoder) = Decoder::new(dtype) {
            decoder.f32s(&codes, &mut values);
        }
        let value = |(code, value)| if code & 0x7f > largest { 0.0 } else { value };
        codes.into_iter().zip(values).map(value).collect()
    };
    match levels {
        Levels::Nf4 => NF4.to_vec(),
        Levels::Fp4 => FP4.to_vec(),
        Levels::E2m1 => {
            let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            [magnitudes, magnitudes.map(|level: f32| -level)].concat()
        }
        Levels::E4m3 => of_bytes(DType::F8E4M3, 0x7e),
        Levels::E5m2 => of_bytes(DType::F8E5M2, 0x7b),
    }
}
