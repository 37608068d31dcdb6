//! Loops in the widest vectors the processor has.
#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

/// Work whose loops are to become vectors. `run`, and whatever with a loop it calls, must be `#[inline(always)]`: what
/// stays a function of its own is compiled for the least processor.
pub trait Loops {
    /// What the work finds.
    type Found;

    /// Does the work.
    fn run(self) -> Self::Found;
}

struct Vectors<L>(L);

impl<L: Loops> pulp::WithSimd for Vectors<L> {
    type Output = L::Found;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> L::Found {
        self.0.run()
    }
}

/// Runs `work` compiled for the vectors of this processor. Sums are never reordered and products never fused, so what
/// it finds does not depend on the processor.
#[inline]
pub fn vectorised<L: Loops>(work: L) -> L::Found {
    pulp::Arch::new().dispatch(Vectors(work))
}

/// 1.5·2²³: added to |v| < 2²² it leaves the nearest whole number, ties to even, in the last bits of the sum; taken off again,
/// the number itself.
pub const WHOLE: f32 = 12_582_912.0;

/// Partial results of a sum or a maximum, for the lanes of the processor.
const LANES: usize = 16;
/// Values added in f32, in [`LANES`] partial sums, before they are added in f64.
const PIECE: usize = 16 * LANES;

/// Σ f(x), in f32 over pieces of 256 values and in f64 over the pieces. For use inside [`Loops::run`].
#[inline(always)]
pub fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0_f64;
    for piece in values.chunks(PIECE) {
        let mut sums = [0.0_f32; LANES];
        let lanes = piece.chunks_exact(LANES);
        let rest: f32 = lanes.remainder().iter().map(|&x| f(x)).sum();
        for lane in lanes {
            for i in 0..LANES {
                sums[i] += f(lane[i]);
            }
        }
        total += f64::from(sums.iter().sum::<f32>() + rest);
    }
    total
}

/// Σ f(x) in f64, in 16 partial sums. For use inside [`Loops::run`].
#[inline(always)]
pub fn exact_sum_of(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let lanes = values.chunks_exact(LANES);
    let rest: f64 = lanes.remainder().iter().map(|&x| f(f64::from(x))).sum();
    for lane in lanes {
        for i in 0..LANES {
            sums[i] += f(f64::from(lane[i]));
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// The largest value, past any NaN; −∞ of none. For use inside [`Loops::run`].
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    foremost(values, f32::NEG_INFINITY, |value, most| value > most)
}

/// The largest magnitude, past any NaN; 0 of none. For use inside [`Loops::run`].
#[inline(always)]
pub fn largest_magnitude(values: &[f32]) -> f32 {
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut most = [0.0; LANES];
    for lane in lanes {
        for i in 0..LANES {
            let size = lane[i].abs();
            most[i] = if size > most[i] { size } else { most[i] };
        }
    }
    let is_larger = |size: f32, most: f32| size > most;
    let mut largest = folded(most, is_larger);
    for value in rest {
        largest = if value.abs() > largest { value.abs() } else { largest };
    }
    largest
}

/// The value of largest magnitude with its sign, the first of several, past any NaN; 0 of none. For use inside
/// [`Loops::run`].
#[inline(always)]
pub fn peak(values: &[f32]) -> f32 {
    let size = largest_magnitude(values);
    // Bit 0 where it stands with a plus, bit 1 where with a minus.
    let signs = |value: f32| u32::from(value == size) | u32::from(value == -size) << 1;
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut found = [0; LANES];
    for lane in lanes {
        for i in 0..LANES {
            found[i] |= signs(lane[i]);
        }
    }
    let found = rest.iter().fold(0, |found, &value| found | signs(value))
        | found.iter().fold(0, |all, one| all | one);
    match found {
        3 => values.iter().copied().find(|value| value.abs() == size).unwrap_or(size),
        // Bits, as a branch would be guessed wrong every other time.
        _ => f32::from_bits(size.to_bits() | found >> 1 << 31),
    }
}

/// The smallest value, past any NaN; ∞ of none. For use inside [`Loops::run`].
#[inline(always)]
pub fn smallest(values: &[f32]) -> f32 {
    foremost(values, f32::INFINITY, |value, least| value < least)
}

/// Where a value stands first, if anywhere. For use inside [`Loops::run`].
#[inline(always)]
pub fn position(values: &[f32], wanted: f32) -> Option<usize> {
    for (at, piece) in values.chunks(LANES).enumerate() {
        // Without an early end, so that the loop becomes vectors.
        let found = piece.iter().fold(0, |found, &value| found | u32::from(value == wanted));
        if found > 0 {
            let within = piece.iter().position(|&value| value == wanted);
            return within.map(|within| at * LANES + within);
        }
    }
    None
}

/// The smallest value and the largest, none beyond `from`. For use inside [`Loops::run`].
///
/// One after the other: with both in one loop the compiler shuffles lanes, and takes ten times as long.
#[inline(always)]
pub fn extremes(values: &[f32], from: (f32, f32)) -> (f32, f32) {
    let least = foremost(values, from.0, |value, least| value < least);
    (least, foremost(values, from.1, |value, most| value > most))
}

/// The value before which none comes, `from` among them.
#[inline(always)]
fn foremost(values: &[f32], from: f32, comes_before: impl Fn(f32, f32) -> bool) -> f32 {
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut found = [from; LANES];
    for lane in lanes {
        for i in 0..LANES {
            found[i] = if comes_before(lane[i], found[i]) { lane[i] } else { found[i] };
        }
    }
    let mut first = folded(found, &comes_before);
    for &value in rest {
        first = if comes_before(value, first) { value } else { first };
    }
    first
}

/// The foremost of all lanes, halves against each other: one after another they would wait for each other.
#[inline(always)]
fn folded(mut lanes: [f32; LANES], comes_before: impl Fn(f32, f32) -> bool) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            let other = lanes[i + half];
            lanes[i] = if comes_before(other, lanes[i]) { other } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}

/// A whole number of −128 to 255 as a byte, below zero in two's complement. For use inside [`Loops::run`]: conversions
/// to integers look at each number by itself, as they saturate.
#[inline(always)]
pub fn byte(whole: f32) -> u8 {
    byte_bits(whole) as u8
}

/// Bits of which the last eight are the nearest whole number of −128 to 255, ties to even, as [`byte`] gives it.
#[inline(always)]
pub fn byte_bits(number: f32) -> u32 {
    (number + WHOLE).to_bits()
}

/// x^p of x ≥ 0 to 10⁻⁵ of itself, for x of 10⁻³⁰ to 10³⁰ and results within the same; next to nothing for 0. For use
/// inside [`Loops::run`]: that of the library looks at each number by itself.
#[inline(always)]
pub fn power(x: f32, p: f32) -> f32 {
    // x = m·2^e with m from √½ to √2, whose bits are 0x3f3504f3 and on; ln m = 2·artanh((m − 1)/(m + 1)).
    let bits = x.to_bits();
    let e = bits.wrapping_sub(0x3f35_04f3).cast_signed() >> 23;
    let m = f32::from_bits(bits.wrapping_sub((e << 23).cast_unsigned()));
    let t = (m - 1.0) / (m + 1.0);
    let s = t * t;
    let ln = t * (2.0 + s * (2.0 / 3.0 + s * (2.0 / 5.0 + s * (2.0 / 7.0 + s * (2.0 / 9.0)))));
    let y = p * (e as f32 + ln * std::f32::consts::LOG2_E);
    // 2^y = 2^n·e^g with n whole and |g| at most ln 2/2.
    let whole = y + WHOLE;
    let g = (y - (whole - WHOLE)) * std::f32::consts::LN_2;
    let series = 1.0 / 6.0 + g * (1.0 / 24.0 + g * (1.0 / 120.0 + g * (1.0 / 720.0)));
    let near_one = 1.0 + g * (1.0 + g * (0.5 + g * series));
    let n = whole.to_bits().wrapping_sub(WHOLE.to_bits());
    near_one * f32::from_bits(n.wrapping_add(127) << 23)
}

/// Whether no value is NaN or infinite.
pub fn are_finite(values: &[f32]) -> bool {
    struct Finite<'a>(&'a [f32]);
    impl Loops for Finite<'_> {
        type Found = bool;

        #[inline(always)]
        fn run(self) -> bool {
            all_finite(self.0)
        }
    }
    vectorised(Finite(values))
}

/// [`are_finite`], for use inside [`Loops::run`].
#[inline(always)]
pub fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // Without an early end, so that the loop becomes vectors.
    let beyond = |found: u32, x: &f32| found | u32::from(x.to_bits() & EXPONENT == EXPONENT);
    values.iter().fold(0, beyond) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_value_and_where_it_stands_first() {
        for n in [0, 1, 15, 16, 17, 100] {
            let mut values: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32).collect();
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            assert_eq!(smallest(&values), least);
            assert_eq!(position(&values, least), values.iter().position(|&value| value == least));
            if let Some(first) = values.first_mut() {
                *first = f32::NAN;
                let rest = values[1..].iter().copied().fold(f32::INFINITY, f32::min);
                assert_eq!(smallest(&values), rest);
            }
            assert_eq!(position(&values, -1.0), None);
        }
    }

    #[test]
    fn the_largest_magnitude_keeps_its_sign_and_the_first_of_several_counts() {
        let further = |most: f32, value: &f32| if value.abs() > most.abs() { *value } else { most };
        let plain = |values: &[f32]| values.iter().fold(0.0, further);
        for (n, seed) in [0, 1, 15, 16, 17, 32, 100].into_iter().zip(0..) {
            // Few levels, so that many are as large.
            let value = |i: usize| ((i * 7 + seed * 5_usize) % 9) as f32 - 4.0;
            let mut values: Vec<f32> = (0..n).map(value).collect();
            assert_eq!(peak(&values), plain(&values), "{values:?}");
            if let Some(first) = values.first_mut() {
                *first = f32::NAN;
                assert_eq!(peak(&values), plain(&values[1..]), "{values:?}");
            }
        }
    }

    #[test]
    fn powers_are_those_of_the_library() {
        for p in [0.3, 0.7, 1.0, -0.3, -0.7, 0.0, 2.0] {
            for i in 0..4000 {
                let x = 1e-12 * 1.0137_f32.powi(i);
                let (found, wanted) = (power(x, p), f64::from(x).powf(f64::from(p)));
                let away = (f64::from(found) / wanted - 1.0).abs();
                let is_beyond = !(1e-30..1e30).contains(&x) || !(1e-30..1e30).contains(&wanted);
                assert!(is_beyond || away < 1e-5, "{x}^{p}: {away}");
            }
        }
        assert!(power(0.0, 0.7) < 1e-20 && (power(1.0, 0.7) - 1.0).abs() < 1e-6);
    }
}
