//! IQ1, IQ2 and IQ3: 256 values in runs of 4 or 8, each a point of a grid under signs or a shift. Layouts as in
//! ggml-common.h; each is written out where it is decoded.

use crate::format::gguf_codes::grids::{self, Grid};
use crate::format::gguf_codes::{half, word};

/// The 32 bits at byte `at`.
fn long(block: &[u8], at: usize) -> u32 {
    u32::from(word(block, at)) | u32::from(word(block, at + 2)) << 16
}

/// Seven signs, and an eighth that makes their number even.
fn even_signs(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// The point of this number times `scale`, its coordinates under the lowest bits of `signs`.
fn signed(grid: &Grid, index: usize, (scale, signs): (f32, u8), out: &mut [f32]) {
    let points = &grid[index * out.len()..];
    for (bit, (value, point)) in out.iter_mut().zip(points).enumerate() {
        let sign = if signs >> bit & 1 == 1 { -1.0 } else { 1.0 };
        *value = scale * point * sign;
    }
}

/// The point of this number of the grid of −1, 0 and 1, moved by an eighth and times `scale`.
fn moved(index: usize, (scale, is_down): (f32, bool), out: &mut [f32]) {
    let by = if is_down { -0.125 } else { 0.125 };
    for (value, point) in out.iter_mut().zip(&grids::IQ1_S[index * 8..]) {
        *value = scale * (point + by);
    }
}

/// Nibble k of some bytes, the low one first.
fn nibble(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 2] >> (k % 2 * 4) & 15
}

/// d, 8 × (4 points, 4 × 7 signs and 4 bits of scale).
pub(super) fn iq2_xxs(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (k, values) in out.chunks_exact_mut(32).enumerate() {
        let at = 2 + 8 * k;
        let word = long(block, at + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for (l, values) in values.chunks_exact_mut(8).enumerate() {
            let signs = even_signs(word >> (7 * l));
            signed(&grids::IQ2_XXS, usize::from(block[at + l]), (scale, signs), values);
        }
    }
}

/// d, 32 × (9 bits of point, 7 signs), `scales[8]`: 4 bits for 16 values.
pub(super) fn iq2_xs(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (k, values) in out.chunks_exact_mut(8).enumerate() {
        let word = word(block, 2 + 2 * k);
        let scale = d * (0.5 + f32::from(nibble(&block[66..], k / 2))) * 0.25;
        let signs = even_signs(u32::from(word >> 9));
        signed(&grids::IQ2_XS, usize::from(word & 511), (scale, signs), values);
    }
}

/// d, `points[32]`, `signs[32]`, `high[8]`: 2 bits more of points, `scales[8]`: 4 bits for 16 values.
pub(super) fn iq2_s(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (k, values) in out.chunks_exact_mut(8).enumerate() {
        let high = usize::from(block[66 + k / 4] >> (k % 4 * 2) & 3);
        let scale = d * (0.5 + f32::from(nibble(&block[74..], k / 2))) * 0.25;
        let index = usize::from(block[2 + k]) | high << 8;
        signed(&grids::IQ2_S, index, (scale, block[34 + k]), values);
    }
}

/// d, `points[64]`, 8 × (4 × 7 signs and 4 bits of scale).
pub(super) fn iq3_xxs(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (k, values) in out.chunks_exact_mut(8).enumerate() {
        let word = long(block, 66 + k / 4 * 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        let signs = even_signs(word >> (k % 4 * 7));
        for (l, values) in values.chunks_exact_mut(4).enumerate() {
            let signs = signs >> (4 * l);
            signed(&grids::IQ3_XXS, usize::from(block[2 + 2 * k + l]), (scale, signs), values);
        }
    }
}

/// d, `points[64]`, `high[8]`: a bit more of points, `signs[32]`, `scales[4]`: 4 bits for 32 values.
pub(super) fn iq3_s(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (k, values) in out.chunks_exact_mut(4).enumerate() {
        let high = usize::from(block[66 + k / 8] >> (k % 8) & 1);
        let scale = d * (1.0 + 2.0 * f32::from(nibble(&block[106..], k / 8)));
        let signs = block[74 + k / 2] >> (k % 2 * 4);
        signed(&grids::IQ3_S, usize::from(block[2 + k]) | high << 8, (scale, signs), values);
    }
}

/// d, `points[32]`, 8 × (4 × 3 bits more of points, 3 bits of scale, whether the points are moved down).
pub(super) fn iq1_s(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (k, values) in out.chunks_exact_mut(8).enumerate() {
        let word = word(block, 34 + k / 4 * 2);
        let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
        let high = usize::from(word >> (k % 4 * 3) & 7);
        moved(usize::from(block[2 + k]) | high << 8, (scale, word >> 15 == 1), values);
    }
}

/// `points[32]`, `high[16]`: 3 bits more of points and whether they are moved down, 4 × (4 × 3 bits of scale for 16 values,
/// 4 bits of d, the lowest first).
pub(super) fn iq1_m(block: &[u8], out: &mut [f32]) {
    let word_of = |k: usize| word(block, 48 + 2 * k);
    let d = (0..4).map(|k| word_of(k) >> 12 << (4 * k)).sum::<u16>();
    let d = half::f16::from_bits(d).to_f32();
    for (k, values) in out.chunks_exact_mut(8).enumerate() {
        let scale = d * f32::from(2 * (word_of(k / 8) >> (k / 2 % 4 * 3) & 7) + 1);
        let high = nibble(&block[32..], k);
        let index = usize::from(block[k]) | usize::from(high & 7) << 8;
        moved(index, (scale, high & 8 != 0), values);
    }
}
