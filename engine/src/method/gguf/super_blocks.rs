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
    self, Alike, Grid, Iq4, Lanes, Weights, Whole, error, inverse, iq4_code, round, side_by_side,
    within,
};
use crate::numeric::vector::{byte, peak};

/// Encodes a block of 256.
#[inline(always)]
pub(super) fn encode(kind: BlockType, x: &[f32; 256], w: Option<&[f32; 256]>, out: &mut [u8]) {
    match kind {
        BlockType::Q2_K => {
            let steps = Steps { n: 3.0, first: -0.5, count: 16 };
            with_minimums::<16, 16>(kind, (x, w), (steps, 15.0), (out, 80));
        }
        BlockType::Q4_K => {
            let steps = Steps { n: 15.0, first: -1.0, count: 21 };
            with_minimums::<32, 8>(kind, (x, w), (steps, 63.0), (out, 0));
        }
        BlockType::Q5_K => {
            let steps = Steps { n: 31.0, first: -0.5, count: 16 };
            with_minimums::<32, 8>(kind, (x, w), (steps, 63.0), (out, 0));
        }
        BlockType::Q3_K => around_zero(kind, (x, w), (4.0, -32.0), (out, 108)),
        BlockType::Q6_K => around_zero(kind, (x, w), (32.0, -128.0), (out, 208)),
        _ => iq4_xs((x, w), out),
    }
}

/// Scale of each sub-block, and its multiple of the number of the super-block.
type Multiples<const L: usize> = [(f32, i8); L];

/// Scales of sub-blocks of `N` values as whole multiples, `low …= high`, of one number; that number is put at `at`.
#[inline(always)]
fn scales<const N: usize, const L: usize>(
    (x, w): (&Lanes<N, L>, &impl Weights<N, L>),
    grid: impl Grid,
    (low, high): (f32, f32),
    (out, at): (&mut [u8], usize),
) -> Multiples<L> {
    let wanted = search::scale(x, w, grid);
    let d = put(out, at, peak(&wanted) / low);
    let per_step = inverse(d);
    let (mut middle, mut scale) = ([0.0; L], [0.0; L]);
    for s in 0..L {
        middle[s] = within(round(wanted[s] * per_step), low, high);
        scale[s] = d * middle[s];
    }
    let (mut best, mut least) = (middle, error(x, w, &scale, grid));
    for away in [-1.0, 1.0] {
        for s in 0..L {
            scale[s] = d * (middle[s] + away);
        }
        let found = error(x, w, &scale, grid);
        for s in 0..L {
            let near = middle[s] + away;
            let is_better = near >= low && near <= high && found[s] < least[s];
            best[s] = if is_better { near } else { best[s] };
            least[s] = if is_better { found[s] } else { least[s] };
        }
    }
    best.map(|best| (d * best, best as i8))
}

/// [`scales`] of a block's values and what each counts.
#[inline(always)]
fn scales_of<const N: usize, const L: usize>(
    (x, w): (&[f32; 256], Option<&[f32; 256]>),
    grid: impl Grid,
    ends: (f32, f32),
    out: (&mut [u8], usize),
) -> Multiples<L> {
    let x = side_by_side::<N, L>(x);
    match w {
        Some(w) => scales((&x, &side_by_side::<N, L>(w)), grid, ends, out),
        None => scales((&x, &Alike), grid, ends, out),
    }
}

/// Scale and minimum of each sub-block, and their multiples of the two numbers of the super-block.
type Pairs<const L: usize> = [((f32, f32), (u8, u8)); L];

/// Scales and minimums of sub-blocks of `N` values as whole multiples, 0 …= `top`, of two numbers, which are put at
/// `at` and after it.
#[inline(always)]
fn offsets<const N: usize, const L: usize>(
    (x, w): (&Lanes<N, L>, &impl Weights<N, L>),
    steps: Steps,
    top: f32,
    (out, at): (&mut [u8], usize),
) -> Pairs<L> {
    let (scales, minimums) = offset(x, w, steps);
    let largest = |values: &[f32; L]| values.iter().copied().fold(0.0, f32::max);
    let d = put(out, at, largest(&scales) / top);
    let dmin = put(out, at + 2, largest(&minimums) / top);
    let (per_step, per_min) = (inverse(d), inverse(dmin));
    let (mut middle, mut first) = ([0.0; L], [0.0; L]);
    for s in 0..L {
        middle[s] = within(round(scales[s] * per_step), 0.0, top);
        first[s] = within(round(minimums[s] * per_min), 0.0, top);
    }
    let (mut best, mut least) = ((middle, first), [f32::INFINITY; L]);
    for away in [0.0, -1.0, 1.0] {
        let (mut near, mut scale, mut tried) = ([0.0; L], [0.0; L], first);
        for s in 0..L {
            near[s] = within(middle[s] + away, 0.0, top);
            scale[s] = d * near[s];
        }
        for _ in 0..2 {
            let mut minimum = [0.0; L];
            for s in 0..L {
                minimum[s] = dmin * tried[s];
            }
            let (found, fitted) = offset_error(x, w, (&scale, &minimum), steps.n);
            for s in 0..L {
                let is_better = found[s] < least[s];
                best.0[s] = if is_better { near[s] } else { best.0[s] };
                best.1[s] = if is_better { tried[s] } else { best.1[s] };
                least[s] = if is_better { found[s] } else { least[s] };
                tried[s] = within(round(fitted[s] * per_min), 0.0, top);
            }
        }
    }
    std::array::from_fn(|s| {
        let (scale, minimum) = (best.0[s], best.1[s]);
        ((d * scale, dmin * minimum), (scale as u8, minimum as u8))
    })
}

/// Codes 0 …= n of values above a minimum.
#[inline(always)]
fn offset_codes(x: &[f32], (scale, minimum): (f32, f32), n: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    for (code, &x) in out.iter_mut().zip(x) {
        *code = byte(within(round((x + minimum) * inverse), 0.0, n));
    }
}

/// Codes 0 …= 2n − 1 of values around zero.
#[inline(always)]
fn signed_codes(x: &[f32], scale: f32, n: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    for (code, &x) in out.iter_mut().zip(x) {
        *code = byte(Whole(n).nearest(x * inverse) + n);
    }
}

/// Scales and minimums of runs of `N`, and codes 0 …= `steps.n`; scales and minimums are multiples, 0 …= `top`, of two
/// numbers at `at`.
#[inline(always)]
fn with_minimums<const N: usize, const L: usize>(
    kind: BlockType,
    (x, w): (&[f32; 256], Option<&[f32; 256]>),
    (steps, top): (Steps, f32),
    (out, at): (&mut [u8], usize),
) {
    let lanes = side_by_side::<N, L>(x);
    let found = match w {
        Some(w) => offsets((&lanes, &side_by_side::<N, L>(w)), steps, top, (out, at)),
        None => offsets((&lanes, &Alike), steps, top, (out, at)),
    };
    pack::multiples(kind, &found.map(|(_, (scale, minimum))| (scale.cast_signed(), minimum)), out);
    let mut codes = [0; 256];
    for (j, (fit, _)) in found.into_iter().enumerate() {
        offset_codes(&x[N * j..][..N], fit, steps.n, &mut codes[N * j..][..N]);
    }
    pack::codes(kind, &codes, out);
}

/// Scales of runs of 16 as multiples, `low …= −low − 1`, of one number at `at`, and codes around zero.
#[inline(always)]
fn around_zero(
    kind: BlockType,
    (x, w): (&[f32; 256], Option<&[f32; 256]>),
    (n, low): (f32, f32),
    (out, at): (&mut [u8], usize),
) {
    let found = scales_of::<16, 16>((x, w), Whole(n), (low, -low - 1.0), (out, at));
    pack::multiples(kind, &found.map(|(_, multiple)| (multiple, 0)), out);
    let mut codes = [0; 256];
    for (j, (scale, _)) in found.into_iter().enumerate() {
        signed_codes(&x[16 * j..][..16], scale, n, &mut codes[16 * j..][..16]);
    }
    pack::codes(kind, &codes, out);
}

/// Codes of values on the uneven levels.
#[inline(always)]
fn uneven_codes(x: &[f32], scale: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    for (code, &x) in out.iter_mut().zip(x) {
        *code = iq4_code(x * inverse);
    }
}

/// A block of 32 on the uneven levels.
#[inline(always)]
pub(super) fn iq4_nl(x: &[f32], scale: f32, out: &mut [u8]) {
    let scale = put(out, 0, scale);
    let mut codes = [0; 32];
    uneven_codes(x, scale, &mut codes);
    pack::codes(BlockType::IQ4_NL, &codes, out);
}

#[inline(always)]
fn iq4_xs((x, w): (&[f32; 256], Option<&[f32; 256]>), out: &mut [u8]) {
    let found = scales_of::<32, 8>((x, w), Iq4, (-32.0, 31.0), (out, 0));
    pack::multiples(BlockType::IQ4_XS, &found.map(|(_, multiple)| (multiple, 0)), out);
    let mut codes = [0; 256];
    for (j, (scale, _)) in found.into_iter().enumerate() {
        uneven_codes(&x[32 * j..][..32], scale, &mut codes[32 * j..][..32]);
    }
    pack::codes(BlockType::IQ4_XS, &codes, out);
}
