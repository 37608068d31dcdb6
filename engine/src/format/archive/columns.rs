//! Reading a matrix of which some inputs lie apart from the others.

use crate::format::archive::leaf::is_set;
use crate::tensor::MatrixShape;

/// Where each input lies.
#[derive(Debug)]
pub(super) struct Columns {
    /// Which half each input is in, 0 where it is apart, and how many of that half are before it.
    places: Vec<(usize, usize)>,
    kept: usize,
}

impl Columns {
    /// `None` unless there is a bit for each of `cols` inputs and `kept` of them are set.
    pub(super) fn new(bits: &[u8], cols: usize, kept: usize) -> Option<Self> {
        let mut counts = [0, 0];
        let places = (0..cols).map(|i| {
            let half = usize::from(!is_set(bits, i));
            let before = counts[half];
            counts[half] += 1;
            (half, before)
        });
        let places = places.collect();
        (bits.len() == cols.div_ceil(8) && counts[0] == kept).then_some(Self { places, kept })
    }

    /// `[rows, inputs]` of both halves.
    pub(super) fn shapes(&self, shape: MatrixShape) -> [MatrixShape; 2] {
        let of = |cols| MatrixShape { rows: shape.rows, cols };
        [of(self.kept), of(self.places.len() - self.kept)]
    }

    /// The weights from input `col` on, of which `read(half, col, out)` gives those of a half.
    pub(super) fn run(
        &self,
        col: usize,
        out: &mut [f32],
        read: impl Fn(usize, usize, &mut [f32]) -> Option<()>,
    ) -> Option<()> {
        let places = self.places.get(col..col + out.len())?;
        for half in [0, 1] {
            let of_half = || places.iter().enumerate().filter(|(_, place)| place.0 == half);
            let Some((_, &(_, first))) = of_half().next() else { continue };
            let mut values = vec![0.0; of_half().count()];
            read(half, first, &mut values)?;
            for ((at, _), value) in of_half().zip(values) {
                out[at] = value;
            }
        }
        Some(())
    }
}
