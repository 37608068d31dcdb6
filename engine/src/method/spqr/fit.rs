//! Grids of small groups: which weights stand outside of one, and scales and zero points that are codes themselves.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::encoding::{AffineLayout, BilevelLayout, Layout};
use crate::method::Resolved;
use crate::method::grid::{Grid, Step};
use crate::numeric::grouping::Grouping;
use crate::numeric::vector::{Loops, byte, extremes, vectorised};
use crate::tensor::{DType, round_f32};

/// Partial sums, for the lanes of the processor.
const LANES: usize = 8;
/// Moves to a neighbour on the grids of scale and zero point, at most.
const MOVES: usize = 8;

/// Scale and zero point of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fit {
    pub(super) scale: f32,
    pub(super) zero: f32,
}

/// A group of a row, and what the squared error of each weight counts.
pub(super) struct Weighed {
    pub(super) values: Vec<f32>,
    pub(super) counts: Vec<f32>,
}

/// The same group of the rows of a tile.
pub(super) struct Tile {
    pub(super) fits: Vec<Fit>,
    /// Codes of scale and zero point.
    pub(super) codes: Vec<[u8; 2]>,
    pub(super) statistics: [f32; 4],
}

/// How small groups get their grids.
pub(super) struct Small {
    grid: Grid,
    /// Where scales and zero points are codes.
    pub(super) second: Option<BilevelLayout>,
}

impl Small {
    pub(super) fn new(parameters: &Resolved, dtype: DType) -> Self {
        let (bits, group) = (parameters.integer("bits") as u32, parameters.integer("group_size"));
        let dtype = dtype.scale_dtype();
        let layout = AffineLayout {
            bits,
            grouping: Grouping::Group(group as usize),
            symmetric: false,
            scale_dtype: dtype,
            has_offsets: false,
        };
        let grid = Grid::clipped(layout, "min-max");
        let is_second = parameters.choice("statistics") == "codes";
        let second = is_second.then(|| BilevelLayout {
            bits,
            group: group as usize,
            statistic_bits: parameters.integer("statistic_bits") as u32,
            rows: parameters.integer("statistic_rows") as usize,
            dtype,
        });
        Self { grid, second }
    }

    /// Grouped integers where scales and zero points are no codes.
    pub(super) fn affine(&self) -> &AffineLayout {
        &self.grid.layout
    }

    pub(super) fn layout(&self) -> Layout {
        match self.second {
            Some(second) => Layout::Bilevel(second),
            None => Layout::Affine(self.grid.layout.clone()),
        }
    }

    /// Inputs of a group.
    pub(super) fn size(&self) -> usize {
        self.grid.layout.grouping.width(0)
    }

    /// The nearest code.
    pub(super) fn code(&self, value: f32, fit: Fit) -> u8 {
        match self.second {
            Some(_) => byte(code_of(value, fit, f32::from(self.grid.layout.largest()))),
            None => self.grid.code(value, Step { scale: fit.scale, zero: fit.zero as u8 }),
        }
    }

    /// The grid of a group by itself, from its least to its largest weight.
    pub(super) fn alone(&self, values: &[f32]) -> Fit {
        let Step { scale, zero } = self.grid.fit(values, None);
        Fit { scale, zero: f32::from(zero) }
    }

    /// Σ count·(w − ŵ)² of a group on its own grid less that of all others on theirs, for each weight that is left out.
    ///
    /// Only the least and the largest weight hold the grid where it is, so leaving out another gains its own error.
    pub(super) fn gains(&self, group: &Weighed) -> Vec<f64> {
        let Weighed { values, counts } = group;
        let mut gains = self.errors(values, counts);
        let all: f64 = gains.iter().sum();
        let (low, high) = extremes(values, (0.0, 0.0));
        for end in [low, high] {
            let mut at_end = (0..values.len()).filter(|&i| values[i] == end);
            let (Some(i), None) = (at_end.next(), at_end.next()) else { continue };
            if end == 0.0 {
                continue;
            }
            let without = |all: &[f32]| [&all[..i], &all[i + 1..]].concat();
            let others = self.errors(&without(values), &without(counts));
            gains[i] = all - others.iter().sum::<f64>();
        }
        gains
    }

    /// count·(w − ŵ)² of each weight of a group on its own grid.
    fn errors(&self, values: &[f32], counts: &[f32]) -> Vec<f64> {
        let fit = self.grid.fit(values, None);
        let of = |(&value, &count): (&f32, &f32)| {
            let left = f64::from(value - self.grid.level(value, fit));
            left * left * f64::from(count)
        };
        values.iter().zip(counts).map(of).collect()
    }

    /// Puts the mean of the others in the place of weights whose being left out gains more than `threshold`; they no
    /// longer count.
    pub(super) fn without_outliers(&self, group: &mut Weighed, threshold: f32) {
        let gains = self.gains(group);
        let is_out = |i: usize| gains[i] > f64::from(threshold);
        let others: Vec<f64> =
            (0..gains.len()).filter(|&i| !is_out(i)).map(|i| f64::from(group.values[i])).collect();
        let mean = others.iter().sum::<f64>() / others.len().max(1) as f64;
        for i in (0..gains.len()).filter(|&i| is_out(i)) {
            (group.values[i], group.counts[i]) = (mean as f32, 0.0);
        }
    }
}

/// The grids of a group of the rows of a tile, whose scales and zero points are codes.
pub(super) fn together(layout: BilevelLayout, groups: &[Weighed]) -> Tile {
    vectorised(Together { layout, groups })
}

/// clamp(round(w/s + z)), ties to even; 0 where there is no such number.
#[inline(always)]
fn code_of(value: f32, fit: Fit, largest: f32) -> f32 {
    (value / fit.scale + fit.zero).round_ties_even().max(0.0).min(largest)
}

/// Step and least value, as they are stored, of a grid of codes up to `top` over some values.
#[inline(always)]
fn line(values: &[f32], top: f32, dtype: DType) -> [f32; 2] {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for &value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    let least = round_f32(dtype, low);
    [round_f32(dtype, ((high - least) / top).max(0.0)), least]
}

/// The code on such a grid that is nearest to a value.
#[inline(always)]
fn on_line(value: f32, [step, least]: [f32; 2], top: f32) -> f32 {
    ((value - least) / step).round_ties_even().max(0.0).min(top)
}

/// Σ count·(w − ŵ)².
#[inline(always)]
fn error(group: &Weighed, fit: Fit, largest: f32) -> f32 {
    let (eights, rest) = group.values.as_chunks::<LANES>();
    let (counts, counts_of_rest) = group.counts.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for (eight, counts) in eights.iter().zip(counts) {
        for i in 0..LANES {
            let left = eight[i] - fit.scale * (code_of(eight[i], fit, largest) - fit.zero);
            lanes[i] += left * left * counts[i];
        }
    }
    let mut sum = 0.0;
    for (&value, &count) in rest.iter().zip(counts_of_rest) {
        let left = value - fit.scale * (code_of(value, fit, largest) - fit.zero);
        sum += left * left * count;
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}

/// Grids of a tile. Scales span their groups, zero points put the middle of a group on the middle of its codes; both go
/// to the nearest of their own codes, and from there to neighbours while the error of the group falls.
struct Together<'a> {
    layout: BilevelLayout,
    groups: &'a [Weighed],
}

impl Loops for Together<'_> {
    type Found = Tile;

    #[inline(always)]
    fn run(self) -> Tile {
        let (groups, dtype) = (self.groups, self.layout.dtype);
        let largest = ((1_u32 << self.layout.bits) - 1) as f32;
        let top = ((1_u32 << self.layout.statistic_bits) - 1) as f32;
        let mut spans = Vec::with_capacity(groups.len());
        let mut scales = Vec::with_capacity(groups.len());
        for group in groups {
            let (low, high) = extremes(&group.values, (0.0, 0.0));
            spans.push((low, high));
            scales.push(high / largest - low / largest);
        }
        let of_scales = line(&scales, top, dtype);
        let mut zeros = Vec::with_capacity(groups.len());
        for (scale, (low, high)) in scales.iter_mut().zip(spans) {
            *scale = on_line(*scale, of_scales, top);
            let stored = of_scales[0] * *scale + of_scales[1];
            let middle = (low / 2.0 + high / 2.0) / stored;
            zeros.push((largest / 2.0 - middle).max(0.0).min(largest));
        }
        let of_zeros = line(&zeros, top, dtype);
        let statistics = [of_scales[0], of_scales[1], of_zeros[0], of_zeros[1]];
        let mut tile = Tile { fits: Vec::new(), codes: Vec::new(), statistics };
        for ((group, scale), zero) in groups.iter().zip(scales).zip(zeros) {
            let start = [scale, on_line(zero, of_zeros, top)];
            let codes = searched(group, start, statistics, (largest, top));
            tile.fits.push(fit_of(codes, statistics));
            tile.codes.push([byte(codes[0]), byte(codes[1])]);
        }
        tile
    }
}

/// What two codes say on the grids of a tile.
#[inline(always)]
fn fit_of(codes: [f32; 2], statistics: [f32; 4]) -> Fit {
    let [step, least, zero_step, least_zero] = statistics;
    Fit { scale: step * codes[0] + least, zero: zero_step * codes[1] + least_zero }
}

/// The codes of scale and zero point from which no neighbour leaves less.
#[inline(always)]
fn searched(
    group: &Weighed,
    start: [f32; 2],
    statistics: [f32; 4],
    (largest, top): (f32, f32),
) -> [f32; 2] {
    let mut best = start;
    let mut least = error(group, fit_of(best, statistics), largest);
    for _ in 0..MOVES {
        let from = best;
        for (by_scale, by_zero) in [
            (-1.0, 0.0),
            (1.0, 0.0),
            (0.0, -1.0),
            (0.0, 1.0),
            (-1.0, -1.0),
            (-1.0, 1.0),
            (1.0, -1.0),
            (1.0, 1.0),
        ] {
            let codes = [from[0] + by_scale, from[1] + by_zero];
            if codes[0] < 0.0 || codes[0] > top || codes[1] < 0.0 || codes[1] > top {
                continue;
            }
            let found = error(group, fit_of(codes, statistics), largest);
            if found < least {
                (best, least) = (codes, found);
            }
        }
        if best == from {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{Parameters, Value, find};
    use crate::numeric::seeds::Random;

    fn small(bits: i64, statistics: &str) -> Small {
        let mut parameters = Parameters::default();
        parameters.0.insert("bits".to_owned(), Value::Integer(bits));
        parameters.0.insert("statistics".to_owned(), Value::from(statistics));
        let about = find("spqr").unwrap().about();
        Small::new(&about.resolve(&parameters).unwrap(), DType::F32)
    }

    fn groups(n: usize, size: usize) -> Vec<Weighed> {
        let mut random = Random::new(4);
        let group = |at: usize| {
            let mut values: Vec<f32> = (0..size).map(|_| random.normal() as f32).collect();
            if at.is_multiple_of(3) {
                values[at % size] *= 6.0;
            }
            if at.is_multiple_of(5) {
                values = values.iter().map(|value| value.abs()).collect();
            }
            let counts = (0..size).map(|_| 0.2 + random.uniform() as f32).collect();
            Weighed { values, counts }
        };
        (0..n).map(group).collect()
    }

    /// Every weight left out in turn, the others rounded on the grid from their least to their largest.
    #[test]
    fn what_leaving_out_a_weight_gains_is_that_of_trying_it() {
        for (bits, size) in [(2, 4), (3, 16), (4, 1), (3, 7)] {
            let small = small(bits, "plain");
            let top = f64::from((1_u32 << bits) - 1);
            let error = |values: &[(f32, f32)]| -> f64 {
                let ends = values.iter().fold((0.0, 0.0), |(low, high): (f32, f32), (v, _)| {
                    (low.min(*v), high.max(*v))
                });
                let scale = (f64::from(ends.1) - f64::from(ends.0)) / top;
                let scale = if scale == 0.0 { 1.0 } else { f64::from(scale as f32) };
                let zero = (f64::from(-ends.0) / scale).round_ties_even();
                let of = |&(value, count): &(f32, f32)| {
                    let value = f64::from(value);
                    let code = ((value / scale).round_ties_even() + zero).clamp(0.0, top);
                    f64::from(count) * (value - scale * (code - zero)).powi(2)
                };
                values.iter().map(of).sum()
            };
            for group in groups(40, size) {
                let pairs: Vec<(f32, f32)> =
                    group.values.iter().copied().zip(group.counts.iter().copied()).collect();
                for (i, gain) in small.gains(&group).into_iter().enumerate() {
                    let mut others = pairs.clone();
                    others.remove(i);
                    let plain = error(&pairs) - error(&others);
                    assert!((gain - plain).abs() < 1e-5, "{bits} bits, {i}: {gain}, not {plain}");
                }
            }
        }
    }

    #[test]
    fn a_spike_is_found_and_leaves_the_grid_of_the_others() {
        let small = small(3, "plain");
        let mut group = groups(2, 16).remove(1);
        let grid = small.alone(&group.values);
        let before = group.values[9];
        group.values[9] = 20.0;
        small.without_outliers(&mut group, 5.0);
        assert_eq!((group.counts[9], group.counts.iter().filter(|&&c| c == 0.0).count()), (0.0, 1));
        let found = small.alone(&group.values);
        let others = |v: f32| group.values.iter().all(|&value| value.abs() >= v.abs());
        assert!(found == grid || !others(before), "{found:?}, not {grid:?}");
        assert!(found.scale <= grid.scale);
    }

    /// With as many codes as there are groups nothing is lost but what 8 bits lose; with few, little more.
    #[test]
    fn statistics_in_codes_cost_little() {
        let (plain, groups) = (small(3, "plain"), groups(16, 16));
        let squares: f64 = groups
            .iter()
            .map(|group| plain.errors(&group.values, &group.counts).iter().sum::<f64>())
            .sum();
        for (bits, most) in [(8, 1.0), (3, 1.25), (2, 1.7)] {
            let small = small(3, "codes");
            let layout = BilevelLayout { statistic_bits: bits, ..small.second.unwrap() };
            let tile = together(layout, &groups);
            let left = groups.iter().zip(&tile.fits).map(|(group, &fit)| error(group, fit, 7.0));
            let left = f64::from(left.sum::<f32>());
            assert!(left < most * squares, "{bits} bits: {left} of {squares}");
            for (fit, codes) in tile.fits.iter().zip(&tile.codes) {
                assert_eq!(*fit, fit_of(codes.map(f32::from), tile.statistics));
            }
        }
    }
}
