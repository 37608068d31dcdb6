//! MXFP4 and NVFP4: floats of 4 bits under scales of 8.

/// E2M1 doubled, by code. There is no negative zero.
const DOUBLED: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Half of 2^(byte − 127).
fn half_power(byte: u8) -> f32 {
    let bits = match byte {
        0 | 1 => 0x0020_0000 << byte,
        _ => (u32::from(byte) - 1) << 23,
    };
    f32::from_bits(bits)
}

/// Half of a float of 4 bits of exponent and 3 of mantissa. Its eighth bit is no sign and counts for nothing; 127 is no
/// number, and counts as nothing either.
fn half_e4m3(byte: u8) -> f32 {
    if byte == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), f32::from(byte & 7));
    // 2^(e − 8), of which e = 0 has the step of e = 1.
    let power = f32::from_bits((119 + exponent.max(1)) << 23);
    if exponent == 0 { mantissa / 8.0 * power } else { (1.0 + mantissa / 8.0) * power }
}

/// As many values as there are in both halves of `bytes`: those of the low halves first.
fn codes(bytes: &[u8], scale: f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = DOUBLED[usize::from(byte & 15)] * scale;
        *high = DOUBLED[usize::from(byte >> 4)] * scale;
    }
}

/// A power of two, `codes[16]`: the first 16 in the low halves of bytes.
pub(super) fn mxfp4(block: &[u8], out: &mut [f32]) {
    codes(&block[1..], half_power(block[0]), out);
}

/// `scales[4]`, `codes[32]`: a scale and 8 bytes for 16 values.
pub(super) fn nvfp4(block: &[u8], out: &mut [f32]) {
    let (scales, bytes) = block.split_at(4);
    let runs = out.chunks_exact_mut(16).zip(bytes.chunks_exact(8));
    for ((values, bytes), scale) in runs.zip(scales) {
        codes(bytes, half_e4m3(*scale), values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::minifloat::{E2M1, E4M3, e8m0};

    #[test]
    fn scales_are_those_of_the_small_floats_and_traps_are_nothing() {
        for byte in 0..127 {
            assert_eq!(half_e4m3(byte) * 2.0, E4M3.decode(byte), "{byte}");
        }
        // The eighth bit counts for nothing, but that it keeps 255 from the trap.
        assert_eq!((half_e4m3(0x7f), half_e4m3(0x80), half_e4m3(0xb8)), (0.0, 0.0, 0.5));
        assert_eq!(half_e4m3(0xff), 240.0);
        for byte in 0..255 {
            assert_eq!(f64::from(half_power(byte)) * 2.0, f64::from(e8m0(byte)), "{byte}");
        }
        assert_eq!(half_power(255), 2_f32.powi(127));
        for code in 0..16_u8 {
            assert_eq!(DOUBLED[usize::from(code)], 2.0 * E2M1.decode(code));
        }
        assert!(DOUBLED[8].is_sign_positive());
    }

    #[test]
    fn sixteen_values_share_a_scale() {
        let mut block = vec![0x38, 0x40, 0x7f, 0];
        block.extend([0x21; 8]);
        block.extend([0x87; 8]);
        block.extend([0xff; 16]);
        let mut out = [9.0; 64];
        nvfp4(&block, &mut out);
        assert_eq!(out[..16], [[0.5; 8], [1.0; 8]].concat());
        assert_eq!(out[16..32], [[12.0; 8], [0.0; 8]].concat());
        assert!(out[32..].iter().all(|&value| value == 0.0));
    }
}
