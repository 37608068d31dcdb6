//! One ranking of the singular values of all layers: any size is the first so many of them, so each layer has a rank of its
//! own (Genzel et al., `Choose Your Model Size`, 2025, with squares of whitened values over bytes in place of learnt scores).

use crate::error::{Error, Result};
use crate::job::Subject;
use crate::method::{self, Needs};
use crate::numeric::spectrum::Stopped;
use crate::numeric::weighted::whitened_singular_values;
use crate::observer::{Observer, Progress, Unit as Counted};
use crate::plan::{Assignment, Plan};
use crate::scores::allocate::{laid_out, refuse_files, units_in_memory, units_of_bits};
use crate::scores::{Budget, Question};
use crate::statistics::measure_spectrum;

/// What the ranking gives a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Index of the tensor.
    pub layer: usize,
    /// Its rank; `None` where it is kept, as its factors would take no less.
    pub rank: Option<usize>,
    /// The rank of the whole matrix.
    pub whole: usize,
}

/// A layer among others: what each piece of rank one is worth, and what so many of them take.
struct Layer {
    index: usize,
    /// Its share of the weights times its share of the energy of the layer, over the bytes of a piece; never rising.
    worth: Vec<f64>,
    /// Bytes of rank 1, 2, …; those of the layer as it is from where they would be more.
    bytes: Vec<u64>,
    kept: u64,
}

impl Layer {
    /// Its rank with so many pieces, of which one is always there.
    fn rank(&self, pieces: usize) -> Option<usize> {
        let bytes = self.bytes.get(pieces.max(1) - 1);
        bytes.is_some_and(|&bytes| bytes < self.kept).then_some(pieces.max(1))
    }

    fn bytes(&self, pieces: usize) -> u64 {
        self.rank(pieces).map_or(self.kept, |rank| self.bytes[rank - 1])
    }
}

/// The pieces of all layers behind the first of each, by falling worth: which layer each is of. Of equal ones the first layer,
/// and within a layer the larger singular value.
fn order(layers: &[Layer]) -> Vec<usize> {
    let of = |(at, layer): (usize, &Layer)| {
        layer.worth.iter().skip(1).map(move |&worth| (worth, at)).collect::<Vec<_>>()
    };
    let mut all: Vec<(f64, usize)> = layers.iter().enumerate().flat_map(of).collect();
    // Stable: equal ones stay in their order.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, layer)| layer).collect()
}

/// Pieces of each layer when so many of the order are taken.
fn taken(order: &[usize], count: usize, layers: usize) -> Vec<usize> {
    let mut pieces = vec![1; layers];
    order[..count].iter().for_each(|&layer| pieces[layer] += 1);
    pieces
}

/// The largest count of `0..=n` that fits, where fewer fit, too; `None` where not even 0 does.
fn most(n: usize, fits: &dyn Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    if !fits(0)? {
        return Ok(None);
    }
    let (mut fitting, mut beyond) = (0, n + 1);
    while beyond - fitting > 1 {
        let middle = fitting.midpoint(beyond);
        if fits(middle)? {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    Ok(Some(fitting))
}

impl Question<'_> {
    /// The ranks of all layers that may have the first candidate, a product of thin matrices, within a budget: the longest
    /// beginning of one ranking of all their singular values that fits, so that what a smaller budget has a larger one has,
    /// too. A layer whose factors would take no less than it does is kept. Layers that are locked, that the target
    /// does not hold so, or whose inputs were not measured stay as they are.
    ///
    /// A piece σᵢ² of layer l counts Pₗ/P·σᵢ²/Σσ² over the bytes of one more rank: what it takes off
    /// [`crate::scores::Metric::Outputs`], σ those of W·H^½, or of weights. What rounding of factors adds is not counted.
    /// Cost: the singular values of every layer.
    ///
    /// # Errors
    /// [`Error::Plan`] where the candidate has no rank, no layer may have it, or rank one is too much for the budget; what
    /// the spectrum and the manifest say; [`Error::Cancelled`].
    pub fn rank(&self, budget: Budget, observer: &dyn Observer) -> Result<(Vec<Ranked>, Plan)> {
        let layers = self.spectra(observer)?;
        let order = order(&layers);
        let limit = self.limit(&layers, budget)?;
        let fits = |count: usize| {
            let pieces = taken(&order, count, layers.len());
            match limit {
                Limit::Units(most) => {
                    let bytes = layers.iter().zip(&pieces).map(|(layer, &n)| layer.bytes(n));
                    Ok(bytes.sum::<u64>() <= most)
                }
                Limit::Files(most) => {
                    let plan = self.with_ranks(&layers, &pieces);
                    let manifest = laid_out(self.subject, &plan, self.target)?;
                    Ok(manifest.weight_file_bytes() <= most)
                }
            }
        };
        let count = most(order.len(), &fits)?.ok_or_else(|| {
            let least: u64 = layers.iter().map(|layer| layer.bytes(1)).sum();
            Error::plan(
                format!("rank 1 of every layer takes {least} bytes, which is more than the budget leaves"),
                "allow more bytes, or choose a method that quantises",
            )
        })?;
        let pieces = taken(&order, count, layers.len());
        let ranked = |(layer, &pieces): (&Layer, &usize)| Ranked {
            layer: layer.index,
            rank: layer.rank(pieces),
            whole: layer.bytes.len(),
        };
        let found = layers.iter().zip(&pieces).map(ranked).collect();
        Ok((found, self.with_ranks(&layers, &pieces)))
    }

    /// Every layer that may have the candidate, with the worth of its pieces.
    fn spectra(&self, observer: &dyn Observer) -> Result<Vec<Layer>> {
        let checkpoint = self.subject.checkpoint;
        let has_rank =
            |of: &&Assignment| of.steps.iter().any(|step| method::with_rank(step, 1).is_some());
        let candidate = self.palette.first().filter(has_rank).ok_or_else(|| {
            Error::plan("the first candidate has no rank", "choose low rank for it")
        })?;
        let units = self.units().into_iter().filter(|unit| !unit.is_locked);
        let indices: Vec<usize> = units.flat_map(|unit| unit.layers).collect();
        if indices.is_empty() {
            let target = self.target.about().title;
            return Err(Error::plan(
                format!("no layer can be a product of two thin matrices as {target}"),
                "choose the archive as target, and calibrate with Gram matrices where outputs count",
            ));
        }
        let total: u64 = indices.iter().map(|&layer| checkpoint.tensors()[layer].bytes()).sum();
        let (mut done, mut layers) = (0, Vec::with_capacity(indices.len()));
        for index in indices {
            let tensor = &checkpoint.tensors()[index];
            let (item, unit) = (tensor.name.clone(), Counted::Bytes);
            observer.progress(Progress {
                stage: "Ranking singular values",
                item,
                done,
                total,
                unit,
            });
            observer.go_on()?;
            done += tensor.bytes();
            let squares = self.squares(index, method::chain_needs(&candidate.steps), observer)?;
            layers.push(self.layer(index, candidate, &squares)?);
        }
        Ok(layers)
    }

    /// σᵢ² of a layer, of its outputs where the candidate counts those.
    fn squares(&self, index: usize, needs: Needs, observer: &dyn Observer) -> Result<Vec<f64>> {
        let Subject { checkpoint, calibrated } = self.subject;
        let tensor = &checkpoint.tensors()[index];
        let values = if needs < Needs::Gram {
            measure_spectrum(checkpoint, index, observer)?.singular_values
        } else {
            let inputs = calibrated.inputs(&tensor.name, Needs::Gram)?;
            let gram =
                inputs.as_ref().and_then(|inputs| inputs.gram.as_ref()).ok_or_else(|| {
                    method::uncalibrated(&tensor.name, Needs::Gram, calibrated.known(&tensor.name))
                })?;
            let weights = checkpoint.weights(index, observer)?;
            let is_cancelled = || observer.is_cancelled();
            whitened_singular_values(weights.view(), gram, &is_cancelled).map_err(
                |why| match why {
                    Stopped::Cancelled => Error::Cancelled,
                    _ => Error::Numeric {
                        tensor: tensor.name.clone(),
                        why: "the singular values of its outputs were not found".to_owned(),
                    },
                },
            )?
        };
        Ok(values.into_iter().map(|value| value * value).collect())
    }

    fn layer(&self, index: usize, candidate: &Assignment, squares: &[f64]) -> Result<Layer> {
        let checkpoint = self.subject.checkpoint;
        let tensor = &checkpoint.tensors()[index];
        let Some(matrix) = tensor.matrix else {
            return Err(Error::plan(format!("{} is no matrix", tensor.name), "leave it as it is"));
        };
        let of_rank = |rank: usize| -> Result<u64> {
            let layout = ranked(candidate, rank).layout(matrix.shape, tensor.dtype)?;
            Ok(layout.bytes(matrix.shape))
        };
        let bytes = (1..=squares.len()).map(of_rank).collect::<Result<Vec<u64>>>()?;
        let all: f64 = squares.iter().sum();
        let rises = bytes.len().saturating_sub(1).max(1);
        let ends = [bytes.first(), bytes.last()].map(|end| end.copied().unwrap_or(0));
        let piece = (ends[1].saturating_sub(ends[0]) as f64 / rises as f64).max(1.0);
        let share = tensor.parameters() as f64 / checkpoint.parameters().max(1) as f64;
        let factor = if all > 0.0 { share / all / piece } else { 0.0 };
        let worth = squares.iter().map(|square| square * factor).collect();
        Ok(Layer { index, worth, bytes, kept: tensor.bytes() })
    }

    /// The plan with the ranks of so many pieces.
    fn with_ranks(&self, layers: &[Layer], pieces: &[usize]) -> Plan {
        let candidate = self.palette.first().cloned().unwrap_or_else(Assignment::keep);
        let mut plan = self.plan.clone();
        for (layer, &pieces) in layers.iter().zip(pieces) {
            let name = &self.subject.checkpoint.tensors()[layer.index].name;
            let rank = layer.rank(pieces);
            plan.set(name, rank.map_or_else(Assignment::keep, |rank| ranked(&candidate, rank)));
        }
        plan
    }

    /// What the budget leaves for the layers.
    fn limit(&self, layers: &[Layer], budget: Budget) -> Result<Limit> {
        let checkpoint = self.subject.checkpoint;
        let weights = |layer: &Layer| checkpoint.tensors()[layer.index].parameters();
        // Rank 1 everywhere is the least.
        let least: u64 = layers.iter().map(|layer| layer.bytes(1)).sum();
        let smallest = || {
            let plan = self.with_ranks(layers, &vec![1; layers.len()]);
            laid_out(self.subject, &plan, self.target)
        };
        match budget {
            Budget::FileBytes(bytes) => {
                let all = smallest()?.weight_file_bytes();
                refuse_files(bytes, (all, all.saturating_sub(least)))?;
                Ok(Limit::Files(bytes))
            }
            Budget::Bits(bits) => {
                let weights: u64 = layers.iter().map(weights).sum();
                Ok(Limit::Units(units_of_bits(bits, weights, least)?))
            }
            Budget::Memory { bytes, context } => {
                let fixed = smallest()?.tensor_bytes().saturating_sub(least);
                Ok(Limit::Units(units_in_memory(checkpoint, (bytes, context), (fixed, least))?))
            }
        }
    }
}

/// What there is to spend.
enum Limit {
    /// Bytes of the layers.
    Units(u64),
    /// Bytes of all weight files.
    Files(u64),
}

/// The candidate with another rank.
fn ranked(candidate: &Assignment, rank: usize) -> Assignment {
    let step = |step: &method::Step| method::with_rank(step, rank).unwrap_or_else(|| step.clone());
    Assignment::of(candidate.steps.iter().map(step).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(squares: &[f64], piece: u64, kept: u64) -> Layer {
        Layer {
            index: 0,
            worth: squares.iter().map(|square| square / piece as f64).collect(),
            bytes: (1..=squares.len() as u64).map(|rank| rank * piece).collect(),
            kept,
        }
    }

    fn planted() -> Vec<Layer> {
        vec![
            layer(&[9.0, 4.0, 1.0, 0.25], 10, 40),
            layer(&[100.0, 81.0, 64.0, 49.0], 20, 50),
            layer(&[3.0, 3.0, 0.0], 1, 100),
        ]
    }

    #[test]
    fn pieces_are_taken_by_what_they_are_worth_a_byte() {
        let layers = planted();
        let order = order(&layers);
        // 81/20, 64/20, 3 of one byte, 49/20, 4/10, 1/10, 0.025, 0.
        assert_eq!(order, [1, 1, 2, 1, 0, 0, 0, 2]);
        assert_eq!(taken(&order, 4, 3), [1, 4, 2]);
    }

    #[test]
    fn a_smaller_size_is_within_a_larger_one_and_the_sizes_rise_to_that_of_all() {
        let layers = planted();
        let order = order(&layers);
        let bytes = |count: usize| -> u64 {
            let pieces = taken(&order, count, layers.len());
            layers.iter().zip(&pieces).map(|(layer, &n)| layer.bytes(n)).sum()
        };
        for count in 0..order.len() {
            assert!(bytes(count) <= bytes(count + 1));
            let [small, large] = [count, count + 1].map(|n| taken(&order, n, layers.len()));
            assert!(small.iter().zip(&large).all(|(a, b)| a <= b));
        }
        // Rank 3 of the second would take 60 bytes for 50: it is kept. So is the first at rank 4.
        assert_eq!([1, 2, 3, 4].map(|n| layers[1].rank(n)), [Some(1), Some(2), None, None]);
        assert_eq!([1, 3, 4].map(|n| layers[0].bytes(n)), [10, 30, 40]);
        assert_eq!(bytes(order.len()), 40 + 50 + 3);
        for budget in 0..120 {
            let found = most(order.len(), &|count| Ok(bytes(count) <= budget)).unwrap();
            let brute = (0..=order.len()).filter(|&count| bytes(count) <= budget).max();
            assert_eq!(found, brute, "{budget}");
        }
    }

    /// Against every choice of ranks there is: none of as many bytes loses less, where the ranking ends just there.
    #[test]
    fn no_other_ranks_of_these_bytes_lose_less() {
        let squares =
            [vec![9.0, 4.0, 1.0, 0.25], vec![100.0, 81.0, 64.0, 49.0], vec![3.0, 2.0, 1.0]];
        let layers: Vec<Layer> =
            squares.iter().zip([10, 20, 7]).map(|(of, piece)| layer(of, piece, 1000)).collect();
        let order = order(&layers);
        let lost = |ranks: &[usize]| -> f64 {
            squares.iter().zip(ranks).map(|(of, &rank)| of[rank..].iter().sum::<f64>()).sum()
        };
        let bytes = |ranks: &[usize]| -> u64 {
            layers.iter().zip(ranks).map(|(layer, &rank)| layer.bytes(rank)).sum()
        };
        for count in 0..=order.len() {
            let ours = taken(&order, count, 3);
            for place in 0..48 {
                let other = [1 + place % 4, 1 + place / 4 % 4, 1 + place / 16];
                let is_more = bytes(&other) > bytes(&ours);
                assert!(is_more || lost(&other) >= lost(&ours) - 1e-9, "{other:?} {ours:?}");
            }
        }
    }
}
