//! The weights of a block while it runs: small tensors and, where they fit, matrices, decoded once.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};
use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::error::{Error, Result};
use crate::network::Network;
use crate::network::design::{Linear, Norm, NormKind};
use crate::network::spare::Spare;
use crate::numeric::activation::{layer_norm, rms_norm};
use crate::numeric::product::apply_rows;
use crate::numeric::slopes::{layer_norm_slope, rms_norm_slope};
use crate::observer::Observer;

/// Matrices of a block are decoded once if they take no more than this in f32, and at every use otherwise.
const HELD_BYTES: u64 = 768 << 20;
/// Rows decoded at once, where they are not held: 64 MiB of f32.
const PANEL_ELEMENTS: usize = 16 << 20;
/// Tokens normalised by one task.
const NORM_ROWS: usize = 16;

/// Decoded tensors by their name in the design. The memory of matrices goes to the next block when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    matrices: HashMap<String, Array2<f32>>,
    vectors: HashMap<String, Vec<f32>>,
    /// What is added to outputs beside the bias, by the name of the matrix.
    shifts: HashMap<String, Vec<f32>>,
    spare: Arc<Spare>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.matrices.drain().for_each(|(_, matrix)| self.spare.give(matrix));
    }
}

impl Network<'_> {
    /// Decodes norms and biases, and matrices if they fit.
    pub(super) fn hold<'l>(
        &self,
        linears: &[&'l Linear],
        norms: impl Iterator<Item = &'l Norm>,
        observer: &dyn Observer,
    ) -> Result<Held> {
        let mut held = self.hold_vectors(linears, norms, observer)?;
        let bytes: u64 = linears.iter().map(|linear| 4 * linear.shape.elements() as u64).sum();
        if bytes <= HELD_BYTES {
            self.hold_matrices(linears, &mut held, observer)?;
        }
        Ok(held)
    }

    /// Decodes matrices, however much memory they take.
    pub(super) fn hold_matrices(
        &self,
        linears: &[&Linear],
        held: &mut Held,
        observer: &dyn Observer,
    ) -> Result<()> {
        for linear in linears {
            if !held.matrices.contains_key(&linear.weight) {
                let all = self.panel(linear, 0, linear.shape.rows, observer)?;
                held.matrices.insert(linear.weight.clone(), all);
            }
        }
        Ok(())
    }

    /// Decodes norms and biases.
    fn hold_vectors<'l>(
        &self,
        linears: &[&'l Linear],
        norms: impl Iterator<Item = &'l Norm>,
        observer: &dyn Observer,
    ) -> Result<Held> {
        let spare = self.spare.clone();
        let mut held = Held {
            matrices: HashMap::new(),
            vectors: HashMap::new(),
            shifts: self.shifts(linears, observer)?,
            spare,
        };
        let mut vector = |name: &str, n: usize| -> Result<()> {
            let mut values = vec![0.0; n];
            self.weights.read(self.name_of(name), 0, &mut values, observer)?;
            held.vectors.insert(name.to_owned(), values);
            Ok(())
        };
        for linear in linears {
            if let Some(bias) = &linear.bias {
                vector(bias, linear.shape.rows)?;
            }
        }
        for norm in norms {
            vector(&norm.weight, norm.width)?;
            if let NormKind::Layer { bias: Some(bias) } = &norm.kind {
                vector(bias, norm.width)?;
            }
        }
        Ok(held)
    }

    /// What is added to the outputs of layers beside their biases.
    fn shifts(
        &self,
        linears: &[&Linear],
        observer: &dyn Observer,
    ) -> Result<HashMap<String, Vec<f32>>> {
        let mut shifts = HashMap::new();
        for linear in linears {
            let name = self.name_of(&linear.weight);
            let Some(shift) = self.weights.shift(name, observer)? else { continue };
            if shift.len() != linear.shape.rows {
                return Err(Error::Shape {
                    tensor: name.to_owned(),
                    expected: format!("a bias of {} numbers", linear.shape.rows),
                    found: vec![shift.len()],
                });
            }
            shifts.insert(linear.weight.clone(), shift);
        }
        Ok(shifts)
    }

    /// Rows `first ..` of a layer.
    fn panel(
        &self,
        linear: &Linear,
        first: usize,
        rows: usize,
        observer: &dyn Observer,
    ) -> Result<Array2<f32>> {
        let cols = linear.shape.cols;
        let mut panel = self.spare.take((rows, cols));
        if let Some(values) = panel.as_slice_mut() {
            self.weights.read(self.name_of(&linear.weight), first * cols, values, observer)?;
        }
        Ok(panel)
    }

    /// x·Wᵀ + b: `[tokens, out]`.
    pub(super) fn apply(
        &self,
        linear: &Linear,
        held: &Held,
        x: ArrayView2<'_, f32>,
        observer: &dyn Observer,
    ) -> Result<Array2<f32>> {
        let mut out = self.spare.take((x.nrows(), linear.shape.rows));
        let cancelled = || observer.is_cancelled();
        if let Some(matrix) = held.matrices.get(&linear.weight) {
            apply_rows(x, matrix.view(), out.view_mut(), &cancelled);
        } else {
            let at_once = (PANEL_ELEMENTS / linear.shape.cols.max(1)).max(1);
            for first in (0..linear.shape.rows).step_by(at_once) {
                let rows = at_once.min(linear.shape.rows - first);
                let panel = self.panel(linear, first, rows, observer)?;
                let out = out.slice_mut(s![.., first..first + rows]);
                apply_rows(x, panel.view(), out, &cancelled);
                self.spare.give(panel);
            }
        }
        observer.go_on()?;
        if let Some(bias) = linear.bias.as_ref().and_then(|bias| held.vectors.get(bias)) {
            add_bias(&mut out, bias);
        }
        if let Some(shift) = held.shifts.get(&linear.weight) {
            add_bias(&mut out, shift);
        }
        Ok(out)
    }
}

/// Adds `bias` to every row of `x` `[tokens, out]`.
fn add_bias(x: &mut Array2<f32>, bias: &[f32]) {
    let Some(values) = x.as_slice_mut() else { return };
    values.par_chunks_mut(bias.len().max(1) * NORM_ROWS).for_each(|rows| {
        for row in rows.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
    });
}

impl Held {
    /// Normalises `norm.width` values after `norm.width` values of every row, in place.
    pub(super) fn normalise(&self, norm: &Norm, x: &mut ArrayViewMut2<'_, f32>) {
        let Some(weight) = self.vectors.get(&norm.weight) else { return };
        let one = |values: &mut [f32]| match &norm.kind {
            NormKind::Rms { shift } => rms_norm(values, weight, *shift, norm.epsilon),
            NormKind::Layer { bias } => {
                let bias = bias.as_ref().and_then(|bias| self.vectors.get(bias));
                layer_norm(values, weight, bias.map(Vec::as_slice), norm.epsilon);
            }
        };
        let width = x.ncols();
        if let Some(values) = x.as_slice_mut() {
            values
                .par_chunks_mut(width.max(1) * NORM_ROWS)
                .for_each(|rows| rows.chunks_exact_mut(norm.width).for_each(one));
        }
    }

    /// From the derivative by what [`Self::normalise`] makes of `x` to that by `x`, in place of the former.
    pub(super) fn normalise_back(&self, norm: &Norm, x: &Array2<f32>, slope: &mut Array2<f32>) {
        let Some(weight) = self.vectors.get(&norm.weight) else { return };
        let one = |(x, slope): (&[f32], &mut [f32])| match &norm.kind {
            NormKind::Rms { shift } => rms_norm_slope(x, (weight, *shift), norm.epsilon, slope),
            NormKind::Layer { .. } => layer_norm_slope(x, weight, norm.epsilon, slope),
        };
        let piece = x.ncols().max(1) * NORM_ROWS;
        if let (Some(x), Some(slope)) = (x.as_slice(), slope.as_slice_mut()) {
            x.par_chunks(piece).zip(slope.par_chunks_mut(piece)).for_each(|(x, slope)| {
                x.chunks_exact(norm.width).zip(slope.chunks_exact_mut(norm.width)).for_each(one);
            });
        }
    }

    /// The matrix of a layer, where it is held.
    pub(super) fn matrix(&self, linear: &Linear) -> Option<&Array2<f32>> {
        self.matrices.get(&linear.weight)
    }

    /// Puts another matrix in the place of a layer's.
    pub(super) fn replace(&mut self, linear: &Linear, by: Array2<f32>) {
        if let Some(old) = self.matrices.insert(linear.weight.clone(), by) {
            self.spare.give(old);
        }
    }

    /// What enters a part of a block: `x`, normalised if there is a norm.
    pub(super) fn enter(&self, spare: &Spare, norm: Option<&Norm>, x: &Array2<f32>) -> Array2<f32> {
        let mut out = spare.copy(x.view());
        if let Some(norm) = norm {
            self.normalise(norm, &mut out.view_mut());
        }
        out
    }
}
