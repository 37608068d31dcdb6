//! MLX folders with affine quantisation. Laid out to the byte; the writer comes with the other exporters.
//!
//! `weight` u32 `[out, in·b/32]`, `scales` and `biases` `[out, in/g]` in the model's type.

use crate::checkpoint::Tensor;
use crate::encoding::{Layout, Levels};
use crate::format::safetensors::Spec;
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{Agreement, Capabilities, Floats, Integers, Which};
use crate::target::{About, Target, part};
use crate::tensor::DType;

/// Affine groups.
pub(super) struct Mlx;

/// The registry's entry.
pub(super) static ENTRY: Mlx = Mlx;

static ABOUT: About = About {
    id: "mlx",
    title: "MLX",
    summary: "Linear layers and embeddings as 2-, 3-, 4-, 5-, 6- or 8-bit integers with a scale and a bias for each group of 32, 64 or 128, or as MXFP4 or MXFP8: what mlx-lm runs on Apple silicon.",
    source: "mlx 0.29 and mlx-lm 0.28, 2026-08",
    writes: false,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[
        Integers {
            bits: &[2, 3, 4, 5, 6, 8],
            symmetric: true,
            groups: &[32, 64, 128],
            rows: false,
        },
        Integers {
            bits: &[2, 3, 4, 5, 6, 8],
            symmetric: false,
            groups: &[32, 64, 128],
            rows: false,
        },
    ],
    why_not_bits: "have no kernel in MLX; choose 2, 3, 4, 5, 6 or 8 bits",
    offsets: true,
    floats: &[
        Floats { levels: Levels::E2m1, group: 32, scale_dtype: DType::F8E8M0, inputs_multiple: 32 },
        Floats { levels: Levels::E4m3, group: 32, scale_dtype: DType::F8E8M0, inputs_multiple: 32 },
    ],
    kept: &[
        (
            Which::Router,
            "mlx-lm's own conversion keeps routers at 8 bits or more; they stay in full",
        ),
        (Which::Convolution, "MLX quantises no convolutions"),
        (
            Which::Conv1d,
            "mlx-lm transposes this layer when it loads, which packed groups do not survive",
        ),
        (Which::Unknown, "what kind of layer it is cannot be told from its name"),
        (Which::NoModule, "it is not the weight of a module"),
    ],
    inputs_multiple: 32,
    experts: Agreement::Must,
    tied: "there is no head in the file: the quantised embedding serves both",
    ..Capabilities::NONE
};

impl Target for Mlx {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn needs_config(&self) -> bool {
        true
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let Some(matrix) = tensor.matrix else {
            return Vec::new();
        };
        let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
        if let Layout::Float(float) = layout.under_masks() {
            let width = float.tiling.width(cols);
            return vec![
                part(
                    tensor,
                    "weight",
                    DType::U32,
                    &[rows, cols * float.levels.bits() as usize / 32],
                ),
                part(tensor, "scales", DType::U8, &[rows, cols / width]),
            ];
        }
        let Some(affine) = layout.affine() else {
            return Vec::new();
        };
        let Grouping::Group(size) = affine.grouping else {
            return Vec::new();
        };
        vec![
            part(tensor, "weight", DType::U32, &[rows, cols * affine.bits as usize / 32]),
            part(tensor, "scales", affine.scale_dtype, &[rows, cols / size]),
            part(tensor, "biases", affine.scale_dtype, &[rows, cols / size]),
        ]
    }
}
