//! Another encoding of the weights in a turned basis, of their inputs and perhaps of their outputs.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{ROW_SIGNS, SIGNS, prefix_under};
use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::numeric::rotation::{Rotation, undo_both};
use crate::tensor::{DType, MatrixShape};

/// A rotated layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RotatedLayout {
    /// Inputs that are mixed with one another; see [`Rotation`].
    pub cols: usize,
    /// Outputs that are mixed with one another; `None` where they are not.
    pub rows: Option<usize>,
    /// How the weights of the turned basis are held.
    pub inner: Box<Layout>,
}

/// The largest odd factor of a run that is read: mixing takes as many operations a weight.
const MOST_ODD: usize = 4096;

impl RotatedLayout {
    /// Whether runs lie within the matrix and are mixed in reasonable time, and weights that are decoded all at once are of
    /// a layout whose parts tell how many there are.
    pub(super) fn is_valid(&self, shape: MatrixShape) -> bool {
        let odd = |n: usize| n >> n.trailing_zeros().min(usize::BITS - 1);
        let is_run = |run: usize, n: usize| {
            let is_within = (1..=n.max(1)).contains(&run);
            is_within && odd(run).max(odd(n % run)) <= MOST_ODD
        };
        let is_bounded = self.rows.is_none() || matches!(*self.inner, Layout::Vectors(_));
        let are_rows = self.rows.is_none_or(|run| is_run(run, shape.rows));
        is_bounded && are_rows && is_run(self.cols, shape.cols)
    }

    /// A bit for each input, and for each output if they are mixed, and the inner layout's bytes.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let rows = self.rows.map_or(0, |_| shape.rows.div_ceil(8));
        (shape.cols.div_ceil(8) + rows) as u64 + self.inner.bytes(shape)
    }
}

/// W = Sᵀ·inner·R with the [`Rotation`]s R of the inputs and S of the outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotated {
    cols: Rotation,
    rows: Option<Rotation>,
    inner: Box<Encoding>,
    /// The weights, where every row depends on all of the turned ones.
    decoded: Vec<f32>,
}

impl Rotated {
    /// `inner` in a turned basis of inputs, and of outputs if there is `rows`.
    ///
    /// # Panics
    /// If the numbers of inputs or outputs differ.
    pub fn new(cols: Rotation, rows: Option<Rotation>, inner: Encoding) -> Self {
        let shape = inner.shape();
        assert_eq!(cols.len(), shape.cols, "one sign an input");
        assert!(rows.as_ref().is_none_or(|rows| rows.len() == shape.rows), "one sign an output");
        let mut decoded = Vec::new();
        if let Some(rows) = &rows {
            decoded = inner.decode().into_raw_vec_and_offset().0;
            undo_both(&cols, Some(rows), &mut decoded);
        }
        Self { cols, rows, inner: Box::new(inner), decoded }
    }

    /// The weights of the turned basis.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    pub(super) fn layout(&self) -> RotatedLayout {
        RotatedLayout {
            cols: self.cols.run(),
            rows: self.rows.as_ref().map(Rotation::run),
            inner: Box::new(self.inner.layout()),
        }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        if self.rows.is_some() {
            out.copy_from_slice(&self.decoded[row * out.len()..(row + 1) * out.len()]);
        } else {
            self.inner.decode_row(row, out);
            self.cols.undo(out);
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let bits = |rotation: &Rotation| {
            let byte = |signs: &[bool]| {
                signs.iter().enumerate().fold(0, |byte, (i, &minus)| byte | u8::from(minus) << i)
            };
            rotation.signs().chunks(8).map(byte).collect::<Vec<u8>>()
        };
        let mut parts = vec![Part::new(SIGNS, DType::U8, bits(&self.cols))];
        if let Some(rows) = &self.rows {
            parts.push(Part::new(ROW_SIGNS, DType::U8, bits(rows)));
        }
        let prefix = prefix_under(&[SIGNS, ROW_SIGNS], &self.inner.layout(), "inner.");
        parts.extend(parts_within(&self.inner, prefix));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &RotatedLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let rotation = |name: &str, n: usize, run: usize| {
            let bytes = part(name).filter(|bytes| bytes.len() == n.div_ceil(8))?;
            let signs = (0..n).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect();
            Some(Rotation::new(signs, run))
        };
        let cols = rotation(SIGNS, shape.cols, layout.cols)?;
        let rows = match layout.rows {
            Some(run) => Some(rotation(ROW_SIGNS, shape.rows, run)?),
            None => None,
        };
        let prefix = prefix_under(&[SIGNS, ROW_SIGNS], &layout.inner, "inner.");
        let within = |name: &str| part(&format!("{prefix}{name}"));
        Some(Self::new(cols, rows, Encoding::from_parts(&layout.inner, shape, &within)?))
    }
}
