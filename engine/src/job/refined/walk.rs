//! The walk of PV-Tuning: entries and scales by their derivatives, then codes along the derivative by weights, in turn.

use ndarray::Array2;

use crate::encoding::{Additive, AdditiveLayout};
use crate::error::Result;
use crate::job::refined::hold::Hold;
use crate::job::refined::objective::{Curvature, Objective};
use crate::numeric::additive::{Codebooks, Near, Sums};
use crate::numeric::product::apply_rows;
use crate::numeric::quasi_newton::{Steps, product};
use crate::observer::Observer;
use crate::tensor::{MatrixShape, round_f32};

/// Steps of entries and scales in a round, at most.
pub(super) const P_STEPS: usize = 8;
/// Steps of codes in a round, at most.
pub(super) const V_STEPS: usize = 8;
/// Passes of the block that a round takes at most: each step, those whose length is tried again, and both curvatures.
pub(super) const PASSES: usize = P_STEPS + V_STEPS + 8;
/// The first length that is tried along a direction of which nothing is known but the curvature of each number alone.
const FIRST_LENGTH: f64 = 0.25;
/// By what a length is divided that was too long, and how often.
const SHORTER: f64 = 4.0;
const TRIED: usize = 4;
/// A step must gain this share of what its direction promises.
const ARMIJO: f64 = 1e-4;
/// The share of runs whose codes may move at once: at first, at most, and by what it grows or falls.
const SHARE: f64 = 0.05;
const MOST_SHARE: f64 = 0.25;
const GROWS: f64 = 1.5;
const FALLS: f64 = 0.25;
/// A round that gains less than this share of the error is the last.
const GAIN: f64 = 0.002;

/// A layer on its way.
#[derive(Clone)]
pub(super) struct Layer {
    layout: AdditiveLayout,
    sums: Sums,
}

impl Layer {
    /// Begins where an encoding is.
    pub(super) fn new(additive: &Additive) -> Self {
        let (layout, shape) = (additive.layout().clone(), additive.shape());
        let books = Codebooks {
            codebooks: layout.codebooks,
            entries: layout.entries(),
            dim: layout.dim,
            by_run: layout.by_run,
            values: additive.values().to_vec(),
        };
        let codes = additive.codes().iter().map(|&code| code as u16).collect();
        let scales = additive.scales().to_vec();
        Self { layout, sums: Sums { shape: (shape.rows, shape.cols), codes, books, scales } }
    }

    /// The encoding it has become.
    pub(super) fn finish(self) -> Additive {
        let (rows, cols) = self.sums.shape;
        let codes = self.sums.codes.into_iter().map(u32::from).collect();
        let data = (self.sums.books.values, self.sums.scales);
        Additive::new(MatrixShape { rows, cols }, self.layout, codes, data)
    }

    /// Numbers that move by derivatives: entries, then scales.
    fn numbers(&self) -> impl Iterator<Item = f32> {
        self.sums.books.values.iter().chain(&self.sums.scales).copied()
    }

    fn set_numbers(&mut self, numbers: &[f64]) {
        let (values, scales) = numbers.split_at(self.sums.books.values.len());
        self.sums.books.values.iter_mut().zip(values).for_each(|(to, &from)| *to = from as f32);
        self.sums.scales.iter_mut().zip(scales).for_each(|(to, &from)| *to = from as f32);
    }

    /// The same as they are stored.
    fn round(&mut self) {
        let value = self.layout.value_dtype;
        self.sums.books.values.iter_mut().for_each(|v| *v = round_f32(value, *v));
        if let Some(scale) = self.layout.scale_dtype {
            self.sums.scales.iter_mut().for_each(|s| *s = round_f32(scale, *s));
        }
    }

    /// Second derivatives of φ + χ by each number alone: Σ of 2·rₒ·s²·Aⱼⱼ over where an entry stands, and 2·rₒ·ŵ·A·ŵᵀ/s².
    fn curves(&self, curvature: &Curvature, observer: &dyn Observer) -> Result<Vec<f64>> {
        let (rows, cols) = self.sums.shape;
        let diagonal = curvature.gram.diag();
        let decoded = self.sums.decode();
        let mut along = Array2::zeros((rows, cols));
        // A is symmetric.
        let is_cancelled = || observer.is_cancelled();
        apply_rows(decoded.view(), curvature.gram.view(), along.view_mut(), &is_cancelled);
        observer.go_on()?;
        let mut squares = Array2::zeros((rows, cols));
        let mut of_scales = Vec::new();
        for row in 0..rows {
            let scale = self.sums.scales.get(row).copied().unwrap_or(1.0);
            let r = 2.0 * curvature.rows[row];
            // Derivatives by weights of s·r·s·Aⱼⱼ, which `slopes` multiplies by another s.
            let factor = r as f32 * scale;
            squares.row_mut(row).zip_mut_with(&diagonal, |to, a| *to = factor * a);
            if !self.sums.scales.is_empty() {
                let size = f64::from(along.row(row).dot(&decoded.row(row)));
                of_scales.push(r * size / f64::from(scale).powi(2).max(f64::MIN_POSITIVE));
            }
        }
        let (mut curves, _) = self.sums.slopes(squares.view());
        curves.extend(of_scales);
        Ok(curves)
    }
}

/// All layers of a block that are refined, on their way.
pub(super) struct Walk<'a> {
    objective: Objective<'a>,
    layers: Vec<Layer>,
    /// From the first round on.
    hold: Option<Hold>,
    /// φ + χ of the layers as they are.
    error: f64,
    share: f64,
    observer: &'a dyn Observer,
}

impl<'a> Walk<'a> {
    /// Begins where the layers are.
    pub(super) fn new(
        objective: Objective<'a>,
        layers: Vec<Layer>,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let mut walk = Self { objective, layers, hold: None, error: 0.0, share: SHARE, observer };
        walk.place()?;
        walk.error = walk.objective.error()?;
        Ok(walk)
    }

    /// The layers, in their order.
    pub(super) fn finish(self) -> Vec<Layer> {
        self.layers
    }

    /// Rounds, until one gains little.
    pub(super) fn go(&mut self, rounds: usize) -> Result<()> {
        for _ in 0..rounds {
            let before = self.error;
            let curvatures = self.curvatures()?;
            self.move_numbers(&curvatures)?;
            self.move_codes(&curvatures)?;
            if self.error >= (1.0 - GAIN) * before {
                break;
            }
        }
        Ok(())
    }

    /// How curved φ + χ is about each layer; the first time, layers are held from then on.
    fn curvatures(&mut self) -> Result<Vec<Curvature>> {
        let mut curvatures = self.objective.curvatures()?;
        if self.hold.is_none() {
            let layers = self.layers.iter().map(|layer| layer.sums.decode());
            self.hold = Some(Hold::new(layers, (&curvatures, self.error), self.observer)?);
        }
        if let Some(hold) = &self.hold {
            hold.stiffen(&mut curvatures);
        }
        Ok(curvatures)
    }

    /// φ + χ.
    fn error(&self) -> Result<f64> {
        let mut error = self.objective.error()?;
        if let Some(hold) = &self.hold {
            for (at, layer) in self.layers.iter().enumerate() {
                error += hold.add(at, &layer.sums.decode(), None, self.observer)?;
            }
        }
        Ok(error)
    }

    /// φ + χ and its derivatives by the weights of the layers.
    fn slopes(&self) -> Result<(f64, Vec<Array2<f32>>)> {
        let (mut error, mut slopes) = self.objective.slopes()?;
        if let Some(hold) = &self.hold {
            for (at, (layer, slope)) in self.layers.iter().zip(&mut slopes).enumerate() {
                error += hold.add(at, &layer.sums.decode(), Some(slope), self.observer)?;
            }
        }
        Ok((error, slopes))
    }

    /// Puts the weights of all layers in their places.
    fn place(&mut self) -> Result<()> {
        for (at, layer) in self.layers.iter().enumerate() {
            self.objective.set(at, layer.sums.decode())?;
        }
        self.observer.go_on()
    }

    /// Goes back to layers as they were.
    fn restore(&mut self, layers: Vec<Layer>) -> Result<()> {
        self.layers = layers;
        self.place()
    }

    /// *P*: entries and scales along directions of L-BFGS, in units in which φ + χ curves as much along each of them; then as
    /// they are stored, where that is better than before.
    fn move_numbers(&mut self, curvatures: &[Curvature]) -> Result<()> {
        let before = self.layers.clone();
        let unit = |curve: f64| if curve > 0.0 { 1.0 / curve.sqrt() } else { 0.0 };
        let mut units = Vec::new();
        for (layer, curvature) in self.layers.iter().zip(curvatures) {
            units.extend(layer.curves(curvature, self.observer)?.into_iter().map(unit));
        }
        let mut at: Vec<f64> = self.layers.iter().flat_map(Layer::numbers).map(f64::from).collect();
        let (mut error, mut slope) = self.slope(&units)?;
        let mut steps = Steps::default();
        for _ in 0..P_STEPS {
            let direction = steps.direction(&slope);
            let promised = product(&direction, &slope);
            let Some(found) = self.along((&at, &units), &direction, (error, promised), &steps)?
            else {
                break;
            };
            let (length, next_error, next_slope) = found;
            let step: Vec<f64> = direction.iter().map(|d| length * d).collect();
            at.iter_mut().zip(&step).zip(&units).for_each(|((x, step), unit)| *x += step * unit);
            let change = next_slope.iter().zip(&slope).map(|(new, old)| new - old).collect();
            steps.learn(step, change);
            (error, slope) = (next_error, next_slope);
        }
        self.set_numbers(&at);
        self.layers.iter_mut().for_each(Layer::round);
        self.place()?;
        let error = self.error()?;
        if error < self.error {
            self.error = error;
            return Ok(());
        }
        self.restore(before)
    }

    /// The first of shorter and shorter steps that gains what it must, with φ + χ and its slope there.
    fn along(
        &mut self,
        (at, units): (&[f64], &[f64]),
        direction: &[f64],
        (error, promised): (f64, f64),
        steps: &Steps,
    ) -> Result<Option<(f64, f64, Vec<f64>)>> {
        let mut length = if steps.is_empty() { FIRST_LENGTH } else { 1.0 };
        for _ in 0..TRIED {
            let moved = at.iter().zip(direction).zip(units);
            let moved: Vec<f64> = moved.map(|((x, d), unit)| x + length * d * unit).collect();
            self.set_numbers(&moved);
            self.place()?;
            let (next, slope) = self.slope(units)?;
            if next <= error + ARMIJO * length * promised {
                return Ok(Some((length, next, slope)));
            }
            length /= SHORTER;
        }
        Ok(None)
    }

    fn set_numbers(&mut self, mut numbers: &[f64]) {
        for layer in &mut self.layers {
            let n = layer.sums.books.values.len() + layer.sums.scales.len();
            let (own, rest) = numbers.split_at(n);
            layer.set_numbers(own);
            numbers = rest;
        }
    }

    /// φ + χ and its derivatives by entries and scales, in units.
    fn slope(&self, units: &[f64]) -> Result<(f64, Vec<f64>)> {
        let (error, slopes) = self.slopes()?;
        let mut all = Vec::new();
        for (layer, slope) in self.layers.iter().zip(&slopes) {
            let (of_entries, of_scales) = layer.sums.slopes(slope.view());
            all.extend(of_entries);
            all.extend(of_scales);
        }
        all.iter_mut().zip(units).for_each(|(slope, unit)| *slope *= unit);
        Ok((error, all))
    }

    /// *V*: of the runs of all layers the share that is said to gain most moves one code each; where φ + χ then is not less,
    /// fewer do.
    fn move_codes(&mut self, curvatures: &[Curvature]) -> Result<()> {
        let (_, mut slopes) = self.slopes()?;
        for _ in 0..V_STEPS {
            let before = self.layers.clone();
            if !self.take(&slopes, curvatures)? {
                break;
            }
            self.place()?;
            let (error, next) = self.slopes()?;
            if error < self.error {
                (self.error, slopes) = (error, next);
                self.share = (self.share * GROWS).min(MOST_SHARE);
            } else {
                self.restore(before)?;
                self.share *= FALLS;
            }
        }
        Ok(())
    }

    /// Moves codes as the slopes say; whether any moved.
    fn take(&mut self, slopes: &[Array2<f32>], curvatures: &[Curvature]) -> Result<bool> {
        let observer = self.observer;
        let is_cancelled = || observer.is_cancelled();
        let near = |at: usize| Near {
            slope: slopes[at].view(),
            gram: curvatures[at].gram.view(),
            rows: &curvatures[at].rows,
        };
        let gains = |(at, layer): (usize, &Layer)| layer.sums.gains(near(at), &is_cancelled);
        let gains: Vec<Vec<f32>> = self.layers.iter().enumerate().map(gains).collect();
        observer.go_on()?;
        let mut all: Vec<f32> =
            gains.iter().flatten().copied().filter(|&gain| gain > 0.0).collect();
        let runs: usize = gains.iter().map(Vec::len).sum();
        let taken = ((self.share * runs as f64) as usize).max(1).min(all.len());
        if taken == 0 {
            return Ok(false);
        }
        let (_, &mut least, _) = all.select_nth_unstable_by(taken - 1, |a, b| b.total_cmp(a));
        let mut moved = 0;
        for (at, layer) in self.layers.iter_mut().enumerate() {
            moved += layer.sums.take((near(at), &gains[at]), least, &is_cancelled);
        }
        observer.go_on()?;
        Ok(moved > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Encoding;
    use crate::numeric::seeds::Random;
    use crate::tensor::DType;

    #[test]
    fn a_layer_on_its_way_decodes_as_its_encoding_does() {
        for (by_run, scale_dtype) in [(false, Some(DType::BF16)), (true, None)] {
            let layout = AdditiveLayout {
                codebooks: 3,
                bits: 2,
                dim: 4,
                by_run,
                value_dtype: DType::BF16,
                scale_dtype,
            };
            let shape = MatrixShape { rows: 5, cols: 10 };
            let mut random = Random::new(1);
            let mut list = |n: usize| -> Vec<f32> {
                (0..n).map(|_| round_f32(DType::BF16, random.normal() as f32)).collect()
            };
            let data = (list(layout.values(shape)), list(layout.scales(shape)));
            let codes = (0..layout.codes(shape) as u32).map(|i| i * 7 % 4).collect();
            let additive = Additive::new(shape, layout, codes, data);
            let mut layer = Layer::new(&additive);
            layer.round();
            assert_eq!(layer.sums.decode(), Encoding::Additive(additive.clone()).decode());
            let numbers: Vec<f64> = layer.numbers().map(f64::from).collect();
            layer.set_numbers(&numbers);
            assert_eq!(layer.finish(), additive);
        }
    }
}
