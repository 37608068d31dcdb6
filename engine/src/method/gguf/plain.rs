//! Encoders of the blocks of 32: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, bit for bit as gguf-py without importance; with it, and
//! for `IQ4_NL` always, the scale of least weighted error.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use half::f16;

use crate::encoding::BlockType;
use crate::encoding::blocks::pack;
use crate::method::gguf::offset::{Steps, offset};
use crate::method::gguf::search::{
    self, Alike, Iq4, Lanes, PIECE, SUPER, Weights, Whole, extremes, scale, side_by_side,
};
use crate::method::gguf::super_blocks::iq4_nl;
use crate::numeric::vector::{byte, largest_magnitude, peak};

/// Blocks whose scales are searched side by side.
const BLOCKS: usize = 8;

/// Scale and minimum of a block, found before.
type Fit = (f32, f32);

/// Encodes up to sixteen blocks, eight at a time.
#[inline(always)]
pub(super) fn encode_all(
    kind: BlockType,
    x: &[f32; PIECE],
    w: Option<&[f32; PIECE]>,
    out: &mut [u8],
) {
    let weights = w.map(|w| w.as_chunks::<SUPER>().0);
    let eights = x.as_chunks::<SUPER>().0.iter().zip(out.chunks_mut(BLOCKS * kind.bytes()));
    for (at, (x, out)) in eights.enumerate() {
        encode(kind, x, weights.map(|weights| &weights[at]), out);
    }
}

/// Encodes up to eight blocks, as many as `out` has room for; without weights exactly as llama.cpp's reference does, but
/// for `IQ4_NL`.
#[inline(always)]
fn encode(kind: BlockType, x: &[f32; SUPER], w: Option<&[f32; SUPER]>, out: &mut [u8]) {
    let blocks = x.as_chunks::<32>().0.iter().zip(out.chunks_exact_mut(kind.bytes()));
    let lanes = || side_by_side::<32, BLOCKS>(x);
    let fits = match w {
        Some(w) => fits(kind, &lanes(), &side_by_side::<32, BLOCKS>(w)),
        None if kind == BlockType::IQ4_NL => fits(kind, &lanes(), &Alike),
        None => {
            for (x, out) in blocks {
                block(kind, x, None, out);
            }
            return;
        }
    };
    for ((x, out), fit) in blocks.zip(fits) {
        block(kind, x, Some(fit), out);
    }
}

/// Scale and minimum of least weighted error of each block.
#[inline(always)]
fn fits(kind: BlockType, x: &Lanes<32, BLOCKS>, w: &impl Weights<32, BLOCKS>) -> [Fit; BLOCKS] {
    let steps = |n: f32| Steps { n, first: -1.0, count: 21 };
    let (scale, minimum) = match kind {
        BlockType::Q4_0 => (scale(x, w, Whole(8.0)), [0.0; BLOCKS]),
        BlockType::Q5_0 => (scale(x, w, Whole(16.0)), [0.0; BLOCKS]),
        BlockType::Q4_1 => offset(x, w, steps(15.0)),
        BlockType::Q5_1 => offset(x, w, steps(31.0)),
        BlockType::IQ4_NL => (scale(x, w, Iq4), [0.0; BLOCKS]),
        // The largest value decides, whatever counts.
        _ => ([0.0; BLOCKS], [0.0; BLOCKS]),
    };
    std::array::from_fn(|block| (scale[block], minimum[block]))
}

#[inline(always)]
fn block(kind: BlockType, x: &[f32; 32], fit: Option<Fit>, out: &mut [u8]) {
    match kind {
        BlockType::Q4_0 => signed::<8>(x, fit, out),
        BlockType::Q5_0 => signed::<16>(x, fit, out),
        BlockType::Q4_1 => spanned::<15>(x, fit, out),
        BlockType::Q5_1 => spanned::<31>(x, fit, out),
        BlockType::IQ4_NL => iq4_nl(x, fit.map_or(0.0, |(scale, _)| scale), out),
        _ => bytes(x, fit.is_some(), out),
    }
}

/// The whole number below a value, at least 0 and at most `top`; 0 for what is no number.
#[inline(always)]
fn floor_within(value: f32, top: f32) -> f32 {
    let value = if value > 0.0 { value } else { 0.0 };
    let whole = value.trunc();
    if whole < top { whole } else { top }
}

/// 1/d, or 0 for 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// d as it is stored; what 16 bits do not hold becomes the largest they do.
#[inline(always)]
pub(super) fn put(out: &mut [u8], at: usize, d: f32) -> f32 {
    let limit = f16::MAX.to_f32();
    let stored = f16::from_f32(d.clamp(-limit, limit));
    out[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// x = d(q − HALF), d = the value of largest magnitude / −HALF.
#[inline(always)]
fn signed<const HALF: u8>(x: &[f32; 32], fit: Option<Fit>, out: &mut [u8]) {
    let half = f32::from(HALF);
    let d = match fit {
        None => peak(x) / -half,
        Some((scale, _)) => scale,
    };
    let inverse = inverse(d);
    let stored = put(out, 0, d);
    let inverse = if fit.is_some() { search::inverse(stored) } else { inverse };
    let mut codes = [0; 32];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = byte(floor_within(x * inverse + (half + 0.5), 2.0 * half - 1.0));
    }
    pack::codes(if HALF == 16 { BlockType::Q5_0 } else { BlockType::Q4_0 }, &codes, out);
}

/// x = d·q + m over the span of the values.
#[inline(always)]
fn spanned<const TOP: u8>(x: &[f32; 32], fit: Option<Fit>, out: &mut [u8]) {
    let top = f32::from(TOP);
    let (d, m) = match fit {
        None => {
            let (low, high) = extremes(x);
            ((high - low) / top, low)
        }
        Some((scale, minimum)) => (scale, -minimum),
    };
    let (stored_d, stored_m) = (put(out, 0, d), put(out, 2, m));
    let (inverse, low) = match fit {
        None => (inverse(d), m),
        Some(_) => (search::inverse(stored_d), stored_m),
    };
    let mut codes = [0; 32];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = byte(floor_within((x - low) * inverse + 0.5, top));
    }
    pack::codes(if TOP == 31 { BlockType::Q5_1 } else { BlockType::Q4_1 }, &codes, out);
}

/// x = d·q, d = max |x| / 127, by its inverse or that of d as it is stored; half-way cases away from zero.
#[inline(always)]
fn bytes(x: &[f32; 32], is_stored: bool, out: &mut [u8]) {
    let d = largest_magnitude(x) / 127.0;
    let inverse = inverse(d);
    let stored = put(out, 0, d);
    let inverse = if is_stored { search::inverse(stored) } else { inverse };
    for (code, &x) in out[2..34].iter_mut().zip(x) {
        let value = (x * inverse).clamp(-128.0, 127.0);
        let whole = value.trunc();
        // What lies beyond the whole number is exact, so half of it is found exactly too.
        let rest = value - whole;
        let away = if rest >= 0.5 { 1.0 } else { 0.0 } - if rest <= -0.5 { 1.0 } else { 0.0 };
        *code = byte(whole + away);
    }
}
