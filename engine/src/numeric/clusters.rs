//! k-means of vectors: the entries of a codebook that leave the least squared error.

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSlice as _, ParallelSliceMut as _,
};

use crate::numeric::seeds::Random;
use crate::numeric::vector::{Loops, vectorised};

/// Points that one thread takes at a time; sums are taken by pieces of this many.
const PIECE: usize = 1 << 10;
/// Entries whose scores are computed at once, for the lanes of the processor.
const LANES: usize = 16;
/// Points that are looked at for the first entries, at least; else four for each entry.
const SAMPLE: usize = 1 << 14;
/// The iteration ends when a round lowers the error by less than this share of it.
const GAIN: f64 = 1e-4;

/// Vectors of `dim` values one after another, and what each counts.
#[derive(Clone, Copy, Debug)]
pub struct Points<'a> {
    /// `[points, dim]`.
    pub values: &'a [f32],
    /// One weight of at least 0 a point; empty where all count 1.
    pub weights: &'a [f32],
    /// Values of a point, at least 1.
    pub dim: usize,
}

impl Points<'_> {
    fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    fn get(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    fn weight(&self, i: usize) -> f64 {
        self.weights.get(i).map_or(1.0, |&weight| f64::from(weight))
    }
}

/// Entries of a codebook, a few side by side.
#[derive(Clone, Debug)]
pub struct Entries {
    /// `[pieces, dim, LANES]`, filled up with zeros.
    across: Vec<f32>,
    /// `[pieces, LANES]`, ∞ of what fills up.
    squares: Vec<f32>,
}

impl Entries {
    /// The entries `[entries, dim]`.
    pub fn new(values: &[f32], dim: usize) -> Self {
        let n = (values.len() / dim).next_multiple_of(LANES);
        let mut across = vec![0.0; n * dim];
        let mut squares = vec![f32::INFINITY; n];
        for (at, entry) in values.chunks_exact(dim).enumerate() {
            let first = at / LANES * dim * LANES + at % LANES;
            squares[at] = 0.0;
            for (i, &value) in entry.iter().enumerate() {
                across[first + i * LANES] = value;
                squares[at] += value * value;
            }
        }
        Self { across, squares }
    }

    /// The index of the entry nearest to `point`, the first of equals.
    pub fn nearest(&self, point: &[f32]) -> u32 {
        vectorised(Nearest { entries: self, point })
    }
}

struct Nearest<'a> {
    entries: &'a Entries,
    point: &'a [f32],
}

impl Loops for Nearest<'_> {
    type Found = u32;

    #[expect(clippy::inline_always, reason = "loops become vectors only where they are inlined")]
    #[inline(always)]
    fn run(self) -> u32 {
        let (mut least, mut at) = ([f32::INFINITY; LANES], [0_u32; LANES]);
        let (squares, _) = self.entries.squares.as_chunks::<LANES>();
        let (across, _) = self.entries.across.as_chunks::<LANES>();
        let pieces = squares.iter().zip(across.chunks_exact(self.point.len()));
        for (piece, (squares, across)) in pieces.enumerate() {
            let mut scores = *squares;
            for (&x, along) in self.point.iter().zip(across) {
                for lane in 0..LANES {
                    scores[lane] -= 2.0 * x * along[lane];
                }
            }
            for lane in 0..LANES {
                let is_less = scores[lane] < least[lane];
                least[lane] = if is_less { scores[lane] } else { least[lane] };
                at[lane] = if is_less { piece as u32 } else { at[lane] };
            }
        }
        let mut best = (f32::INFINITY, 0);
        for lane in 0..LANES {
            let own = (least[lane], at[lane] * LANES as u32 + lane as u32);
            let is_first = own.0 == best.0 && own.0 < f32::INFINITY && own.1 < best.1;
            best = if own.0 < best.0 || is_first { own } else { best };
        }
        best.1
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a - b).powi(2)).sum()
}

/// The entry of each point.
///
/// `None` once `is_cancelled`.
pub fn assign(
    points: Points<'_>,
    entries: &[f32],
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<u32>> {
    let (book, dim) = (Entries::new(entries, points.dim), points.dim);
    let mut codes = vec![0; points.len()];
    let pieces = codes.par_chunks_mut(PIECE).zip(points.values.par_chunks(PIECE * dim));
    pieces.for_each(|(codes, values)| {
        if !is_cancelled() {
            for (code, point) in codes.iter_mut().zip(values.chunks_exact(dim)) {
                *code = book.nearest(point);
            }
        }
    });
    (!is_cancelled()).then_some(codes)
}

/// `k` entries `[k, dim]` of little Σ weight·‖point − nearest entry‖², by at most `rounds` of Lloyd's iteration from a
/// start by k-means++ (Arthur & Vassilvitskii 2007) on a sample; entries that nobody is nearest to go to the points
/// furthest off. Where there are no more than `k` different points they are the entries, and zeros fill up.
///
/// The same on any number of threads. Cost of a round and of the start: points·k·dim operations, of at most 16,384 or
/// 4·k points for the start. `None` once `is_cancelled`.
pub fn clusters(
    points: Points<'_>,
    k: usize,
    (seed, rounds): (u64, usize),
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<f32>> {
    let mut entries = start(points, k, seed, is_cancelled)?;
    let mut last = f64::INFINITY;
    for _ in 0..rounds {
        let codes = assign(points, &entries, is_cancelled)?;
        let error = moved(points, &codes, &mut entries);
        // No gain is not small where nothing is left.
        if error == 0.0 || last - error < GAIN * error {
            break;
        }
        last = error;
    }
    (!is_cancelled()).then_some(entries)
}

/// Each entry drawn among the points by weight times squared distance from those before.
fn start(
    points: Points<'_>,
    k: usize,
    seed: u64,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<f32>> {
    let (n, dim) = (points.len(), points.dim);
    let taken = n.min(SAMPLE.max(4 * k));
    let sample: Vec<usize> = (0..taken).map(|i| i * n / taken).collect();
    let mut random = Random::new(seed);
    let mut entries: Vec<f32> = Vec::with_capacity(k * dim);
    let mut left: Vec<f64> = sample.iter().map(|&i| points.weight(i)).collect();
    for entry in 0..k {
        if is_cancelled() {
            return None;
        }
        let sums: Vec<f64> = left.par_chunks(PIECE).map(|piece| piece.iter().sum()).collect();
        let Some(drawn) = draw(&left, &sums, random.uniform()) else { break };
        let next = points.get(sample[drawn]);
        entries.extend_from_slice(next);
        let pieces = left.par_chunks_mut(PIECE).zip(sample.par_chunks(PIECE));
        pieces.for_each(|(left, sample)| {
            for (left, &i) in left.iter_mut().zip(sample) {
                let away = points.weight(i) * distance(points.get(i), next);
                *left = if entry == 0 { away } else { left.min(away) };
            }
        });
    }
    entries.resize(k * dim, 0.0);
    Some(entries)
}

/// The index at a share of the sum of weights, of which `sums` are those of pieces; `None` where nothing is left.
fn draw(weights: &[f64], sums: &[f64], share: f64) -> Option<usize> {
    let mut rest = share * sums.iter().sum::<f64>();
    let mut last = None;
    for (piece, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        last = Some(piece);
        if rest < *sum {
            break;
        }
        rest -= sum;
    }
    let first = last? * PIECE;
    let piece = &weights[first..(first + PIECE).min(weights.len())];
    let mut found = None;
    for (i, weight) in piece.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        found = Some(first + i);
        if rest < *weight {
            break;
        }
        rest -= weight;
    }
    found
}

/// Moves every entry to the weighted mean of its points, those without any to the points furthest from their entry.
/// The error before.
fn moved(points: Points<'_>, codes: &[u32], entries: &mut [f32]) -> f64 {
    let (dim, k) = (points.dim, entries.len() / points.dim);
    let own = |i: usize| codes[i] as usize * dim..(codes[i] as usize + 1) * dim;
    let away: Vec<f64> = (0..codes.len())
        .into_par_iter()
        .map(|i| points.weight(i) * distance(points.get(i), &entries[own(i)]))
        .collect();
    let error = away.par_chunks(PIECE).map(|piece| piece.iter().sum::<f64>()).collect::<Vec<_>>();
    let members = members(codes, k);
    entries.par_chunks_mut(dim).zip(&members.1).for_each(|(entry, members_of)| {
        let of = &members.0[members_of.clone()];
        let weight: f64 = of.iter().map(|&i| points.weight(i as usize)).sum();
        if weight > 0.0 {
            for (at, value) in entry.iter_mut().enumerate() {
                let term =
                    |&i: &u32| points.weight(i as usize) * f64::from(points.get(i as usize)[at]);
                *value = (of.iter().map(term).sum::<f64>() / weight) as f32;
            }
        }
    });
    let idle: Vec<usize> = (0..k).filter(|&entry| members.1[entry].is_empty()).collect();
    if !idle.is_empty() {
        let mut far: Vec<usize> = (0..away.len()).filter(|&i| away[i] > 0.0).collect();
        far.sort_by(|&a, &b| away[b].total_cmp(&away[a]).then(a.cmp(&b)));
        for (entry, point) in idle.into_iter().zip(far) {
            entries[entry * dim..(entry + 1) * dim].copy_from_slice(points.get(point));
        }
    }
    error.iter().sum()
}

/// Points by their code, and where those of each code lie.
fn members(codes: &[u32], k: usize) -> (Vec<u32>, Vec<std::ops::Range<usize>>) {
    let mut ends = vec![0; k];
    for &code in codes {
        ends[code as usize] += 1;
    }
    let mut total = 0;
    let spans: Vec<std::ops::Range<usize>> = ends
        .iter()
        .map(|&n: &usize| {
            total += n;
            total - n..total
        })
        .collect();
    let mut next: Vec<usize> = spans.iter().map(|span| span.start).collect();
    let mut order = vec![0; codes.len()];
    for (i, &code) in codes.iter().enumerate() {
        order[next[code as usize]] = i as u32;
        next[code as usize] += 1;
    }
    (order, spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(n: usize) -> Vec<f32> {
        let mut random = Random::new(9);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    fn error(points: Points<'_>, entries: &[f32]) -> f64 {
        let codes = assign(points, entries, &|| false).unwrap();
        let own = |i: usize| &entries[codes[i] as usize * points.dim..][..points.dim];
        (0..points.len()).map(|i| points.weight(i) * distance(points.get(i), own(i))).sum()
    }

    #[test]
    fn normal_values_leave_what_lloyd_and_max_found() {
        let values = normals(40_000);
        let points = Points { values: &values, weights: &[], dim: 1 };
        let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        for (k, known) in [(2, 0.3634), (4, 0.1175), (8, 0.0345), (16, 0.0095)] {
            let entries = clusters(points, k, (0, 300), &|| false).unwrap();
            let found = error(points, &entries) / squares;
            assert!((found / known - 1.0).abs() < 0.03, "{k} entries: {found} for {known}");
        }
    }

    /// Whatever the number of entries is to the lanes; of equals the first.
    #[test]
    fn the_nearest_entry_is_that_of_plain_loops() {
        let mut random = Random::new(4);
        for (k, dim) in [(1, 1), (5, 3), (16, 8), (33, 2), (300, 5), (17, 40)] {
            // Whole numbers: sums are exact, and many entries are as near.
            let mut whole = |n: usize| -> Vec<f32> {
                (0..n).map(|_| (random.bits() % 5) as f32 - 2.0).collect()
            };
            let (entries, points) = (whole(k * dim), whole(200 * dim));
            let book = Entries::new(&entries, dim);
            for point in points.chunks_exact(dim) {
                let away: Vec<f64> =
                    entries.chunks_exact(dim).map(|entry| distance(point, entry)).collect();
                let least = away.iter().copied().fold(f64::INFINITY, f64::min);
                let first = away.iter().position(|&away| away == least);
                assert_eq!(Some(book.nearest(point) as usize), first, "{k} of {dim}");
            }
        }
        let book = Entries::new(&[1.0, 2.0], 1);
        assert_eq!(book.nearest(&[f32::NAN]), 0);
    }

    #[test]
    fn few_points_are_their_own_entries_and_weights_are_repetitions() {
        let few = [1.0, 2.0, 1.0, 2.0, -3.0, 0.5];
        let points = Points { values: &few, weights: &[], dim: 2 };
        let entries = clusters(points, 5, (0, 9), &|| false).unwrap();
        assert_eq!(error(points, &entries), 0.0);
        assert_eq!(entries[4..], [0.0; 6], "zeros fill up");
        let (values, weights) =
            (normals(600), normals(300).iter().map(|x| x.abs().ceil()).collect::<Vec<_>>());
        let points = Points { values: &values, weights: &weights, dim: 2 };
        let entries = clusters(points, 4, (3, 500), &|| false).unwrap();
        // At the end every entry is the mean of its points, each as often as it counts.
        let codes = assign(points, &entries, &|| false).unwrap();
        for entry in 0..4 {
            let of = |i: &usize| codes[*i] == entry;
            let total: f64 = (0..300).filter(of).map(|i| points.weight(i)).sum();
            let sum: f64 =
                (0..300).filter(of).map(|i| points.weight(i) * f64::from(values[2 * i])).sum();
            assert!((sum / total - f64::from(entries[2 * entry as usize])).abs() < 0.02);
        }
    }

    #[test]
    fn the_threads_change_no_bit_and_a_cancelled_search_is_nothing() {
        let values = normals(30_000);
        let points = Points { values: &values, weights: &[], dim: 3 };
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| clusters(points, 300, (1, 4), &|| false)).unwrap()
        };
        assert_eq!(on(1), on(3));
        assert!(clusters(points, 300, (1, 4), &|| true).is_none());
    }
}
