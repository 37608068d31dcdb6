//! Blocks of llama.cpp to f32. Layouts as in ggml-common.h; each is written out where it is decoded.

use half::f16;

use crate::encoding::BlockType;

/// The 16 levels of `IQ4_NL` and `IQ4_XS`.
pub const IQ4_LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn decode(kind: BlockType, block: &[u8], out: &mut [f32]) {
    match kind {
        BlockType::Q4_0 => {
            let d = float(block, 0);
            nibbles(&block[2..], out, |q| d * (f32::from(q) - 8.0));
        }
        BlockType::Q4_1 => {
            let (d, m) = (float(block, 0), float(block, 2));
            nibbles(&block[4..], out, |q| d * f32::from(q) + m);
        }
        BlockType::Q5_0 => {
            let d = float(block, 0);
            fives(&block[2..], out, |q| d * (f32::from(q) - 16.0));
        }
        BlockType::Q5_1 => {
            let (d, m) = (float(block, 0), float(block, 2));
            fives(&block[4..], out, |q| d * f32::from(q) + m);
        }
        BlockType::Q8_0 => {
            let d = float(block, 0);
            for (value, &code) in out.iter_mut().zip(&block[2..]) {
                *value = f32::from(code.cast_signed()) * d;
            }
        }
        BlockType::Q2_K => q2_k(block, out),
        BlockType::Q3_K => q3_k(block, out),
        BlockType::Q4_K => q4_k(block, out),
        BlockType::Q5_K => q5_k(block, out),
        BlockType::Q6_K => q6_k(block, out),
        BlockType::IQ4_NL => {
            let d = float(block, 0);
            nibbles(&block[2..], out, |q| d * f32::from(IQ4_LEVELS[usize::from(q)]));
        }
        BlockType::IQ4_XS => iq4_xs(block, out),
    }
}

pub(super) fn float(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 16 bytes: byte j holds value j low and value j + 16 high.
fn nibbles(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
}

/// Four bytes of fifth bits, value i in bit i, then nibbles.
fn fives(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let fifths = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for j in 0..16 {
        let byte = bytes[4 + j];
        let fifth = |i: usize| ((fifths >> i & 1) as u8) << 4;
        out[j] = value(byte & 15 | fifth(j));
        out[j + 16] = value(byte >> 4 | fifth(j + 16));
    }
}

/// `scales[16]` (scale low, minimum high), `codes[64]`, d, dmin. Codes of 2 bits: of 128 values, value 32s + l lies
/// in byte l at bit 2s.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (float(block, 80), float(block, 82));
    for (k, values) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[k] & 15);
        let minimum = dmin * f32::from(scales[k] >> 4);
        let (first, shift) = quarter(k);
        for (value, byte) in values.iter_mut().zip(&codes[first..]) {
            *value = scale * f32::from(byte >> shift & 3) - minimum;
        }
    }
}

/// First byte and bit of the 2-bit codes of the k-th 16 values.
fn quarter(k: usize) -> (usize, usize) {
    (k / 8 * 32 + k % 2 * 16, k % 8 / 2 * 2)
}

/// `high[32]`, `codes[64]`, `scales[12]`, d. The third bit of value 32c + l is bit c of `high[l]`; unset, it takes 4.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = float(block, 108);
    for (k, values) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * q3_scale(packed, k);
        let (first, shift) = quarter(k);
        for (l, value) in values.iter_mut().enumerate() {
            let code = f32::from(codes[first + l] >> shift & 3);
            let is_high = high[k % 2 * 16 + l] >> (k / 2) & 1 == 1;
            *value = scale * if is_high { code } else { code - 4.0 };
        }
    }
}

/// The multiple of the k-th of 16 scales, 6 bits each in 12 bytes.
pub(super) fn q3_scale(packed: &[u8], k: usize) -> f32 {
    let low = if k < 8 { packed[k] & 15 } else { packed[k - 8] >> 4 };
    f32::from(low | (packed[8 + k % 4] >> (2 * (k / 4)) & 3) << 4) - 32.0
}

/// Scale and minimum of the j-th of 8 sub-blocks, 6 bits each in 12 bytes.
pub(super) fn six_bits(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let (low, high) = (packed[j + 4] & 15, packed[j + 4] >> 4);
        (low | packed[j - 4] >> 6 << 4, high | packed[j] >> 6 << 4)
    }
}

/// d, dmin, `scales[12]`, `codes[128]`: of 64 values, the first 32 low, the others high.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (float(block, 0), float(block, 2));
    for (j, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], j);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        let codes = &block[16 + j / 2 * 32..];
        for (value, byte) in values.iter_mut().zip(codes) {
            *value = scale * f32::from(byte >> (j % 2 * 4) & 15) - minimum;
        }
    }
}

/// d, dmin, `scales[12]`, `high[32]`, `codes[128]`: the fifth bit of value l of sub-block j is bit j of `high[l]`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (float(block, 0), float(block, 2));
    for (j, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], j);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        let (high, codes) = (&block[16..48], &block[48 + j / 2 * 32..]);
        for ((value, byte), high) in values.iter_mut().zip(codes).zip(high) {
            let code = byte >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
            *value = scale * f32::from(code) - minimum;
        }
    }
}

/// `low[128]`, `high[64]`, `scales[16]`, d. Of 128 values, value 32c + l has its low bits in byte l + 32·(c mod 2),
/// nibble ⌊c/2⌋, and its high ones in byte l at bit 2c.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = float(block, 208);
    for (k, values) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(block[192 + k].cast_signed());
        let (half, c, first) = (k / 8, k % 8 / 2, k % 2 * 16);
        let low = &block[half * 64 + c % 2 * 32 + first..];
        let high = &block[128 + half * 32 + first..];
        for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
            let code = low >> (c / 2 * 4) & 15 | (high >> (2 * c) & 3) << 4;
            *value = scale * (f32::from(code) - 32.0);
        }
    }
}

/// d, 8 × 2 high bits of scales, 8 × 4 low ones, `codes[128]`: nibbles as in blocks of 32.
fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = float(block, 0);
    for (j, values) in out.chunks_exact_mut(32).enumerate() {
        let scale = d * iq4_scale(block, j);
        let level = |q: u8| scale * f32::from(IQ4_LEVELS[usize::from(q)]);
        nibbles(&block[8 + 16 * j..8 + 16 * (j + 1)], values, level);
    }
}

/// The multiple of the j-th of 8 scales of `IQ4_XS`.
pub(super) fn iq4_scale(block: &[u8], j: usize) -> f32 {
    let high = u16::from_le_bytes([block[2], block[3]]);
    let low = block[4 + j / 2] >> (j % 2 * 4) & 15;
    f32::from(low | ((high >> (2 * j) & 3) as u8) << 4) - 32.0
}
