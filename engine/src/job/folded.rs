//! Norms that take the scales of the layers behind them: the scales searched, the norms divided, and what layers carry.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array2, s};

use crate::checkpoint::Checkpoint;
use crate::encoding::{Dense, Encoding, Layout};
use crate::error::{Error, Result};
use crate::fold::{Norm, Settled};
use crate::job::{Encodings, Store, Subject};
use crate::method::{Needs, Shared, Task, rows_for_scales, shared_scales};
use crate::observer::Observer;
use crate::tensor::MatrixShape;

/// By what the inputs of layers are divided, by index of the layer.
pub(super) type Divisors = HashMap<usize, Arc<Vec<f32>>>;

/// Searches the scales of every norm that takes those of one of `layers`, and stores the norms divided.
pub(super) fn divide_norms(
    store: &Store,
    (subject, settled): (Subject<'_>, &Settled<'_>),
    layers: &[usize],
    observer: &dyn Observer,
) -> Result<Divisors> {
    let mut divisors = Divisors::new();
    for norm in &settled.folds {
        if !norm.layers.iter().any(|layer| layers.contains(layer)) {
            continue;
        }
        observer.go_on()?;
        let by = Arc::new(divide(store, (subject, settled), norm, observer)?);
        divisors.extend(norm.layers.iter().map(|&layer| (layer, by.clone())));
    }
    Ok(divisors)
}

/// Divides one norm. Memory: the Gram matrix of its readers twice, and 256 rows of each.
fn divide(
    store: &Store,
    (subject, settled): (Subject<'_>, &Settled<'_>),
    norm: &Norm,
    observer: &dyn Observer,
) -> Result<Vec<f32>> {
    let checkpoint = subject.checkpoint;
    let tensor = |index: usize| &checkpoint.tensors()[index];
    let weight = checkpoint.values(norm.weight)?;
    let bias = norm.bias.map_or(Ok(Vec::new()), |bias| checkpoint.values(bias))?;
    let inputs = match norm.layers.first() {
        Some(&layer) => subject.calibrated.inputs(&tensor(layer).name, Needs::Gram)?,
        None => None,
    };
    let mut samples = Vec::new();
    for &layer in &norm.layers {
        let steps = settled.plan.assignment(&tensor(layer).name);
        samples.push((layer, steps, sample(checkpoint, layer, observer)?));
    }
    let shared = samples.iter().map(|(layer, assignment, rows)| Shared {
        steps: &assignment.steps,
        rows: tensor(*layer).matrix.map_or(0, |matrix| matrix.shape.rows),
        sample: Task {
            tensor: &tensor(*layer).name,
            weights: rows.view(),
            dtype: tensor(*layer).dtype,
            previous: None,
            fused_peak: None,
            inputs: inputs.as_ref(),
            observer,
        },
    });
    let shared: Vec<Shared<'_>> = shared.collect();
    let scales = shared_scales(&shared, &|wanted| norm.divided(&weight, &bias, wanted).by)?;
    let divided = norm.divided(&weight, &bias, &scales);
    put(store, norm, norm.weight, &divided.weight)?;
    norm.bias.map_or(Ok(()), |index| put(store, norm, index, &divided.bias))?;
    Ok(divided.by)
}

/// The rows of a layer by which scales are searched.
fn sample(checkpoint: &Checkpoint, layer: usize, observer: &dyn Observer) -> Result<Array2<f32>> {
    let Some(matrix) = checkpoint.tensors()[layer].matrix else { return Ok(Array2::zeros((0, 0))) };
    let chosen = rows_for_scales(matrix.shape.rows);
    let mut rows = Array2::zeros((chosen.len(), matrix.shape.cols));
    for (at, row) in chosen.into_iter().enumerate() {
        observer.go_on()?;
        let block = checkpoint.weight_block(layer, row..row + 1, 0..matrix.shape.cols)?;
        rows.slice_mut(s![at..=at, ..]).assign(&block);
    }
    Ok(rows)
}

/// Stores a vector as a matrix of one row.
fn put(store: &Store, norm: &Norm, index: usize, values: &[f32]) -> Result<()> {
    let shape = MatrixShape { rows: 1, cols: values.len() };
    store.put(index, &Encoding::Dense(Dense::new(shape, norm.dtype, values)))
}

/// Takes over what a folder holds of a norm, if all of it is there.
pub(super) fn take_over(store: &Store, norm: &Norm, checkpoint: &Checkpoint) -> bool {
    norm.vectors().all(|index| {
        let elements = checkpoint.tensors()[index].shape.0.iter().product();
        let shape = MatrixShape { rows: 1, cols: elements };
        store.take_over(index, Layout::Dense(norm.dtype), shape)
    })
}

/// By what the inputs of a layer are divided in what a job made, as its norm now says; `None` where nothing is folded.
///
/// # Errors
/// What reading says; [`Error::Numeric`] for a norm that divides by what is no number.
pub fn divisors(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    encodings: &dyn Encodings,
    layer: usize,
) -> Result<Option<Vec<f32>>> {
    let Some(norm) = settled.of(layer).filter(|norm| encodings.has(norm.weight)) else {
        return Ok(None);
    };
    let (before, after) =
        (checkpoint.values(norm.weight)?, encodings.encoding(norm.weight)?.decode());
    let by = norm.divisors(&before, after.as_slice().unwrap_or_default());
    if by.len() == before.len() && by.iter().all(|by| by.is_finite()) {
        return Ok(Some(by));
    }
    let why = "what its layers are scaled by cannot be told".to_owned();
    Err(Error::Numeric { tensor: norm.name(checkpoint).to_owned(), why })
}

/// The weights that a layer in what a job made stands for: those of the source times what its inputs are divided by.
///
/// # Errors
/// Those of [`divisors`] and of [`Checkpoint::weights`].
pub fn carried_weights(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    encodings: &dyn Encodings,
    layer: usize,
    observer: &dyn Observer,
) -> Result<Array2<f32>> {
    let mut weights = checkpoint.weights(layer, observer)?;
    if let Some(by) = divisors(checkpoint, settled, encodings, layer)? {
        for mut row in weights.rows_mut() {
            row.iter_mut().zip(&by).for_each(|(weight, by)| *weight *= by);
        }
    }
    Ok(weights)
}

/// What a job made of a layer, freed of what its inputs are divided by: near to the weights of the source.
///
/// # Errors
/// Those of [`divisors`]; what reading says.
pub fn freed_weights(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    encodings: &dyn Encodings,
    layer: usize,
) -> Result<Array2<f32>> {
    let mut decoded = encodings.encoding(layer)?.decode();
    if let Some(by) = divisors(checkpoint, settled, encodings, layer)? {
        for mut row in decoded.rows_mut() {
            row.iter_mut().zip(&by).for_each(|(weight, by)| *weight /= by);
        }
    }
    Ok(decoded)
}
