//! What takes the scales of the layers behind it: the scales searched, norms and rows divided, and what layers carry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ndarray::{Array2, s};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::checkpoint::{Checkpoint, Role};
use crate::encoding::{Dense, Encoding, Layout};
use crate::error::{Error, Result};
use crate::fold::{self, Bounds, ByNorm, ByRows, Divides, Norm, Producer, Rows, Settled};
use crate::job::{Encodings, Store, Subject};
use crate::method::{AsWanted, Needs, Shared, Takes, Task, rows_for_scales, shared_scales};
use crate::observer::Observer;
use crate::plan::Plan;
use crate::tensor::{DType, Factors, MatrixShape};

/// Rows of a matrix that are looked at together.
const ROWS_AT_ONCE: usize = 64;

/// By what the inputs of layers and the rows of others are divided, by index of the layer.
#[derive(Default)]
pub(super) struct Divisors {
    pub(super) inputs: HashMap<usize, Arc<Vec<f32>>>,
    pub(super) rows: HashMap<usize, Arc<Vec<f32>>>,
}

/// Searches the scales that go into or come of one of `layers`, where that was not done before, and stores them with the
/// norms and biases that change.
pub(super) fn divide(
    store: &Store,
    (subject, settled): (Subject<'_>, &Settled<'_>),
    layers: &[usize],
    observer: &dyn Observer,
) -> Result<Divisors> {
    let layers: HashSet<usize> = layers.iter().copied().collect();
    let mut divisors = Divisors::default();
    for producer in &settled.folds {
        let matrix = producer.matrix();
        let mut touched = producer.layers.iter().chain(&matrix);
        if !touched.any(|layer| layers.contains(layer)) {
            continue;
        }
        observer.go_on()?;
        let by = match store.divided(producer.tensor())? {
            Some(by) => by,
            None => search(store, (subject, settled), producer, observer)?,
        };
        let of_inputs = Arc::new(producer.of_inputs(&by));
        divisors.inputs.extend(producer.layers.iter().map(|&layer| (layer, of_inputs.clone())));
        divisors.rows.extend(matrix.map(|matrix| (matrix, Arc::new(by))));
    }
    Ok(divisors)
}

/// Searches the scales of one producer. Memory: the Gram matrix of its readers twice, and 256 rows of each.
fn search(
    store: &Store,
    (subject, settled): (Subject<'_>, &Settled<'_>),
    producer: &Producer,
    observer: &dyn Observer,
) -> Result<Vec<f32>> {
    let checkpoint = subject.checkpoint;
    let tensor = |index: usize| &checkpoint.tensors()[index];
    let inputs = match producer.layers.first() {
        Some(&layer) => subject.calibrated.inputs(&tensor(layer).name, Needs::Gram)?,
        None => None,
    };
    let mut samples = Vec::new();
    for &layer in &producer.layers {
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
    let by = match &producer.divides {
        Divides::Norm(norm) => divide_norm(store, checkpoint, norm, &shared)?,
        Divides::Rows(rows) => {
            let is_kept = settled.plan.assignment(&tensor(rows.weight).name).is_keep();
            // A bias is stored as it was.
            let is_narrow = |bias: usize| tensor(bias).dtype != DType::F32;
            let is_by_twos = is_kept || rows.bias.is_some_and(is_narrow);
            let bounds = bounds((checkpoint, rows), (is_kept, is_by_twos), observer)?;
            let takes = ByRows { rows, bounds: &bounds, is_by_twos };
            let by = rows.of_rows(&shared_scales(&shared, &takes)?);
            divide_bias(store, checkpoint, rows, &by)?;
            by
        }
    };
    // Last, so that where they are all else is.
    store.put_divided(producer.tensor(), &by)?;
    Ok(by)
}

/// Stores a norm divided by the scales of its readers, and gives by what it was.
fn divide_norm(
    store: &Store,
    checkpoint: &Checkpoint,
    norm: &Norm,
    shared: &[Shared<'_>],
) -> Result<Vec<f32>> {
    let weight = checkpoint.values(norm.weight)?;
    let bias = norm.bias.map_or(Ok(Vec::new()), |bias| checkpoint.values(bias))?;
    let takes = ByNorm { norm, weight: &weight, bias: &bias };
    let divided = norm.divided(&weight, &bias, &shared_scales(shared, &takes)?);
    put(store, checkpoint, norm.weight, &divided.weight)?;
    norm.bias.map_or(Ok(()), |index| put(store, checkpoint, index, &divided.bias))?;
    Ok(divided.by)
}

/// Stores the bias of a layer whose rows are divided.
fn divide_bias(store: &Store, checkpoint: &Checkpoint, rows: &Rows, by: &[f32]) -> Result<()> {
    let Some(index) = rows.bias else { return Ok(()) };
    let mut bias = checkpoint.values(index)?;
    bias.iter_mut().zip(by).for_each(|(value, by)| *value /= by);
    put(store, checkpoint, index, &bias)
}

/// From which power of two to which each row of a matrix and its bias may be divided; not a bit may be lost where they are
/// stored as they are.
fn bounds(
    (checkpoint, rows): (&Checkpoint, &Rows),
    (is_kept, is_by_twos): (bool, bool),
    observer: &dyn Observer,
) -> Result<Vec<Bounds>> {
    let tensor = &checkpoint.tensors()[rows.weight];
    let cols = tensor.matrix.map_or(0, |matrix| matrix.shape.cols);
    let firsts: Vec<usize> = (0..rows.rows).step_by(ROWS_AT_ONCE).collect();
    let of_rows = |first: usize| {
        observer.go_on()?;
        let last = (first + ROWS_AT_ONCE).min(rows.rows);
        let block = checkpoint.weight_block(rows.weight, first..last, 0..cols)?;
        let of_row = |row: ndarray::ArrayView1<'_, f32>| {
            let row = row.to_vec();
            let bounds = Bounds::of_row(&row);
            if is_kept { bounds.and(Bounds::exact(tensor.dtype, &row)) } else { bounds }
        };
        Ok(block.outer_iter().map(of_row).collect::<Vec<Bounds>>())
    };
    let found: Vec<Vec<Bounds>> = firsts.into_par_iter().map(of_rows).collect::<Result<_>>()?;
    let mut found = found.concat();
    if let Some(bias) = rows.bias.filter(|_| is_by_twos) {
        let dtype = checkpoint.tensors()[bias].dtype;
        for (bounds, value) in found.iter_mut().zip(checkpoint.values(bias)?) {
            *bounds = bounds.and(Bounds::exact(dtype, &[value]));
        }
    }
    Ok(found)
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
fn put(store: &Store, checkpoint: &Checkpoint, index: usize, values: &[f32]) -> Result<()> {
    let shape = MatrixShape { rows: 1, cols: values.len() };
    let dtype = checkpoint.tensors()[index].dtype;
    store.put(index, &Encoding::Dense(Dense::new(shape, dtype, values)))
}

/// Takes over what a folder holds of a producer but for its matrix, if all of it is there.
pub(super) fn take_over(store: &Store, producer: &Producer, checkpoint: &Checkpoint) -> bool {
    let elements = |index: usize| checkpoint.tensors()[index].shape.0.iter().product();
    let vector = |index: usize| {
        let shape = MatrixShape { rows: 1, cols: elements(index) };
        store.take_over(index, Layout::Dense(checkpoint.tensors()[index].dtype), shape)
    };
    let outputs = match &producer.divides {
        Divides::Norm(norm) => elements(norm.weight),
        Divides::Rows(rows) => rows.rows,
    };
    producer.vectors().into_iter().all(vector)
        && store.take_over_divided(producer.tensor(), outputs)
}

/// How a layer on its own may be scaled, whatever becomes of the others.
#[derive(Default)]
pub(super) struct Alone(Option<Rows>);

impl Alone {
    /// Of a layer: rows take what rows that are compressed do, alike where they are read by several inputs. Cost: for roles
    /// that read rows config.json is read.
    pub(super) fn of(checkpoint: &Checkpoint, layer: usize) -> Self {
        if !matches!(checkpoint.tensors()[layer].place.role, Role::O | Role::Down) {
            return Self(None);
        }
        let producer = fold::producer_of(checkpoint, layer);
        Self(producer.and_then(|producer| match producer.divides {
            Divides::Rows(rows) => Some(rows),
            Divides::Norm(_) => None,
        }))
    }

    fn by(rows: &Rows) -> ByRows<'_> {
        ByRows { rows, bounds: &[], is_by_twos: false }
    }
}

impl Takes for Alone {
    fn merged(&self, squares: &[f32]) -> Vec<f32> {
        match &self.0 {
            Some(rows) => Self::by(rows).merged(squares),
            None => AsWanted.merged(squares),
        }
    }

    fn stored(&self, wanted: &[f32]) -> Vec<f32> {
        match &self.0 {
            Some(rows) => Self::by(rows).stored(wanted),
            None => AsWanted.stored(wanted),
        }
    }
}

/// What the weights of a layer are multiplied by in what a job made: its inputs are divided by as much, or its outputs are
/// divided.
///
/// # Errors
/// What reading says; [`Error::Numeric`] for divisors that are no numbers.
fn factors(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    encodings: &dyn Encodings,
    layer: usize,
) -> Result<Factors> {
    let mut factors = Factors::default();
    if let Some(producer) = settled.of(layer)
        && let Some(by) = encodings.divided(producer.tensor())?
    {
        factors.inputs = producer.of_inputs(&by);
    }
    if settled.by_rows_of(layer).is_some()
        && let Some(by) = encodings.divided(layer)?
    {
        factors.outputs = recip(&by);
    }
    let tensor = &checkpoint.tensors()[layer];
    let is_sound = factors.inputs.iter().chain(&factors.outputs).all(|by| by.is_finite());
    if is_sound && tensor.matrix.is_none_or(|matrix| factors.fits(matrix.shape)) {
        return Ok(factors);
    }
    let why = "by what it is scaled cannot be told".to_owned();
    Err(Error::Numeric { tensor: tensor.name.clone(), why })
}

/// By what the weights of every layer were multiplied whose scales went elsewhere, or that took those of others.
///
/// # Errors
/// Those of [`carried_weights`].
pub fn folded_factors(
    checkpoint: &Checkpoint,
    plan: &Plan,
    encodings: &dyn Encodings,
) -> Result<BTreeMap<usize, Factors>> {
    let settled = fold::settle(checkpoint, plan);
    let mut all = BTreeMap::new();
    for producer in &settled.folds {
        for layer in producer.layers.iter().copied().chain(producer.matrix()) {
            all.insert(layer, factors(checkpoint, &settled, encodings, layer)?);
        }
    }
    Ok(all)
}

/// The weights that a layer in what a job made stands for: those of the source times what its inputs are divided by, over
/// what its outputs are.
///
/// # Errors
/// What reading says; [`Error::Numeric`] for divisors that are no numbers.
pub fn carried_weights(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    encodings: &dyn Encodings,
    layer: usize,
    observer: &dyn Observer,
) -> Result<Array2<f32>> {
    let mut weights = checkpoint.weights(layer, observer)?;
    let factors = factors(checkpoint, settled, encodings, layer)?;
    for_each_row(&mut weights, |row, weights| factors.multiply(row, weights));
    Ok(weights)
}

/// What a job made of a layer, freed of what its inputs and outputs are divided by: near to the weights of the source.
///
/// # Errors
/// Those of [`carried_weights`].
pub fn freed_weights(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    encodings: &dyn Encodings,
    layer: usize,
) -> Result<Array2<f32>> {
    let mut decoded = encodings.encoding(layer)?.decode();
    let factors = factors(checkpoint, settled, encodings, layer)?;
    for_each_row(&mut decoded, |row, weights| factors.divide(row, weights));
    Ok(decoded)
}

/// What rows are multiplied by that are divided so much; of powers of two exactly.
fn recip(by: &[f32]) -> Vec<f32> {
    by.iter().map(|by| by.recip()).collect()
}

/// Divides the rows of a matrix.
pub(super) fn divide_rows(weights: &mut Array2<f32>, by: &[f32]) {
    let factors = Factors { outputs: recip(by), ..Factors::default() };
    for_each_row(weights, |row, weights| factors.multiply(row, weights));
}

fn for_each_row(weights: &mut Array2<f32>, change: impl Fn(usize, &mut [f32])) {
    for (row, mut weights) in weights.rows_mut().into_iter().enumerate() {
        // A transposed matrix has no rows that lie together.
        if let Some(weights) = weights.as_slice_mut() {
            change(row, weights);
            continue;
        }
        let mut copy = weights.to_vec();
        change(row, &mut copy);
        weights.iter_mut().zip(copy).for_each(|(weight, changed)| *weight = changed);
    }
}
