//! The codebooks of `QuIP#` (Tseng et al. 2024, section 4.1): 2¹⁶ points of the lattice E8 shifted by 1/4 on every axis, and
//! 2⁸ short vectors of E8 itself for what they leave.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use std::sync::OnceLock;

use crate::numeric::vector::{Loops, vectorised};

/// Coordinates of a point.
pub(super) const DIM: usize = 8;
/// Rows of the tables.
const ENTRIES: usize = 256;

/// Which coordinates, the first the highest bit, are 3/2 in the 29 entries of squared norm 12, the others 1/2: the choice
/// of the authors' code.
const PADDING: [u8; 29] = [
    0x8f, 0x4f, 0x2f, 0x1f, 0xec, 0xea, 0xe6, 0xe9, 0xe5, 0xe3, 0xdc, 0xda, 0xd6, 0xd9, 0xd5, 0xd3,
    0xbc, 0xba, 0xb6, 0xb9, 0xb5, 0x73, 0x7c, 0x7a, 0x76, 0x79, 0x75, 0x37, 0xce,
];

/// A table of 256 points, one coordinate after the other.
struct Table {
    points: [[f32; ENTRIES]; DIM],
    squares: [f32; ENTRIES],
    /// 1 where a point has an odd number of minus signs in E8P, which is that of the sum of its coordinates; else 0.
    odd: [u8; ENTRIES],
}

impl Table {
    fn new(points: &[[f32; DIM]]) -> Self {
        let mut table =
            Self { points: [[0.0; ENTRIES]; DIM], squares: [0.0; ENTRIES], odd: [0; ENTRIES] };
        for (entry, point) in points.iter().enumerate().take(ENTRIES) {
            for (axis, &value) in table.points.iter_mut().zip(point) {
                axis[entry] = value;
            }
            table.squares[entry] = point.iter().map(|x| x * x).sum();
            table.odd[entry] = u8::from(point.iter().sum::<f32>() as i32 % 2 != 0);
        }
        table
    }

    fn point(&self, entry: usize) -> [f32; DIM] {
        std::array::from_fn(|axis| self.points[axis][entry])
    }
}

/// Every point whose coordinates count up through `values`, the last the fastest.
fn counted(values: &[f32]) -> impl Iterator<Item = [f32; DIM]> {
    let base = values.len();
    (0..base.pow(DIM as u32)).map(move |number| {
        std::array::from_fn(|axis| values[number / base.pow((DIM - 1 - axis) as u32) % base])
    })
}

fn square(point: &[f32; DIM]) -> f32 {
    point.iter().map(|x| x * x).sum()
}

/// The 227 points of halves of squared norm up to 10 without their signs, and 29 of squared norm 12.
fn halves() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let inner = counted(&[0.5, 1.5, 2.5]).filter(|point| square(point) <= 10.0);
        let padded = PADDING.map(|mask| {
            std::array::from_fn(|axis| if mask >> (DIM - 1 - axis) & 1 == 1 { 1.5 } else { 0.5 })
        });
        Table::new(&inner.chain(padded).collect::<Vec<_>>())
    })
}

/// Zero, the 240 shortest vectors of E8, and 15 of the next length.
fn short() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let is_even = |point: &[f32; DIM]| point.iter().sum::<f32>() as i32 % 2 == 0;
        let whole = counted(&[-1.0, 0.0, 1.0]).filter(|point| square(point) == 2.0);
        let half = counted(&[-0.5, 0.5]).filter(is_even);
        let axis = |axis: usize, value: f32| {
            let mut point = [0.0; DIM];
            point[axis] = value;
            point
        };
        let far = (0..8).map(|i| axis(i, 2.0)).chain((0..7).map(|i| axis(i, -2.0)));
        let points = std::iter::once([0.0; DIM]).chain(whole).chain(half).chain(far);
        Table::new(&points.collect::<Vec<_>>())
    })
}

/// The entry of the least value, the first of equals.
#[inline(always)]
fn least(values: &[f32; ENTRIES]) -> usize {
    let mut lanes = [f32::INFINITY; 16];
    for sixteen in values.as_chunks::<16>().0 {
        for i in 0..16 {
            lanes[i] = if sixteen[i] < lanes[i] { sixteen[i] } else { lanes[i] };
        }
    }
    let best = lanes.iter().copied().fold(f32::INFINITY, f32::min);
    values.iter().position(|&value| value == best).unwrap_or(0)
}

/// Squared distance less |x|² to the best points of E8P with a shift, x without it: |x| on each axis, and whether the
/// number of minus signs is odd.
struct Halves<'a> {
    table: &'a Table,
    x: [f32; DIM],
    odd: u8,
}

impl Loops for Halves<'_> {
    type Found = (usize, f32);

    #[inline(always)]
    fn run(self) -> (usize, f32) {
        let mut scores = [0.0_f32; ENTRIES];
        for (entry, score) in scores.iter_mut().enumerate() {
            let (mut dot, mut smallest) = (0.0_f32, f32::INFINITY);
            for axis in 0..DIM {
                let product = self.x[axis] * self.table.points[axis][entry];
                dot += product;
                smallest = if product < smallest { product } else { smallest };
            }
            // Where the signs of x are not allowed, that one turns which costs least.
            let turned = f32::from(self.table.odd[entry] ^ self.odd);
            *score = self.table.squares[entry] - 2.0 * dot + 4.0 * turned * smallest;
        }
        let best = least(&scores);
        (best, scores[best])
    }
}

/// The code of the point of E8P nearest to `x`: entry << 8 | minus signs of the first seven axes << 1 | shift.
///
/// The point is ± the entry on each axis, the last sign such that the sum of all coordinates is even, + 1/4 on each axis
/// where the shift is 0, − 1/4 where it is 1. Of equally near points that without minus shift and of the first entry.
pub(super) fn e8p_nearest(x: &[f32; DIM]) -> u16 {
    let table = halves();
    let tried = [0.25_f32, -0.25].map(|shift| {
        let moved = x.map(|x| x - shift);
        let odd = moved.iter().filter(|x| **x < 0.0).count() as u8 & 1;
        let (entry, score) = vectorised(Halves { table, x: moved.map(f32::abs), odd });
        (moved, odd, entry, score + moved.iter().map(|x| x * x).sum::<f32>())
    });
    let shift = u16::from(tried[1].3 < tried[0].3);
    let (moved, odd, entry, _) = tried[usize::from(shift)];
    let mut minus = moved.map(|x| x < 0.0);
    if table.odd[entry] != odd {
        let product = |axis: usize| moved[axis].abs() * table.points[axis][entry];
        let axis = (1..DIM).fold(0, |best, at| if product(at) < product(best) { at } else { best });
        minus[axis] = !minus[axis];
    }
    let signs = (0..DIM - 1).fold(0, |signs, axis| signs | u16::from(minus[axis]) << (axis + 1));
    (entry as u16) << 8 | signs | shift
}

/// The point of a code of [`e8p_nearest`].
pub(super) fn e8p_point(code: u16) -> [f32; DIM] {
    let (table, entry) = (halves(), usize::from(code >> 8));
    let shift = if code & 1 == 0 { 0.25 } else { -0.25 };
    let signs = code >> 1 & 0x7f;
    let last = signs.count_ones() as u16 & 1 ^ u16::from(table.odd[entry]);
    let signs = signs | last << (DIM - 1);
    let point = table.point(entry);
    std::array::from_fn(|axis| {
        let value = if signs >> axis & 1 == 1 { -point[axis] } else { point[axis] };
        value + shift
    })
}

/// Squared distance less |x|² to every short vector.
struct Short<'a> {
    table: &'a Table,
    x: &'a [f32; DIM],
}

impl Loops for Short<'_> {
    type Found = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let mut scores = [0.0_f32; ENTRIES];
        for (entry, score) in scores.iter_mut().enumerate() {
            let mut dot = 0.0_f32;
            for axis in 0..DIM {
                dot += self.x[axis] * self.table.points[axis][entry];
            }
            *score = self.table.squares[entry] - 2.0 * dot;
        }
        least(&scores)
    }
}

/// The code of the short vector of E8 nearest to `x`, the first of equals: zero, the 112 of whole numbers and the 128 of
/// halves, each as they count up with the last axis the fastest, 2 on each axis, −2 on the first seven.
pub(super) fn e81b_nearest(x: &[f32; DIM]) -> u8 {
    vectorised(Short { table: short(), x }) as u8
}

/// The vector of a code of [`e81b_nearest`].
pub(super) fn e81b_point(code: u8) -> [f32; DIM] {
    short().point(usize::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    #[test]
    fn every_code_is_a_point_of_its_own_and_nearest_to_itself() {
        let mut seen = std::collections::BTreeSet::new();
        for code in 0..=u16::MAX {
            let point = e8p_point(code);
            assert!(seen.insert(point.map(|x| (x * 4.0) as i32)), "{code} is there twice");
            let unshifted = point.map(|x| x - if code & 1 == 0 { 0.25 } else { -0.25 });
            assert_eq!(unshifted.iter().sum::<f32>() % 2.0, 0.0, "{code} is not in the lattice");
        }
        for code in (0..=u16::MAX).step_by(97) {
            assert_eq!(e8p_nearest(&e8p_point(code)), code);
        }
        let mut seen = std::collections::BTreeSet::new();
        for code in 0..=u8::MAX {
            let point = e81b_point(code);
            assert!(seen.insert(point.map(|x| (x * 2.0) as i32)), "{code} is there twice");
            assert!(square(&point) <= 4.0);
            assert_eq!(e81b_nearest(&point), code);
        }
    }

    #[test]
    fn the_nearest_point_is_that_of_brute_force() {
        let mut random = Random::new(3);
        let points: Vec<[f32; DIM]> = (0..=u16::MAX).map(e8p_point).collect();
        let distance = |x: &[f32; DIM], point: &[f32; DIM]| -> f32 {
            x.iter().zip(point).map(|(a, b)| (a - b) * (a - b)).sum()
        };
        for spread in [0.2, 1.0, 3.0] {
            for _ in 0..40 {
                let x = std::array::from_fn(|_| (random.normal() * spread) as f32);
                let least = points.iter().map(|point| distance(&x, point)).fold(f32::MAX, f32::min);
                let found = distance(&x, &e8p_point(e8p_nearest(&x)));
                assert!(found <= least * (1.0 + 1e-5) + 1e-6, "{x:?}: {found} for {least}");
            }
        }
    }
}
