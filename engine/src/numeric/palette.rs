//! The k values that stand for many numbers with the least squared error: one-dimensional k-means, solved exactly.
//!
//! A best partition of sorted numbers is into runs, so the least error `D_m(j)` of the first j numbers with m values is
//! min over i of `D_(m−1)(i)` + the error of numbers i … j−1 about their mean. The best i does not fall as j grows, so a
//! layer is solved by divide and conquer: O(k·n·log n) for n distinct numbers, where trying all i takes k·n².
//! Wang & Song, Ckmeans.1d.dp, The R Journal 3(2), 2011; Grønlund et al., arXiv 1701.07204, 2017.

/// Distinct numbers beyond which neighbours are joined before the search.
pub const MAX_POINTS: usize = 1 << 16;
/// Elements of a layer solved by one thread.
const PIECE: usize = 1 << 12;

/// Numbers that go to one value together: equal ones, or neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Their weighted mean.
    pub mean: f64,
    /// Their weight; their number, where all weigh 1.
    pub weight: f64,
}

/// Ascending finite numbers as points, equal ones together. Of more than [`MAX_POINTS`] distinct numbers, runs of
/// neighbours are joined that hold at most one in 2¹⁵ of the numbers and of the range between the extremes.
pub fn points(sorted: &[f32]) -> Vec<Point> {
    let distinct = 1 + sorted.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else {
        return Vec::new();
    };
    let runs = (MAX_POINTS / 2) as f64;
    let is_exact = distinct <= MAX_POINTS;
    let width = if is_exact { 0.0 } else { (f64::from(last) - f64::from(first)) / runs };
    let most = if is_exact { usize::MAX } else { (sorted.len() as f64 / runs) as usize };
    let mut points = Vec::with_capacity(distinct.min(MAX_POINTS + 1));
    let mut rest = sorted;
    while let Some(&begin) = rest.first() {
        let near = |value: f32| value == begin || f64::from(value) - f64::from(begin) <= width;
        let mut n = 1;
        while n < rest.len() && near(rest[n]) && (n < most || rest[n] == rest[n - 1]) {
            n += 1;
        }
        let (run, after) = rest.split_at(n);
        let sum: f64 = run.iter().map(|&v| f64::from(v) - f64::from(begin)).sum();
        points.push(Point { mean: f64::from(begin) + sum / n as f64, weight: n as f64 });
        rest = after;
    }
    points
}

/// Sums of weights and of weighted numbers about their mean, over the first so many points.
struct Sums {
    mean: f64,
    weight: Vec<f64>,
    first: Vec<f64>,
}

impl Sums {
    fn new(points: &[Point]) -> Self {
        let all: f64 = points.iter().map(|point| point.weight).sum();
        let mean = points.iter().map(|point| point.weight * point.mean).sum::<f64>() / all;
        let (mut weight, mut first) = (vec![0.0], vec![0.0]);
        for (i, point) in points.iter().enumerate() {
            weight.push(weight[i] + point.weight);
            first.push(first[i] + point.weight * (point.mean - mean));
        }
        Self { mean, weight, first }
    }

    /// By how much the mean of points i … j−1 lowers their squared error: (Σwx)²/Σw.
    #[inline]
    fn gain(&self, i: usize, j: usize) -> f64 {
        let first = self.first[j] - self.first[i];
        first * first / (self.weight[j] - self.weight[i])
    }
}

/// One layer of the search.
struct Layer<'a> {
    sums: &'a Sums,
    /// Largest gain of the first so many points with one value fewer.
    before: &'a [f64],
    /// Values of the layer.
    values: usize,
}

impl Layer<'_> {
    /// The best gains of the first j points, j = `first` … `first + gains.len() − 1`, and where their last run
    /// begins, which is known to lie in `from ..= to`.
    fn solve(&self, first: usize, out: (&mut [f64], &mut [u32]), (from, to): (usize, usize)) {
        let (gains, begins) = out;
        if gains.is_empty() {
            return;
        }
        let middle = gains.len() / 2;
        let j = first + middle;
        let (mut best, mut begin) = (f64::NEG_INFINITY, from);
        for i in from.max(self.values - 1)..=to.min(j - 1) {
            let gain = self.before[i] + self.sums.gain(i, j);
            if gain > best {
                (best, begin) = (gain, i);
            }
        }
        gains[middle] = best;
        begins[middle] = begin as u32;
        let is_long = gains.len() > PIECE;
        let (low, high) = gains.split_at_mut(middle);
        let (low_begins, high_begins) = begins.split_at_mut(middle);
        let (high, high_begins) = (&mut high[1..], &mut high_begins[1..]);
        let mut below = || self.solve(first, (low, low_begins), (from, begin));
        let mut above = || self.solve(j + 1, (high, high_begins), (begin, to));
        if is_long {
            rayon::join(below, above);
        } else {
            below();
            above();
        }
    }
}

/// The `k` ascending values of least weighted squared error to ascending points, fewer where there are fewer points;
/// `None` once `go_on` says no. Ties go to the earlier boundary. Cost: k·n·log n steps, k·n words.
pub fn optimal(points: &[Point], k: usize, go_on: &dyn Fn() -> bool) -> Option<Vec<f32>> {
    let n = points.len();
    if n <= k {
        return Some(points.iter().map(|point| point.mean as f32).collect());
    }
    let sums = Sums::new(points);
    let mut gains: Vec<f64> = (0..=n).map(|j| if j == 0 { 0.0 } else { sums.gain(0, j) }).collect();
    let mut begins: Vec<Vec<u32>> = Vec::new();
    for values in 2..=k {
        if !go_on() {
            return None;
        }
        let layer = Layer { sums: &sums, before: &gains, values };
        // Fewer points than values are never a prefix of the best partition; the last layer is asked for all only.
        let first = if values == k { n } else { values };
        let mut next = vec![f64::NEG_INFINITY; n + 1];
        let mut begin = vec![0; n + 1];
        layer.solve(first, (&mut next[first..], &mut begin[first..]), (0, n - 1));
        gains = next;
        begins.push(begin);
    }
    let mut values = Vec::with_capacity(k);
    let mut end = n;
    for layer in (0..k).rev() {
        let begin = if layer == 0 { 0 } else { begins[layer - 1][end] as usize };
        values.push(mean(&points[begin..end], &sums));
        end = begin;
    }
    values.reverse();
    Some(values)
}

/// The weighted mean of a run; of one point exactly itself.
fn mean(run: &[Point], sums: &Sums) -> f32 {
    if let [only] = run {
        return only.mean as f32;
    }
    let weight: f64 = run.iter().map(|point| point.weight).sum();
    let first: f64 = run.iter().map(|point| point.weight * (point.mean - sums.mean)).sum();
    (sums.mean + first / weight) as f32
}

/// Half-way between neighbours of ascending `levels`.
pub fn middles(levels: &[f32]) -> Vec<f32> {
    levels.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect()
}

/// The index of the level nearest to `value`, given what lies half-way between them; the lower of two.
#[inline]
pub fn nearest(middles: &[f32], value: f32) -> usize {
    middles.partition_point(|&middle| middle < value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn error(points: &[Point], levels: &[f32]) -> f64 {
        let away = |point: &Point| {
            let squares = levels.iter().map(|&level| (point.mean - f64::from(level)).powi(2));
            point.weight * squares.fold(f64::INFINITY, f64::min)
        };
        points.iter().map(away).sum()
    }

    /// The least error of all partitions into at most `k` runs.
    fn brute_force(points: &[Point], k: usize) -> f64 {
        let of_run = |run: &[Point]| {
            let weight: f64 = run.iter().map(|p| p.weight).sum();
            let mean = run.iter().map(|p| p.weight * p.mean).sum::<f64>() / weight;
            run.iter().map(|p| p.weight * (p.mean - mean).powi(2)).sum::<f64>()
        };
        if points.is_empty() || k == 1 {
            return if points.is_empty() { 0.0 } else { of_run(points) };
        }
        let rest = |i: usize| of_run(&points[..i]) + brute_force(&points[i..], k - 1);
        (1..=points.len()).map(rest).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_search_finds_what_trying_every_partition_finds() {
        let mut random = Random::new(17);
        for n in 1..=11_usize {
            for k in [1, 2, 3, 4, 8] {
                let mut numbers: Vec<f32> = (0..n).map(|_| random.normal() as f32).collect();
                numbers.sort_by(f32::total_cmp);
                let mut points = points(&numbers);
                for point in &mut points {
                    point.weight = 0.2 + random.normal().abs();
                }
                let found = error(&points, &optimal(&points, k, &|| true).unwrap());
                let least = brute_force(&points, k);
                assert!((found - least).abs() <= 1e-6 * (1e-6 + least), "{n} {k}: {found} {least}");
            }
        }
    }

    #[test]
    fn large_layers_agree_with_a_quadratic_search() {
        let mut random = Random::new(18);
        let n = 10_000;
        let mut numbers: Vec<f32> = (0..n).map(|_| random.normal() as f32).collect();
        numbers.sort_by(f32::total_cmp);
        let points = points(&numbers);
        let found = error(&points, &optimal(&points, 3, &|| true).unwrap());
        let sums = Sums::new(&points);
        let total: f64 = points.iter().map(|p| p.weight * (p.mean - sums.mean).powi(2)).sum();
        let two: Vec<f64> = (0..=points.len())
            .map(|j| (1..j).map(|i| sums.gain(0, i) + sums.gain(i, j)).fold(0.0, f64::max))
            .collect();
        let last = points.len();
        let best = (2..last).map(|i| two[i] + sums.gain(i, last)).fold(0.0, f64::max);
        assert!((found - (total - best)).abs() < 1e-6 * found, "{found} {}", total - best);
    }

    #[test]
    fn joined_neighbours_cost_next_to_nothing() {
        let mut random = Random::new(19);
        let mut numbers: Vec<f32> = (0..1 << 18).map(|_| random.normal() as f32).collect();
        numbers.push(1000.0);
        numbers.sort_by(f32::total_cmp);
        let joined = points(&numbers);
        assert!(joined.len() <= MAX_POINTS && joined.len() > 1 << 14, "{}", joined.len());
        assert_eq!(joined.iter().map(|p| p.weight).sum::<f64>(), numbers.len() as f64);
        let levels = optimal(&joined, 17, &|| true).unwrap();
        assert_eq!(levels[16], 1000.0);
        let middles = middles(&levels);
        let square = |&v: &f32| f64::from(v - levels[nearest(&middles, v)]).powi(2);
        let found = numbers.iter().map(square).sum::<f64>() / numbers.len() as f64;
        assert!((found / 0.009_50 - 1.0).abs() < 0.01, "Lloyd–Max 16: {found}");
    }

    #[test]
    fn fewer_numbers_than_values_are_all_kept_and_a_search_can_be_stopped() {
        let kept = points(&[-1.0, -1.0, 0.5, 2.0]);
        assert_eq!(optimal(&kept, 4, &|| false), Some(vec![-1.0, 0.5, 2.0]));
        assert_eq!(optimal(&kept, 2, &|| false), None);
        assert_eq!(optimal(&[], 4, &|| true), Some(Vec::new()));
    }
}
