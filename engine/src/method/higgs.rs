//! HIGGS: weights of a randomly turned basis to the grid that leaves least of normal values.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{
    Encoding, Layout, Rotated, RotatedLayout, Sparse, SparseLayout, Vectors, VectorsLayout,
};
use crate::error::Result;
use crate::method::quip::SEED;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::codebook::Codebook;
use crate::numeric::grouping::Grouping;
use crate::numeric::rotation::Rotation;
use crate::tensor::{DType, MatrixShape, round_f32};

/// Grid codes of W·Rᵀ, R a random [`Rotation`] of runs of inputs, each run of a row under a scale of its own.
///
/// s = √(Σ w̃²/n) of the run's n turned weights, rounded to its storage type; a code is that of the point nearest to
/// w̃/s: of the 2ᵇ levels of Lloyd and Max, or for pairs of 4ᵇ points of the plane. What is left, Σ Δ²/Σ w², is that of
/// the grid on N(0, 1) whatever the weights: 0.1175, 0.0345, 0.0095 with 2, 3, 4 bits alone, 0.1076, 0.0297, 0.0078 in
/// pairs. A run that is shorter, or whose length is no power of two, is turned by itself. Where there are few inputs
/// in a run and weights with long tails, turned weights are less than normal. Without data.
/// Cost: some 20 operations a weight, in pairs with 4 bits 600.
pub(super) struct Higgs;

/// The registry's entry.
pub(super) static ENTRY: Higgs = Higgs;

static ABOUT: About = About {
    id: "higgs",
    title: "HIGGS",
    summary: "Turns the inputs at random, so that weights become normal, and rounds to the grid that leaves least of normal values; no data, and the error is known beforehand.",
    citation: "Malinovskii, Panferov, Ilin, Guo, Richtárik & Alistarh, Pushing the limits of large language model quantization via the linearity theorem, NAACL 2025, algorithm 1",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[BITS, GRID, GROUP, SEED],
};

const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Bits a weight, scales apart.",
    kind: Kind::Integer { min: 2, max: 4, default: 4, usual: &[2, 3, 4] },
    only_when: None,
};

const GRID: Parameter = Parameter {
    name: "grid",
    title: "Grid",
    help: "Pairs leave a tenth less than single weights for the same bits, and take longer to find.",
    kind: Kind::Choice(&[
        Option_ {
            id: "pairs",
            title: "Pairs",
            help: "p = 2: a point of the plane for two weights.",
        },
        Option_ { id: "scalars", title: "Single", help: "p = 1: the levels of Lloyd and Max." },
    ]),
    only_when: None,
};

const GROUP: Parameter = Parameter {
    name: "group_size",
    title: "Group size",
    help: "Inputs that are mixed and share a scale. The more, the more normal they become; a scale costs 16 bits.",
    kind: Kind::Integer { min: 32, max: 4096, default: 1024, usual: &[64, 128, 256, 512, 1024] },
    only_when: None,
};

/// The layout within the rotation, and the inputs that are mixed.
fn layout(parameters: &Resolved, dtype: DType, shape: MatrixShape) -> (VectorsLayout, usize) {
    let bits = parameters.integer("bits") as u32;
    let is_paired = parameters.choice("grid") == "pairs";
    let codebook = if is_paired { Codebook::Pairs(bits) } else { Codebook::Scalars(bits) };
    // Pairs lie within groups.
    let group = parameters.integer("group_size") as usize & !1;
    let grouping = if group < shape.cols { Grouping::Group(group) } else { Grouping::Channel };
    let run = group.min(shape.cols).max(1);
    (VectorsLayout { codebook, grouping, scale_dtype: dtype.scale_dtype() }, run)
}

/// The codes of a group and its scale.
fn round(layout: &VectorsLayout, values: &[f32], codes: &mut [u32]) -> f32 {
    let squares: f64 = values.iter().map(|&w| f64::from(w).powi(2)).sum();
    let scale = (squares / values.len().max(1) as f64).sqrt() as f32;
    let scale = round_f32(layout.scale_dtype, scale);
    if scale == 0.0 {
        return scale;
    }
    let dim = layout.codebook.dim();
    for (code, values) in codes.iter_mut().zip(values.chunks(dim)) {
        let mut unit = [0.0; 2];
        for (unit, value) in unit.iter_mut().zip(values) {
            *unit = value / scale;
        }
        *code = layout.codebook.nearest(&unit[..dim]);
    }
    scale
}

impl Method for Higgs {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let grid = if parameters.choice("grid") == "pairs" { "pairs" } else { "levels" };
        let (bits, group) = (parameters.integer("bits"), parameters.integer("group_size"));
        format!("{bits}-bit g{group} normal {grid}, rotated")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let (inner, cols) = layout(parameters, input.dtype, input.shape);
        let inner = Box::new(Layout::Vectors(inner));
        let rotated = Layout::Rotated(RotatedLayout { cols, rows: None, inner });
        Ok(SparseLayout::over(input.previous, rotated))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let (layout, run) = layout(parameters, task.dtype, shape);
        let signs = Rotation::random(shape.cols, 2 * parameters.integer("seed") as u64);
        let rotation = Rotation::new(signs.signs().to_vec(), run);
        let (values, mask) = masked(&task);
        let mut weights = values.into_owned();
        let (cols, per_row) = (shape.cols.max(1), layout.codes_per_row(shape.cols).max(1));
        let groups = layout.grouping.groups_per_row(shape.cols).max(1);
        let width = layout.grouping.width(shape.cols);
        let mut codes = vec![0; shape.rows * layout.codes_per_row(shape.cols)];
        let mut scales = vec![0.0; layout.grouping.scales(shape.rows, shape.cols)];
        let rows = weights.par_chunks_mut(cols).zip(codes.par_chunks_mut(per_row));
        rows.zip(scales.par_chunks_mut(groups)).try_for_each(|((weights, codes), scales)| {
            task.observer.go_on()?;
            rotation.apply(weights);
            let codes = codes.chunks_mut(width.div_ceil(layout.codebook.dim()));
            for ((scale, codes), values) in scales.iter_mut().zip(codes).zip(weights.chunks(width))
            {
                *scale = round(&layout, values, codes);
            }
            Ok(())
        })?;
        let vectors = Encoding::Vectors(Vectors::new(shape, layout, codes, scales));
        Ok(Sparse::over(mask, Encoding::Rotated(Rotated::new(rotation, None, vectors))))
    }
}
