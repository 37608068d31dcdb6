//! MXFP4, MXFP8 and NVFP4: small floats whose scales, one for 16 or 32 inputs, are small floats too.

use crate::encoding::{
    Encoding, Float, FloatData, FloatLayout, Layout, Levels, Sparse, SparseLayout, Tiling,
};
use crate::error::Result;
use crate::method::floats::{codes, peaks};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::grouping::Grouping;
use crate::numeric::minifloat::{E2M1, E4M3, e8m0, e8m0_of, microscaling_exponent};
use crate::tensor::DType;

/// Quantisation of a `[rows, cols]` matrix to small floats, w ≈ f(q)·s.
///
/// *MXFP4*, *MXFP8*: groups of 32, f in E2M1 or E4M3, s a power of two: that of the largest |w| with its mantissa
/// pushed up by ¼, over 2² or 2⁸. *NVFP4*: groups of 16, f in E2M1, s = e/g with e in E4M3, e = round(g·max |w|/6) and
/// one F32 g = 6·448/max |w| for the matrix; over the layers that share g (those an engine fuses), where the task
/// names their largest |w|. q goes to the nearest float, ties to even, and saturates. Cost: two passes.
pub(super) struct Microscaling;

/// The registry's entry.
pub(super) static ENTRY: Microscaling = Microscaling;

static ABOUT: About = About {
    id: "microscaling",
    title: "MXFP4, MXFP8, NVFP4",
    summary: "Every weight becomes a float of 4 or 8 bits, and each 16 or 32 inputs share a scale of 8 bits: the forms recent processors multiply directly.",
    citation: "OCP Microscaling formats (MX) specification 1.0, 2023; Rouhani et al., Microscaling data formats for deep learning, arXiv 2310.10537, 2023; NVIDIA, Introducing NVFP4, 2025",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[Parameter {
        name: "format",
        title: "Format",
        help: "NVFP4 is the more exact of the two 4-bit forms; MXFP4 runs on more processors.",
        kind: Kind::Choice(&[
            Option_ {
                id: "nvfp4",
                title: "NVFP4",
                help: "4.5 bits a weight: E2M1, a scale in E4M3 for 16 inputs, one more in F32 for the layer.",
            },
            Option_ {
                id: "mxfp4",
                title: "MXFP4",
                help: "4.25 bits a weight: E2M1, a power of two for 32 inputs.",
            },
            Option_ {
                id: "mxfp8",
                title: "MXFP8",
                help: "8.25 bits a weight: E4M3, a power of two for 32 inputs.",
            },
        ]),
        only_when: None,
    }],
};

fn layout(parameters: &Resolved) -> FloatLayout {
    let (levels, size, scale_dtype) = match parameters.choice("format") {
        "mxfp4" => (Levels::E2m1, 32, DType::F8E8M0),
        "mxfp8" => (Levels::E4m3, 32, DType::F8E8M0),
        _ => (Levels::E2m1, 16, DType::F8E4M3),
    };
    FloatLayout { levels, tiling: Tiling::Rows(Grouping::Group(size)), scale_dtype }
}

/// What a group's largest |w| is divided by to reach an exponent: that of the largest float.
fn largest_exponent(levels: Levels) -> i32 {
    if levels == Levels::E4m3 { 8 } else { 2 }
}

/// g of a matrix whose largest |w| is `peak`; 1 where it would not be a number of use.
fn global_of(peak: f32) -> f32 {
    let global = E4M3.max() * E2M1.max() / peak;
    if global.is_normal() { global } else { 1.0 }
}

/// Scales as stored, from the largest |w| of each group.
fn scales(layout: FloatLayout, peaks: &[f32], global: f32) -> Vec<f32> {
    let scale = |&peak: &f32| {
        if layout.has_global() {
            E4M3.decode(E4M3.encode(global * peak / E2M1.max()))
        } else {
            e8m0(e8m0_of(microscaling_exponent(peak, largest_exponent(layout.levels))))
        }
    };
    peaks.iter().map(scale).collect()
}

impl Method for Microscaling {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        parameters.choice("format").to_uppercase()
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        Ok(SparseLayout::over(input.previous, Layout::Float(layout(parameters))))
    }

    fn shares_peak(&self, parameters: &Resolved) -> bool {
        layout(parameters).has_global()
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, layout) = (task.shape(), layout(parameters));
        let (values, mask) = masked(&task);
        let peaks = peaks(&values, shape, layout.tiling, task.observer)?;
        let own = peaks.iter().copied().fold(0.0, f32::max);
        let global = if layout.has_global() {
            global_of(task.fused_peak.unwrap_or(0.0).max(own))
        } else {
            1.0
        };
        let scales = scales(layout, &peaks, global);
        let effective: Vec<f32> = scales.iter().map(|scale| scale / global).collect();
        let how = (layout.levels, layout.tiling);
        let codes = codes((&values, shape), how, &effective, task.observer)?;
        let float = Float::new(shape, layout, FloatData { codes, scales, global });
        Ok(Sparse::over(mask, Encoding::Float(float)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_those_of_compressed_tensors() {
        let peaks = [0.02, 0.05, 0.11, 0.5, 0.874, 0.875, 0.9, 1.0, 1.74, 1.75, 3.0, 6.0, 7.0_f32];
        let bytes = |exponent: i32| {
            peaks.map(|peak| i32::from(e8m0_of(microscaling_exponent(peak, exponent))))
        };
        let four = [119, 120, 122, 124, 124, 125, 125, 125, 125, 126, 126, 127, 128];
        assert_eq!(bytes(2), four);
        assert_eq!(bytes(8), four.map(|byte| byte - 6));
    }

    #[test]
    fn the_largest_weight_of_the_matrix_uses_the_largest_scale_and_float() {
        let layout = FloatLayout { scale_dtype: DType::F8E4M3, ..layout_of(Levels::E2m1) };
        let global = global_of(0.75);
        assert_eq!(scales(layout, &[0.75, 0.0], global), [448.0, 0.0]);
        assert_eq!((global_of(0.0), global_of(f32::MIN_POSITIVE / 64.0)), (1.0, 1.0));
    }

    fn layout_of(levels: Levels) -> FloatLayout {
        let tiling = Tiling::Rows(Grouping::Group(16));
        FloatLayout { levels, tiling, scale_dtype: DType::F8E8M0 }
    }
}
