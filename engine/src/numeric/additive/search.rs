//! The codes of one run of inputs: of all sums of one entry of each codebook one near the least.
#![expect(
    clippy::inline_always,
    reason = "loops become vectors only where they are inlined into the function compiled for them"
)]

use std::ops::Range;

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::numeric::additive::{Codebooks, MOST_CODEBOOKS};
use crate::numeric::vector::{Loops, position, smallest, vectorised};

/// The most sums that are followed at once.
pub const MOST_BEAMS: usize = 64;
/// Sums whose least is looked for at once, for the lanes of the processor.
pub(super) const LANES: usize = 16;
/// How often each code in turn goes to its best beside the others, at most.
pub(super) const TURNS: usize = 4;

/// What entries cost in one run of inputs, without what they gain: cᵀ·D·c of each, and 2·cᵀ·D·c' of each two.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) codebooks: usize,
    pub(super) entries: usize,
    /// D, `[width, width]`; empty of the identity.
    pub(super) block: Vec<f64>,
    /// Σ of a row: `[width, codebooks·entries]`.
    pub(super) across: Vec<f32>,
    pub(super) squares: Vec<f32>,
    /// Empty for one codebook; zeros of two entries of the same.
    products: Vec<f32>,
}

impl Tables {
    /// Those of D, `[width, width]` row by row; empty of the identity.
    pub(super) fn new(books: &Codebooks, run: usize, block: Vec<f64>, width: usize) -> Self {
        let (all, set) = (books.codebooks * books.entries, books.set(run));
        let mut across = vec![0.0; width * all];
        for (at, entry) in set.chunks_exact(books.dim).enumerate() {
            for (i, &value) in entry[..width].iter().enumerate() {
                across[i * all + at] = value;
            }
        }
        let carried = |at: usize| -> Vec<f32> {
            let entry = &set[at * books.dim..at * books.dim + width];
            if block.is_empty() {
                return entry.to_vec();
            }
            let along = |i: usize| {
                let terms = entry.iter().enumerate();
                terms.map(|(k, &value)| f64::from(value) * block[k * width + i]).sum::<f64>() as f32
            };
            (0..width).map(along).collect()
        };
        let mut squares = vec![0.0; all];
        let several = books.codebooks > 1;
        let mut products = vec![0.0; if several { all * all } else { 0 }];
        squares.par_chunks_mut(LANES).enumerate().for_each(|(piece, squares)| {
            for (i, square) in squares.iter_mut().enumerate() {
                let at = piece * LANES + i;
                let entry = &set[at * books.dim..at * books.dim + width];
                *square = entry.iter().zip(carried(at)).map(|(a, b)| a * b).sum();
            }
        });
        if several {
            products.par_chunks_mut(all).enumerate().for_each(|(at, row)| {
                let twice: Vec<f32> = carried(at).into_iter().map(|value| 2.0 * value).collect();
                let own = at / books.entries * books.entries;
                for span in [0..own, own + books.entries..all] {
                    vectorised(Products { out: &mut *row, twice: &twice, across: &across, span });
                }
            });
        }
        let (codebooks, entries) = (books.codebooks, books.entries);
        Self { codebooks, entries, block, across, squares, products }
    }

    #[inline(always)]
    fn row(&self, codebook: usize, code: u16, of: usize) -> &[f32] {
        let all = self.codebooks * self.entries;
        let first = (codebook * self.entries + code as usize) * all + of * self.entries;
        &self.products[first..first + self.entries]
    }
}

/// 2·cᵀ·D·c' of one entry c and some c'.
struct Products<'a> {
    /// Of all entries.
    out: &'a mut [f32],
    /// 2·cᵀ·D.
    twice: &'a [f32],
    /// `[width, entries]`.
    across: &'a [f32],
    /// Entries c'.
    span: Range<usize>,
}

impl Loops for Products<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let (all, first) = (self.out.len(), self.span.start);
        for (piece, out) in self.out[self.span].chunks_mut(LANES).enumerate() {
            let mut sums = [0.0_f32; LANES];
            for (i, &value) in self.twice.iter().enumerate() {
                let at = i * all + first + piece * LANES;
                let along = &self.across[at..at + out.len()];
                sums.iter_mut().zip(along).for_each(|(sum, along)| *sum += value * along);
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// Sums of the first few codebooks: the best few, least cost first, of equals those that came first.
struct Best {
    costs: [f32; MOST_BEAMS],
    codes: [[u16; MOST_CODEBOOKS]; MOST_BEAMS],
    most: usize,
}

impl Best {
    #[inline(always)]
    fn new(most: usize) -> Self {
        let most = most.clamp(1, MOST_BEAMS);
        Self { costs: [f32::INFINITY; MOST_BEAMS], codes: [[0; MOST_CODEBOOKS]; MOST_BEAMS], most }
    }

    #[inline(always)]
    fn worst(&self) -> f32 {
        self.costs[self.most - 1]
    }

    /// Takes a sum that is better than the worst.
    #[inline(always)]
    fn take(&mut self, cost: f32, codes: [u16; MOST_CODEBOOKS]) {
        let mut at = self.most - 1;
        while at > 0 && self.costs[at - 1] > cost {
            (self.costs[at], self.codes[at]) = (self.costs[at - 1], self.codes[at - 1]);
            at -= 1;
        }
        (self.costs[at], self.codes[at]) = (cost, codes);
    }

    /// Those that are sums, with what they cost.
    #[inline(always)]
    fn sums(&self) -> impl Iterator<Item = (f32, &[u16; MOST_CODEBOOKS])> {
        let all = self.costs.iter().copied().zip(&self.codes).take(self.most);
        all.take_while(|(cost, _)| *cost < f32::INFINITY)
    }
}

/// The search in one run of one output.
pub(super) struct Search<'a> {
    pub(super) tables: &'a Tables,
    /// cᵀ·D·c − 2·x·c of every entry, x what is wanted times D.
    pub(super) base: &'a [f32],
    /// How many sums are followed.
    pub(super) beams: usize,
    /// Room for the costs of a codebook.
    pub(super) costs: &'a mut [f32],
}

impl Search<'_> {
    /// The costs of the entries of a codebook beside those that were chosen of the `others`.
    #[inline(always)]
    fn cost(&mut self, codebook: usize, codes: &[u16], others: [Range<usize>; 2]) {
        let n = self.tables.entries;
        let base = &self.base[codebook * n..(codebook + 1) * n];
        let mut others = others.into_iter().flatten();
        let Some(first) = others.next() else {
            self.costs.copy_from_slice(base);
            return;
        };
        let row = self.tables.row(first, codes[first], codebook);
        for (cost, (base, product)) in self.costs.iter_mut().zip(base.iter().zip(row)) {
            *cost = base + product;
        }
        for other in others {
            let row = self.tables.row(other, codes[other], codebook);
            for (cost, product) in self.costs.iter_mut().zip(row) {
                *cost += product;
            }
        }
    }

    /// Puts every entry behind a sum that is among the best.
    #[inline(always)]
    fn extend(
        &self,
        (before, codes): (f32, &[u16; MOST_CODEBOOKS]),
        codebook: usize,
        best: &mut Best,
    ) {
        for (piece, costs) in self.costs.chunks(LANES).enumerate() {
            if before + smallest(costs) >= best.worst() {
                continue;
            }
            for (i, cost) in costs.iter().enumerate() {
                let cost = before + cost;
                if cost < best.worst() {
                    let mut codes = *codes;
                    codes[codebook] = (piece * LANES + i) as u16;
                    best.take(cost, codes);
                }
            }
        }
    }

    /// The best sum of all codebooks that begins as one of these.
    #[inline(always)]
    fn finish(&mut self, best: &Best) -> [u16; MOST_CODEBOOKS] {
        let last = self.tables.codebooks - 1;
        let mut found = (f32::INFINITY, 0.0, [0; MOST_CODEBOOKS]);
        for (before, codes) in best.sums() {
            self.cost(last, codes, [0..last, 0..0]);
            let cost = before + smallest(self.costs);
            if cost < found.0 {
                found = (cost, before, *codes);
            }
        }
        let (least, before, mut codes) = found;
        self.cost(last, &codes, [0..last, 0..0]);
        self.costs.iter_mut().for_each(|cost| *cost += before);
        codes[last] = position(self.costs, least).unwrap_or(0) as u16;
        codes
    }

    /// Each code in turn to its best beside the others, until none moves.
    #[inline(always)]
    fn settle(&mut self, codes: &mut [u16; MOST_CODEBOOKS]) {
        let n = self.tables.codebooks;
        for _ in 0..TURNS {
            let before = *codes;
            for codebook in 0..n {
                self.cost(codebook, codes, [0..codebook, codebook + 1..n]);
                let at = position(self.costs, smallest(self.costs));
                codes[codebook] = at.unwrap_or(0) as u16;
            }
            if *codes == before {
                return;
            }
        }
    }
}

impl Loops for Search<'_> {
    type Found = [u16; MOST_CODEBOOKS];

    #[inline(always)]
    fn run(mut self) -> [u16; MOST_CODEBOOKS] {
        let mut best = Best::new(1);
        best.costs[0] = 0.0;
        for codebook in 0..self.tables.codebooks - 1 {
            let mut next = Best::new(self.beams);
            for (before, codes) in best.sums() {
                self.cost(codebook, codes, [0..codebook, 0..0]);
                self.extend((before, codes), codebook, &mut next);
            }
            best = next;
        }
        let mut codes = self.finish(&best);
        if self.tables.codebooks > 1 {
            self.settle(&mut codes);
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    const WIDTH: usize = 3;

    /// Random codebooks, and D of a run that is shorter than theirs.
    struct Case {
        books: Codebooks,
        block: Vec<f64>,
        tables: Tables,
    }

    impl Case {
        fn new(random: &mut Random, (codebooks, entries): (usize, usize)) -> Self {
            let n = codebooks * entries * 4;
            let values = (0..n).map(|_| random.normal() as f32).collect();
            let books = Codebooks { codebooks, entries, dim: 4, by_run: false, values };
            let root: Vec<f64> = (0..WIDTH * WIDTH).map(|_| random.normal()).collect();
            let dot = |i: usize, j: usize| -> f64 {
                (0..WIDTH).map(|k| root[i * WIDTH + k] * root[j * WIDTH + k]).sum()
            };
            let block: Vec<f64> =
                (0..WIDTH * WIDTH).map(|at| dot(at / WIDTH, at % WIDTH)).collect();
            let tables = Tables::new(&books, 0, block.clone(), WIDTH);
            Self { books, block, tables }
        }

        /// (x − c)ᵀ·D·(x − c) of a sum of entries c.
        fn away(&self, wanted: &[f64], codes: &[u16]) -> f64 {
            let value = |i: usize| -> f64 {
                let of = |(book, &code): (usize, &u16)| self.books.entry(0, book, code)[i];
                codes.iter().enumerate().map(of).map(f64::from).sum()
            };
            let x: Vec<f64> = (0..WIDTH).map(|i| wanted[i] - value(i)).collect();
            (0..WIDTH * WIDTH).map(|at| x[at / WIDTH] * self.block[at] * x[at % WIDTH]).sum()
        }

        fn search(&self, wanted: &[f64]) -> [u16; MOST_CODEBOOKS] {
            let carried =
                |i: usize| (0..WIDTH).map(|k| wanted[k] * self.block[k * WIDTH + i]).sum::<f64>();
            let n = self.tables.squares.len();
            let gain = |at: usize, i: usize| carried(i) as f32 * self.tables.across[i * n + at];
            let base = |at: usize| {
                self.tables.squares[at] - 2.0 * (0..WIDTH).map(|i| gain(at, i)).sum::<f32>()
            };
            let base: Vec<f32> = (0..n).map(base).collect();
            let mut costs = vec![0.0; self.books.entries];
            let tables = &self.tables;
            vectorised(Search { tables, base: &base, beams: MOST_BEAMS, costs: &mut costs })
        }
    }

    /// With as many beams as there are sums of all codebooks but one, the best of all sums.
    #[test]
    fn the_best_of_all_sums_is_found() {
        let mut random = Random::new(3);
        for (codebooks, entries) in [(1, 16), (2, 16), (3, 8)] {
            let case = Case::new(&mut random, (codebooks, entries));
            for _ in 0..50 {
                let wanted: Vec<f64> = (0..WIDTH).map(|_| 2.0 * random.normal()).collect();
                let of = |at: usize| -> Vec<u16> {
                    let code = |book: u32| (at / entries.pow(book) % entries) as u16;
                    (0..codebooks as u32).map(code).collect()
                };
                let all = (0..entries.pow(codebooks as u32)).map(|at| case.away(&wanted, &of(at)));
                let least = all.fold(f64::INFINITY, f64::min);
                let found = case.away(&wanted, &case.search(&wanted)[..codebooks]);
                assert!((found - least).abs() < 1e-4, "{codebooks}: {found}, {least} is the least");
            }
        }
    }
}
