//! What assignments do to one layer: at once from a sample of its rows, exactly from all of them.

use ndarray::{Array2, ArrayView2, s};

use crate::checkpoint::Checkpoint;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::job::folded::Alone;
use crate::method::{self, About, Kind, LayerInputs, METHODS, Needs, Stage, Step, Task};
use crate::numeric::distance::relative_error;
use crate::numeric::gram::Gram;
use crate::numeric::grouping::Grouping;
use crate::numeric::weighted::{WeightedError, diagonal_weighted_error, gram_weighted_error};
use crate::observer::Observer;
use crate::plan::Assignment;
use crate::tensor::{DType, MatrixShape};

/// Weights of a sample: some 64 rows of 4096.
const SAMPLE: usize = 1 << 18;
/// Rows of a sample, at least.
const LEAST_ROWS: usize = 8;
/// What shares a scale in the curves.
const GROUPINGS: [Grouping; 4] =
    [Grouping::Group(32), Grouping::Group(64), Grouping::Group(128), Grouping::Channel];

/// Rows whose weighted error is computed at once, some 0.1 s of a layer of 4096 inputs.
const ROWS_AT_ONCE: usize = 64;

/// By what the errors of weights are weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weighting {
    /// All alike: ‖W − Ŵ‖/‖W‖.
    #[default]
    None,
    /// By the mean squares of the inputs, √(Σ Δᵢⱼ²·E\[xⱼ²\] / Σ wᵢⱼ²·E\[xⱼ²\]).
    Diagonal,
    /// By the Gram matrix of the inputs, √(tr(Δ·H·Δᵀ) / tr(W·H·Wᵀ)): the relative error of the outputs.
    Gram,
}

/// What is known of the inputs of a layer.
#[derive(Clone, Copy, Debug)]
pub enum Moments<'a> {
    /// Nothing.
    None,
    /// E\[xⱼ²\] of each channel.
    Diagonal(&'a [f32]),
    /// Σ x·xᵀ.
    Gram(&'a Gram),
}

impl<'a> Moments<'a> {
    /// The most that is known: the Gram matrix, or the mean squares.
    pub fn of(inputs: Option<&'a LayerInputs>) -> Self {
        match inputs {
            None => Self::None,
            Some(LayerInputs { gram: Some(gram), .. }) => Self::Gram(gram),
            Some(inputs) if inputs.mean_square.is_empty() => Self::None,
            Some(inputs) => Self::Diagonal(&inputs.mean_square),
        }
    }

    /// Channels, where they are known.
    fn channels(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Diagonal(squares) => Some(squares.len()),
            Self::Gram(gram) => Some(gram.channels()),
        }
    }

    fn weighting(&self) -> Weighting {
        match self {
            Self::None => Weighting::None,
            Self::Diagonal(_) => Weighting::Diagonal,
            Self::Gram(_) => Weighting::Gram,
        }
    }

    /// √(tr(Δ·H·Δᵀ) / tr(W·H·Wᵀ)) of `[rows, cols]` weights and what became of them, with what is known of H; `None`
    /// where it is of another number of channels, where no token was seen, and where it is not finite.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn relative_error(
        &self,
        weights: ArrayView2<'_, f32>,
        decoded: ArrayView2<'_, f32>,
        observer: &dyn Observer,
    ) -> Result<Option<f64>> {
        if self.channels() != Some(weights.ncols()) {
            return Ok(None);
        }
        let sum = self.weighted_error(weights, decoded, observer)?;
        Ok(Some(sum.relative()).filter(|relative| sum.norm > 0.0 && relative.is_finite()))
    }

    /// The same of what became of a layer as a whole: with outputs that are shifted by d the error is
    /// tr(Δ·C·Δᵀ) + n·‖Δ·μ − d‖² of inputs of mean μ, C = H − n·μ·μᵀ. Where means are not known, as if it had no shift.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn relative_error_of(
        inputs: Option<&'a LayerInputs>,
        weights: ArrayView2<'_, f32>,
        made: (ArrayView2<'_, f32>, Option<&[f32]>),
        observer: &dyn Observer,
    ) -> Result<Option<f64>> {
        let (moments, decoded) = (Self::of(inputs), made.0);
        let known = inputs.filter(|inputs| inputs.mean.len() == weights.ncols());
        let (Some(inputs), Self::Gram(gram), Some(shift)) = (known, moments, made.1) else {
            return moments.relative_error(weights, decoded, observer);
        };
        if gram.channels() != weights.ncols() {
            return Ok(None);
        }
        let tokens = gram.tokens() as f64;
        let mean = inputs.mean.iter().map(|&mean| f64::from(mean));
        let centred = gram.centred(&mean.clone().map(|mean| mean * tokens).collect::<Vec<f64>>());
        let about = Moments::Gram(&centred).weighted_error(weights, decoded, observer)?.error;
        let off = |(row, &shift): (usize, &f32)| {
            let pairs = weights.row(row).into_iter().zip(decoded.row(row)).zip(mean.clone());
            let lost: f64 =
                pairs.map(|((&w, &d), mean)| (f64::from(w) - f64::from(d)) * mean).sum();
            (lost - f64::from(shift)).powi(2)
        };
        let at_mean: f64 = shift.iter().enumerate().map(off).sum();
        let norm = moments.weighted_error(weights, decoded, observer)?.norm;
        let relative = ((about.max(0.0) + tokens * at_mean) / norm).sqrt();
        Ok(Some(relative).filter(|relative| norm > 0.0 && relative.is_finite()))
    }

    /// Both sums, row by row.
    fn weighted_error(
        &self,
        weights: ArrayView2<'_, f32>,
        decoded: ArrayView2<'_, f32>,
        observer: &dyn Observer,
    ) -> Result<WeightedError> {
        let mut sum = WeightedError::default();
        for first in (0..weights.nrows()).step_by(ROWS_AT_ONCE) {
            observer.go_on()?;
            let rows = s![first..(first + ROWS_AT_ONCE).min(weights.nrows()), ..];
            let (w, d) = (weights.slice(rows), decoded.slice(rows));
            sum = sum.merge(match self {
                Self::None => WeightedError::default(),
                Self::Diagonal(squares) => diagonal_weighted_error(w, d, squares),
                Self::Gram(gram) => gram_weighted_error(w, d, gram),
            });
        }
        Ok(sum)
    }
}

/// The relative error of an assignment on one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damage {
    /// ‖W − Ŵ‖/‖W‖ over the rows measured, weighted by `weighting`.
    pub relative_error: f64,
    /// By what it is weighted.
    pub weighting: Weighting,
    /// Rows measured, spread evenly.
    pub rows: usize,
    /// Rows of the layer.
    pub of: usize,
}

impl Damage {
    /// Whether every row was measured; otherwise it is an estimate.
    pub fn is_exact(&self) -> bool {
        self.rows == self.of
    }

    /// No damage: the layer is kept.
    pub fn none() -> Self {
        Self { relative_error: 0.0, weighting: Weighting::None, rows: 0, of: 0 }
    }
}

/// A sample of the rows of a layer, on which assignments are tried. A layer of at most 2¹⁸ weights is taken whole.
pub struct Sample {
    tensor: String,
    dtype: DType,
    weights: Array2<f32>,
    of: usize,
    inputs: Option<LayerInputs>,
    alone: Alone,
}

impl Sample {
    /// Reads rows ⌊i·rows/k⌋, i = 0 … k−1, with k such that they hold some 2¹⁸ weights; at least 8 rows.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that is no matrix, [`Error::Io`], [`Error::Cancelled`].
    pub fn new(checkpoint: &Checkpoint, layer: usize, observer: &dyn Observer) -> Result<Self> {
        let tensor = &checkpoint.tensors()[layer];
        let matrix = tensor.matrix.ok_or_else(|| no_matrix(tensor))?;
        let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
        Self::of_rows(checkpoint, layer, (SAMPLE / cols.max(1)).max(LEAST_ROWS).min(rows), observer)
    }

    /// Reads every row, so that what is measured is exact.
    ///
    /// # Errors
    /// Those of [`Sample::new`].
    pub fn whole(checkpoint: &Checkpoint, layer: usize, observer: &dyn Observer) -> Result<Self> {
        Self::of_rows(checkpoint, layer, usize::MAX, observer)
    }

    /// At most that many rows, spread evenly.
    pub(super) fn of_rows(
        checkpoint: &Checkpoint,
        layer: usize,
        most: usize,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let tensor = &checkpoint.tensors()[layer];
        let matrix = tensor.matrix.ok_or_else(|| no_matrix(tensor))?;
        let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
        let taken = most.min(rows);
        let weights = if taken == rows {
            checkpoint.weight_block(layer, 0..rows, 0..cols)?
        } else {
            let mut weights = Array2::zeros((taken, cols));
            for i in 0..taken {
                observer.go_on()?;
                let row = i * rows / taken;
                let block = checkpoint.weight_block(layer, row..row + 1, 0..cols)?;
                weights.slice_mut(s![i..=i, ..]).assign(&block);
            }
            weights
        };
        let (name, dtype) = (tensor.name.clone(), tensor.dtype);
        let alone = Alone::of(checkpoint, layer);
        Ok(Self { tensor: name, dtype, weights, of: rows, inputs: None, alone })
    }

    /// Values of no checkpoint, all of them.
    pub fn of_values(title: &str, weights: Array2<f32>, dtype: DType) -> Self {
        let of = weights.nrows();
        let alone = Alone::default();
        Self { tensor: title.to_owned(), dtype, weights, of, inputs: None, alone }
    }

    /// `[rows, cols]` of the rows taken.
    pub fn shape(&self) -> MatrixShape {
        MatrixShape { rows: self.weights.nrows(), cols: self.weights.ncols() }
    }

    /// `[rows, cols]` of the layer.
    pub fn whole_shape(&self) -> MatrixShape {
        MatrixShape { rows: self.of, cols: self.weights.ncols() }
    }

    /// Element type of the layer.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The rows taken.
    pub fn weights(&self) -> ArrayView2<'_, f32> {
        self.weights.view()
    }

    /// Σ(w − ŵ)²/Σw² over the sample taken for a layer.
    ///
    /// # Errors
    /// Those of [`method::run_chain`].
    pub fn distortion(&self, steps: &[Step], observer: &dyn Observer) -> Result<f64> {
        let decoded = self.compress(steps, observer)?.decode();
        Ok(relative_error(self.weights.view(), decoded.view()).powi(2))
    }

    /// The same sample with what the layer receives, for methods that need it.
    #[must_use]
    pub fn with_inputs(self, inputs: Option<LayerInputs>) -> Self {
        Self { inputs, ..self }
    }

    /// What was given with it.
    pub(super) fn into_inputs(self) -> Option<LayerInputs> {
        self.inputs
    }

    /// What the layer receives, where it was given.
    pub fn inputs(&self) -> Option<&LayerInputs> {
        self.inputs.as_ref()
    }

    /// Compresses the sample as if it were the layer and measures the error. Exact where the sample is the whole;
    /// otherwise an estimate, and a rough one for what depends on the whole matrix (one scale for the tensor, the
    /// smallest weights anywhere).
    ///
    /// # Errors
    /// Those of [`method::run_chain`].
    pub fn damage(&self, steps: &[Step], observer: &dyn Observer) -> Result<Damage> {
        let encoding = self.compress(steps, observer)?;
        let relative_error = relative_error(self.weights.view(), encoding.decode().view());
        Ok(Damage {
            relative_error,
            weighting: Weighting::None,
            rows: self.weights.nrows(),
            of: self.of,
        })
    }

    /// The same with the error weighted by what is known of the inputs. Unweighted where they have another number of
    /// channels than the layer, where no token was seen, and where their moments are not finite.
    ///
    /// # Errors
    /// Those of [`Sample::damage`].
    pub fn damage_through(
        &self,
        steps: &[Step],
        moments: &Moments<'_>,
        observer: &dyn Observer,
    ) -> Result<Damage> {
        let encoding = self.compress(steps, observer)?;
        let decoded = encoding.decode();
        let weighted = match (encoding.shift(), &self.inputs) {
            (Some(shift), Some(inputs)) => {
                let made = (decoded.view(), Some(shift));
                Moments::relative_error_of(Some(inputs), self.weights.view(), made, observer)?
            }
            _ => moments.relative_error(self.weights.view(), decoded.view(), observer)?,
        };
        let plain = || relative_error(self.weights.view(), decoded.view());
        let (relative_error, weighting) = match weighted {
            Some(error) => (error, moments.weighting()),
            None => (plain(), Weighting::None),
        };
        Ok(Damage { relative_error, weighting, rows: self.weights.nrows(), of: self.of })
    }

    /// What the steps make of the rows as if they were the layer.
    pub(super) fn compress(&self, steps: &[Step], observer: &dyn Observer) -> Result<Encoding> {
        observer.go_on()?;
        let task = Task {
            tensor: &self.tensor,
            weights: self.weights.view(),
            dtype: self.dtype,
            previous: None,
            fused_peak: None,
            inputs: self.inputs.as_ref(),
            observer,
        };
        method::run_alone(steps, &task, &self.alone)
    }
}

fn no_matrix(tensor: &crate::checkpoint::Tensor) -> Error {
    Error::Unsupported {
        what: format!("compressing tensor {} ({})", tensor.name, tensor.why_no_matrix()),
    }
}

/// A curve of error against bits: one way to quantise, at each of its bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What it is, as `round to nearest, groups of 64`.
    pub name: String,
    /// The assignments, by bits ascending.
    pub assignments: Vec<Assignment>,
}

/// What may share a scale in the curves of a method: where it has groups alone, those it has by default in place of rows.
fn groupings(about: &About) -> Vec<Option<Grouping>> {
    let parameter = |name: &str| about.parameters.iter().find(|p| p.name == name).map(|p| &p.kind);
    match (parameter("granularity"), parameter("group_size")) {
        (_, None) => vec![None],
        (Some(_), Some(_)) => GROUPINGS.map(Some).to_vec(),
        (None, Some(size)) => {
            let groups = GROUPINGS.into_iter().filter(|&grouping| grouping != Grouping::Channel);
            let own = match size {
                Kind::Integer { default, .. } => Some(Grouping::Group(*default as usize)),
                _ => None,
            };
            let own = own.filter(|own| !GROUPINGS.contains(own));
            groups.chain(own).map(Some).collect()
        }
    }
}

/// Every way to quantise a layer that takes bits and needs the weights alone: each method with groups of 32, 64 and 128 and whole rows,
/// or the groups it has by default where it knows no rows. Other parameters are those of `now`, where it uses the method; what stands before the quantiser stays.
pub fn curves(now: &Assignment) -> Vec<Curve> {
    let mut curves = Vec::new();
    let quantisers = METHODS.iter().filter(|method| {
        method.about().stage == Stage::Quantise && method.about().needs == Needs::Weights
    });
    for method in quantisers {
        let about = method.about();
        let bits = about.parameters.iter().find(|parameter| parameter.name == "bits");
        let Some(Kind::Integer { min, max, .. }) = bits.map(|parameter| &parameter.kind) else {
            continue;
        };
        let own = now.step_at(Stage::Quantise).filter(|step| step.method == about.id);
        let base = own.cloned().unwrap_or_else(|| Step::new(about.id));
        for grouping in groupings(about) {
            let with = now.with_step_at(Stage::Quantise, Some(base.clone()));
            let with = grouping.map_or(with.clone(), |grouping| with.with_grouping(grouping));
            let name = match grouping {
                None => about.title.to_owned(),
                Some(Grouping::Group(size)) => format!("{}, groups of {size}", about.title),
                Some(Grouping::Channel | Grouping::Tensor) => format!("{}, rows", about.title),
            };
            let assignments = (*min..=*max).map(|bits| with.with_bits(bits)).collect();
            curves.push(Curve { name, assignments });
        }
    }
    curves
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::encoding::Layout;
    use crate::method::chain_layout;

    #[test]
    fn every_curve_is_of_a_form_of_its_own() {
        let shape = MatrixShape { rows: 8, cols: 2048 };
        let mut known: HashMap<(String, Layout), String> = HashMap::new();
        let curves = curves(&Assignment::keep());
        assert!(curves.len() > 5);
        for curve in curves {
            for assignment in &curve.assignments {
                let layout = chain_layout(&assignment.steps, shape, DType::BF16).unwrap();
                let of = (assignment.steps[0].method.clone(), layout);
                if let Some(other) = known.insert(of, curve.name.clone()) {
                    panic!("{} and {other} are the same", curve.name);
                }
            }
        }
    }
}
