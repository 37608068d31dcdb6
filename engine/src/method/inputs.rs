//! What a layer receives, as methods see it, and the refusal where it is missing.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::method::{Needs, Task};
use crate::numeric::additive::Metric;
use crate::numeric::feedback::Feedback;
use crate::numeric::gram::Gram;
use crate::numeric::inverse::InverseFactor;

/// What was measured of the inputs of one layer.
#[derive(Clone, Debug)]
pub struct LayerInputs {
    /// Tokens that were measured.
    pub tokens: u64,
    /// E\[x\] of each channel; empty where nobody kept it.
    pub mean: Vec<f32>,
    /// E\[x²\] of each channel.
    pub mean_square: Vec<f32>,
    /// Σ x·xᵀ, where it was kept.
    pub gram: Option<Gram>,
    /// Share of each token among those of the text, where rows are tokens and that was asked for; empty otherwise.
    pub shares: Vec<f32>,
}

impl LayerInputs {
    /// The inputs of which `gram` is the sum; means are not known.
    pub fn of_gram(gram: Gram) -> Self {
        let tokens = gram.tokens().max(1) as f64;
        let mean_square = gram.diagonal().iter().map(|sum| (sum / tokens) as f32).collect();
        let (mean, shares) = (Vec::new(), Vec::new());
        Self { tokens: gram.tokens(), mean, mean_square, gram: Some(gram), shares }
    }

    /// The inputs with channel j divided by `by[j]`.
    #[must_use]
    pub fn divided(&self, by: &[f32]) -> Self {
        let each = |values: &[f32], power: i32| {
            let pairs = values.iter().zip(by);
            let divided = pairs.map(|(&value, &by)| f64::from(value) / f64::from(by).powi(power));
            divided.map(|value| value as f32).collect()
        };
        let factors: Vec<f64> = by.iter().map(|&by| f64::from(by).recip()).collect();
        let fits = |gram: &&Gram| gram.channels() == by.len();
        Self {
            tokens: self.tokens,
            mean: each(&self.mean, 1),
            mean_square: each(&self.mean_square, 2),
            gram: self.gram.as_ref().filter(fits).map(|gram| gram.scaled(&factors)),
            shares: self.shares.clone(),
        }
    }
}

impl<'a> Task<'a> {
    /// E\[x²\] of each input channel.
    ///
    /// # Errors
    /// [`Error::Plan`] where nothing was measured, or for other channels.
    pub(super) fn mean_squares(&self) -> Result<Cow<'a, [f32]>> {
        if self.weights.is_empty() {
            return Ok(Cow::Owned(vec![0.0; self.weights.ncols()]));
        }
        // Of a layer whose tokens are counted nothing else may be known.
        let inputs = self.inputs.filter(|inputs| !inputs.mean_square.is_empty());
        let inputs =
            inputs.ok_or_else(|| uncalibrated(self.tensor, Needs::Moments, Needs::Weights))?;
        self.check_channels(inputs.mean_square.len())?;
        if inputs.tokens == 0 {
            return Err(self.no_token());
        }
        if inputs.mean_square.iter().any(|square| !square.is_finite()) {
            return Err(self.not_finite());
        }
        Ok(Cow::Borrowed(&inputs.mean_square))
    }

    /// How much each row counts as a token: once more than it occurred, over all rows once more than they did, so that those
    /// which did not occur count, too. Of a sample of rows the first.
    ///
    /// # Errors
    /// [`Error::Plan`] where nobody counted tokens.
    pub(super) fn token_shares(&self) -> Result<Vec<f64>> {
        let inputs = self.inputs.filter(|inputs| !inputs.shares.is_empty());
        let rows = self.weights.nrows();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let inputs =
            inputs.ok_or_else(|| uncalibrated(self.tensor, Needs::Tokens, Needs::Weights))?;
        let tokens = inputs.tokens as f64;
        let of = |row: usize| {
            let share = f64::from(inputs.shares.get(row).copied().unwrap_or(0.0));
            (share * tokens + 1.0) / (tokens + rows as f64)
        };
        Ok((0..rows).map(of).collect())
    }

    /// E\[x\] of each input channel.
    ///
    /// # Errors
    /// [`Error::Plan`] where nobody kept it, or for other channels.
    pub(super) fn means(&self) -> Result<Cow<'a, [f32]>> {
        if self.weights.is_empty() {
            return Ok(Cow::Owned(vec![0.0; self.weights.ncols()]));
        }
        let means = self.inputs.map(|inputs| inputs.mean.as_slice());
        let means = means.filter(|means| !means.is_empty()).ok_or_else(|| {
            let what =
                format!("layer {} needs the means of its inputs, which nobody kept", self.tensor);
            Error::plan(what, "calibrate with text, or leave the mean in the product")
        })?;
        self.check_channels(means.len())?;
        if means.iter().any(|mean| !mean.is_finite()) {
            return Err(self.not_finite());
        }
        Ok(Cow::Borrowed(means))
    }

    /// Σ x·xᵀ of the inputs.
    ///
    /// # Errors
    /// [`Error::Plan`] where it was not measured, or for other channels.
    pub(super) fn gram(&self) -> Result<Cow<'a, Gram>> {
        if self.weights.is_empty() {
            return Ok(Cow::Owned(Gram::new(self.weights.ncols())));
        }
        let gram = self.inputs.and_then(|inputs| inputs.gram.as_ref());
        let gram = gram.ok_or_else(|| {
            let known = if self.inputs.is_some() { Needs::Moments } else { Needs::Weights };
            uncalibrated(self.tensor, Needs::Gram, known)
        })?;
        self.check_channels(gram.channels())?;
        if gram.tokens() == 0 {
            return Err(self.no_token());
        }
        if !gram.is_finite() {
            return Err(self.not_finite());
        }
        Ok(Cow::Borrowed(gram))
    }

    /// The factor of the inverse of `gram`, damped, its channels in `order`.
    ///
    /// # Errors
    /// [`Error::Plan`] where the damped matrix is not positive definite; [`Error::Cancelled`].
    pub(super) fn inverse_factor(
        &self,
        gram: &Gram,
        order: Vec<usize>,
        damping: f64,
    ) -> Result<InverseFactor> {
        let is_cancelled = || self.observer.is_cancelled();
        self.definite(InverseFactor::new(gram, order, damping, &is_cancelled))
    }

    /// The factor of `gram`, damped, along which errors are fed to the inputs behind, its channels in
    /// `order`, `run` of them rounded together.
    ///
    /// # Errors
    /// As of [`Self::inverse_factor`].
    pub(super) fn feedback(
        &self,
        gram: &Gram,
        order: Vec<usize>,
        (damping, run): (f64, usize),
    ) -> Result<Feedback> {
        let is_cancelled = || self.observer.is_cancelled();
        self.definite(Feedback::new(gram, order, (damping, run), &is_cancelled))
    }

    /// What errors of the outputs count by `gram`, damped, with runs of so many inputs.
    ///
    /// # Errors
    /// As of [`Self::inverse_factor`].
    pub(super) fn metric(&self, gram: &Gram, (damping, run): (f64, usize)) -> Result<Metric> {
        let is_cancelled = || self.observer.is_cancelled();
        self.definite(Metric::new(gram, (damping, run), &is_cancelled))
    }

    fn definite<F>(&self, factor: Option<F>) -> Result<F> {
        self.observer.go_on()?;
        factor.ok_or_else(|| {
            let what = format!("the inputs of layer {} depend on each other too much", self.tensor);
            Error::plan(what, "raise the damping")
        })
    }

    fn check_channels(&self, channels: usize) -> Result<()> {
        let cols = self.weights.ncols();
        if channels == cols {
            return Ok(());
        }
        let what = format!(
            "layer {} has {cols} inputs, but the calibration measured {channels}",
            self.tensor
        );
        Err(Error::plan(what, "calibrate this checkpoint, not another"))
    }

    fn no_token(&self) -> Error {
        let what = format!("layer {} received no token in the calibration", self.tensor);
        Error::plan(
            what,
            "calibrate with more text, or give it a method without data by a rule for its name, as round-to-nearest",
        )
    }

    fn not_finite(&self) -> Error {
        let why = "its calibrated inputs are NaN or infinite".to_owned();
        Error::Numeric { tensor: self.tensor.to_owned(), why }
    }
}

/// The refusal of a method that `needs` more of a layer's inputs than is `known`.
pub fn uncalibrated(layer: &str, needs: Needs, known: Needs) -> Error {
    let (what, mend) = match needs {
        Needs::Gram if known == Needs::Moments => (
            "the Gram matrix of its inputs, which the calibration did not keep",
            "calibrate again with Gram matrices, or choose a method that needs means alone",
        ),
        Needs::Gram => (
            "the Gram matrix of its inputs, which nobody measured",
            "calibrate first, with Gram matrices, or choose a method without data",
        ),
        Needs::Tokens => (
            "to know how often its tokens occur, which nobody counted",
            "calibrate first, or again, or count all rows alike",
        ),
        Needs::Weights | Needs::Moments => (
            "the mean squares of its inputs, which nobody measured",
            "calibrate first, or choose a method without data",
        ),
    };
    Error::plan(format!("layer {layer} needs {what}"), mend)
}
