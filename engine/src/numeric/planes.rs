//! Values as sums of a few digits, each under a scale of its own: w ≈ Σₚ αₚ·bₚ with every bₚ a sign, or a bit. Scales by
//! least squares, digits by the nearest sum, in turn.

/// The most planes of digits.
pub const MOST: usize = 4;
/// Sums of all combinations of so many digits.
const SUMS: usize = 1 << MOST;

/// What a digit may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digit {
    /// 1 or −1.
    Sign,
    /// 0 or 1.
    Bit,
}

impl Digit {
    /// The value of digit 0 or 1.
    pub fn value(self, digit: u8) -> f32 {
        match self {
            Self::Sign => 1.0 - 2.0 * f32::from(digit),
            Self::Bit => f32::from(digit),
        }
    }
}

/// Scales, one a plane, and for every value a code with the digit of plane p in bit p.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    /// One scale a plane.
    pub scales: Vec<f32>,
    /// One code a value.
    pub codes: Vec<u8>,
}

/// Values, and what the squared error of each counts; alike where nothing is said.
#[derive(Clone, Copy, Debug)]
pub struct Weighed<'a> {
    /// The values.
    pub values: &'a [f32],
    /// What each counts, not negative.
    pub counts: Option<&'a [f32]>,
}

impl Weighed<'_> {
    fn count(&self, at: usize) -> f64 {
        self.counts.map_or(1.0, |counts| f64::from(counts[at]))
    }

    /// Σ h·(w − v)² for the values that are taken.
    fn error(&self, taken: impl Fn(usize) -> f32) -> f64 {
        let each = self.values.iter().enumerate();
        each.map(|(i, &w)| self.count(i) * (f64::from(w) - f64::from(taken(i))).powi(2)).sum()
    }

    /// Σ h·|w| over Σ h; 0 where nothing counts.
    pub fn mean_size(&self) -> f64 {
        let each = || self.values.iter().enumerate();
        let total: f64 = each().map(|(i, _)| self.count(i)).sum();
        let sum: f64 = each().map(|(i, &value)| self.count(i) * f64::from(value).abs()).sum();
        if total > 0.0 { sum / total } else { 0.0 }
    }
}

/// The sum of every code under these scales, added in f32 in the order of the planes.
fn sums(digit: Digit, scales: &[f32]) -> [f32; SUMS] {
    std::array::from_fn(|code| {
        let term = |(plane, scale): (usize, &f32)| scale * digit.value((code >> plane & 1) as u8);
        let mut terms = scales.iter().enumerate().map(term);
        // As a stack adds its levels: nothing before the first.
        let first = terms.next().unwrap_or(0.0);
        terms.fold(first, |sum, term| sum + term)
    })
}

/// For every value the code of the nearest sum under these scales, half way between two that of the lower.
pub fn nearest(digit: Digit, scales: &[f32], values: &[f32]) -> Vec<u8> {
    let all = sums(digit, scales);
    let count = 1 << scales.len();
    let mut order: [u8; SUMS] = std::array::from_fn(|code| code as u8);
    order[..count].sort_by(|&a, &b| all[usize::from(a)].total_cmp(&all[usize::from(b)]));
    let mut ends = [f32::INFINITY; SUMS];
    for (end, pair) in ends.iter_mut().zip(order[..count].windows(2)) {
        *end = f32::midpoint(all[usize::from(pair[0])], all[usize::from(pair[1])]);
    }
    let code = |&value: &f32| {
        let below = ends[..count - 1].iter().filter(|&&end| value > end).count();
        order[below]
    };
    values.iter().map(code).collect()
}

/// Each plane by itself, for what those before it leave: α = Σ h·|r|/Σ h, b = sign(r). On N(0, 1) 0.36338, 0.13045,
/// 0.05839, 0.0329 of the variance are left.
pub fn greedy(planes: usize, of: Weighed<'_>) -> Planes {
    let mut left = of.values.to_vec();
    let mut found = Planes { scales: Vec::new(), codes: vec![0; left.len()] };
    for plane in 0..planes {
        let scale = Weighed { values: &left, ..of }.mean_size() as f32;
        for (left, code) in left.iter_mut().zip(&mut found.codes) {
            let digit = u8::from(*left < 0.0);
            *code |= digit << plane;
            *left -= scale * Digit::Sign.value(digit);
        }
        found.scales.push(scale);
    }
    found
}

/// Least squares and nearest sums in turn, `rounds` of each at most, from these scales; it ends where the error falls no
/// more, and is never above that of the nearest sums under the scales it began with. Cost of a round: some 2^planes
/// operations a value. `None` once `goes_on` says no.
pub fn alternate(
    digit: Digit,
    start: &[f32],
    of: Weighed<'_>,
    (rounds, goes_on): (usize, &dyn Fn() -> bool),
) -> Option<Planes> {
    let under = |scales: Vec<f32>| {
        let codes = nearest(digit, &scales, of.values);
        let sums = sums(digit, &scales);
        let error = of.error(|i| sums[usize::from(codes[i])]);
        (error, Planes { scales, codes })
    };
    let mut best = under(start.to_vec());
    for _ in 0..rounds {
        if !goes_on() {
            return None;
        }
        let Some(scales) = least_squares(digit, &best.1, of) else { break };
        let next = under(scales);
        // Not a number where sums overflow.
        if next.0.is_nan() || next.0 >= best.0 {
            break;
        }
        best = next;
    }
    Some(best.1)
}

/// Scales (2s, −s) of two planes of bits, so that their sums are −s, 0, s, 2s, of least error: s by least squares and the
/// nearest sums in turn, `rounds` of each, from three sizes and both signs of s. `None` once `goes_on` says no.
pub fn tied(of: Weighed<'_>, (rounds, goes_on): (usize, &dyn Fn() -> bool)) -> Option<[f32; 2]> {
    let scales = |s: f32| [2.0 * s, -s];
    let mut best = (f64::INFINITY, [0.0; 2]);
    for start in [0.9, 1.3, 1.8, -0.9, -1.3, -1.8] {
        let mut s = (start * of.mean_size()) as f32;
        for _ in 0..rounds {
            if !goes_on() {
                return None;
            }
            let codes = nearest(Digit::Bit, &scales(s), of.values);
            let whole = |code: u8| f64::from(2 * (code & 1)) - f64::from(code >> 1);
            let (mut along, mut size) = (0.0, 0.0);
            for (i, (&value, &code)) in of.values.iter().zip(&codes).enumerate() {
                along += of.count(i) * f64::from(value) * whole(code);
                size += of.count(i) * whole(code).powi(2);
            }
            let next = if size > 0.0 { (along / size) as f32 } else { s };
            if next == s {
                break;
            }
            s = next;
        }
        let sums = sums(Digit::Bit, &scales(s));
        let codes = nearest(Digit::Bit, &scales(s), of.values);
        let error = of.error(|i| sums[usize::from(codes[i])]);
        if error < best.0 {
            best = (error, scales(s));
        }
    }
    Some(best.1)
}

/// The scales of least Σ h·(w − Σ αₚ·bₚ)² for these digits; `None` where they do not decide them.
fn least_squares(digit: Digit, planes: &Planes, of: Weighed<'_>) -> Option<Vec<f32>> {
    let n = planes.scales.len();
    let (mut counts, mut totals) = ([0.0_f64; SUMS], [0.0_f64; SUMS]);
    for (i, (&value, &code)) in of.values.iter().zip(&planes.codes).enumerate() {
        let count = of.count(i);
        counts[usize::from(code)] += count;
        totals[usize::from(code)] += count * f64::from(value);
    }
    let value = |code: usize, plane: usize| f64::from(digit.value((code >> plane & 1) as u8));
    let mut rows = vec![vec![0.0; n + 1]; n];
    for (p, row) in rows.iter_mut().enumerate() {
        for (q, entry) in row.iter_mut().enumerate() {
            let term = |code: usize| match q {
                q if q == n => totals[code] * value(code, p),
                q => counts[code] * value(code, p) * value(code, q),
            };
            *entry = (0..1 << n).map(term).sum();
        }
    }
    let total: f64 = counts.iter().sum();
    solved(rows, 1e-9 * total).map(|scales| scales.into_iter().map(|scale| scale as f32).collect())
}

/// The solution of symmetric equations, the right side last in each row; `None` where a pivot is no more than `least`.
fn solved(mut rows: Vec<Vec<f64>>, least: f64) -> Option<Vec<f64>> {
    let n = rows.len();
    for at in 0..n {
        if rows[at][at].is_nan() || rows[at][at] <= least {
            return None;
        }
        let pivot = rows[at].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(other, _)| *other != at) {
            let factor = row[at] / pivot[at];
            row.iter_mut().zip(&pivot).for_each(|(entry, top)| *entry -= factor * top);
        }
    }
    Some((0..n).map(|at| rows[at][n] / rows[at][at]).collect())
}

/// The scale α of least Σ h·(w − α·t)² over all choices of t among −1, 0 and 1, which is exact: those that are not 0 are
/// the largest |w|, so that every number of them is tried. Cost: a sort.
pub fn ternary(of: Weighed<'_>) -> f32 {
    let mut sizes: Vec<(f32, f64)> =
        of.values.iter().enumerate().map(|(i, value)| (value.abs(), of.count(i))).collect();
    sizes.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let (mut total, mut count) = (0.0_f64, 0.0_f64);
    let (mut most, mut scale) = (0.0_f64, 0.0_f64);
    for (size, weight) in sizes {
        total += weight * f64::from(size);
        count += weight;
        let gain = total * total / count;
        // Not a number while nothing counts.
        if gain > most {
            (most, scale) = (gain, total / count);
        }
    }
    scale as f32
}

/// Two values, ascending, of least Σ h·(w − v)² where every w takes the nearer one, which is exact: every cut of the sorted
/// values is tried. Cost: a sort.
pub fn two_values(of: Weighed<'_>) -> [f32; 2] {
    let mut sorted: Vec<(f32, f64)> =
        of.values.iter().enumerate().map(|(i, &value)| (value, of.count(i))).collect();
    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let sums = |pairs: &[(f32, f64)]| {
        let sum = |(total, count): (f64, f64), pair: &(f32, f64)| {
            (total + pair.1 * f64::from(pair.0), count + pair.1)
        };
        pairs.iter().fold((0.0, 0.0), sum)
    };
    let all = sums(&sorted);
    let mean = if all.1 > 0.0 { all.0 / all.1 } else { 0.0 };
    let (mut below, mut most, mut found) = ((0.0, 0.0), f64::NEG_INFINITY, [mean; 2]);
    for &(value, count) in &sorted {
        below = (below.0 + count * f64::from(value), below.1 + count);
        let above = (all.0 - below.0, all.1 - below.1);
        if below.1 <= 0.0 || above.1 <= 1e-12 * all.1 {
            continue;
        }
        let gain = below.0 * below.0 / below.1 + above.0 * above.0 / above.1;
        if gain > most {
            (most, found) = (gain, [below.0 / below.1, above.0 / above.1]);
        }
    }
    found.map(|value| value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn normals(n: usize) -> Vec<f32> {
        let mut random = Random::new(7);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    fn left(digit: Digit, planes: &Planes, values: &[f32]) -> f64 {
        let sums = sums(digit, &planes.scales);
        let of = Weighed { values, counts: None };
        of.error(|i| sums[usize::from(planes.codes[i])]) / of.error(|_| 0.0)
    }

    const ON: (usize, &dyn Fn() -> bool) = (40, &|| true);

    #[test]
    fn greedy_planes_leave_the_published_shares_and_alternating_never_more() {
        let values = normals(400_000);
        let of = Weighed { values: &values, counts: None };
        // Alternating with two planes is the grid of Lloyd and Max, which is symmetric.
        let table =
            [(1, 0.36338, 0.36338), (2, 0.13045, 0.1175), (3, 0.05839, 0.05), (4, 0.0329, 0.02)];
        for (planes, known, most) in table {
            let start = greedy(planes, of);
            let found = left(Digit::Sign, &start, &values);
            assert!((found / known - 1.0).abs() < 0.01, "{planes}: {found} for {known}");
            let better = alternate(Digit::Sign, &start.scales, of, ON).unwrap();
            let found_better = left(Digit::Sign, &better, &values);
            assert!(found_better <= found, "{planes}: {found_better} and {found}");
            assert!(found_better < 1.01 * most, "{planes}: {found_better}");
            assert!(found_better > (-2.0 * planes as f64).exp2(), "below Shannon's bound");
        }
    }

    #[test]
    fn two_planes_of_bits_leave_the_published_shares() {
        let values = normals(400_000);
        let of = Weighed { values: &values, counts: None };
        let scales = tied(of, ON).unwrap();
        let codes = nearest(Digit::Bit, &scales, &values);
        let found = left(Digit::Bit, &Planes { scales: scales.to_vec(), codes }, &values);
        assert!((found / 0.1494 - 1.0).abs() < 0.01, "{found}");
        let free = alternate(Digit::Bit, &scales, of, ON).unwrap();
        let found = left(Digit::Bit, &free, &values);
        assert!((found / 0.1380 - 1.0).abs() < 0.01, "{found}: {:?}", free.scales);
        let [a, b] = [free.scales[0].abs(), free.scales[1].abs()];
        assert!((a - 1.914).abs() < 0.03 && (b - 1.163).abs() < 0.03, "{:?}", free.scales);
    }

    #[test]
    fn counted_values_are_as_if_they_were_there_more_often() {
        let values = normals(60);
        let counts: Vec<f32> = (0..60).map(|i| (i % 3) as f32).collect();
        let often: Vec<f32> = (0..60).flat_map(|i| vec![values[i]; i % 3]).collect();
        let counted = Weighed { values: &values, counts: Some(&counts) };
        let often = Weighed { values: &often, counts: None };
        assert!((ternary(counted) - ternary(often)).abs() < 1e-6);
        let [a, b] = [counted, often].map(|of| greedy(2, of).scales);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
        let [a, b] = [(counted, &a), (often, &b)]
            .map(|(of, start)| alternate(Digit::Sign, start, of, ON).unwrap().scales);
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    }

    #[test]
    fn no_other_scale_of_trits_leaves_less() {
        let values = normals(50);
        let of = Weighed { values: &values, counts: None };
        let error = |scale: f32| {
            of.error(
                |i| if values[i].abs() > scale / 2.0 { scale.copysign(values[i]) } else { 0.0 },
            )
        };
        let found = error(ternary(of));
        for tried in 1..400 {
            assert!(found <= error(tried as f32 * 0.01) + 1e-9, "{tried}");
        }
    }

    #[test]
    fn no_other_two_values_leave_less() {
        let values: Vec<f32> = normals(40).iter().map(|x| x * x * x + 0.3).collect();
        let counts: Vec<f32> = (0..40).map(|i| (i % 5) as f32).collect();
        let of = Weighed { values: &values, counts: Some(&counts) };
        let error = |[a, b]: [f32; 2]| {
            of.error(|i| if (values[i] - a).abs() < (values[i] - b).abs() { a } else { b })
        };
        let found = error(two_values(of));
        for (a, b) in (0..60).flat_map(|a| (0..60).map(move |b| (a, b))) {
            let [a, b] = [a, b].map(|at| at as f32 * 0.2 - 6.0);
            assert!(found <= error([a, b]) + 1e-9, "{a} and {b}");
        }
        let constant = Weighed { values: &[0.7; 9], counts: None };
        assert_eq!(two_values(constant), [0.7; 2]);
        assert_eq!(two_values(Weighed { values: &[], counts: None }), [0.0; 2]);
    }

    #[test]
    fn numbers_on_a_grid_are_found_again() {
        let values: Vec<f32> = (0..64).map(|i| (i % 8) as f32 - 3.5).collect();
        let of = Weighed { values: &values, counts: None };
        let start = greedy(3, of);
        let found = alternate(Digit::Sign, &start.scales, of, ON).unwrap();
        assert!(left(Digit::Sign, &found, &values) < 1e-12, "{:?}", found.scales);
    }
}
