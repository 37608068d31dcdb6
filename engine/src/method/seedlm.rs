//! `SeedLM`: blocks of weights as a seed and a few coefficients.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::encoding::{Encoding, Layout, Seeded, SeededLayout};
use crate::error::{Error, Result};
use crate::method::pattern::refuse_mask;
use crate::method::{About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Task};
use crate::numeric::seeded::{Fit, fits};

/// w ≈ U(seed)·t for each block of C inputs of a row: U `[C, P]` is what a shift register makes of the seed, t = U⁺·w in 4
/// bits each under an exponent of 4. Of all seeds the one that leaves least.
///
/// (b + 4 + 4·P)/C bits a weight with seeds of b bits, and one scale, a power of two. 4 bits with C = 8 and P = 3, 3
/// with 12 and 4, as the authors have them. They leave 0.015 and 0.051 of the squares of normal weights, where Lloyd
/// and Max leave 0.0095 and 0.0345: it wins only where a few large weights spoil their group. The exponent is the least at
/// which no coefficient is beyond 7½, not ⌊log₂⌋ of the largest as printed, which wastes half the mantissas; exponents
/// count from the longest block of the matrix, so that small matrices have them too.
/// Cost: see [`fits`]: some 2ᵇ·2·P operations a weight.
pub(super) struct SeedLm;

/// The registry's entry.
pub(super) static ENTRY: SeedLm = SeedLm;

static ABOUT: About = About {
    id: "seedlm",
    title: "SeedLM",
    summary: "Blocks of weights as a seed of pseudo-random columns and a few coefficients of them, found by trying every seed. A curiosity for hardware that would rather compute than read: at 4 bits it leaves 1.5 % of normal weights, where the best levels leave 0.95 %.",
    citation: "Shafipour, Harrison, Horton, Marker, Bedayat, Mehta, Rastegari, Najibi & Naderiparizi, SeedLM: Compressing LLM weights into seeds of pseudo-random generators, ICLR 2025",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[BLOCK, COEFFICIENTS, SEED_BITS],
};

const BLOCK: Parameter = Parameter {
    name: "block",
    title: "Inputs of a block",
    help: "Weights that share a seed; the last of a row may be fewer. 8 with 3 coefficients are 4 bits, 12 with 4 are 3, 16 with 3 are 2.",
    kind: Kind::Integer { min: 4, max: 16, default: 8, usual: &[8, 12, 16] },
    only_when: None,
};

const COEFFICIENTS: Parameter = Parameter {
    name: "coefficients",
    title: "Coefficients",
    help: "Pseudo-random columns that are added for a block, each for 4 bits.",
    kind: Kind::Integer { min: 1, max: 4, default: 3, usual: &[3, 4] },
    only_when: None,
};

const SEED_BITS: Parameter = Parameter {
    name: "seed_bits",
    title: "Bits of a seed",
    help: "All seeds are tried for every block: with each bit that takes twice as long.",
    kind: Kind::Integer { min: 6, max: 16, default: 16, usual: &[8, 10, 12, 16] },
    only_when: None,
};

fn layout(parameters: &Resolved) -> SeededLayout {
    SeededLayout {
        block: parameters.integer(BLOCK.name) as usize,
        coefficients: parameters.integer(COEFFICIENTS.name) as usize,
        seed_bits: parameters.integer(SEED_BITS.name) as u32,
    }
}

/// The power of two at which 7½ steps of the largest exponent are no less than the longest block.
fn scale(task: &Task<'_>, block: usize) -> f32 {
    let square = |w: &f32| f64::from(*w).powi(2);
    let blocks = |row: usize| {
        let row = task.weights.row(row).to_vec();
        row.chunks(block).map(|block| block.iter().map(square).sum()).fold(0.0, f64::max)
    };
    let most = (0..task.weights.nrows()).map(blocks).fold(0.0, f64::max).sqrt();
    // No power of two beyond what f32 holds, and no product of coefficients.
    if most > 0.0 { (most / 7.5).log2().ceil().clamp(-126.0, 124.0).exp2() as f32 } else { 1.0 }
}

/// Seeds and coefficients of those blocks of each row that have so many inputs, from one on.
fn fitted(
    task: &Task<'_>,
    layout: SeededLayout,
    scale: f32,
    (from, width): (usize, usize),
) -> Result<Vec<Fit>> {
    let end = from + (task.weights.ncols() - from) / width * width;
    let rows = task.weights.rows().into_iter();
    let of_row = |row: ndarray::ArrayView1<'_, f32>| {
        row.iter().take(end).skip(from).map(|w| w / scale).collect::<Vec<f32>>()
    };
    let blocks: Vec<f32> = rows.flat_map(of_row).collect();
    let (all, so_far) = ((blocks.len() / width).max(1), AtomicUsize::new(0));
    let done = |n: usize| {
        let n = so_far.fetch_add(n, Ordering::Relaxed) + n;
        if width == layout.block {
            task.observer.within(n as f64 / all as f64);
        }
    };
    let is_cancelled = || task.observer.is_cancelled();
    let shape = (width, layout.coefficients);
    fits(&blocks, shape, layout.seed_bits, (&done, &is_cancelled)).ok_or(Error::Cancelled)
}

impl Method for SeedLm {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let SeededLayout { block, coefficients, seed_bits } = layout(parameters);
        let bits = (f64::from(seed_bits) + 4.0 + 4.0 * coefficients as f64) / block as f64;
        format!("{bits:.3}-bit seeds g{block}")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        refuse_mask(ABOUT.id, input.previous)?;
        Ok(Layout::Seeded(layout(parameters)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        refuse_mask(ABOUT.id, task.previous.as_ref().map(Encoding::layout).as_ref())?;
        let (layout, shape) = (layout(parameters), task.shape());
        let scale = scale(&task, layout.block);
        let (whole, rest) = (shape.cols / layout.block, shape.cols % layout.block);
        let mut of_whole = Vec::new();
        let mut of_rest = Vec::new();
        if whole > 0 {
            of_whole = fitted(&task, layout, scale, (0, layout.block))?;
        }
        if rest > 0 {
            of_rest = fitted(&task, layout, scale, (whole * layout.block, rest))?;
        }
        let mut found = Vec::with_capacity(of_whole.len() + of_rest.len());
        for row in 0..shape.rows {
            found.extend_from_slice(&of_whole[row * whole..(row + 1) * whole]);
            found.extend(of_rest.get(row));
        }
        Ok(Encoding::Seeded(Seeded::new(shape, layout, &found, scale)))
    }
}
