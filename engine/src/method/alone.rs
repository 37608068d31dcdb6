//! Chains on layers whose inputs are scaled elsewhere: as part of a job, where what scales them is known, and alone.

use crate::encoding::{Encoding, Layout, Scaled, ScaledLayout};
use crate::error::Result;
use crate::method::awq::{self, Shared, Takes, shared_scales};
use crate::method::{Step, Task, chain_layout, run_chain};
use crate::tensor::{DType, MatrixShape};

/// Runs a chain on W·diag(by), which receives x/by: what it makes is to be run behind something that divides by `by`.
///
/// # Errors
/// Those of [`run_chain`].
pub fn run_chain_divided(steps: &[Step], task: &Task<'_>, by: &[f32]) -> Result<Encoding> {
    let mut weights = task.weights.to_owned();
    for mut row in weights.rows_mut() {
        row.iter_mut().zip(by).for_each(|(weight, by)| *weight *= by);
    }
    let inputs = task.inputs.map(|inputs| inputs.divided(by));
    let task = Task { weights: weights.view(), previous: None, inputs: inputs.as_ref(), ..*task };
    run_chain(steps, &task)
}

/// Runs a chain on one layer as if there were no other: scales that it folds are its own, such as `takes` can take, and are
/// kept around all else. So it decodes to what it is near to.
///
/// # Errors
/// Those of [`run_chain`].
pub fn run_alone(steps: &[Step], task: &Task<'_>, takes: &dyn Takes) -> Result<Encoding> {
    if !awq::folds(steps) {
        return run_chain(steps, task);
    }
    let chosen = awq::rows_for_scales(task.weights.nrows());
    let sample = task.weights.select(ndarray::Axis(0), &chosen);
    let part = Task { weights: sample.view(), previous: None, ..*task };
    let layer = Shared { steps, sample: part, rows: task.weights.nrows() };
    let by = shared_scales(&[layer], takes)?;
    let inner = run_chain_divided(steps, task, &by)?;
    Ok(Encoding::Scaled(Scaled::new(DType::F32, by, inner)))
}

/// The layout of what [`run_alone`] makes.
///
/// # Errors
/// Those of [`chain_layout`].
pub fn alone_layout(steps: &[Step], shape: MatrixShape, dtype: DType) -> Result<Layout> {
    let inner = chain_layout(steps, shape, dtype)?;
    if !awq::folds(steps) {
        return Ok(inner);
    }
    Ok(Layout::Scaled(ScaledLayout { scale_dtype: DType::F32, inner: Box::new(inner) }))
}
