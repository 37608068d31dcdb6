//! Entropy of the sign, exponent and mantissa bits of floats, and which narrower types would hold them.

/// How a float type divides its bits; the sign is one bit above the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatBits {
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa.
    pub mantissa: u32,
}

/// Counts of bit patterns by plane: sign, exponent, and the mantissa in pieces of at most 8 bits (10 for F16), so
/// that a few thousand values suffice to fill each table.
#[derive(Clone, Debug, PartialEq)]
pub struct BitPlanes {
    bits: FloatBits,
    sign: [u64; 2],
    exponent: Vec<u64>,
    /// First bit and counts of each piece of the mantissa, the lowest last.
    mantissa: Vec<(u32, Vec<u64>)>,
    /// Every mantissa bit that is set in any value.
    any: u64,
}

/// Entropies in bits per value, each at most the width of its plane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlaneEntropies {
    /// Of the sign.
    pub sign: f64,
    /// Of the exponent.
    pub exponent: f64,
    /// Of the mantissa: the sum over its pieces.
    pub mantissa: f64,
}

impl BitPlanes {
    /// No values yet.
    pub fn new(bits: FloatBits) -> Self {
        let mut mantissa = Vec::new();
        let mut left = bits.mantissa;
        while left > 0 {
            let width = match left {
                0..=10 => left,
                // F32 is taken as the 7 bits of BF16 and two bytes, F64 alike.
                _ if !left.is_multiple_of(8) => left % 8,
                _ => 8,
            };
            left -= width;
            mantissa.push((left, vec![0; 1 << width]));
        }
        Self { bits, sign: [0; 2], exponent: vec![0; 1 << bits.exponent], mantissa, any: 0 }
    }

    /// Adds a pattern, `count` times.
    #[inline]
    pub fn add(&mut self, pattern: u64, count: u64) {
        let mantissa = pattern & ((1 << self.bits.mantissa) - 1);
        let exponent = (pattern >> self.bits.mantissa) as usize & (self.exponent.len() - 1);
        let sign = (pattern >> (self.bits.mantissa + self.bits.exponent)) as usize & 1;
        self.sign[sign] += count;
        self.exponent[exponent] += count;
        self.any |= mantissa;
        for (first, counts) in &mut self.mantissa {
            let mask = counts.len() - 1;
            counts[(mantissa >> *first) as usize & mask] += count;
        }
    }

    /// Both samples together.
    pub fn merge(mut self, other: Self) -> Self {
        let add = |to: &mut [u64], from: &[u64]| {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        };
        add(&mut self.sign, &other.sign);
        add(&mut self.exponent, &other.exponent);
        for ((_, to), (_, from)) in self.mantissa.iter_mut().zip(&other.mantissa) {
            add(to, from);
        }
        self.any |= other.any;
        self
    }

    /// The entropies of the planes, each coded apart.
    pub fn entropies(&self) -> PlaneEntropies {
        PlaneEntropies {
            sign: entropy_bits(&self.sign),
            exponent: entropy_bits(&self.exponent),
            mantissa: self.mantissa.iter().map(|(_, counts)| entropy_bits(counts)).sum(),
        }
    }

    /// Patterns seen, each plane by itself and each piece of the mantissa too, all together.
    pub fn patterns(&self) -> u64 {
        let seen = |counts: &[u64]| counts.iter().filter(|&&count| count > 0).count() as u64;
        let mantissa: u64 = self.mantissa.iter().map(|(_, counts)| seen(counts)).sum();
        seen(&self.sign) + seen(&self.exponent) + mantissa
    }

    /// Values counted.
    pub fn values(&self) -> u64 {
        self.sign.iter().sum()
    }

    /// Lowest mantissa bits that are zero in every value; all of them for powers of two and zeros alone.
    pub fn low_zero_bits(&self) -> u32 {
        self.any.trailing_zeros().min(self.bits.mantissa)
    }
}

/// Entropy −Σ p log₂ p of counts in bits, with the Miller-Madow correction (K − 1)/(2n) nats for the K symbols
/// seen among n (Miller 1955), and at most log₂ of the number of symbols. 0 without values.
pub fn entropy_bits(counts: &[u64]) -> f64 {
    let n: u64 = counts.iter().sum();
    if n == 0 {
        return 0.0;
    }
    let seen = counts.iter().filter(|&&count| count > 0).count();
    let plain: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let p = count as f64 / n as f64;
            -p * p.log2()
        })
        .sum();
    let correction = (seen - 1) as f64 / (2.0 * n as f64 * std::f64::consts::LN_2);
    (plain + correction).min((counts.len() as f64).log2())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BF16: FloatBits = FloatBits { exponent: 8, mantissa: 7 };
    const F32: FloatBits = FloatBits { exponent: 8, mantissa: 23 };

    #[test]
    fn entropies_of_known_planes() {
        let mut planes = BitPlanes::new(BF16);
        // ±1 and ±2: one bit of sign, one of exponent, none of mantissa.
        for value in [1.0_f32, -1.0, 2.0, -2.0] {
            planes.add(u64::from(value.to_bits() >> 16), 1_000_000);
        }
        let PlaneEntropies { sign, exponent, mantissa } = planes.entropies();
        assert!((sign - 1.0).abs() < 1e-6 && (exponent - 1.0).abs() < 1e-6, "{sign} {exponent}");
        assert_eq!((mantissa, planes.low_zero_bits()), (0.0, 7));
        assert_eq!((planes.patterns(), planes.values()), (2 + 2 + 1, 4_000_000));
    }

    #[test]
    fn bf16_stored_as_f32_shows_sixteen_empty_bits() {
        let mut planes = BitPlanes::new(F32);
        for i in 0..4096_u32 {
            planes.add(u64::from((0x3f80 + (i % 128)) << 16), 1);
        }
        assert_eq!(planes.low_zero_bits(), 16);
        assert!((planes.entropies().mantissa - 7.0).abs() < 1e-9, "128 equally likely mantissas");
        planes.add(u64::from(1.0_f32.to_bits() | 1), 1);
        assert_eq!(planes.low_zero_bits(), 0);
    }

    #[test]
    fn random_low_bits_are_not_taken_for_structure_in_small_samples() {
        let mut random = crate::numeric::seeds::Random::new(5);
        let mut planes = BitPlanes::new(F32);
        for _ in 0..16_384 {
            planes.add(u64::from((random.normal() as f32).to_bits()), 1);
        }
        let mantissa = planes.entropies().mantissa;
        assert!(mantissa > 22.9, "{mantissa} of 23 bits");
    }
}
