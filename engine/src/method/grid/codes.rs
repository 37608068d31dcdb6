//! The nearest codes of weights under the grids of their groups.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::method::grid::fit::{AT_ONCE, Fits, Grid, Step};
use crate::numeric::vector::{Loops, all_finite, byte, byte_bits};

/// Codes made at once: a vector of bytes.
const CODES: usize = 32;

/// clamp(round(w/s) + z), ties to even.
#[inline(always)]
pub(super) fn code_of(value: f32, (scale, zero): (f32, f32), (lowest, highest): (f32, f32)) -> f32 {
    ((value / scale).round_ties_even() + zero).max(lowest).min(highest)
}

/// Grids and codes of whole groups; finds whether their values are finite.
pub(super) struct Rounded<'a> {
    pub(super) grid: &'a Grid,
    pub(super) width: usize,
    pub(super) values: &'a [f32; AT_ONCE],
    pub(super) importance: Option<&'a [f32]>,
    pub(super) steps: &'a mut [Step],
    pub(super) out: &'a mut [u8],
}

impl Loops for Rounded<'_> {
    type Found = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Self { grid, width, values, importance, steps, out } = self;
        Fits { grid, width, values, importance, steps: &mut *steps }.run();
        Codes { grid, width, values, steps, out }.run();
        all_finite(values)
    }
}

/// The codes of a row.
pub(super) struct Codes<'a> {
    pub(super) grid: &'a Grid,
    pub(super) width: usize,
    pub(super) values: &'a [f32],
    pub(super) steps: &'a [Step],
    pub(super) out: &'a mut [u8],
}

impl Loops for Codes<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let ends = self.grid.ends();
        let groups = self.out.chunks_mut(self.width).zip(self.values.chunks(self.width));
        for ((codes, values), step) in groups.zip(self.steps) {
            let (whole, rest) = codes.as_chunks_mut::<CODES>();
            let (values, values_of_rest) = values.as_chunks::<CODES>();
            for (codes, values) in whole.iter_mut().zip(values) {
                *codes = codes_of(values, *step, ends);
            }
            let grid = (step.scale, f32::from(step.zero));
            for (code, &value) in rest.iter_mut().zip(values_of_rest) {
                *code = byte(code_of(value, grid, ends));
            }
        }
    }
}

/// [`code_of`] of many. Clamps before it rounds, to ends that are whole, so that one sum rounds and makes the bytes.
#[inline(always)]
fn codes_of(values: &[f32; CODES], step: Step, (lowest, highest): (f32, f32)) -> [u8; CODES] {
    let zero = f32::from(step.zero);
    let (lowest, highest) = (lowest - zero, highest - zero);
    let mut sums = [0; CODES];
    for i in 0..CODES {
        let place = values[i] / step.scale;
        let place = if place > lowest { place } else { lowest };
        let place = if place < highest { place } else { highest };
        sums[i] = byte_bits(place);
    }
    let mut codes = [0; CODES];
    for i in 0..CODES {
        codes[i] = (sums[i] as u8).wrapping_add(step.zero);
    }
    codes
}
