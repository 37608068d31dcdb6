//! Layers in additive codes and in small groups as AQLM and `SpQR` store them: recognised by their parts and config.json.

use crate::compare::stored::{CompressedLayer, Stores};
use crate::format::layer::{Config, Form};
use crate::format::{aqlm, spqr};
use crate::tensor::{DType, MatrixShape};

impl Stores<'_> {
    /// A layer as AQLM or `SpQR` stores it; `None` where it has not their parts.
    pub(super) fn vectors(
        &self,
        config: Result<&Config, String>,
    ) -> Option<Result<CompressedLayer, String>> {
        const OTHERS: &str = "its config.json does not say that it is stored so";
        if self.part("codebooks").is_some() {
            return Some(config.and_then(|config| match config {
                Config::Aqlm(config) => self.aqlm(config),
                _ => Err(OTHERS.to_owned()),
            }));
        }
        self.part("dense_weights")?;
        Some(config.and_then(|config| match config {
            Config::Spqr => self.spqr(),
            _ => Err(OTHERS.to_owned()),
        }))
    }

    fn aqlm(&self, config: &aqlm::Config) -> Result<CompressedLayer, String> {
        let part = |suffix: &str| self.part(suffix).ok_or_else(|| format!("it has no {suffix}"));
        let ((_, codes), (_, values), (_, scales)) =
            (part("codes")?, part("codebooks")?, part("scales")?);
        for floats in [values, scales] {
            if !matches!(floats.dtype, DType::F16 | DType::BF16 | DType::F32) {
                return Err(format!("its scales or codebooks are {}", floats.dtype));
            }
        }
        let form = config.form(values.dtype, scales.dtype);
        let shape = match codes.shape.0[..] {
            [rows, runs, _] => runs.checked_mul(form.run).map(|cols| MatrixShape { rows, cols }),
            _ => None,
        };
        let shape = shape.ok_or_else(|| format!("its codes have the shape {}", codes.shape))?;
        let parts = self.parts_of(form.stored(shape)?)?;
        Ok(self.compressed(Form::Aqlm(form), shape, parts))
    }

    fn spqr(&self) -> Result<CompressedLayer, String> {
        let n = |suffix: &str| {
            let (_, part) = self.part(suffix).ok_or_else(|| format!("it has no {suffix}"))?;
            usize::try_from(part.parameters()).map_err(|_too_many| format!("its {suffix} is vast"))
        };
        if self.part("in_perm").is_some_and(|(_, order)| order.parameters() > 0) {
            return Err("its inputs are in another order (in_perm)".to_owned());
        }
        let (words, rows, kept) = (n("dense_weights")?, n("row_offsets")?, n("col_vals")?);
        let rows = rows.saturating_sub(1).max(1);
        let cols = words.checked_mul(spqr::SIDE).ok_or("its dense_weights is vast")? / rows;
        let (form, shape) = (spqr::Form { kept }, MatrixShape { rows, cols });
        let parts = self.parts_of(form.stored(shape)?)?;
        Ok(self.compressed(Form::Spqr(form), shape, parts))
    }
}
