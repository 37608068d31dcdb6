//! Small floats that a format has a form for.

use serde::Serialize;

use crate::checkpoint::Tensor;
use crate::encoding::{FloatLayout, Levels, Tiling};
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::Which;
use crate::tensor::{DType, MatrixShape};

/// Small floats under scales.
#[derive(Debug, Serialize)]
pub struct Floats {
    /// What a code stands for.
    pub levels: Levels,
    /// Which weights share a scale.
    pub tiling: Tiling,
    /// Element types of the scales.
    pub scale_dtypes: &'static [DType],
    /// Inputs of a layer must be a multiple of this.
    pub inputs_multiple: usize,
    /// Layers that have no place for them, with the reason.
    pub not_for: &'static [(Which, &'static str)],
}

impl Floats {
    fn is(&self, layout: &FloatLayout) -> bool {
        let is_scaled = self.scale_dtypes.contains(&layout.scale_dtype);
        layout.levels == self.levels && layout.tiling == self.tiling && is_scaled
    }

    /// Codes under a power of two for 32 inputs.
    pub(super) const fn microscaling(levels: Levels) -> Self {
        let tiling = Tiling::Rows(Grouping::Group(32));
        let scale_dtypes = &[DType::F8E8M0];
        Self { levels, tiling, scale_dtypes, inputs_multiple: 32, not_for: &[] }
    }

    /// Codes under an E4M3 for 16 inputs and one number for the matrix.
    pub(super) const fn nvfp4(
        inputs_multiple: usize,
        not_for: &'static [(Which, &'static str)],
    ) -> Self {
        let tiling = Tiling::Rows(Grouping::Group(16));
        let scale_dtypes = &[DType::F8E4M3];
        Self { levels: Levels::E2m1, tiling, scale_dtypes, inputs_multiple, not_for }
    }

    /// FP8 under scales of 16 or 32 bits.
    pub(super) const fn fp8(tiling: Tiling) -> Self {
        let scale_dtypes = &[DType::F16, DType::BF16, DType::F32];
        Self { levels: Levels::E4m3, tiling, scale_dtypes, inputs_multiple: 1, not_for: &[] }
    }
}

/// Why a layer of small floats is not held, in a sentence without a full stop; `None` where it is.
pub(super) fn why_not(
    all: &[Floats],
    layout: &FloatLayout,
    (tensor, shape): (&Tensor, MatrixShape),
) -> Option<String> {
    let Some(held) = all.iter().find(|held| held.is(layout)) else {
        let bits = layout.levels.bits();
        return Some(format!("{bits}-bit floats of this kind cannot be written here"));
    };
    if let Some((_, why)) = held.not_for.iter().find(|(which, _)| which.includes(tensor)) {
        return Some((*why).to_owned());
    }
    let multiple = held.inputs_multiple;
    let fits = shape.cols.is_multiple_of(multiple);
    (!fits).then(|| format!("its {} inputs are no multiple of {multiple}", shape.cols))
}
