//! Encoders of the super-blocks of 256: K-quants and `IQ4_XS`, and of `IQ4_NL`.
//!
//! Scales (and minimums) of the sub-blocks are searched first; one number for the super-block then rounds them to a
//! few bits; with each rounded scale its neighbours are tried, and the codes are found again for what is stored.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::encoding::BlockType;
use crate::method::gguf::plain::{pack, put};
use crate::method::gguf::search::{
    self, Grid, Iq4, Steps, Whole, error, fitted_minimum, inverse, iq4_code, offset_error, round,
};
use crate::numeric::vector::byte;

/// Encodes a block of a type that is not plain.
#[inline(always)]
pub(super) fn encode(kind: BlockType, x: &[f32], w: &[f32], out: &mut [u8]) {
    match kind {
        BlockType::Q2_K => q2_k(x, w, out),
        BlockType::Q3_K => q3_k(x, w, out),
        BlockType::Q4_K => q4_k(x, w, out),
        BlockType::Q5_K => q5_k(x, w, out),
        BlockType::Q6_K => q6_k(x, w, out),
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

/// Four codes of 2 bits a byte: of 128 codes, code 32s + l at bit 2s of byte l.
#[inline(always)]
fn pack_quarters(codes: &[u8; 256], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            let of = |s: usize| (codes[32 * s + l] & 3) << (2 * s);
            *byte = of(0) | of(1) | of(2) | of(3);
        }
    }
}

#[inline(always)]
fn q2_k(x: &[f32], w: &[f32], out: &mut [u8]) {
    let steps = Steps { n: 3.0, first: -0.5, count: 16 };
    let found = offsets::<16, 16>((x, w), steps, 15.0, (out, 80));
    let mut codes = [0; 256];
    for (j, (fit, (scale, minimum))) in found.into_iter().enumerate() {
        out[j] = scale | minimum << 4;
        offset_codes(&x[16 * j..][..16], fit, 3.0, &mut codes[16 * j..][..16]);
    }
    pack_quarters(&codes, &mut out[16..80]);
}

#[inline(always)]
fn q3_k(x: &[f32], w: &[f32], out: &mut [u8]) {
    let found = scales::<16, 16>((x, w), Whole(4.0), (-32.0, 31.0), (out, 108));
    let mut codes = [0; 256];
    out[..32].fill(0);
    out[96..108].fill(0);
    for (j, (scale, multiple)) in found.into_iter().enumerate() {
        let six = (multiple + 32) as u8;
        out[96 + j % 8] |= (six & 15) << (j / 8 * 4);
        out[104 + j % 4] |= six >> 4 << (j / 4 * 2);
        signed_codes(&x[16 * j..][..16], scale, 4.0, &mut codes[16 * j..][..16]);
    }
    for (i, code) in codes.iter().enumerate() {
        out[i % 32] |= code >> 2 << (i / 32);
    }
    pack_quarters(&codes, &mut out[32..96]);
}

/// 8 scales and minimums of 6 bits in 12 bytes.
#[inline(always)]
fn pack_sixes(scales: &[(u8, u8); 8], out: &mut [u8]) {
    for j in 0..4 {
        let ((scale, minimum), (scale_after, minimum_after)) = (scales[j], scales[j + 4]);
        out[j] = scale | scale_after >> 4 << 6;
        out[j + 4] = minimum | minimum_after >> 4 << 6;
        out[j + 8] = scale_after & 15 | minimum_after << 4;
    }
}

#[inline(always)]
fn q4_k(x: &[f32], w: &[f32], out: &mut [u8]) {
    let steps = Steps { n: 15.0, first: -1.0, count: 21 };
    let found = offsets::<32, 8>((x, w), steps, 63.0, (out, 0));
    pack_sixes(&found.map(|(_, multiples)| multiples), &mut out[4..16]);
    let mut codes = [0; 256];
    for (j, (fit, _)) in found.into_iter().enumerate() {
        offset_codes(&x[32 * j..][..32], fit, 15.0, &mut codes[32 * j..][..32]);
    }
    pack_pairs(&codes, &mut out[16..144]);
}

/// Nibbles: of 64 codes, the first 32 low and the others high.
#[inline(always)]
fn pack_pairs(codes: &[u8; 256], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = codes[l] & 15 | codes[l + 32] << 4;
        }
    }
}

#[inline(always)]
fn q5_k(x: &[f32], w: &[f32], out: &mut [u8]) {
    let steps = Steps { n: 31.0, first: -0.5, count: 16 };
    let found = offsets::<32, 8>((x, w), steps, 63.0, (out, 0));
    pack_sixes(&found.map(|(_, multiples)| multiples), &mut out[4..16]);
    let mut codes = [0; 256];
    out[16..48].fill(0);
    for (j, (fit, _)) in found.into_iter().enumerate() {
        let codes = &mut codes[32 * j..][..32];
        offset_codes(&x[32 * j..][..32], fit, 31.0, codes);
        for (high, code) in out[16..48].iter_mut().zip(codes) {
            *high |= *code >> 4 << j;
        }
    }
    pack_pairs(&codes, &mut out[48..176]);
}

#[inline(always)]
fn q6_k(x: &[f32], w: &[f32], out: &mut [u8]) {
    let found = scales::<16, 16>((x, w), Whole(32.0), (-128.0, 127.0), (out, 208));
    let mut codes = [0; 256];
    for (j, (scale, multiple)) in found.into_iter().enumerate() {
        out[192 + j] = multiple as u8;
        signed_codes(&x[16 * j..][..16], scale, 32.0, &mut codes[16 * j..][..16]);
    }
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let of = |c: usize| codes[32 * c + l];
            out[64 * half + l] = of(0) & 15 | of(2) << 4;
            out[64 * half + 32 + l] = of(1) & 15 | of(3) << 4;
            let high = |c: usize| of(c) >> 4 << (2 * c);
            out[128 + 32 * half + l] = high(0) | high(1) | high(2) | high(3);
        }
    }
}

/// Codes of 32 values into nibbles.
#[inline(always)]
fn iq4_codes(x: &[f32], scale: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    let codes = std::array::from_fn(|i| iq4_code(x[i] * inverse));
    pack(&codes, false, out);
}

#[inline(always)]
fn iq4_nl(x: &[f32], w: &[f32], out: &mut [u8]) {
    let scale = put(out, 0, search::scale(x, w, Iq4));
    iq4_codes(x, scale, &mut out[2..18]);
}

#[inline(always)]
fn iq4_xs(x: &[f32], w: &[f32], out: &mut [u8]) {
    let found = scales::<32, 8>((x, w), Iq4, (-32.0, 31.0), (out, 0));
    let mut high = 0_u16;
    out[4..8].fill(0);
    for (j, (scale, multiple)) in found.into_iter().enumerate() {
        let six = (multiple + 32) as u8;
        out[4 + j / 2] |= (six & 15) << (j % 2 * 4);
        high |= u16::from(six >> 4) << (2 * j);
        iq4_codes(&x[32 * j..][..32], scale, &mut out[8 + 16 * j..][..16]);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
}
