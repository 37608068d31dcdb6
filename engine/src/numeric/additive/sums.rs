//! Sums of entries as parameters of a function of the matrix they stand for, whatever that is: derivatives by entries and
//! scales, and codes moved along the function's derivative (PV-Tuning, Malinovskii et al. 2024).

use ndarray::{Array2, ArrayView2};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::numeric::additive::Codebooks;

/// Rows that one thread takes at a time.
const STRIP: usize = 16;

/// Codes, codebooks and scales of a matrix: ŵ = sₒ·Σ C\[c\]\[code\].
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// `[rows, cols]`.
    pub shape: (usize, usize),
    /// `[rows, runs, codebooks]`.
    pub codes: Vec<u16>,
    /// The codebooks.
    pub books: Codebooks,
    /// One for each row, or none: then they are 1.
    pub scales: Vec<f32>,
}

/// A function of a matrix near where it is: φ(Ŵ + Δ) ≈ φ + ⟨G, Δ⟩ + Σ over rows o of rₒ·Δₒ·A·Δₒᵀ.
#[derive(Clone, Copy, Debug)]
pub struct Near<'a> {
    /// G, the derivative, `[rows, cols]`.
    pub slope: ArrayView2<'a, f32>,
    /// A, Σ x·xᵀ of the inputs, `[cols, cols]`, or what takes its place.
    pub gram: ArrayView2<'a, f32>,
    /// r, one for each row, at least 0.
    pub rows: &'a [f64],
}

/// One code that is to become another, and by how much φ is then less.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Move {
    codebook: usize,
    code: u16,
    gain: f32,
}

impl Sums {
    fn runs(&self) -> usize {
        self.shape.1.div_ceil(self.books.dim.max(1))
    }

    /// Columns of a run.
    fn cols(&self, run: usize) -> std::ops::Range<usize> {
        run * self.books.dim..((run + 1) * self.books.dim).min(self.shape.1)
    }

    fn scale(&self, row: usize) -> f32 {
        self.scales.get(row).copied().unwrap_or(1.0)
    }

    fn codes(&self, row: usize, run: usize) -> &[u16] {
        let first = (row * self.runs() + run) * self.books.codebooks;
        &self.codes[first..first + self.books.codebooks]
    }

    /// Ŵ `[rows, cols]`.
    pub fn decode(&self) -> Array2<f32> {
        let mut out = Array2::zeros(self.shape);
        let cols = self.shape.1;
        let Some(values) = out.as_slice_mut() else { return out };
        values.par_chunks_mut(cols.max(1)).enumerate().for_each(|(row, values)| {
            for (run, values) in values.chunks_mut(self.books.dim).enumerate() {
                self.add_entries(run, self.codes(row, run), values);
                let scale = self.scale(row);
                values.iter_mut().zip(std::iter::repeat(scale)).for_each(|(v, s)| *v *= s);
            }
        });
        out
    }

    fn add_entries(&self, run: usize, codes: &[u16], out: &mut [f32]) {
        for (codebook, &code) in codes.iter().enumerate() {
            let entry = self.books.entry(run, codebook, code);
            out.iter_mut().zip(entry).for_each(|(value, entry)| *value += entry);
        }
    }

    /// From the derivative by Ŵ to those by entries and by scales. Cost: rows·cols·codebooks operations, on one thread.
    pub fn slopes(&self, slope: ArrayView2<'_, f32>) -> (Vec<f64>, Vec<f64>) {
        let mut of_entries = vec![0.0; self.books.values.len()];
        let mut of_scales = vec![0.0; self.scales.len()];
        let mut sum = vec![0.0; self.books.dim];
        for (row, slope) in slope.rows().into_iter().enumerate() {
            let scale = f64::from(self.scale(row));
            for run in 0..self.runs() {
                let cols = self.cols(run);
                let sum = &mut sum[..cols.len()];
                sum.fill(0.0);
                for (codebook, &code) in self.codes(row, run).iter().enumerate() {
                    let at = self.books.at(run, codebook, code);
                    let entry = &self.books.values[at..];
                    sum.iter_mut().zip(entry).for_each(|(sum, entry)| *sum += entry);
                    let of_entry = of_entries[at..].iter_mut().zip(cols.clone());
                    of_entry.for_each(|(to, col)| *to += scale * f64::from(slope[col]));
                }
                if let Some(of_scale) = of_scales.get_mut(row) {
                    let along = cols.zip(&*sum).map(|(col, sum)| f64::from(slope[col] * sum));
                    *of_scale += along.sum::<f64>();
                }
            }
        }
        (of_entries, of_scales)
    }

    /// By how much φ is said to be less with the best other code of each run, `[rows, runs]`, at least 0.
    ///
    /// One code of a run moves at a time. Cost: rows·cols·entries·codebooks operations in f32. Empty once `is_cancelled`.
    pub fn gains(&self, near: Near<'_>, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Vec<f32> {
        let squares = self.squares(near.gram);
        let (runs, rows) = (self.runs(), self.shape.0);
        let mut gains = vec![0.0; rows * runs];
        gains.par_chunks_mut((STRIP * runs).max(1)).enumerate().for_each(|(strip, gains)| {
            if is_cancelled() {
                return;
            }
            for (i, gains) in gains.chunks_mut(runs.max(1)).enumerate() {
                let row = strip * STRIP + i;
                let slope = near.slope.row(row).to_vec();
                let of_row = Row { sums: self, near, squares: &squares, at: row };
                for (run, gain) in gains.iter_mut().enumerate() {
                    let codes = self.codes(row, run);
                    *gain = of_row.best(run, codes, &slope).map_or(0.0, |found| found.gain);
                }
            }
        });
        gains
    }

    /// Moves one code of every run that gains `least` or more, where it still gains after those of its row that gain more:
    /// after each move G follows by A. Returns how many moved.
    ///
    /// Cost: that of [`Sums::gains`] and rows·cols·moves of a row operations. Leaves some as they were once `is_cancelled`.
    pub fn take(
        &mut self,
        (near, gains): (Near<'_>, &[f32]),
        least: f32,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> usize {
        let squares = self.squares(near.gram);
        let runs = self.runs();
        let walked = (0..self.shape.0).into_par_iter().with_min_len(STRIP).map(|row| {
            let gains = &gains[row * runs..(row + 1) * runs];
            if is_cancelled() || !gains.iter().any(|&gain| gain >= least) {
                return (0, None);
            }
            let of_row = Row { sums: self, near, squares: &squares, at: row };
            let (moved, codes) = of_row.walk(gains, least);
            (moved, Some(codes))
        });
        let found: Vec<(usize, Option<Vec<u16>>)> = walked.collect();
        let n = runs * self.books.codebooks;
        let mut moved = 0;
        for (row, (moves, codes)) in found.into_iter().enumerate() {
            moved += moves;
            if let Some(codes) = codes {
                self.codes[row * n..(row + 1) * n].copy_from_slice(&codes);
            }
        }
        moved
    }

    /// c·Aⱼⱼ·cᵀ of every entry c of every run j, `[runs, codebooks · entries]`.
    fn squares(&self, gram: ArrayView2<'_, f32>) -> Vec<f32> {
        let per_run = self.books.codebooks * self.books.entries;
        let of_run = |run: usize| {
            let (cols, set) = (self.cols(run), self.books.set(run));
            let square = |entry: &[f32]| {
                let along = cols.clone().zip(entry).map(|(i, a)| {
                    let row = cols.clone().zip(entry).map(|(j, b)| gram[(i, j)] * b);
                    a * row.sum::<f32>()
                });
                along.sum::<f32>()
            };
            set.chunks(self.books.dim).take(per_run).map(square).collect::<Vec<f32>>()
        };
        (0..self.runs()).into_par_iter().flat_map_iter(of_run).collect()
    }
}

/// A row whose codes move.
struct Row<'a, 'n> {
    sums: &'a Sums,
    near: Near<'n>,
    squares: &'a [f32],
    at: usize,
}

impl Row<'_, '_> {
    /// The code of a run whose move gains most, where one gains at all. With δ = s·(c' − c) and r·s² = k, φ changes by
    /// g·δ + r·δ·A·δᵀ = (s·g − 2k·A·c)·c' + k·c'·A·c'ᵀ − s·g·c + k·c·A·cᵀ.
    fn best(&self, run: usize, codes: &[u16], slope: &[f32]) -> Option<Move> {
        let (sums, books) = (self.sums, &self.sums.books);
        let cols = sums.cols(run);
        let scale = sums.scale(self.at);
        let k = self.near.rows[self.at] as f32 * scale * scale;
        let per_run = books.codebooks * books.entries;
        let squares = &self.squares[run * per_run..(run + 1) * per_run];
        let mut best: Option<Move> = None;
        let mut along = vec![0.0_f32; cols.len()];
        for (codebook, &now) in codes.iter().enumerate() {
            let entry = books.entry(run, codebook, now);
            let mut constant = k * squares[codebook * books.entries + now as usize];
            for ((i, along), own) in cols.clone().zip(&mut along).zip(entry) {
                let through = cols.clone().zip(entry).map(|(j, c)| self.near.gram[(i, j)] * c);
                *along = scale * slope[i] - 2.0 * k * through.sum::<f32>();
                constant -= scale * slope[i] * own;
            }
            let all = &books.set(run)[codebook * books.entries * books.dim..];
            let entries = all.chunks_exact(books.dim).zip(&squares[codebook * books.entries..]);
            for (code, (entry, square)) in entries.take(books.entries).enumerate() {
                let product: f32 = along.iter().zip(entry).map(|(a, c)| a * c).sum();
                let gain = -(product + k * square + constant);
                if gain > best.map_or(0.0, |best| best.gain) && code != now as usize {
                    best = Some(Move { codebook, code: code as u16, gain });
                }
            }
        }
        best
    }

    /// Moves codes of the runs that gain enough, the most first.
    fn walk(&self, gains: &[f32], least: f32) -> (usize, Vec<u16>) {
        let (sums, n) = (self.sums, self.sums.books.codebooks);
        let first = self.at * sums.runs() * n;
        let mut codes = sums.codes[first..first + sums.runs() * n].to_vec();
        let mut slope = self.near.slope.row(self.at).to_vec();
        let mut order: Vec<usize> = (0..gains.len()).filter(|&run| gains[run] >= least).collect();
        order.sort_by(|&a, &b| gains[b].total_cmp(&gains[a]).then(a.cmp(&b)));
        let mut moved = 0;
        for run in order {
            let own = &mut codes[run * n..(run + 1) * n];
            let Some(found) = self.best(run, own, &slope) else { continue };
            let before = std::mem::replace(&mut own[found.codebook], found.code);
            moved += 1;
            let entry = |code: u16| sums.books.entry(run, found.codebook, code);
            let step = 2.0 * self.near.rows[self.at] as f32 * sums.scale(self.at);
            for ((col, new), old) in sums.cols(run).zip(entry(found.code)).zip(entry(before)) {
                let factor = step * (new - old);
                let along = self.near.gram.row(col);
                slope.iter_mut().zip(along).for_each(|(slope, a)| *slope += factor * a);
            }
        }
        (moved, codes)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;

    use super::*;
    use crate::numeric::seeds::Random;

    fn random(shape: (usize, usize), seed: u64) -> Array2<f32> {
        let mut random = Random::new(seed);
        Array2::from_shape_simple_fn(shape, || random.normal() as f32)
    }

    fn sums((by_run, has_scales): (bool, bool)) -> Sums {
        let (rows, cols, dim, codebooks, entries) = (9, 22, 4, 2, 8);
        let runs = 6;
        let mut random = Random::new(2);
        let sets = if by_run { runs } else { 1 };
        let mut list = |n: usize| (0..n).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let values = list(sets * codebooks * entries * dim);
        let scales = if has_scales { list(rows) } else { Vec::new() };
        let code = |_| (random.uniform() * entries as f64) as u16;
        let codes = (0..rows * runs * codebooks).map(code).collect();
        let books = Codebooks { codebooks, entries, dim, by_run, values };
        Sums { shape: (rows, cols), codes, books, scales }
    }

    const KINDS: [(bool, bool); 3] = [(false, true), (true, false), (true, true)];

    #[test]
    fn slopes_are_those_of_differences() {
        for kind in KINDS {
            let sums = sums(kind);
            let slope = random(sums.shape, 5);
            let value = |sums: &Sums| {
                let terms = sums.decode().into_iter().zip(&slope);
                terms.map(|(a, b)| f64::from(a) * f64::from(*b)).sum::<f64>()
            };
            let (of_entries, of_scales) = sums.slopes(slope.view());
            let check = |moved: &dyn Fn(&mut Sums, f32), exact: f64| {
                let [mut less, mut more] = [sums.clone(), sums.clone()];
                moved(&mut less, -0.125);
                moved(&mut more, 0.125);
                let difference = (value(&more) - value(&less)) / 0.25;
                assert!((difference - exact).abs() < 1e-4, "{exact} for {difference}");
            };
            for (at, &exact) in of_entries.iter().enumerate() {
                check(&|sums, by| sums.books.values[at] += by, exact);
            }
            for (at, &exact) in of_scales.iter().enumerate() {
                check(&|sums, by| sums.scales[at] += by, exact);
            }
            assert_eq!(of_scales.len(), if kind.1 { 9 } else { 0 });
        }
    }

    /// ⟨G, Δ⟩ + Σ rₒ·Δₒ·A·Δₒᵀ from one matrix to another.
    fn change(near: Near<'_>, from: &Sums, to: &Sums) -> f64 {
        let moved = to.decode() - from.decode();
        let of_row = |(row, moved): (usize, Array1<f32>)| {
            let along = f64::from(moved.dot(&near.slope.row(row)));
            along + near.rows[row] * f64::from(moved.dot(&near.gram.dot(&moved)))
        };
        moved.rows().into_iter().map(|row| row.to_owned()).enumerate().map(of_row).sum()
    }

    #[test]
    fn moves_gain_what_they_are_said_to_and_the_best_are_found() {
        for kind in KINDS {
            let sums = sums(kind);
            let inputs = random((22, 22), 8);
            let (slope, gram) = (random(sums.shape, 5), inputs.t().dot(&inputs) / 22.0);
            let rows: Vec<f64> = (0..9).map(|row| 0.1 + f64::from(row) / 9.0).collect();
            let near = Near { slope: slope.view(), gram: gram.view(), rows: &rows };
            let gains = sums.gains(near, &|| false);
            for (at, &gain) in gains.iter().enumerate() {
                let mut best = 0.0_f64;
                for (codebook, code) in (0..2).flat_map(|book| (0..8).map(move |code| (book, code)))
                {
                    let mut moved = sums.clone();
                    moved.codes[at * 2 + codebook] = code;
                    best = best.max(-change(near, &sums, &moved));
                }
                assert!((best - f64::from(gain)).abs() < 1e-3, "{at}: {gain} for {best}");
            }
            // The one best move of all is taken whole; many in a row each for what is left.
            let most = gains.iter().copied().fold(0.0, f32::max);
            let mut one = sums.clone();
            assert_eq!(one.take((near, &gains), most, &|| false), 1);
            assert!((change(near, &sums, &one) + f64::from(most)).abs() < 1e-3);
            let mut all = sums.clone();
            let moved = all.take((near, &gains), f32::MIN_POSITIVE, &|| false);
            assert!(moved > 20, "{moved}");
            assert!(change(near, &sums, &all) < -5.0 * f64::from(most));
            assert!(all.codes.iter().all(|&code| code < 8));
        }
    }
}
