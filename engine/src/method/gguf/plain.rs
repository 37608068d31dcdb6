//! Encoders of the blocks of 32 with one scale: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, bit for bit as gguf-py without
//! importance; with it, the scale of least weighted error.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use half::f16;

use crate::encoding::BlockType;
use crate::encoding::blocks::pack;
use crate::method::gguf::search::{self, Steps, Whole, extremes, peak};
use crate::numeric::vector::byte;

/// Encodes 32 values; without weights exactly as llama.cpp's reference does.
#[inline(always)]
pub(super) fn encode(kind: BlockType, x: &[f32; 32], w: Option<&[f32; 32]>, out: &mut [u8]) {
    match kind {
        BlockType::Q4_0 => signed::<8>(x, w, out),
        BlockType::Q5_0 => signed::<16>(x, w, out),
        BlockType::Q4_1 => spanned::<15>(x, w, out),
        BlockType::Q5_1 => spanned::<31>(x, w, out),
        _ => bytes(x, w, out),
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
fn signed<const HALF: u8>(x: &[f32; 32], w: Option<&[f32; 32]>, out: &mut [u8]) {
    let half = f32::from(HALF);
    let d = match w {
        None => peak(x) / -half,
        Some(w) => search::scale(x, w, Whole(half)),
    };
    let inverse = inverse(d);
    let stored = put(out, 0, d);
    let inverse = if w.is_some() { search::inverse(stored) } else { inverse };
    let mut codes = [0; 32];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = byte(floor_within(x * inverse + (half + 0.5), 2.0 * half - 1.0));
    }
    pack::codes(if HALF == 16 { BlockType::Q5_0 } else { BlockType::Q4_0 }, &codes, out);
}

/// x = d·q + m over the span of the values.
#[inline(always)]
fn spanned<const TOP: u8>(x: &[f32; 32], w: Option<&[f32; 32]>, out: &mut [u8]) {
    let top = f32::from(TOP);
    let (d, m) = match w {
        None => {
            let (low, high) = extremes(x);
            ((high - low) / top, low)
        }
        Some(w) => {
            let (d, m) = search::offset(x, w, Steps { n: top, first: -1.0, count: 21 });
            (d, -m)
        }
    };
    let (stored_d, stored_m) = (put(out, 0, d), put(out, 2, m));
    let (inverse, low) = match w {
        None => (inverse(d), m),
        Some(_) => (search::inverse(stored_d), stored_m),
    };
    let mut codes = [0; 32];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = byte(floor_within((x - low) * inverse + 0.5, top));
    }
    pack::codes(if TOP == 31 { BlockType::Q5_1 } else { BlockType::Q4_1 }, &codes, out);
}

/// x = d·q, d = max |x| / 127; half-way cases away from zero.
#[inline(always)]
fn bytes(x: &[f32; 32], w: Option<&[f32; 32]>, out: &mut [u8]) {
    let d = peak(x).abs() / 127.0;
    let inverse = inverse(d);
    let stored = put(out, 0, d);
    let inverse = if w.is_some() { search::inverse(stored) } else { inverse };
    for (code, &x) in out[2..34].iter_mut().zip(x) {
        let value = (x * inverse).clamp(-128.0, 127.0);
        let whole = value.trunc();
        // What lies beyond the whole number is exact, so half of it is found exactly too.
        let rest = value - whole;
        let away = if rest >= 0.5 { 1.0 } else { 0.0 } - if rest <= -0.5 { 1.0 } else { 0.0 };
        *code = byte(whole + away);
    }
}
