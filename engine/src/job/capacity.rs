//! What formats can hold: distortion against true bits of every form that needs no data, on sources whose bounds are
//! known and on layers.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};

use crate::error::{Error, Result};
use crate::job::Sample;
use crate::method::{
    About, Kind, METHODS, Method, Needs, Parameter, Stage, Step, chain_label, chain_layout,
};
use crate::numeric::seeds::Random;
use crate::observer::{Observer, Progress, Unit};
use crate::tensor::DType;

/// Rows and columns of a source: whole blocks and groups of every form.
const SHAPE: (usize, usize) = (256, 1024);
/// Steps of the uniform quantiser whose codes are taken to be coded at their entropy, over the standard deviation.
const STEPS: [f64; 12] = [0.12, 0.18, 0.259, 0.37, 0.522, 0.747, 1.082, 1.3, 1.61, 2.0, 2.42, 3.0];

/// Independent values of variance 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Normal: nothing is below 2^(−2·bits).
    Normal,
    /// Laplace: exp(−√2·|x|)/√2. Nothing is below e/π·2^(−2·bits).
    Laplace,
}

impl Source {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Normal, Self::Laplace];

    /// What it is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::Normal => "normal values",
            Self::Laplace => "Laplace values",
        }
    }

    /// The distortion below which no code of so many bits a value can be: Shannon's, for Laplace values his lower bound.
    pub fn bound(self, bits: f64) -> f64 {
        let factor = match self {
            Self::Normal => 1.0,
            Self::Laplace => std::f64::consts::E / std::f64::consts::PI,
        };
        factor * (-2.0 * bits).exp2()
    }

    /// 2¹⁸ of its values, always the same, as a layer of 256 × 1024.
    pub fn sample(self) -> Sample {
        let mut random = Random::new(17);
        let value = || match self {
            Self::Normal => random.normal() as f32,
            Self::Laplace => {
                let u = random.uniform() - 0.5;
                let size = -(1.0 - 2.0 * u.abs()).max(f64::MIN_POSITIVE).ln();
                (u.signum() * size * std::f64::consts::FRAC_1_SQRT_2) as f32
            }
        };
        Sample::of_values(self.title(), Array2::from_shape_simple_fn(SHAPE, value), DType::BF16)
    }
}

/// What a form makes of some values.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The form.
    pub steps: Vec<Step>,
    /// Title of the method and what its parameters amount to.
    pub label: String,
    /// Bits a weight of everything that is stored.
    pub bits: f64,
    /// Σ(w − ŵ)²/Σw².
    pub distortion: f64,
    /// Whether no other form has less distortion in no more bits.
    pub is_best: bool,
}

/// Every quantiser that needs the weights alone, with all its bits, groups and choices; other parameters as they are by
/// default.
pub fn forms() -> Vec<Vec<Step>> {
    let quantisers = METHODS.iter().filter(|method| method.about().stage == Stage::Quantise);
    quantisers.flat_map(|method| of(*method)).map(|step| vec![step]).collect()
}

/// The methods these forms are of.
pub fn holders() -> impl Iterator<Item = &'static About> {
    let quantisers = METHODS.iter().filter(|method| method.about().stage == Stage::Quantise);
    quantisers.filter(|method| !of(**method).is_empty()).map(|method| method.about())
}

fn of(method: &dyn Method) -> Vec<Step> {
    let about = method.about();
    let mut steps = vec![Step::new(about.id)];
    for parameter in about.parameters {
        let vary = |step: Step| {
            let is_used = about.resolve(&step.parameters).is_ok_and(|r| r.uses(parameter));
            if is_used { varied(step, parameter) } else { vec![step] }
        };
        steps = steps.into_iter().flat_map(vary).collect();
    }
    let is_free = |step: &Step| {
        about.resolve(&step.parameters).is_ok_and(|found| method.needs(&found) == Needs::Weights)
    };
    steps.retain(is_free);
    steps
}

/// Bits a weight that are tried of forms that have any number of them.
const RATES: [f64; 9] = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0];

fn varied(step: Step, parameter: &Parameter) -> Vec<Step> {
    let with = |value: i64| step.clone().with(parameter.name, value);
    match parameter.kind {
        Kind::Choice(options) => {
            options.iter().map(|option| step.clone().with(parameter.name, option.id)).collect()
        }
        Kind::Integer { min, max, .. } if parameter.name == "bits" => {
            (min..=max).map(with).collect()
        }
        Kind::Integer { usual, .. }
            if ["group_size", "levels", "run"].contains(&parameter.name) =>
        {
            usual.iter().copied().map(with).collect()
        }
        Kind::Fraction { .. } if parameter.name == "rate" => {
            RATES.iter().map(|&rate| step.clone().with(parameter.name, rate)).collect()
        }
        Kind::Integer { .. } | Kind::Fraction { .. } => vec![step],
    }
}

/// Tries forms on a sample, those that refuse its shape left out; as [`by_bits`] has them.
///
/// # Errors
/// [`crate::Error::Cancelled`], and where the values are not finite.
pub fn capacity(
    sample: &Sample,
    forms: &[Vec<Step>],
    observer: &dyn Observer,
) -> Result<Vec<Held>> {
    let mut found = Vec::new();
    for (at, steps) in forms.iter().enumerate() {
        let item = chain_label(steps);
        let (done, total) = (at as u64, forms.len() as u64);
        observer.progress(Progress { stage: "Trying", item, done, total, unit: Unit::Candidates });
        found.extend(hold(sample, steps, observer)?);
    }
    by_bits(&mut found);
    Ok(found)
}

/// Sorts by bits, of equal ones the least distortion first, and finds which are best.
pub fn by_bits(found: &mut [Held]) {
    found.sort_by(|a, b| a.bits.total_cmp(&b.bits).then(a.distortion.total_cmp(&b.distortion)));
    let mut least = f64::INFINITY;
    for held in found {
        held.is_best = held.distortion < least;
        least = least.min(held.distortion);
    }
}

/// Tries one form on a sample; `None` where it refuses the shape.
///
/// # Errors
/// [`crate::Error::Cancelled`], and where the values are not finite.
pub fn hold(sample: &Sample, steps: &[Step], observer: &dyn Observer) -> Result<Option<Held>> {
    observer.go_on()?;
    // What is stored once for all rows is paid by those of the whole layer.
    let shape = sample.whole_shape();
    let tried = chain_layout(steps, shape, sample.dtype())
        .and_then(|layout| Ok((sample.distortion(steps, observer)?, layout)));
    let (distortion, layout) = match tried {
        Err(Error::Plan { .. } | Error::Shape { .. }) => return Ok(None),
        found => found?,
    };
    let bits = layout.bytes(shape) as f64 * 8.0 / shape.elements().max(1) as f64;
    let title = |step: &Step| {
        METHODS.iter().map(|m| m.about()).find(|about| about.id == step.method).map(|a| a.title)
    };
    let titles: Vec<&str> = steps.iter().filter_map(title).collect();
    let label = format!("{}: {}", titles.join(", "), chain_label(steps));
    Ok(Some(Held { steps: steps.to_vec(), label, bits, distortion, is_best: false }))
}

/// Bits a value and Σ(x − x̂)²/Σx² of uniform quantisers whose codes are coded at their entropy and decoded to the mean of
/// what has each code: what a scalar code can reach with an ideal entropy coder. By bits ascending; nothing of zeros.
pub fn entropy_coded(values: ArrayView2<'_, f32>) -> Vec<[f64; 2]> {
    let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    let deviation = (squares / values.len().max(1) as f64).sqrt();
    if deviation == 0.0 {
        return Vec::new();
    }
    let point = |step: &f64| {
        let mut bins: BTreeMap<i64, (u64, f64)> = BTreeMap::new();
        for &x in values {
            let bin = bins.entry((f64::from(x) / (step * deviation)).round() as i64).or_default();
            *bin = (bin.0 + 1, bin.1 + f64::from(x));
        }
        let n = values.len() as f64;
        let share = |count: u64| count as f64 / n;
        let bits = bins.values().map(|bin| -share(bin.0) * share(bin.0).log2()).sum::<f64>();
        // Σ(x − x̄)² within a bin is Σx² − n·x̄².
        let held: f64 = bins.values().map(|&(count, sum)| sum * sum / count as f64).sum();
        [bits, ((squares - held) / squares).max(0.0)]
    };
    let mut points: Vec<[f64; 2]> = STEPS.par_iter().map(point).collect();
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    points
}
