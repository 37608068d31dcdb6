//! Values of types of llama.cpp that no encoding here is made of: small floats under scales of 8 bits, points of grids with
//! signs, codes of two and three values. Decoded as gguf-py and llama.cpp do, bit for bit.

mod floats;
mod grids;
mod points;

use half::f16;

/// What decodes a block of a type to as many values as it has.
pub(super) type Decode = fn(&[u8], &mut [f32]);

/// The decoder of the type of this number, if it is one of these. It is given whole blocks, see
/// [`crate::format::gguf::BlockType`].
pub(super) fn decoder(kind: u32) -> Option<Decode> {
    Some(match kind {
        16 => points::iq2_xxs,
        17 => points::iq2_xs,
        18 => points::iq3_xxs,
        19 => points::iq1_s,
        21 => points::iq3_s,
        22 => points::iq2_s,
        29 => points::iq1_m,
        34 => tq1_0,
        35 => tq2_0,
        39 => floats::mxfp4,
        40 => floats::nvfp4,
        41 => q1_0,
        42 => q2_0,
        _ => return None,
    })
}

/// The number of 16 bits at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_bits(word(block, at)).to_f32()
}

/// The 16 bits at byte `at`.
fn word(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// `codes[48]`, `rest[4]`, d: −1, 0 or 1 times d. A byte is ⌈256·n/243⌉ for a number n of five digits to the base 3, the
/// first of them the highest; of `rest` four digits count. Digit k of 32, 16 and 4 bytes comes before digit k + 1 of them.
fn tq1_0(block: &[u8], out: &mut [f32]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half(block, 52);
    let runs = [(0..32, 5), (32..48, 5), (48..52, 4)];
    let bytes = runs.into_iter().flat_map(|(run, digits)| {
        POWERS[..digits].iter().flat_map(move |&power| run.clone().map(move |at| (at, power)))
    });
    for (value, (at, power)) in out.iter_mut().zip(bytes) {
        let digit = (u16::from(block[at].wrapping_mul(power)) * 3) >> 8;
        *value = d * (f32::from(digit) - 1.0);
    }
}

/// `codes[64]`, d: of 128 values, value 32s + l lies in byte l at bit 2s, less one.
fn tq2_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 64);
    for (k, values) in out.chunks_exact_mut(32).enumerate() {
        let codes = &block[k / 4 * 32..];
        for (value, byte) in values.iter_mut().zip(codes) {
            *value = d * (f32::from(byte >> (k % 4 * 2) & 3) - 1.0);
        }
    }
}

/// d, `signs[16]`: d where the bit is set, −d elsewhere.
fn q1_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (values, byte) in out.chunks_exact_mut(8).zip(&block[2..]) {
        for (bit, value) in values.iter_mut().enumerate() {
            *value = if byte >> bit & 1 == 1 { d } else { -d };
        }
    }
}

/// d, `codes[16]`: d times −1 to 2, value 4j + i at bit 2i of byte j.
fn q2_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (values, byte) in out.chunks_exact_mut(4).zip(&block[2..]) {
        for (i, value) in values.iter_mut().enumerate() {
            *value = (f32::from(byte >> (2 * i) & 3) - 1.0) * d;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::BLOCK_TYPES;
    use crate::numeric::seeds::Random;

    #[test]
    fn blocks_of_any_bytes_are_decoded_to_the_last_value() {
        let mut random = Random::new(5);
        for block in BLOCK_TYPES {
            let Some(decode) = decoder(block.id) else { continue };
            for _ in 0..200 {
                let bytes: Vec<u8> = (0..block.bytes).map(|_| random.bits() as u8).collect();
                let mut out = vec![f32::from_bits(0x7fc1_2345); block.elements as usize];
                decode(&bytes, &mut out);
                let is_left = |value: &f32| value.to_bits() == 0x7fc1_2345;
                assert!(!out.iter().any(is_left), "{}", block.name);
            }
        }
    }

    #[test]
    fn digits_to_the_base_three_come_back() {
        // 2·81 + 0·27 + 1·9 + 2·3 + 1, as the byte that holds it.
        let number = 2 * 81 + 9 + 6 + 1_u32;
        let byte = (number * 256).div_ceil(243) as u8;
        let mut block = vec![byte; 52];
        block.extend(f16::from_f32(0.5).to_le_bytes());
        let mut out = vec![0.0; 256];
        tq1_0(&block, &mut out);
        let digits = [0.5, -0.5, 0.0, 0.5, 0.0];
        for (k, &digit) in digits.iter().enumerate() {
            assert!(out[32 * k..32 * (k + 1)].iter().all(|&value| value == digit), "{k}");
            assert!(out[160 + 16 * k..160 + 16 * (k + 1)].iter().all(|&value| value == digit));
        }
        assert_eq!(out[240..248], [0.5, 0.5, 0.5, 0.5, -0.5, -0.5, -0.5, -0.5]);
    }
}
