//! Reading matrices of which parts lie in another: runs of inputs that were kept, and rows in two encodings.

use crate::encoding::{MixedLayout, RunsLayout};
use crate::format::archive::leaf::{Marks, is_set};
use crate::format::archive::reader::{Get, Node, prefix, within};
use crate::format::words::for_each_run;
use crate::tensor::MatrixShape;

/// Runs of inputs; those that are kept are found by counting bits.
#[derive(Debug)]
pub(super) struct RunsOf<'a> {
    run: usize,
    marks: Marks<'a>,
    shape: MatrixShape,
    inner: Box<Node<'a>>,
}

impl<'a> RunsOf<'a> {
    pub(super) fn new(layout: &RunsLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let runs = shape.rows * shape.cols.div_ceil(layout.run);
        let marks = Marks::new(get("run_mask")?, runs, layout.kept)?;
        let prefix = prefix(&layout.inner, &["run_mask"], "inner.");
        let shape = MatrixShape { rows: layout.kept, cols: layout.run };
        let inner = Box::new(Node::new(&layout.inner, shape, None, &within(get, prefix))?);
        Some(Self { run: layout.run, marks, shape, inner })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let first = row * shape.cols.div_ceil(self.run);
        for_each_run(col, (shape.cols, self.run), out, |(_, at), col, values| {
            if !self.marks.keeps(first + at) {
                values.fill(0.0);
                return Some(());
            }
            let place = self.marks.before(first + at)?;
            self.inner.run(self.shape, (place, col % self.run), values)
        })
    }
}

/// Rows of two encodings.
#[derive(Debug)]
pub(super) struct MixedRows<'a> {
    bits: &'a [u8],
    marks: Marks<'a>,
    shapes: [MatrixShape; 2],
    high: Box<Node<'a>>,
    low: Box<Node<'a>>,
}

impl<'a> MixedRows<'a> {
    pub(super) fn new(layout: &MixedLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let bits = get("row_mask")?;
        let marks = Marks::new(bits, shape.rows, layout.rows)?;
        let rows = [layout.rows, shape.rows.checked_sub(layout.rows)?];
        let shapes = rows.map(|rows| MatrixShape { rows, cols: shape.cols });
        let high = Node::new(&layout.high, shapes[0], None, &within(get, "high."))?;
        let low = Node::new(&layout.low, shapes[1], None, &within(get, "low."))?;
        Some(Self { bits, marks, shapes, high: Box::new(high), low: Box::new(low) })
    }

    pub(super) fn run(&self, (row, col): (usize, usize), out: &mut [f32]) -> Option<()> {
        let place = self.marks.before(row)?;
        if is_set(self.bits, row) {
            self.high.run(self.shapes[0], (place, col), out)
        } else {
            self.low.run(self.shapes[1], (row - place, col), out)
        }
    }
}
