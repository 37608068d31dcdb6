//! Encoders of the super-blocks of 256: K-quants and `IQ4_XS`, and of `IQ4_NL`.
//!
//! Scales (and minimums) of the sub-blocks are searched first; one number for the super-block then rounds them to a
//! few bits; with each rounded scale its neighbours are tried, and the codes are found again for what is stored.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::encoding::BlockType;
use crate::encoding::blocks::pack;
use crate::method::gguf::plain::put;
use crate::method::gguf::search::{
    self, Grid, Iq4, Steps, Whole, error, fitted_minimum, inverse, iq4_code, offset_error, round,
};
use crate::numeric::vector::byte;

/// Encodes a block of a type that is not plain.
#[inline(always)]
pub(super) fn encode(kind: BlockType, x: &[f32], w: &[f32], out: &mut [u8]) {
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
        BlockType::IQ4_NL => iq4_nl(x, w, out),
        _ => iq4_xs(x, w, out),
    }
}

/// Scales of sub-blocks of `N` values as whole multiples, `low …= high`, of one number; that number is put at `at`.
/// Gives the scale of each sub-block and its multiple.
#[inline(always)]
fn scales<const N: usize, const SUBS: usize>(
    (x, w): (&[f32], &[f32]),
    grid: impl Grid + Copy,
    (low, high): (f32, f32),
    (out, at): (&mut [u8], usize),
) -> [(f32, i8); SUBS] {
    let mut wanted = [0.0; SUBS];
    for (j, wanted) in wanted.iter_mut().enumerate() {
        *wanted = search::scale(&x[j * N..][..N], &w[j * N..][..N], grid);
    }
    let peak = search::peak(&wanted);
    let d = put(out, at, peak / low);
    let per_step = inverse(d);
    std::array::from_fn(|j| {
        let (x, w) = (&x[j * N..][..N], &w[j * N..][..N]);
        let middle = round(wanted[j] * per_step).max(low).min(high);
        let mut best = (middle, error(x, w, d * middle, grid));
        for near in [middle - 1.0, middle + 1.0] {
            if near >= low && near <= high {
                let found = error(x, w, d * near, grid);
                best = if found < best.1 { (near, found) } else { best };
            }
        }
        (d * best.0, best.0 as i8)
    })
}

/// Scales and minimums of sub-blocks of `N` values as whole multiples, 0 …= `top`, of two numbers, which are put at
/// `at` and after it. Gives scale and minimum of each sub-block, and their multiples.
#[inline(always)]
fn offsets<const N: usize, const SUBS: usize>(
    (x, w): (&[f32], &[f32]),
    steps: Steps,
    top: f32,
    (out, at): (&mut [u8], usize),
) -> [((f32, f32), (u8, u8)); SUBS] {
    let mut wanted = [(0.0, 0.0); SUBS];
    let (mut largest, mut lowest) = (0.0_f32, 0.0_f32);
    for (j, wanted) in wanted.iter_mut().enumerate() {
        *wanted = search::offset(&x[j * N..][..N], &w[j * N..][..N], steps);
        (largest, lowest) = (largest.max(wanted.0), lowest.max(wanted.1));
    }
    let (d, dmin) = (put(out, at, largest / top), put(out, at + 2, lowest / top));
    let (per_step, per_min) = (inverse(d), inverse(dmin));
    std::array::from_fn(|j| {
        let (x, w) = (&x[j * N..][..N], &w[j * N..][..N]);
        let whole = |value: f32| round(value).max(0.0).min(top);
        let middle = whole(wanted[j].0 * per_step);
        let minimum = whole(wanted[j].1 * per_min);
        let (mut best, mut least) = ((middle, minimum), f32::INFINITY);
        for scale in [middle, (middle - 1.0).max(0.0), (middle + 1.0).min(top)] {
            let mut minimum = minimum;
            for _ in 0..2 {
                let found = offset_error(x, w, (d * scale, dmin * minimum), steps.n);
                if found < least {
                    (best, least) = ((scale, minimum), found);
                }
                let fitted = fitted_minimum(x, w, (d * scale, dmin * minimum), steps.n);
                minimum = whole(fitted * per_min);
            }
        }
        ((d * best.0, dmin * best.1), (best.0 as u8, best.1 as u8))
    })
}

/// Codes 0 …= n of values above a minimum.
#[inline(always)]
fn offset_codes(x: &[f32], (scale, minimum): (f32, f32), n: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    for (code, &x) in out.iter_mut().zip(x) {
        *code = byte(round((x + minimum) * inverse).max(0.0).min(n));
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
fn with_minimums<const N: usize, const RUNS: usize>(
    kind: BlockType,
    (x, w): (&[f32], &[f32]),
    (steps, top): (Steps, f32),
    (out, at): (&mut [u8], usize),
) {
    let found = offsets::<N, RUNS>((x, w), steps, top, (out, at));
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
    (x, w): (&[f32], &[f32]),
    (n, low): (f32, f32),
    (out, at): (&mut [u8], usize),
) {
    let found = scales::<16, 16>((x, w), Whole(n), (low, -low - 1.0), (out, at));
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

#[inline(always)]
fn iq4_nl(x: &[f32], w: &[f32], out: &mut [u8]) {
    let scale = put(out, 0, search::scale(x, w, Iq4));
    let mut codes = [0; 32];
    uneven_codes(x, scale, &mut codes);
    pack::codes(BlockType::IQ4_NL, &codes, out);
}

#[inline(always)]
fn iq4_xs(x: &[f32], w: &[f32], out: &mut [u8]) {
    let found = scales::<32, 8>((x, w), Iq4, (-32.0, 31.0), (out, 0));
    pack::multiples(BlockType::IQ4_XS, &found.map(|(_, multiple)| (multiple, 0)), out);
    let mut codes = [0; 256];
    for (j, (scale, _)) in found.into_iter().enumerate() {
        uneven_codes(&x[32 * j..][..32], scale, &mut codes[32 * j..][..32]);
    }
    pack::codes(BlockType::IQ4_XS, &codes, out);
}
