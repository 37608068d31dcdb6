//! The codes of one run of inputs of which a mask drops some: what entries cost there is in no table that rows share.
#![expect(
    clippy::inline_always,
    reason = "loops become vectors only where they are inlined into the function compiled for them"
)]

use crate::numeric::additive::MOST_CODEBOOKS;
use crate::numeric::additive::search::{LANES, TURNS, Tables};
use crate::numeric::vector::{Loops, position, smallest, vectorised};

/// What stays of a run.
pub(super) struct Kept {
    /// Its inputs.
    inputs: Vec<usize>,
    /// D among them.
    block: Vec<f32>,
}

impl Kept {
    pub(super) fn new(keeps: &[bool], tables: &Tables) -> Self {
        let inputs: Vec<usize> = (0..keeps.len()).filter(|&i| keeps[i]).collect();
        let get = |i: usize, k: usize| match &tables.block[..] {
            [] => f32::from(u8::from(i == k)),
            block => block[i * keeps.len() + k] as f32,
        };
        let rows = inputs.iter().flat_map(|&i| inputs.iter().map(move |&k| get(i, k)));
        let block = rows.collect();
        Self { inputs, block }
    }

    /// Whether the mask drops all of it.
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Each code in turn at its best beside the others, until none moves; `wanted` zero where the mask drops inputs.
    /// Cost: entries·(k² + k) operations for each, k inputs stay.
    pub(super) fn codes(
        &self,
        codes: &[u16],
        (tables, wanted): (&Tables, &[f32]),
        costs: &mut [f32],
    ) -> [u16; MOST_CODEBOOKS] {
        let mut own = [0; MOST_CODEBOOKS];
        own[..codes.len()].copy_from_slice(codes);
        vectorised(Turns { kept: self, tables, wanted, codes: own, costs })
    }
}

struct Turns<'a> {
    kept: &'a Kept,
    tables: &'a Tables,
    wanted: &'a [f32],
    codes: [u16; MOST_CODEBOOKS],
    costs: &'a mut [f32],
}

impl Turns<'_> {
    /// Values of an entry at the inputs that stay.
    #[inline(always)]
    fn entry(&self, codebook: usize, code: usize) -> impl Iterator<Item = f32> {
        let (all, at) = (self.tables.squares.len(), codebook * self.tables.entries + code);
        self.kept.inputs.iter().map(move |i| self.tables.across[i * all + at])
    }

    /// 2·(o·D − x) at the inputs that stay, o the entries of the other codebooks, x what is wanted.
    #[inline(always)]
    fn slope(&self, codebook: usize, out: &mut [f32]) {
        for (out, &i) in out.iter_mut().zip(&self.kept.inputs) {
            *out = -2.0 * self.wanted[i];
        }
        let n = out.len();
        for other in (0..self.tables.codebooks).filter(|&other| other != codebook) {
            let entry = self.entry(other, self.codes[other] as usize);
            for (value, along) in entry.zip(self.kept.block.chunks_exact(n)) {
                out.iter_mut().zip(along).for_each(|(out, along)| *out += 2.0 * value * along);
            }
        }
    }

    /// c·D·c + slope·c of every entry c of a codebook.
    #[inline(always)]
    fn cost(&mut self, codebook: usize, slope: &[f32]) {
        let (all, first) = (self.tables.squares.len(), codebook * self.tables.entries);
        let inputs = &self.kept.inputs;
        for (piece, costs) in self.costs.chunks_mut(LANES).enumerate() {
            let at = |i: usize| i * all + first + piece * LANES;
            costs.fill(0.0);
            for (k, &i) in inputs.iter().enumerate() {
                let mut sums = [slope[k]; LANES];
                for (&j, &weight) in inputs.iter().zip(&self.kept.block[k * inputs.len()..]) {
                    let values = &self.tables.across[at(j)..at(j) + costs.len()];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                }
                let values = &self.tables.across[at(i)..at(i) + costs.len()];
                for (cost, (sum, value)) in costs.iter_mut().zip(sums.iter().zip(values)) {
                    *cost += sum * value;
                }
            }
        }
    }
}

impl Loops for Turns<'_> {
    type Found = [u16; MOST_CODEBOOKS];

    #[inline(always)]
    fn run(mut self) -> [u16; MOST_CODEBOOKS] {
        let mut slope = vec![0.0; self.kept.inputs.len()];
        for _ in 0..TURNS {
            let before = self.codes;
            for codebook in 0..self.tables.codebooks {
                self.slope(codebook, &mut slope);
                self.cost(codebook, &slope);
                let at = position(self.costs, smallest(self.costs));
                self.codes[codebook] = at.map_or(self.codes[codebook], |at| at as u16);
            }
            if self.codes == before || self.tables.codebooks == 1 {
                break;
            }
        }
        self.codes
    }
}
