//! FP8: 8-bit floats under a scale for each tensor, row or square.

use crate::encoding::{
    Encoding, Float, FloatData, FloatLayout, Layout, Levels, Sparse, SparseLayout, Tiling,
};
use crate::error::Result;
use crate::method::floats::{codes, peaks};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::grouping::Grouping;
use crate::numeric::minifloat::{E4M3, E5M2};
use crate::tensor::{DType, round_f32};

/// Quantisation of a `[rows, cols]` matrix to 8-bit floats, w ≈ f(q)·s with s = max |w| of the tile over the largest
/// float (448 or 57,344), rounded to its storage type; q goes to the nearest float, ties to even, and saturates.
/// Cost: two passes.
pub(super) struct Fp8;

/// The registry's entry.
pub(super) static ENTRY: Fp8 = Fp8;

static ABOUT: About = About {
    id: "fp8",
    title: "FP8",
    summary: "Every weight becomes an 8-bit float, scaled so that the largest weight that shares the scale is the largest float.",
    citation: "Micikevicius et al., FP8 formats for deep learning, arXiv 2209.05433, 2022; squares: DeepSeek-V3 technical report, arXiv 2412.19437, 2024",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[
        Parameter {
            name: "levels",
            title: "Float",
            help: "E4M3 has the finer steps and is what weights are stored in; E5M2 has the wider range.",
            kind: Kind::Choice(&[
                Option_ {
                    id: "e4m3",
                    title: "E4M3",
                    help: "4 exponent and 3 mantissa bits, to 448.",
                },
                Option_ {
                    id: "e5m2",
                    title: "E5M2",
                    help: "5 exponent and 2 mantissa bits, to 57,344.",
                },
            ]),
            only_when: None,
        },
        Parameter {
            name: "granularity",
            title: "Scale for each",
            help: "Which weights share a scale. The error hardly depends on it unless a few weights are thousands of times larger than the others.",
            kind: Kind::Choice(&[
                Option_ { id: "channel", title: "Channel", help: "A whole output row." },
                Option_ { id: "tensor", title: "Tensor", help: "The whole matrix." },
                Option_ {
                    id: "square",
                    title: "128 × 128",
                    help: "A square of 128 outputs and 128 inputs; those at the edges may be smaller.",
                },
            ]),
            only_when: None,
        },
    ],
};

/// Side of a square.
const SIDE: usize = 128;

fn layout(parameters: &Resolved, dtype: DType) -> FloatLayout {
    let tiling = match parameters.choice("granularity") {
        "tensor" => Tiling::Rows(Grouping::Tensor),
        "square" => Tiling::Squares(SIDE),
        _ => Tiling::Rows(Grouping::Channel),
    };
    let levels = if parameters.choice("levels") == "e5m2" { Levels::E5m2 } else { Levels::E4m3 };
    FloatLayout { levels, tiling, scale_dtype: dtype.scale_dtype() }
}

impl Method for Fp8 {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let levels = parameters.choice("levels").to_uppercase();
        format!("FP8 {levels} {}", parameters.choice("granularity"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let float = Layout::Float(layout(parameters, input.dtype));
        Ok(SparseLayout::over(input.previous, float))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, layout) = (task.shape(), layout(parameters, task.dtype));
        let (values, mask) = masked(&task);
        let largest = if layout.levels == Levels::E5m2 { E5M2.max() } else { E4M3.max() };
        let scale = |peak: &f32| round_f32(layout.scale_dtype, peak / largest);
        let peaks = peaks(&values, shape, layout.tiling, task.observer)?;
        let scales: Vec<f32> = peaks.iter().map(scale).collect();
        let how = (layout.levels, layout.tiling);
        let codes = codes((&values, shape), how, &scales, task.observer)?;
        let float = Float::new(shape, layout, FloatData { codes, scales, global: 1.0 });
        Ok(Sparse::over(mask, Encoding::Float(float)))
    }
}
