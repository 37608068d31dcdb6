//! One ranking of the outputs of all layers: those that suffer most from few bits have more, so each layer its own share of
//! them (Zheng et al., `MixLLM`, 2024).

use crate::error::{Error, Result};
use crate::job::Subject;
use crate::method::{self, Needs, Task};
use crate::observer::{Observer, Progress, Unit as Counted};
use crate::plan::{Assignment, Plan};
use crate::scores::Question;

/// What the ranking gives a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Index of the tensor.
    pub layer: usize,
    /// Outputs that have more bits.
    pub promoted: usize,
    /// Outputs in all.
    pub rows: usize,
}

impl Question<'_> {
    /// The round(share·outputs) outputs of largest salience among those of all layers that may have the first candidate,
    /// and the plan with its step's share set layer by layer. Layers that are locked, that the target does not hold so, or
    /// whose inputs were not measured stay as they are.
    ///
    /// The salience of a row of layer l is Pₗ/P·δ·H·δᵀ/tr(W·H·Wᵀ): its part of [`crate::scores::Metric::Outputs`] at the
    /// fewer bits. Of equal ones the first. Cost: rounding every layer once, and rows·cols² operations twice.
    ///
    /// # Errors
    /// [`Error::Plan`] where the candidate has no such step, the share is none, or no layer may have it; what reading
    /// says; [`Error::Cancelled`].
    pub fn promote(&self, share: f64, observer: &dyn Observer) -> Result<(Vec<Promoted>, Plan)> {
        if !(0.0..=1.0).contains(&share) {
            let what = format!("{share} is no share of the outputs");
            return Err(Error::plan(what, "give a number from 0 to 1"));
        }
        let checkpoint = self.subject.checkpoint;
        let layers = self.ranked()?;
        let total: u64 = layers.iter().map(|&layer| checkpoint.tensors()[layer].bytes()).sum();
        let (mut done, mut saliences) = (0, Vec::with_capacity(layers.len()));
        for &layer in &layers {
            let tensor = &checkpoint.tensors()[layer];
            let (item, unit) = (tensor.name.clone(), Counted::Bytes);
            observer.progress(Progress { stage: "Ranking outputs", item, done, total, unit });
            observer.go_on()?;
            done += tensor.bytes();
            saliences.push(self.saliences(layer, observer)?);
        }
        let counts = most_salient(&saliences, share);
        let mut plan = self.plan.clone();
        let mut found = Vec::with_capacity(layers.len());
        for ((&layer, saliences), promoted) in layers.iter().zip(&saliences).zip(counts) {
            let rows = saliences.len();
            let steps = self.palette[0].steps.iter();
            let steps = steps.map(|step| {
                method::with_share(step, (promoted, rows)).unwrap_or_else(|| step.clone())
            });
            plan.set(&checkpoint.tensors()[layer].name, Assignment::of(steps.collect()));
            found.push(Promoted { layer, promoted, rows });
        }
        Ok((found, plan))
    }

    /// The layers whose outputs are ranked.
    fn ranked(&self) -> Result<Vec<usize>> {
        let promotes = |of: &Assignment| {
            of.steps.iter().any(|step| method::with_share(step, (0, 1)).is_some())
        };
        if !self.palette.first().is_some_and(promotes) {
            let what = "no candidate has rows of two numbers of bits";
            return Err(Error::plan(what, "choose MixLLM for the first"));
        }
        let units = self.units().into_iter().filter(|unit| !unit.is_locked);
        let layers: Vec<usize> = units.flat_map(|unit| unit.layers).collect();
        if layers.is_empty() {
            let target = self.target.about().title;
            return Err(Error::plan(
                format!("no layer can have rows of two numbers of bits as {target}"),
                "choose the archive as target, and calibrate with Gram matrices first",
            ));
        }
        Ok(layers)
    }

    /// What each row of a layer is ranked by.
    fn saliences(&self, layer: usize, observer: &dyn Observer) -> Result<Vec<f64>> {
        let Subject { checkpoint, calibrated } = self.subject;
        let tensor = &checkpoint.tensors()[layer];
        let (weights, inputs) =
            (checkpoint.weights(layer, observer)?, calibrated.inputs(&tensor.name, Needs::Gram)?);
        let task = Task {
            tensor: &tensor.name,
            weights: weights.view(),
            dtype: tensor.dtype,
            previous: None,
            fused_peak: None,
            inputs: inputs.as_ref(),
            observer,
        };
        let steps = &self.palette[0].steps;
        let step = steps.iter().find(|step| method::with_share(step, (0, 1)).is_some());
        let Some(step) = step else { return Ok(vec![0.0; weights.nrows()]) };
        let (saliences, energy) = method::row_saliences(step, &task)?;
        let share = weights.len() as f64 / checkpoint.parameters().max(1) as f64;
        let factor = if energy > 0.0 { share / energy } else { 0.0 };
        Ok(saliences.into_iter().map(|salience| salience * factor).collect())
    }
}

/// How many of each list are among the round(share·all) largest of all; of equal ones the first.
fn most_salient(saliences: &[Vec<f64>], share: f64) -> Vec<usize> {
    let places = saliences.iter().enumerate();
    let mut all: Vec<(f64, usize)> =
        places.flat_map(|(list, of)| of.iter().map(move |&salience| (salience, list))).collect();
    // Stable: equal ones stay in their order.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut counts = vec![0; saliences.len()];
    for (_, list) in &all[..(share * all.len() as f64).round() as usize] {
        counts[*list] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_all_lists_are_counted_where_they_are() {
        let lists = [vec![5.0, 1.0, 3.0], vec![], vec![4.0, 2.0], vec![3.0, 0.0, 6.0]];
        assert_eq!(most_salient(&lists, 0.0), [0, 0, 0, 0]);
        assert_eq!(most_salient(&lists, 0.375), [1, 0, 1, 1]);
        // Of the two that are 3 the first.
        assert_eq!(most_salient(&lists, 0.5), [2, 0, 1, 1]);
        assert_eq!(most_salient(&lists, 1.0), [3, 0, 2, 3]);
    }
}
