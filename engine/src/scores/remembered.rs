//! Damages that were told before, found again by content: scoring that was stopped goes on where it was, and another
//! palette, target or budget asks only for what is new.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::method::{self, Needs};
use crate::observer::Observer;
use crate::scores::{Measuring, Metric, Question, Scored, Unit};
use crate::statistics::{Cache, Cached, Key};

/// A number as it is kept.
#[derive(Serialize, Deserialize)]
struct Number(f64);

impl Cached for Number {
    const KIND: &'static str = "damage";
    const VERSION: u32 = method::VERSION;
}

/// Where damages are kept, and what they depend on beside units and candidates.
#[derive(Clone, Debug)]
pub struct Remembered<'a> {
    cache: &'a Cache,
    /// By tensor; a unit with a layer that has none is not remembered.
    keys: Vec<Option<Key>>,
    model: String,
    text: String,
}

impl<'a> Remembered<'a> {
    /// Damages in `cache` of the model with this key, measured on the text with this hash. Keys of tensors are those
    /// that the cache knows, as after [`crate::calibration::model_key`].
    pub fn new(cache: &'a Cache, question: &Question<'_>, [model, text]: [&str; 2]) -> Self {
        let keys = cache.known_keys(question.subject.checkpoint);
        Self { cache, keys, model: model.to_owned(), text: text.to_owned() }
    }

    /// What a number about a unit is kept under.
    fn key(
        &self,
        question: &Question<'_>,
        (unit, option): (&Unit, Option<&Scored>),
        metric: Metric,
    ) -> Option<Key> {
        let subject = question.subject;
        let mut parts = vec![format!("{metric:?}"), subject.checkpoint.parameters().to_string()];
        let mut needs_inputs = metric == Metric::Outputs;
        for (at, &layer) in unit.layers.iter().enumerate() {
            parts.push((*self.keys.get(layer)?)?.to_string());
            let Some(option) = option else { continue };
            let steps = &option.assignments[at].steps;
            needs_inputs |= method::chain_needs(steps) > Needs::Weights;
            parts.push(serde_json::to_string(steps).ok()?);
        }
        if metric.is_measured() {
            // The layers of a network of the same tensors may still have other places.
            let names = unit.layers.iter().map(|&l| &subject.checkpoint.tensors()[l].name);
            parts.extend(names.cloned());
            parts.extend([self.model.clone(), self.text.clone()]);
        }
        if needs_inputs {
            let known = |&layer: &usize| {
                subject.calibrated.known(&subject.checkpoint.tensors()[layer].name)
            };
            let names = unit.layers.iter().map(|&l| &subject.checkpoint.tensors()[l].name);
            parts.extend(names.cloned());
            parts.push(subject.calibrated.key());
            parts.push(format!("{:?}", unit.layers.iter().map(known).collect::<Vec<Needs>>()));
        }
        Some(Key::of(parts.iter().map(String::as_str)))
    }

    /// The number kept under a key, or the one that `compute` gives, which is kept.
    fn or(&self, key: Option<Key>, compute: impl FnOnce() -> Result<f64>) -> Result<f64> {
        let Some(key) = key else { return compute() };
        if let Some(Number(found)) = self.cache.get(key) {
            return Ok(found);
        }
        let number = compute()?;
        // Only the next scoring is slower where this cannot be written.
        self.cache.put(key, &Number(number)).ok();
        Ok(number)
    }
}

impl Question<'_> {
    /// The damage of each option of a unit, told or remembered.
    pub(super) fn damages(
        &self,
        (unit, options): (&Unit, &[Scored]),
        (metric, measuring): (Metric, Option<Measuring<'_>>),
        remembered: Option<&Remembered<'_>>,
        observer: &dyn Observer,
    ) -> Result<Vec<f64>> {
        let or = |option: Option<&Scored>, compute: &dyn Fn() -> Result<f64>| match remembered {
            Some(kept) => kept.or(kept.key(self, (unit, option), metric), compute),
            None => compute(),
        };
        let mut alpha = None;
        let mut damages = Vec::with_capacity(options.len());
        for option in options {
            observer.go_on()?;
            if option.assignments.iter().all(|assignment| assignment.is_keep()) {
                damages.push(0.0);
                continue;
            }
            damages.push(match (metric, measuring) {
                (Metric::Measured, Some(measuring)) => {
                    or(Some(option), &|| self.measure(unit, option, measuring, observer))?
                }
                (Metric::Linearity, Some(measuring)) => {
                    let slope = match alpha {
                        Some(slope) => slope,
                        None => {
                            or(None, &|| Ok(self.sensitivity(unit, measuring, observer)?.alpha))?
                        }
                    };
                    alpha = Some(slope);
                    slope * self.squared_error(unit, option, observer)?
                }
                (Metric::Measured | Metric::Linearity, None) => {
                    return Err(crate::Error::plan(
                        "damage is measured on a text, and there is none",
                        "give one",
                    ));
                }
                (Metric::Weights | Metric::Outputs, _) => {
                    or(Some(option), &|| self.damage(unit, option, metric, observer))?
                }
            });
        }
        Ok(damages)
    }
}
