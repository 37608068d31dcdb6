//! What the bits of a tensor's elements carry: entropy by plane, the lossless floor, precision that is not used.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::numeric::bit_planes::{BitPlanes, FloatBits};
use crate::statistics::sample::Sample;
use crate::tensor::{DType, is_exact_in};

/// The least weights for each pattern seen from which entropies are told.
pub const WEIGHTS_FOR_EACH_PATTERN: u64 = 8;

/// Entropy of the bit planes of a float tensor, in bits per weight, each plane coded apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bits {
    /// Values counted.
    pub values: u64,
    /// Patterns seen in them, each plane by itself, all together.
    pub patterns: u64,
    /// Entropy of the sign bit, at most 1.
    pub sign_entropy: f64,
    /// Entropy of the exponent.
    pub exponent_entropy: f64,
    /// Entropy of the mantissa: of 10 bits for F16, 7 for BF16, 7 + 8 + 8 for F32, the pieces coded apart.
    pub mantissa_entropy: f64,
    /// Lowest mantissa bits that are zero in every value.
    pub low_zero_bits: u32,
    /// The narrowest float type that holds every value exactly, where one narrower than the tensor's own does.
    pub narrowest: Option<DType>,
    /// Width of the exponent in bits.
    pub exponent_bits: u32,
    /// Width of the mantissa in bits.
    pub mantissa_bits: u32,
}

impl Bits {
    /// Bits per weight below which no lossless coder of separate planes gets: the sum of the entropies, an estimate
    /// from counts. Coding whole 16-bit patterns together goes 0.02 to 0.06 bits lower; neighbours may help too.
    ///
    /// `None` where there are fewer than [`WEIGHTS_FOR_EACH_PATTERN`] weights for each pattern seen: patterns that
    /// occur once or twice say little about how often they would, and 16 weights that all differ would seem to take
    /// four bits each, whatever they are. With as many, what was added to the entropies for that bias, (K − 1)/(2n)
    /// nats for the K patterns of each plane among n weights, is 1/(16 ln 2) = 0.09 bits at most, and the rest of it
    /// is of the order of its square.
    pub fn floor_bits(&self) -> Option<f64> {
        let is_enough = self.values >= WEIGHTS_FOR_EACH_PATTERN * self.patterns;
        (is_enough && self.values > 0)
            .then_some(self.sign_entropy + self.exponent_entropy + self.mantissa_entropy)
    }
}

/// The planes of a float type; `None` for integers.
fn float_bits(dtype: DType) -> Option<FloatBits> {
    let (exponent, mantissa) = match dtype {
        DType::F64 => (11, 52),
        DType::F32 => (8, 23),
        DType::F16 => (5, 10),
        DType::BF16 => (8, 7),
        DType::F8E4M3 => (4, 3),
        DType::F8E5M2 => (5, 2),
        _ => return None,
    };
    Some(FloatBits { exponent, mantissa })
}

/// Types to try in the place of `dtype`, the narrowest first.
fn narrower(dtype: DType) -> impl Iterator<Item = DType> {
    let all = [DType::F8E4M3, DType::F8E5M2, DType::BF16, DType::F16, DType::F32];
    all.into_iter().filter(move |other| other.bits() < dtype.bits())
}

/// The planes of a part of the tensor, and which narrower types hold all of it.
struct Part {
    planes: BitPlanes,
    holding: Vec<DType>,
}

/// Measures the bits of a sample of type `dtype`; `None` for types that are no floats.
pub(super) fn measure(sample: &Sample<'_>, dtype: DType) -> Result<Option<Bits>> {
    let Some(bits) = float_bits(dtype) else { return Ok(None) };
    let empty = || Part { planes: BitPlanes::new(bits), holding: narrower(dtype).collect() };
    let Part { planes, holding } = sample.fold(
        empty,
        |part, value, count| {
            part.planes.add(value.pattern, count);
            if value.number.is_finite() {
                part.holding.retain(|&dtype| is_exact_in(dtype, value.number));
            }
        },
        |mut a, b| {
            a.holding.retain(|dtype| b.holding.contains(dtype));
            Part { planes: a.planes.merge(b.planes), holding: a.holding }
        },
    )?;
    let entropies = planes.entropies();
    Ok(Some(Bits {
        values: planes.values(),
        patterns: planes.patterns(),
        sign_entropy: entropies.sign,
        exponent_entropy: entropies.exponent,
        mantissa_entropy: entropies.mantissa,
        low_zero_bits: planes.low_zero_bits(),
        narrowest: holding.first().copied(),
        exponent_bits: bits.exponent,
        mantissa_bits: bits.mantissa,
    }))
}
