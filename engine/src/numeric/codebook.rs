//! Codebooks: a code names one value or a few at once, of points for normal values of variance 1 or of plain digits.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::numeric::lattice::{DIM, e8p_nearest, e8p_point, e81b_nearest, e81b_point};
use crate::numeric::vector::{Loops, vectorised};

/// A codebook. Points of E8 are those of its tables divided by a scale that suits normal values: 1.03 for E8P alone and
/// for E8P twice, 0.98 before E81B; what a stage leaves is multiplied by 2.04 before E81B, by 3.45 before E8P.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codebook {
    /// The 2ᵇ values of Lloyd and Max, b of 2 to 4. Mean squared error on normal values 0.1175, 0.0345, 0.0095.
    Scalars(u32),
    /// 4ᵇ points of the plane that leave least, b of 2 to 4. 0.1076, 0.0297, 0.0078.
    Pairs(u32),
    /// E8P: 16 bits for 8 values. 0.092.
    E8p,
    /// E8P, then E81B for what it leaves: 24 bits for 8 values. 0.030.
    E8pE81b,
    /// E8P twice: 32 bits for 8 values. 0.0097.
    E8pE8p,
    /// 1 and −1, a bit each.
    Signs,
    /// 0 and 1, a bit each.
    Bits,
    /// 0, 1 and −1, five in a byte: the sum of d·3ⁱ, d = 0, 1, 2 in that order for the value at i. 1.6 bits each.
    Trits,
}

/// Values in a byte of trits.
const TRITS: usize = 5;
/// The value of a trit.
const TRIT: [f32; 3] = [0.0, 1.0, -1.0];

/// The bits a value that tables are made for.
const BITS: std::ops::RangeInclusive<u32> = 2..=4;
/// The most entries of a table.
const ENTRIES: usize = 256;

/// Points of the line or the plane, one coordinate after the other; behind the last, nothing is near.
struct Table {
    x: [f32; ENTRIES],
    y: [f32; ENTRIES],
    squares: [f32; ENTRIES],
}

impl Table {
    fn new(points: &[[f32; 2]]) -> Self {
        let none = [f32::INFINITY; ENTRIES];
        let mut table = Self { x: [0.0; ENTRIES], y: [0.0; ENTRIES], squares: none };
        for (entry, &[x, y]) in points.iter().enumerate().take(ENTRIES) {
            (table.x[entry], table.y[entry]) = (x, y);
            table.squares[entry] = x * x + y * y;
        }
        table
    }
}

/// The table of a codebook of the line or the plane, for bits of [`BITS`].
fn table(is_plane: bool, bits: u32) -> &'static Table {
    static TABLES: [[OnceLock<Table>; 3]; 2] = [const { [const { OnceLock::new() }; 3] }; 2];
    let bits = bits.clamp(*BITS.start(), *BITS.end());
    TABLES[usize::from(is_plane)][(bits - BITS.start()) as usize].get_or_init(|| {
        if is_plane { Table::new(&pairs(bits)) } else { Table::new(&lloyd_max(1 << bits)) }
    })
}

/// The points of the plane, found by Lloyd's iteration on normal pairs.
fn pairs(bits: u32) -> Vec<[f32; 2]> {
    let point = |line: &str| -> Option<[f32; 2]> {
        let mut words = line.split(' ');
        let of = words.next()?.parse::<u32>().ok().filter(|of| *of == bits);
        of.and(Some([words.next()?.parse().ok()?, words.next()?.parse().ok()?]))
    };
    include_str!("pairs.txt").lines().filter_map(point).collect()
}

/// The levels of least squared error on N(0, 1), ascending, to the last bit of f32.
fn lloyd_max(n: usize) -> Vec<[f32; 2]> {
    let density = |x: f64| libm::exp(-0.5 * x * x) / std::f64::consts::TAU.sqrt();
    let cumulative = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    let mut levels: Vec<f64> = (0..n).map(|i| (2 * i + 1) as f64 / n as f64 * 3.0 - 3.0).collect();
    for _ in 0..20_000 {
        let mut moved = 0.0_f64;
        let ends: Vec<f64> =
            levels.windows(2).map(|pair| f64::midpoint(pair[0], pair[1])).collect();
        for (i, level) in levels.iter_mut().enumerate() {
            let low = i.checked_sub(1).map_or(f64::NEG_INFINITY, |i| ends[i]);
            let high = ends.get(i).copied().unwrap_or(f64::INFINITY);
            let middle = (density(low) - density(high)) / (cumulative(high) - cumulative(low));
            moved = moved.max((middle - *level).abs());
            *level = middle;
        }
        if moved < 1e-12 {
            break;
        }
    }
    levels.into_iter().map(|level| [level as f32, 0.0]).collect()
}

/// The nearest of a table, the first of equals.
struct Nearest<'a> {
    table: &'a Table,
    entries: usize,
    at: [f32; 2],
}

impl Loops for Nearest<'_> {
    type Found = u32;

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) -> u32 {
        let (table, [x, y]) = (self.table, self.at);
        let mut scores = [0.0_f32; ENTRIES];
        for (entry, score) in scores[..self.entries].iter_mut().enumerate() {
            *score = table.squares[entry] - 2.0 * (x * table.x[entry] + y * table.y[entry]);
        }
        let least = scores[..self.entries].iter().copied().fold(f32::INFINITY, f32::min);
        scores.iter().position(|&score| score == least).unwrap_or(0) as u32
    }
}

impl Codebook {
    /// Whether there is such a codebook.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Scalars(bits) | Self::Pairs(bits) => BITS.contains(&bits),
            Self::E8p | Self::E8pE81b | Self::E8pE8p | Self::Signs | Self::Bits | Self::Trits => {
                true
            }
        }
    }

    /// Whether each value of a point is chosen by itself, so that a code may reach over the end of a group.
    pub fn is_digits(self) -> bool {
        matches!(self, Self::Signs | Self::Bits | Self::Trits)
    }

    /// Whether a code of [`Self::bits`] is one of its own: five trits are less than a byte.
    pub fn has(self, code: u32) -> bool {
        self != Self::Trits || code < 243
    }

    /// Values that share a code.
    pub fn dim(self) -> usize {
        match self {
            Self::Scalars(_) | Self::Signs | Self::Bits => 1,
            Self::Pairs(_) => 2,
            Self::Trits => TRITS,
            Self::E8p | Self::E8pE81b | Self::E8pE8p => DIM,
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Scalars(bits) => bits,
            Self::Pairs(bits) => 2 * bits,
            Self::E8p => 16,
            Self::E8pE81b => 24,
            Self::E8pE8p => 32,
            Self::Signs | Self::Bits => 1,
            Self::Trits => 8,
        }
    }

    /// What values are multiplied by before the first stage, and what it leaves before the second.
    fn scales(self) -> (f32, f32) {
        match self {
            Self::E8pE81b => (0.98, 2.04),
            _ => (1.03, 3.45),
        }
    }

    /// The code of the point nearest to up to [`Self::dim`] values, those that are missing taken for zero; stage by
    /// stage, the first in the low 16 bits.
    pub fn nearest(self, values: &[f32]) -> u32 {
        let of = |axis: usize| values.get(axis).copied().unwrap_or(0.0);
        match self {
            Self::Scalars(bits) | Self::Pairs(bits) => {
                let table = table(matches!(self, Self::Pairs(_)), bits);
                vectorised(Nearest { table, entries: 1 << self.bits(), at: [of(0), of(1)] })
            }
            Self::E8p | Self::E8pE81b | Self::E8pE8p => {
                self.nearest_of_eight(&std::array::from_fn(of))
            }
            Self::Signs => u32::from(of(0) < 0.0),
            Self::Bits => u32::from(of(0) > 0.5),
            Self::Trits => (0..TRITS).rev().fold(0, |code, i| 3 * code + trit(of(i))),
        }
    }

    fn nearest_of_eight(self, values: &[f32; DIM]) -> u32 {
        let (scale, next) = self.scales();
        let scaled = values.map(|value| value * scale);
        let first = e8p_nearest(&scaled);
        let point = e8p_point(first);
        let left = std::array::from_fn(|i| (scaled[i] - point[i]) * next);
        let second = match self {
            Self::E8pE81b => u32::from(e81b_nearest(&left)),
            Self::E8pE8p => u32::from(e8p_nearest(&left)),
            _ => 0,
        };
        u32::from(first) | second << 16
    }

    /// The first `out.len()` values of the point of a code, bits beyond [`Self::bits`] ignored: of E8
    /// (a + b/next)/scale for stages a and b.
    pub fn point(self, code: u32, out: &mut [f32]) {
        let point = match self {
            Self::Scalars(bits) | Self::Pairs(bits) => {
                let table = table(matches!(self, Self::Pairs(_)), bits);
                let entry = (code & ((1 << self.bits()) - 1)) as usize;
                let mut point = [0.0; DIM];
                (point[0], point[1]) = (table.x[entry], table.y[entry]);
                point
            }
            Self::E8p | Self::E8pE81b | Self::E8pE8p => self.point_of_eight(code),
            Self::Signs => [1.0 - 2.0 * (code & 1) as f32; DIM],
            Self::Bits => [(code & 1) as f32; DIM],
            Self::Trits => {
                let mut left = code & 0xff;
                std::array::from_fn(|_| {
                    let digit = left % 3;
                    left /= 3;
                    TRIT[digit as usize]
                })
            }
        };
        for (out, value) in out.iter_mut().zip(point) {
            *out = value;
        }
    }

    fn point_of_eight(self, code: u32) -> [f32; DIM] {
        let (scale, next) = self.scales();
        let first = e8p_point(code as u16);
        let second = match self {
            Self::E8pE81b => e81b_point((code >> 16) as u8),
            Self::E8pE8p => e8p_point((code >> 16) as u16),
            _ => return first.map(|x| x / scale),
        };
        std::array::from_fn(|i| (first[i] + second[i] / next) / scale)
    }
}

/// The digit of the trit nearest to a value.
fn trit(value: f32) -> u32 {
    if value > 0.5 { 1 } else { 2 * u32::from(value < -0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    /// Lloyd and Max's constants, what numpy found by brute force over the other codebooks, and what no code of that
    /// rate can be below.
    #[test]
    fn normal_values_are_as_far_off_as_published() {
        let mut random = Random::new(1);
        let values: Vec<f32> = (0..320_000).map(|_| random.normal() as f32).collect();
        for (codebook, known) in [
            (Codebook::Scalars(2), 0.11748),
            (Codebook::Scalars(3), 0.03455),
            (Codebook::Scalars(4), 0.00950),
            (Codebook::Pairs(2), 0.10758),
            (Codebook::Pairs(3), 0.02972),
            (Codebook::Pairs(4), 0.00777),
            (Codebook::E8p, 0.0919),
            (Codebook::E8pE81b, 0.0296),
            (Codebook::E8pE8p, 0.00971),
        ] {
            let error = |x: &[f32]| -> f64 {
                let mut point = [0.0; DIM];
                codebook.point(codebook.nearest(x), &mut point[..x.len()]);
                x.iter().zip(point).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            let found = values.chunks(codebook.dim()).map(error).sum::<f64>() / values.len() as f64;
            assert!((found / known - 1.0).abs() < 0.01, "{codebook:?}: {found} for {known}");
            let rate = f64::from(codebook.bits()) / codebook.dim() as f64;
            assert!(found > (-2.0 * rate).exp2(), "{codebook:?} is below Shannon's bound");
        }
    }

    #[test]
    fn every_code_is_nearest_to_its_own_point() {
        let digits = [Codebook::Signs, Codebook::Bits, Codebook::Trits];
        let tables = [Codebook::Scalars(3), Codebook::Pairs(2), Codebook::Pairs(4)];
        for codebook in tables.into_iter().chain(digits) {
            for code in (0..1 << codebook.bits()).filter(|&code| codebook.has(code)) {
                let mut point = [0.0; DIM];
                codebook.point(code, &mut point[..codebook.dim()]);
                assert_eq!(codebook.nearest(&point[..codebook.dim()]), code, "{codebook:?}");
            }
        }
    }
}
