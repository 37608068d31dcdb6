//! Encoders of the super-blocks of 256: K-quants and `IQ4_XS`, and of the levels of `IQ4_NL`.
//!
//! Scales (and minimums) of the sub-blocks are searched first; one number for the super-block then rounds them to a
//! few bits; with each rounded scale its neighbours are tried, and the codes are found again for what is stored.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::encoding::BlockType;
use crate::encoding::blocks::pack;
use crate::method::gguf::offset::{Steps, offset, offset_error};
use crate::method::gguf::plain::put;
use crate::method::gguf::search::{
    self, Alike, Grid, Iq4, Lanes, PIECE, SUPER, Weights, Whole, error, inverse, inverses, round,
    side_by_side, within,
};
use crate::numeric::vector::{byte, peak};

/// Encodes two blocks of 256 after each other, or the first alone where `out` has room for one.
#[inline(always)]
pub(super) fn encode(kind: BlockType, x: &[f32; PIECE], w: Option<&[f32; PIECE]>, out: &mut [u8]) {
    let steps = |n, first, count| Steps { n, first, count };
    match kind {
        BlockType::Q2_K => {
            with_minimums::<16, 32>(kind, (x, w), (steps(3.0, -0.5, 16), 15.0), (out, 80));
        }
        BlockType::Q4_K => {
            with_minimums::<32, 16>(kind, (x, w), (steps(15.0, -1.0, 21), 63.0), (out, 0));
        }
        BlockType::Q5_K => {
            with_minimums::<32, 16>(kind, (x, w), (steps(31.0, -0.5, 16), 63.0), (out, 0));
        }
        BlockType::Q3_K => around_zero::<16, 32>(kind, (x, w), (Whole(4.0), -32.0), (out, 108)),
        BlockType::Q6_K => around_zero::<16, 32>(kind, (x, w), (Whole(32.0), -128.0), (out, 208)),
        _ => around_zero::<32, 16>(kind, (x, w), (Iq4, -32.0), (out, 0)),
    }
}

/// A number of each super-block, and the scales of runs as multiples of it, all by run.
struct Scales<const L: usize> {
    numbers: [f32; L],
    multiples: [f32; L],
}

/// The numbers of super-blocks of which values are multiples: the one `of` each over `end`, as it is stored.
#[inline(always)]
fn numbers<const L: usize>(
    values: &[f32; L],
    runs: usize,
    end: f32,
    of: impl Fn(&[f32]) -> f32,
) -> [f32; L] {
    let mut numbers = [0.0; L];
    for (values, numbers) in values.chunks(runs).zip(numbers.chunks_mut(runs)) {
        numbers.fill(put(&mut [0; 2], 0, of(values) / end));
    }
    numbers
}

/// Scales of runs of `N` values as whole multiples, `low …= −low − 1`, of one number of their super-block.
#[inline(always)]
fn scales<const N: usize, const L: usize>(
    (x, w): (&Lanes<N, L>, &impl Weights<N, L>),
    grid: impl Grid,
    low: f32,
) -> Scales<L> {
    let high = -low - 1.0;
    let wanted = search::scale(x, w, grid);
    let d = numbers(&wanted, SUPER / N, low, peak);
    let per_step = inverses(&d);
    let (mut middle, mut scale) = ([0.0; L], [0.0; L]);
    for s in 0..L {
        middle[s] = within(round(wanted[s] * per_step[s]), low, high);
        scale[s] = d[s] * middle[s];
    }
    let (mut best, mut least) = (middle, error(x, w, &scale, grid));
    for away in [-1.0, 1.0] {
        for s in 0..L {
            scale[s] = d[s] * (middle[s] + away);
        }
        let found = error(x, w, &scale, grid);
        for s in 0..L {
            let near = middle[s] + away;
            let is_better = near >= low && near <= high && found[s] < least[s];
            best[s] = if is_better { near } else { best[s] };
            least[s] = if is_better { found[s] } else { least[s] };
        }
    }
    Scales { numbers: d, multiples: best }
}

/// Two numbers of each super-block, and the scales and minimums of runs as multiples of them, all by run.
struct Offsets<const L: usize> {
    numbers: ([f32; L], [f32; L]),
    multiples: ([f32; L], [f32; L]),
}

/// Scales and minimums of runs of `N` values as whole multiples, 0 …= `top`, of two numbers of their super-block.
#[inline(always)]
fn offsets<const N: usize, const L: usize>(
    (x, w): (&Lanes<N, L>, &impl Weights<N, L>),
    steps: Steps,
    top: f32,
) -> Offsets<L> {
    let (scales, minimums) = offset(x, w, steps);
    let largest = |values: &[f32]| values.iter().copied().fold(0.0, f32::max);
    let d = numbers(&scales, SUPER / N, top, largest);
    let dmin = numbers(&minimums, SUPER / N, top, largest);
    let (per_step, per_min) = (inverses(&d), inverses(&dmin));
    let (mut middle, mut first) = ([0.0; L], [0.0; L]);
    for s in 0..L {
        middle[s] = within(round(scales[s] * per_step[s]), 0.0, top);
        first[s] = within(round(minimums[s] * per_min[s]), 0.0, top);
    }
    let (mut best, mut least) = ((middle, first), [f32::INFINITY; L]);
    for away in [0.0, -1.0, 1.0] {
        let (mut near, mut scale, mut tried) = ([0.0; L], [0.0; L], first);
        for s in 0..L {
            near[s] = within(middle[s] + away, 0.0, top);
            scale[s] = d[s] * near[s];
        }
        for _ in 0..2 {
            let mut minimum = [0.0; L];
            for s in 0..L {
                minimum[s] = dmin[s] * tried[s];
            }
            let (found, fitted) = offset_error(x, w, (&scale, &minimum), steps.n);
            for s in 0..L {
                let is_better = found[s] < least[s];
                best.0[s] = if is_better { near[s] } else { best.0[s] };
                best.1[s] = if is_better { tried[s] } else { best.1[s] };
                least[s] = if is_better { found[s] } else { least[s] };
                tried[s] = within(round(fitted[s] * per_min[s]), 0.0, top);
            }
        }
    }
    Offsets { numbers: (d, dmin), multiples: best }
}

/// Codes 0 …= n of values above a minimum.
#[inline(always)]
fn offset_codes(x: &[f32], (scale, minimum): (f32, f32), n: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    for (code, &x) in out.iter_mut().zip(x) {
        *code = byte(within(round((x + minimum) * inverse), 0.0, n));
    }
}

/// Scales and minimums of runs of `N`, and codes 0 …= `steps.n`, of two blocks or the first; scales and minimums are
/// multiples, 0 …= `top`, of two numbers at `at`.
#[inline(always)]
fn with_minimums<const N: usize, const L: usize>(
    kind: BlockType,
    (x, w): (&[f32; PIECE], Option<&[f32; PIECE]>),
    (steps, top): (Steps, f32),
    (out, at): (&mut [u8], usize),
) {
    let lanes = side_by_side::<N, L>(x);
    let found = match w {
        Some(w) => offsets((&lanes, &side_by_side::<N, L>(w)), steps, top),
        None => offsets((&lanes, &Alike), steps, top),
    };
    let ((d, dmin), (scale, minimum)) = (found.numbers, found.multiples);
    let multiples: [(i8, u8); L] = std::array::from_fn(|s| (scale[s] as i8, minimum[s] as u8));
    let runs = SUPER / N;
    for (block, out) in out.chunks_mut(kind.bytes()).enumerate() {
        let first = block * runs;
        put(out, at, d[first]);
        put(out, at + 2, dmin[first]);
        pack::multiples(kind, &multiples[first..][..runs], out);
        let mut codes = [0; SUPER];
        for (j, codes) in codes.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let s = first + j;
            let fit = (d[s] * scale[s], dmin[s] * minimum[s]);
            offset_codes(&x[N * s..][..N], fit, steps.n, codes);
        }
        pack::codes(kind, &codes, out);
    }
}

/// Scales of runs of `N` as multiples, `low …= −low − 1`, of one number at `at`, and codes counted from the lowest level, of two
/// blocks or the first.
#[inline(always)]
fn around_zero<const N: usize, const L: usize>(
    kind: BlockType,
    (x, w): (&[f32; PIECE], Option<&[f32; PIECE]>),
    (grid, low): (impl Grid, f32),
    (out, at): (&mut [u8], usize),
) {
    let lanes = side_by_side::<N, L>(x);
    let found = match w {
        Some(w) => scales((&lanes, &side_by_side::<N, L>(w)), grid, low),
        None => scales((&lanes, &Alike), grid, low),
    };
    let (d, scale) = (found.numbers, found.multiples);
    let multiples: [(i8, u8); L] = std::array::from_fn(|s| (scale[s] as i8, 0));
    let runs = SUPER / N;
    for (block, out) in out.chunks_mut(kind.bytes()).enumerate() {
        let first = block * runs;
        put(out, at, d[first]);
        pack::multiples(kind, &multiples[first..][..runs], out);
        let mut codes = [0; SUPER];
        for (j, codes) in codes.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            let s = first + j;
            let inverse = inverse(d[s] * scale[s]);
            for (code, &x) in codes.iter_mut().zip(&x[N * s..]) {
                *code = grid.code(x * inverse);
            }
        }
        pack::codes(kind, &codes, out);
    }
}

/// A block of 32 on the uneven levels.
#[inline(always)]
pub(super) fn iq4_nl(x: &[f32], scale: f32, out: &mut [u8]) {
    let inverse = inverse(put(out, 0, scale));
    let mut codes = [0; 32];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = Iq4.code(x * inverse);
    }
    pack::codes(BlockType::IQ4_NL, &codes, out);
}
