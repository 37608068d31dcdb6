//! Floats of 4 and 8 bits, and tables of 16 levels: codes to values and back.
//!
//! Rounding is to the nearest, ties to the even code; what is larger than the largest value saturates.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

/// A float of one sign bit, some exponent bits and `mantissa` bits, without infinities in its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minifloat {
    mantissa: u32,
    bias: i32,
    largest: u8,
    sign: u8,
}

/// OCP E2M1: ±{0, ½, 1, 1½, 2, 3, 4, 6}.
pub const E2M1: Minifloat = Minifloat { mantissa: 1, bias: 1, largest: 7, sign: 0x8 };
/// OCP E4M3: largest 448, no infinities.
pub const E4M3: Minifloat = Minifloat { mantissa: 3, bias: 7, largest: 0x7e, sign: 0x80 };
/// OCP E5M2: largest 57,344.
pub const E5M2: Minifloat = Minifloat { mantissa: 2, bias: 15, largest: 0x7b, sign: 0x80 };

/// 2²³: adding it to a smaller number rounds that to a whole one, ties to even.
const WHOLE: f32 = 8_388_608.0;

impl Minifloat {
    /// The largest finite value.
    pub fn max(self) -> f32 {
        self.decode(self.largest)
    }

    /// The nearest code of a finite value. Without branches, so that a loop over it runs in vectors.
    #[inline(always)]
    pub fn encode(self, value: f32) -> u8 {
        let shift = 23 - self.mantissa;
        let magnitude = value.abs();
        let bits = magnitude.to_bits();
        let rounded = bits + ((1 << (shift - 1)) - 1) + (bits >> shift & 1);
        let normal = (rounded >> shift).wrapping_sub(((127 - self.bias) as u32) << self.mantissa);
        // Below the smallest normal value codes are whole multiples of the smallest value.
        let inverse = f32::from_bits(((126 + self.bias + self.mantissa as i32) as u32) << 23);
        let small = (magnitude.min(1.0) * inverse + WHOLE).to_bits() - WHOLE.to_bits();
        let smallest_normal = f32::from_bits(((128 - self.bias) as u32) << 23);
        let code = if magnitude < smallest_normal { small } else { normal };
        let code = code.min(u32::from(self.largest));
        let sign = if value.is_sign_negative() { u32::from(self.sign) } else { 0 };
        (code | sign) as u8
    }

    /// The value of a code; what lies beyond the largest is read as if the range went on.
    pub fn decode(self, code: u8) -> f32 {
        let magnitude = u32::from(code & (self.sign - 1));
        let exponent = (magnitude >> self.mantissa) as i32;
        let fraction = (magnitude & ((1 << self.mantissa) - 1)) as f32;
        let one = (1_u32 << self.mantissa) as f32;
        let step = |exponent: i32| 2_f32.powi(exponent - self.bias - self.mantissa as i32);
        let value =
            if exponent == 0 { fraction * step(1) } else { (one + fraction) * step(exponent) };
        if code & self.sign == 0 { value } else { -value }
    }
}

/// The byte of E8M0 for a scale 2^e: e + 127, from 0 to 254.
pub fn e8m0_of(exponent: i32) -> u8 {
    (exponent + 127).clamp(0, 254) as u8
}

/// The value 2^(byte − 127) of a byte of E8M0.
pub fn e8m0(byte: u8) -> f32 {
    // 2^−127 lies below the smallest normal value.
    if byte == 0 { f32::from_bits(1 << 22) } else { f32::from_bits(u32::from(byte) << 23) }
}

/// The exponent of the scale that compressed-tensors gives a group whose largest magnitude is `peak`: that of `peak`
/// with its mantissa pushed up by ¼, less the exponent of the largest value of the codes. 0 for a group of zeros.
pub fn microscaling_exponent(peak: f32, largest_exponent: i32) -> i32 {
    if peak == 0.0 {
        return 0;
    }
    let pushed = (peak.to_bits() + (1 << 21)) & 0xff80_0000;
    (pushed >> 23) as i32 - 127 - largest_exponent
}

/// The 16 levels of NF4: quantiles of a normal distribution, 0 among them (`QLoRA`, appendix E).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The 16 levels of bitsandbytes' FP4 by code: three bits of magnitude under a sign.
pub const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    -0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// Finds the nearest of 16 levels.
#[derive(Clone, Debug)]
pub struct Nearest {
    /// Half-way between neighbouring levels.
    middles: [f32; 15],
    codes: [u8; 16],
}

impl Nearest {
    /// For levels in any order; of equal levels the first is found.
    pub fn new(levels: &[f32; 16]) -> Self {
        let mut codes: [u8; 16] = std::array::from_fn(|code| code as u8);
        let level = |code: u8| levels[usize::from(code)];
        codes
            .sort_by(|&a, &b| level(a).partial_cmp(&level(b)).unwrap_or(std::cmp::Ordering::Equal));
        let middles = std::array::from_fn(|i| {
            let (below, above) = (level(codes[i]), level(codes[i + 1]));
            // Of two equal levels only the first is taken.
            if below == above { f32::INFINITY } else { f32::midpoint(below, above) }
        });
        Self::ascending(middles, codes)
    }

    /// Moves the middle above a pair of equal levels down to where the pair lies.
    fn ascending(mut middles: [f32; 15], mut codes: [u8; 16]) -> Self {
        for i in 0..15 {
            if middles[i] == f32::INFINITY {
                codes[i + 1] = codes[i];
                middles[i] = if i == 0 { f32::NEG_INFINITY } else { middles[i - 1] };
            }
        }
        Self { middles, codes }
    }

    /// The code of the level nearest to `value`, the lower of two.
    #[inline(always)]
    pub fn code(&self, value: f32) -> u8 {
        let rank = self.middles.iter().map(|&middle| u8::from(value > middle)).sum::<u8>();
        self.codes[usize::from(rank & 15)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_and_ties_go_to_the_even_code() {
        for (float, codes) in [(E2M1, 16_u16), (E4M3, 256), (E5M2, 256)] {
            let largest = u16::from(float.largest);
            for code in (0..codes).filter(|code| code & (u16::from(float.sign) - 1) <= largest) {
                let code = code as u8;
                assert_eq!(float.encode(float.decode(code)), code, "{float:?}");
            }
            for code in 0..float.largest {
                let (low, high) = (float.decode(code), float.decode(code + 1));
                assert!(low < high);
                assert_eq!(float.encode(f32::midpoint(low, high)), code + code % 2, "{float:?}");
            }
            assert_eq!(float.encode(1e30), float.largest);
            assert_eq!(float.encode(f32::MAX), float.largest);
        }
        assert_eq!((E2M1.max(), E4M3.max(), E5M2.max()), (6.0, 448.0, 57_344.0));
    }

    #[test]
    fn the_nearest_level_is_found_in_tables() {
        for table in [NF4, FP4] {
            let nearest = Nearest::new(&table);
            for step in -1200..=1200_i16 {
                let value = f32::from(step) / 1000.0;
                let found = (table[usize::from(nearest.code(value))] - value).abs();
                let least = table.iter().map(|level| (level - value).abs()).fold(9.0, f32::min);
                assert!(found <= least + 1e-7, "{value}: {found} {least}");
            }
            assert_eq!(table[usize::from(nearest.code(0.0))], 0.0);
        }
        assert_eq!(Nearest::new(&FP4).code(0.0), 0, "zero has no sign");
    }

    #[test]
    fn scales_of_powers_of_two() {
        assert_eq!((e8m0(127), e8m0(0), e8m0(254)), (1.0, 2_f32.powi(-127), 2_f32.powi(127)));
        assert_eq!((e8m0_of(-3), e8m0_of(-300), e8m0_of(300)), (124, 0, 254));
    }
}
