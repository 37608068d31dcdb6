//! Scales in half precision, which GPTQ and AWQ hold whatever the type of the model.

use crate::encoding::{Affine, AffineData, AffineLayout, Encoding};
use crate::error::{Error, Result};
use crate::target::without_masks;
use crate::tensor::{DType, round_f32};

/// The smallest positive F16: 2⁻²⁴. A scale of zero would stand for a dead group.
const LEAST: f32 = 1.0 / 16_777_216.0;

/// Grouped integers with their scales rounded to F16, ties to even; what is not zero stays so. Scales in BF16 between
/// 2⁻¹⁷ and 65504 lose nothing by it.
///
/// # Errors
/// [`Error::Numeric`] for a scale beyond 65504.
pub(super) fn in_f16(tensor: &str, encoding: Encoding) -> Result<Encoding> {
    let affine = match without_masks(encoding) {
        Encoding::Affine(affine) if affine.layout().scale_dtype != DType::F16 => affine,
        other => return Ok(other),
    };
    let round = |&scale: &f32| {
        let rounded = round_f32(DType::F16, scale);
        if rounded == 0.0 && scale != 0.0 { LEAST.copysign(scale) } else { rounded }
    };
    let scales: Vec<f32> = affine.scales().iter().map(round).collect();
    if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
        return Err(Error::Numeric {
            tensor: tensor.to_owned(),
            why: format!(
                "its scale {} is too large for F16, which this format holds",
                affine.scales()[at]
            ),
        });
    }
    let layout = AffineLayout { scale_dtype: DType::F16, ..affine.layout().clone() };
    let (codes, zeros) = (affine.codes().to_vec(), affine.zeros().to_vec());
    let data = AffineData { codes, scales, zeros };
    Ok(Encoding::Affine(Affine::new(affine.shape(), layout, data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::grouping::Grouping;
    use crate::tensor::MatrixShape;

    fn of_scales(scales: &[f32], dtype: DType) -> Encoding {
        let layout = AffineLayout {
            bits: 4,
            grouping: Grouping::Channel,
            symmetric: true,
            scale_dtype: dtype,
            has_offsets: false,
        };
        let (rows, zeros) = (scales.len(), vec![8; scales.len()]);
        let data = AffineData { codes: vec![9; rows], scales: scales.to_vec(), zeros };
        Encoding::Affine(Affine::new(MatrixShape { rows, cols: 1 }, layout, data))
    }

    #[test]
    fn scales_keep_their_sign_and_never_vanish() {
        let tensor = "layer.weight";
        let held = |scales: &[f32], dtype| in_f16(tensor, of_scales(scales, dtype));
        let scales = [1.0, -1e-30, 1e-9, 1.0 / 3.0, 65504.0];
        let found = held(&scales, DType::F32).unwrap();
        let third = 0.333_251_95;
        assert_eq!(found, of_scales(&[1.0, -LEAST, LEAST, third, 65504.0], DType::F16));
        // BF16 in the middle of its range is exact.
        let scales = [0.015_625, 2_f32.powi(-17) * 1.5, 3.968_75];
        let before = of_scales(&scales, DType::BF16);
        assert_eq!(in_f16(tensor, before.clone()).unwrap().decode(), before.decode());
        let error = held(&[1.0, 70000.0], DType::F32).unwrap_err().sentence();
        assert!(error.contains("layer.weight") && error.contains("70000"), "{error}");
    }
}
