//! NF4 and FP4 of bitsandbytes: 16 uneven levels under the largest weight of each group.

use crate::encoding::{
    Encoding, Float, FloatData, FloatLayout, Layout, Levels, Sparse, SparseLayout, Tiling,
};
use crate::error::Result;
use crate::method::floats::{codes, peaks};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::grouping::Grouping;
use crate::tensor::DType;

/// Quantisation of a `[rows, cols]` matrix to a fixed table of 16 levels, w ≈ t[q]·s with s = max |w| of the group in
/// F32; q goes to the nearest level. Cost: two passes.
pub(super) struct Nf4;

/// The registry's entry.
pub(super) static ENTRY: Nf4 = Nf4;

static ABOUT: About = About {
    id: "nf4",
    title: "NF4, FP4",
    summary: "Every weight goes to one of 16 fixed levels that lie densest where normally distributed weights do, scaled by the largest weight of its group.",
    citation: "Dettmers, Pagnoni, Holtzman & Zettlemoyer, QLoRA: efficient finetuning of quantized LLMs, NeurIPS 2023; bitsandbytes",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[
        Parameter {
            name: "levels",
            title: "Levels",
            help: "The table of 16 levels. NF4 is the better one for nearly every network.",
            kind: Kind::Choice(&[
                Option_ {
                    id: "nf4",
                    title: "NF4",
                    help: "Quantiles of a normal distribution, with an exact zero.",
                },
                Option_ {
                    id: "fp4",
                    title: "FP4",
                    help: "A float of two exponent bits and one mantissa bit, as bitsandbytes lays it out.",
                },
            ]),
            only_when: None,
        },
        Parameter {
            name: "group_size",
            title: "Group size",
            help: "Inputs that share a scale of 32 bits: 64, as in bitsandbytes, costs half a bit a weight. The last group of a row may be shorter.",
            kind: Kind::Integer { min: 16, max: 4096, default: 64, usual: &[32, 64, 128, 256] },
            only_when: None,
        },
    ],
};

fn layout(parameters: &Resolved) -> FloatLayout {
    let levels = if parameters.choice("levels") == "fp4" { Levels::Fp4 } else { Levels::Nf4 };
    let size = parameters.integer("group_size") as usize;
    let tiling = Tiling::Rows(Grouping::Group(size));
    FloatLayout { levels, tiling, scale_dtype: DType::F32 }
}

impl Method for Nf4 {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let levels = parameters.choice("levels").to_uppercase();
        format!("{levels} g{}", parameters.integer("group_size"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        Ok(SparseLayout::over(input.previous, Layout::Float(layout(parameters))))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, layout) = (task.shape(), layout(parameters));
        let (values, mask) = masked(&task);
        let scales = peaks(&values, shape, layout.tiling, task.observer)?;
        let how = (layout.levels, layout.tiling);
        let codes = codes((&values, shape), how, &scales, task.observer)?;
        let float = Float::new(shape, layout, FloatData { codes, scales, global: 1.0 });
        Ok(Sparse::over(mask, Encoding::Float(float)))
    }
}
