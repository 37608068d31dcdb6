//! Optimal palettes: every weight goes to one of 2^b values, chosen for the least squared error.

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Encoding, Layout, Mask, Palette, PaletteLayout, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::palette::{middles, nearest, optimal, points};
use crate::observer::Observer;
use crate::tensor::{DType, round_f32};

/// Quantisation of a `[rows, cols]` matrix to tables of 2^b values, w ≈ t[q].
///
/// A table is the exact minimum of Σ(w − t[q])² over all tables ([`crate::numeric::palette`]), then rounded to its
/// storage type; codes go to the nearest value. With more than 2¹⁶ distinct weights for one table, close neighbours
/// are joined first. Under a mask only the kept weights count. Cost: a sort, and 2^b·n·log n steps for n distinct
/// weights.
pub(super) struct OptimalPalette;

/// The registry's entry.
pub(super) static ENTRY: OptimalPalette = OptimalPalette;

static ABOUT: About = About {
    id: "optimal-palette",
    title: "Optimal palette",
    summary: "Every weight goes to one of 2^bits values of a table, and no other table has a smaller squared error.",
    citation: "Wang & Song, Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming, The R Journal 3(2), 2011; Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28(2), 1982",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[
        Parameter {
            name: "bits",
            title: "Bits",
            help: "Bits of a code; the table has 2^bits values. With one table for the matrix 4 bits are the usual choice, 6 are nearly lossless.",
            kind: Kind::Integer { min: 2, max: 8, default: 4, usual: &[2, 3, 4, 6, 8] },
            only_when: None,
        },
        Parameter {
            name: "granularity",
            title: "Table for each",
            help: "Which weights share a table: the fewer, the better it fits and the more bytes go to tables.",
            kind: Kind::Choice(&[
                Option_ { id: "tensor", title: "Tensor", help: "The whole matrix." },
                Option_ { id: "rows", title: "Rows", help: "A run of output rows." },
            ]),
            only_when: None,
        },
        Parameter {
            name: "rows",
            title: "Rows of a table",
            help: "Output rows that share a table; the last run may be shorter. A table of 16 values in 16 bits costs 0.06 bits a weight for a row of 4096, less for more rows.",
            kind: Kind::Integer { min: 1, max: 1024, default: 16, usual: &[1, 4, 16, 64] },
            only_when: Some(("granularity", "rows")),
        },
    ],
};

fn layout(parameters: &Resolved, dtype: DType) -> PaletteLayout {
    let by_rows = parameters.choice("granularity") == "rows";
    PaletteLayout {
        bits: parameters.integer("bits") as u32,
        rows: by_rows.then(|| parameters.integer("rows") as usize),
        value_dtype: dtype.scale_dtype(),
    }
}

/// The table of some weights, ascending, filled up with its last value.
fn table(mut kept: Vec<f32>, layout: &PaletteLayout, observer: &dyn Observer) -> Result<Vec<f32>> {
    observer.go_on()?;
    rayon::slice::ParallelSliceMut::par_sort_unstable_by(kept.as_mut_slice(), f32::total_cmp);
    let points = points(&kept);
    let found = optimal(&points, layout.levels(), &|| observer.go_on().is_ok());
    observer.go_on()?;
    let round = |value: f32| round_f32(layout.value_dtype, value);
    let mut values: Vec<f32> = found.unwrap_or_default().into_iter().map(round).collect();
    let last = values.last().copied().unwrap_or(0.0);
    values.resize(layout.levels(), last);
    Ok(values)
}

/// Weights that are looked up by one thread without asking whether to go on.
const PIECE: usize = 1 << 16;

/// The table of a run of rows, and its codes; those of dropped weights are 0.
fn fit(
    (weights, first, mask): (&[f32], usize, Option<&Mask>),
    codes: &mut [u8],
    layout: &PaletteLayout,
    observer: &dyn Observer,
) -> Result<Vec<f32>> {
    let keeps = |i: usize| mask.is_none_or(|mask| mask.keeps(first + i));
    let kept = weights.iter().enumerate().filter(|(i, _)| keeps(*i)).map(|(_, &weight)| weight);
    let table = table(kept.collect(), layout, observer)?;
    let middles = middles(&table);
    let pieces = codes.par_chunks_mut(PIECE).zip(weights.par_chunks(PIECE)).enumerate();
    pieces.try_for_each(|(piece, (codes, weights))| {
        observer.go_on()?;
        for (i, (code, &weight)) in codes.iter_mut().zip(weights).enumerate() {
            *code = if keeps(piece * PIECE + i) { nearest(&middles, weight) as u8 } else { 0 };
        }
        Ok(())
    })?;
    Ok(table)
}

impl Method for OptimalPalette {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let bits = parameters.integer("bits");
        match parameters.choice("granularity") {
            "rows" => format!("{bits}-bit palette r{}", parameters.integer("rows")),
            _ => format!("{bits}-bit palette"),
        }
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let palette = Layout::Palette(layout(parameters, input.dtype));
        Ok(SparseLayout::over(input.previous, palette))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, layout) = (task.shape(), layout(parameters, task.dtype));
        let (weights, mask) = masked(&task);
        let run = (layout.run(shape) * shape.cols).max(1);
        let mut codes = vec![0; shape.elements()];
        let runs = codes.par_chunks_mut(run).zip(weights.par_chunks(run)).enumerate();
        let tables: Vec<Vec<f32>> = runs
            .map(|(at, (codes, weights))| {
                fit((weights, at * run, mask), codes, &layout, task.observer)
            })
            .collect::<Result<_>>()?;
        let palette = Palette::new(shape, layout, codes, tables.concat());
        Ok(Sparse::over(mask, Encoding::Palette(palette)))
    }
}
