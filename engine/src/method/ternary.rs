//! Ternary weights: −1, 0 or 1 times the scale of a group, five in a byte.

use crate::encoding::{Encoding, Layout, Sparse, SparseLayout, Vectors, VectorsLayout};
use crate::error::Result;
use crate::method::grid::{GRANULARITY, GROUP_SIZE};
use crate::method::groups::{self, Groups};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
    signs,
};
use crate::numeric::codebook::Codebook;
use crate::numeric::planes::{self, Planes, Weighed};
use crate::tensor::{DType, round_f32};

/// w ≈ α·t with t of −1, 0, 1 and one α a group.
///
/// *Least squares*: α and t of least error, exactly ([`planes::ternary`]): 0.1902 of the power of normal weights is left.
/// *Mean size*: α = Σ|w|/n and t the nearest, as `BitNet` b1.58 trains with: 0.2634. α is rounded to its storage type
/// before weights go to the nearest level. Five weights of a row take a byte, 3⁵ = 243 of its 256 values: 1.6 bits, of the
/// log₂ 3 = 1.585 that there must be; two bits each would be a quarter more, for what no runtime here reads either.
/// Cost: least squares sorts every group.
pub(super) struct Ternary;

/// The registry's entry.
pub(super) static ENTRY: Ternary = Ternary;

static ABOUT: About = About {
    id: "ternary",
    title: "Ternary",
    summary: "Every weight is −1, 0 or 1 times the scale of its group, five in a byte.",
    citation: "Ma et al., The era of 1-bit LLMs: All large language models are in 1.58 bits, 2024; Li, Zhang & Liu, Ternary weight networks, 2016; Max, Quantizing for minimum distortion, IRE Trans. Inf. Theory 6(1), 1960",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[GRANULARITY, GROUP_SIZE, SCALE, LEAST_COUNTED],
};

const SCALE: Parameter = Parameter {
    name: "scale",
    title: "Scale",
    help: "Least squares leaves a quarter less of usual weights, and gives weights that are ternary already back as they are; mean size is for the weights behind a model that was trained with it.",
    kind: Kind::Choice(&[
        Option_ { id: "least-squares", title: "Least squares", help: "The best of all scales." },
        Option_ {
            id: "mean-size",
            title: "Mean size",
            help: "The mean of |w|, as BitNet b1.58 takes in training.",
        },
    ]),
    only_when: None,
};

/// What errors count, where something is fitted by them.
const LEAST_COUNTED: Parameter =
    Parameter { only_when: Some(("scale", "least-squares")), ..signs::COUNTED };

fn is_fitted(parameters: &Resolved) -> bool {
    parameters.choice(SCALE.name) == "least-squares"
}

fn layout(parameters: &Resolved, dtype: DType) -> VectorsLayout {
    let grouping = groups::grouping(parameters);
    VectorsLayout { codebook: Codebook::Trits, grouping, scale_dtype: dtype.scale_dtype() }
}

/// Scale and digits of a group: 0, 1 and 2 for 0, 1 and −1.
fn fit(of: Weighed<'_>, is_fitted: bool, dtype: DType) -> Planes {
    let scale = if is_fitted { planes::ternary(of) } else { of.mean_size() as f32 };
    let scale = round_f32(dtype, scale);
    let digit = |&value: &f32| {
        if value.abs() > 0.5 * scale { 1 + u8::from(value < 0.0) } else { 0 }
    };
    Planes { scales: vec![scale], codes: of.values.iter().map(digit).collect() }
}

impl Method for Ternary {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if is_fitted(parameters) { signs::needs(parameters) } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let mean = if is_fitted(parameters) { signs::label(parameters) } else { " mean size" };
        format!("ternary {}{mean}", groups::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let vectors = Layout::Vectors(layout(parameters, input.dtype));
        Ok(SparseLayout::over(input.previous, vectors))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (layout, shape) = (layout(parameters, task.dtype), task.shape());
        let is_fitted = is_fitted(parameters);
        let counts = if is_fitted { signs::counts(parameters, &task)? } else { None };
        let (values, mask) = masked(&task);
        let grouping = layout.grouping;
        let groups = Groups { values: &values, mask, counts: counts.as_deref(), grouping };
        let of = |weighed: Weighed<'_>| Ok(fit(weighed, is_fitted, layout.scale_dtype));
        let (digits, scales) = groups.fit(1, &task, of)?;
        let byte = |digits: &[u8]| digits.iter().rev().fold(0, |code, &d| 3 * code + u32::from(d));
        let rows = digits.chunks(shape.cols.max(1));
        let codes = rows.flat_map(|row| row.chunks(layout.codebook.dim()).map(byte)).collect();
        let vectors = Encoding::Vectors(Vectors::new(shape, layout, codes, scales));
        Ok(Sparse::over(mask, vectors))
    }
}
