//! Sums of codebook entries on their way: PV-Tuning with the error of a layer as its objective.

use crate::encoding::{Additive, AdditiveLayout, Mask};
use crate::error::{Error, Result};
use crate::method::aqlm::MOST_RUN;
use crate::method::polish::Rounds;
use crate::numeric::additive::{self, Codebooks, Start, Stored};
use crate::tensor::round_f32;

/// Sums that are followed at once.
pub(super) const BEAMS: usize = 16;
/// Added to the diagonal of H, as a share of its mean: AQLM's usual. Inputs that the calibration never saw keep to W by it.
const DAMPING: f64 = 0.01;

fn codebooks(layout: &AdditiveLayout, values: &[f32]) -> Codebooks {
    Codebooks {
        codebooks: layout.codebooks,
        entries: layout.entries(),
        dim: layout.dim,
        by_run: layout.by_run,
        values: values.to_vec(),
    }
}

/// Codes, codebooks and scales after rounds from where they are; without scales those are 1 and stay.
pub(super) fn polished(
    additive: &Additive,
    mask: Option<&Mask>,
    rounds: &Rounds<'_, '_>,
) -> Result<Additive> {
    let (task, layout, shape) = (rounds.task, additive.layout(), additive.shape());
    let gram = task.gram()?;
    if shape.elements() == 0 {
        return Ok(additive.clone());
    }
    let run = layout.dim.min(MOST_RUN as usize);
    let metric = task.metric(&gram, (DAMPING, run))?;
    let value = |value: f32| round_f32(layout.value_dtype, value);
    let scale = |scale: f32| layout.scale_dtype.map_or(1.0, |dtype| round_f32(dtype, scale));
    let keeps: Option<Vec<bool>> =
        mask.map(|mask| (0..shape.elements()).map(|at| mask.keeps(at)).collect());
    let has_scales = layout.scale_dtype.is_some();
    let start = Start {
        codes: additive.codes().iter().map(|&code| code as u16).collect(),
        books: codebooks(layout, additive.values()),
        scales: if has_scales { additive.scales().to_vec() } else { vec![1.0; shape.rows] },
        keeps: keeps.as_deref(),
    };
    let (stored, is_cancelled) =
        (Stored { value: &value, scale: &scale }, || task.observer.is_cancelled());
    let state = additive::Additive::resume(task.weights, &metric, (stored, start), &is_cancelled);
    let mut state = state.ok_or(Error::Cancelled)?;
    rounds.sums(&mut state, layout.dim == run)?;
    let (codes, books, scales) = state.finish();
    let codes = codes.into_iter().map(u32::from).collect();
    let scales = if has_scales { scales } else { Vec::new() };
    Ok(Additive::new(shape, layout.clone(), codes, (books.values, scales)))
}
