//! The codes of one run of inputs: of all sums of one entry of each codebook one near the least.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::numeric::additive::{Codebooks, MOST_CODEBOOKS};
use crate::numeric::vector::Loops;

/// The most sums that are followed at once.
pub const MOST_BEAMS: usize = 64;
/// Sums whose least is looked for at once.
const LANES: usize = 16;
/// How often each code in turn goes to its best beside the others, at most.
const TURNS: usize = 4;

/// What entries cost in one run of inputs, without what they gain: cᵀ·D·c of each, and 2·cᵀ·D·c' of each two.
#[derive(Debug)]
pub(super) struct Tables {
    codebooks: usize,
    entries: usize,
    /// Σ of a row: `[width, codebooks·entries]`.
    pub(super) across: Vec<f32>,
    pub(super) squares: Vec<f32>,
    /// Empty for one codebook.
    products: Vec<f32>,
}

impl Tables {
    /// Those of D, `[width, width]` row by row.
    pub(super) fn new(books: &Codebooks, block: &[f64], width: usize) -> Self {
        let all = books.codebooks * books.entries;
        let mut across = vec![0.0; width * all];
        for (at, entry) in books.values.chunks_exact(books.dim).enumerate() {
            for (i, &value) in entry[..width].iter().enumerate() {
                across[i * all + at] = value;
            }
        }
        let carried = |at: usize| -> Vec<f32> {
            let entry = &books.values[at * books.dim..at * books.dim + width];
            let along = |i: usize| {
                let terms = entry.iter().enumerate();
                terms.map(|(k, &value)| f64::from(value) * block[k * width + i]).sum::<f64>() as f32
            };
            (0..width).map(along).collect()
        };
        let mut squares = vec![0.0; all];
        squares.par_chunks_mut(LANES).enumerate().for_each(|(piece, squares)| {
            for (i, square) in squares.iter_mut().enumerate() {
                let at = piece * LANES + i;
                let entry = &books.values[at * books.dim..at * books.dim + width];
                *square = entry.iter().zip(carried(at)).map(|(a, b)| a * b).sum();
            }
        });
        let mut products = Vec::new();
        if books.codebooks > 1 {
            products = vec![0.0; all * all];
            products.par_chunks_mut(all).enumerate().for_each(|(at, row)| {
                for (value, along) in carried(at).into_iter().zip(across.chunks_exact(all)) {
                    let pairs = row.iter_mut().zip(along);
                    pairs.for_each(|(out, other)| *out += 2.0 * value * other);
                }
            });
        }
        Self { codebooks: books.codebooks, entries: books.entries, across, squares, products }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "used within loops that become vectors")]
    fn row(&self, codebook: usize, code: u16, of: usize) -> &[f32] {
        let all = self.codebooks * self.entries;
        let first = (codebook * self.entries + code as usize) * all + of * self.entries;
        &self.products[first..first + self.entries]
    }
}

/// A sum of the first few codebooks.
#[derive(Clone, Copy)]
struct Beam {
    cost: f32,
    codes: [u16; MOST_CODEBOOKS],
}

const NONE: Beam = Beam { cost: f32::INFINITY, codes: [0; MOST_CODEBOOKS] };

/// The best few, least cost first, of equals those that came first.
struct Best {
    beams: [Beam; MOST_BEAMS],
    most: usize,
}

impl Best {
    #[expect(clippy::inline_always, reason = "used within loops that become vectors")]
    #[inline(always)]
    fn new(most: usize) -> Self {
        Self { beams: [NONE; MOST_BEAMS], most: most.clamp(1, MOST_BEAMS) }
    }

    #[expect(clippy::inline_always, reason = "used within loops that become vectors")]
    #[inline(always)]
    fn worst(&self) -> f32 {
        self.beams[self.most - 1].cost
    }

    /// Takes an entry behind a sum, where that is among the best.
    fn offer(&mut self, beam: &Beam, codebook: usize, (code, cost): (usize, f32)) {
        if cost.is_nan() || cost >= self.worst() {
            return;
        }
        let mut at = self.most - 1;
        while at > 0 && self.beams[at - 1].cost > cost {
            self.beams[at] = self.beams[at - 1];
            at -= 1;
        }
        self.beams[at] = Beam { cost, ..*beam };
        self.beams[at].codes[codebook] = code as u16;
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
    #[expect(
        clippy::inline_always,
        reason = "the loops become vectors only where they are inlined"
    )]
    #[inline(always)]
    fn cost(&mut self, codebook: usize, codes: &[u16], others: [std::ops::Range<usize>; 2]) {
        let n = self.tables.entries;
        self.costs.copy_from_slice(&self.base[codebook * n..(codebook + 1) * n]);
        for range in others {
            for other in range {
                let row = self.tables.row(other, codes[other], codebook);
                for (cost, product) in self.costs.iter_mut().zip(row) {
                    *cost += product;
                }
            }
        }
    }

    /// Puts every entry behind `beam` that is among the best.
    #[expect(
        clippy::inline_always,
        reason = "the loops become vectors only where they are inlined"
    )]
    #[inline(always)]
    fn extend(&self, beam: &Beam, codebook: usize, best: &mut Best) {
        for (chunk, costs) in self.costs.chunks(LANES).enumerate() {
            let mut least = f32::INFINITY;
            for &cost in costs {
                least = if cost < least { cost } else { least };
            }
            if beam.cost + least < best.worst() {
                for (i, cost) in costs.iter().enumerate() {
                    best.offer(beam, codebook, (chunk * LANES + i, beam.cost + cost));
                }
            }
        }
    }

    /// Each code in turn to its best beside the others, until none moves.
    #[expect(
        clippy::inline_always,
        reason = "the loops become vectors only where they are inlined"
    )]
    #[inline(always)]
    fn settle(&mut self, codes: &mut [u16; MOST_CODEBOOKS]) {
        let n = self.tables.codebooks;
        for _ in 0..TURNS {
            let before = *codes;
            for codebook in 0..n {
                self.cost(codebook, codes, [0..codebook, codebook + 1..n]);
                let least = self.costs.iter().copied().fold(f32::INFINITY, f32::min);
                let at = self.costs.iter().position(|&cost| cost == least);
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

    #[expect(
        clippy::inline_always,
        reason = "the loops become vectors only where they are inlined"
    )]
    #[inline(always)]
    fn run(mut self) -> [u16; MOST_CODEBOOKS] {
        let mut best = Best::new(1);
        best.beams[0] = Beam { cost: 0.0, ..NONE };
        for codebook in 0..self.tables.codebooks {
            let is_last = codebook + 1 == self.tables.codebooks;
            let mut next = Best::new(if is_last { 1 } else { self.beams });
            for i in 0..best.most {
                let beam = best.beams[i];
                if beam.cost < f32::INFINITY {
                    self.cost(codebook, &beam.codes, [0..codebook, 0..0]);
                    self.extend(&beam, codebook, &mut next);
                }
            }
            best = next;
        }
        let mut codes = best.beams[0].codes;
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
    use crate::numeric::vector::vectorised;

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
            let books = Codebooks { codebooks, entries, dim: 4, values };
            let root: Vec<f64> = (0..WIDTH * WIDTH).map(|_| random.normal()).collect();
            let dot = |i: usize, j: usize| -> f64 {
                (0..WIDTH).map(|k| root[i * WIDTH + k] * root[j * WIDTH + k]).sum()
            };
            let block: Vec<f64> =
                (0..WIDTH * WIDTH).map(|at| dot(at / WIDTH, at % WIDTH)).collect();
            let tables = Tables::new(&books, &block, WIDTH);
            Self { books, block, tables }
        }

        /// (x − c)ᵀ·D·(x − c) of a sum of entries c.
        fn away(&self, wanted: &[f64], codes: &[u16]) -> f64 {
            let value = |i: usize| -> f64 {
                let of = |(book, &code): (usize, &u16)| self.books.entry(book, code)[i];
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
