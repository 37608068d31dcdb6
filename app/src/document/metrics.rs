//! Numbers of a layer that colour the map and fill columns: each with a sentence, a formula, and advice.

use lapidary_engine::numeric::grouping::Grouping;
use lapidary_engine::plan::Assignment;
use lapidary_engine::target::Next;

use crate::document::measurements::value;
use crate::document::model::Model;
use crate::theme::text;

/// What has to be known before a metric has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing but the plan.
    Plan,
    /// Statistics, structure or spectrum, which are measured by themselves.
    Measuring,
    /// The errors of all assignments.
    Damage,
    /// The errors of the assignments next to them, estimated while the metric is shown.
    Price,
    /// The errors of one assignment on every layer, estimated while the metric is shown.
    Sensitivity,
    /// A calibration.
    Calibration,
    /// A second checkpoint.
    Other,
}

/// A number every layer has, once measured.
pub struct Metric {
    /// Name in project files and in conditions of the filter.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// Name in the head of a column.
    pub short: &'static str,
    /// What it means, its formula, what is good or bad for compression.
    pub help: &'static str,
    /// Whether colours follow its logarithm unless the person says otherwise.
    pub logarithmic: bool,
    /// What has to be known first.
    pub needs: Needs,
    /// The value of a tensor; `None` while it is not known or has none.
    pub value: fn(&Model, usize) -> Option<f64>,
    /// The value as text.
    pub format: fn(f64) -> String,
}

impl Metric {
    /// Whether of several layers that must be compressed alike the one with the least value decides: low rank as low as the
    /// others would take hurts the layer of least rank no less, steps down are as cheap as the cheapest, and few tokens are few.
    pub fn is_least_telling(&self) -> bool {
        ["rank", "stable-rank", "price-down", "tokens"].contains(&self.id)
    }

    /// The layer of some whose value tells most of them: the largest, or of some metrics the least.
    pub fn telling(&self, model: &Model, layers: &[usize]) -> Option<usize> {
        let known = layers.iter().filter_map(|&layer| Some((layer, (self.value)(model, layer)?)));
        let by_value = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
        let found =
            if self.is_least_telling() { known.min_by(by_value) } else { known.max_by(by_value) };
        found.map(|(layer, _)| layer)
    }

    /// Characters that its widest value has, as it is written.
    pub fn digits(&self) -> usize {
        match self.id {
            "bits" | "floor" => 6,
            "bytes" => 7,
            _ if self.is_percent() => 8,
            _ => 9,
        }
    }

    /// Whether its values are shown in percent.
    pub fn is_percent(&self) -> bool {
        (self.format)(1.0).ends_with('%')
    }
}

impl std::fmt::Debug for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

/// Where no group size is assigned, the group peak is that of groups of this many.
pub const USUAL_GROUP: usize = 128;

/// Every metric, in the order menus show them; the first is where a project names none.
pub static METRICS: &[Metric] = &[
    Metric {
        id: "bits",
        title: "Bits per weight",
        short: "Bits",
        help: "Effective bits a weight takes in the exported file: codes, scales and zero points, bytes × 8 / weights. The fewer, the smaller the file.",
        logarithmic: false,
        needs: Needs::Plan,
        value: |model, layer| model.effective_bits(layer),
        format: text::bits,
    },
    Metric {
        id: "bytes",
        title: "Bytes in the export",
        short: "Size",
        help: "Bytes of the tensor in the exported file, exact; the inspector has every digit. Few large layers hold most of a model: look there first.",
        logarithmic: true,
        needs: Needs::Plan,
        value: |model, layer| Some(model.bytes(layer) as f64),
        format: |bytes| text::bytes(bytes as u64),
    },
    Metric {
        id: "damage",
        title: "Predicted damage",
        short: "Damage",
        help: "Squared relative error of the weights, ‖W−Ŵ‖²/‖W‖², of the present assignment: ~ where it is estimated from a sample of rows, else measured. It predicts the loss of a model as far as every layer matters alike (Malinovskii et al. 2024); with a calibration the error is activation-weighted, ‖(W−Ŵ)x‖²/‖Wx‖² over the text, which is nearer to the truth. 4 bits give some 1 %.",
        logarithmic: true,
        needs: Needs::Damage,
        value: |model, layer| model.relative_error(layer).map(|error| error * error),
        format: text::percent,
    },
    Metric {
        id: "damage-per-byte",
        title: "Damage per MB saved",
        short: "Damage/MB",
        help: "Predicted damage over the megabytes the assignment saves. High values are bad bargains: give these layers more bits and take them elsewhere.",
        logarithmic: true,
        needs: Needs::Damage,
        value: |model, layer| {
            let saved =
                model.checkpoint.tensors()[layer].bytes().checked_sub(model.bytes(layer))?;
            (saved > 0)
                .then(|| Some(model.relative_error(layer)?.powi(2) / (saved as f64 / 1e6)))?
        },
        format: text::percent,
    },
    Metric {
        id: "price-down",
        title: "Price of a step down",
        short: "Price ↓",
        help: "Damage added for each MB saved by the next step with fewer bits that the target holds, Δ(‖W−Ŵ‖²/‖W‖²)/ΔMB; an estimate from a sample of rows. Take bits where it is lowest.",
        logarithmic: true,
        needs: Needs::Price,
        value: |model, layer| model.next_step(layer, Next::Down)?.price(),
        format: text::percent,
    },
    Metric {
        id: "price-up",
        title: "Worth of a step up",
        short: "Worth ↑",
        help: "Damage removed for each MB spent by the next step with more bits that the target holds, Δ(‖W−Ŵ‖²/‖W‖²)/ΔMB; an estimate from a sample of rows. Give bits where it is highest.",
        logarithmic: true,
        needs: Needs::Price,
        value: |model, layer| model.next_step(layer, Next::Up)?.price(),
        format: text::percent,
    },
    Metric {
        id: "kurtosis",
        title: "Kurtosis",
        short: "Kurtosis",
        help: "How heavy the tails are: excess kurtosis m₄/m₂² − 3, 0 for a normal, 3 for a Laplace distribution. High values mean outliers that stretch a quantisation grid: use smaller groups, clipping, or more bits.",
        logarithmic: true,
        needs: Needs::Measuring,
        value: |model, layer| finite(model.statistics(layer)?.kurtosis),
        format: text::value,
    },
    Metric {
        id: "outliers",
        title: "Outlier share",
        short: "Outliers",
        help: "Share of weights further than 6 standard deviations from the mean. A normal distribution has two in a billion; more means that a few weights decide the range of their group.",
        logarithmic: true,
        needs: Needs::Measuring,
        value: |model, layer| finite(model.statistics(layer)?.outlier_fraction),
        format: text::percent,
    },
    Metric {
        id: "group-peak",
        title: "Group peak",
        short: "Peak",
        help: "Mean over groups of max|w|/rms for the assigned group size, or groups of 128 where none is assigned. 128 normal numbers have 2.8; above 4 the largest weight of a group wastes levels: use smaller groups or clipping.",
        logarithmic: false,
        needs: Needs::Measuring,
        value: |model, layer| {
            let grouping = model.grouping(layer).unwrap_or(Grouping::Group(USUAL_GROUP));
            finite(value(&model.measured.structures[layer])?.group_peak(grouping)?)
        },
        format: text::value,
    },
    Metric {
        id: "stable-rank",
        title: "Stable rank",
        short: "Stable rank",
        help: "‖W‖_F²/σ₁², at most the full rank. Small: one direction dominates, and low rank keeps much of the layer.",
        logarithmic: true,
        needs: Needs::Measuring,
        value: |model, layer| finite(model.spectrum(layer)?.stable_rank),
        format: text::value,
    },
    Metric {
        id: "rank",
        title: "Effective rank share",
        short: "Eff. rank",
        help: "exp(entropy of σ/Σσ) over the full rank (Roy & Vetterli 2007). Near 1 the singular values are flat and low rank costs much; small values mean that few directions carry the layer.",
        logarithmic: false,
        needs: Needs::Measuring,
        value: |model, layer| {
            let spectrum = model.spectrum(layer)?;
            Some(spectrum.effective_rank / spectrum.singular_values.len().max(1) as f64)
        },
        format: text::percent,
    },
    Metric {
        id: "zeros",
        title: "Zeros",
        short: "Zeros",
        help: "Share of weights that are exactly zero: sparsity that is already there.",
        logarithmic: false,
        needs: Needs::Measuring,
        value: |model, layer| finite(model.statistics(layer)?.zeros),
        format: text::percent,
    },
    Metric {
        id: "floor",
        title: "Lossless floor",
        short: "Floor",
        help: "Bits per weight below which no lossless coder of separate planes gets: the entropies of sign, exponent and mantissa, coded apart, added up. An estimate from counts; coding whole 16-bit patterns together goes 0.02 to 0.06 bits lower. BF16 weights have some 10.6 of 16; much less means that precision is not used. None where there are too few weights to tell.",
        logarithmic: false,
        needs: Needs::Measuring,
        value: |model, layer| model.statistics(layer)?.bits.as_ref()?.floor_bits(),
        format: text::bits,
    },
    Metric {
        id: "std",
        title: "Standard deviation",
        short: "Std",
        help: "Standard deviation of the weights, √(Σ(w−mean)²/n).",
        logarithmic: true,
        needs: Needs::Measuring,
        value: |model, layer| finite(model.statistics(layer)?.std),
        format: text::value,
    },
    Metric {
        id: "abs-max",
        title: "Largest weight",
        short: "Abs max",
        help: "Largest |w|: the range a min-max grid of the whole tensor must span.",
        logarithmic: true,
        needs: Needs::Measuring,
        value: |model, layer| finite(model.statistics(layer)?.abs_max),
        format: text::value,
    },
    Metric {
        id: "difference",
        title: "Difference from the second",
        short: "Difference",
        help: "Relative error ‖A−B‖/‖A‖ against the second checkpoint. A fine-tune moves weights by some 0.1 to 3 %, 4 bits by some 10 %.",
        logarithmic: true,
        needs: Needs::Other,
        value: |model, layer| finite(model.comparison(layer)?.relative_error),
        format: text::percent,
    },
    Metric {
        id: "cosine-distance",
        title: "1 − cosine to the second",
        short: "1 − cos",
        help: "1 − ⟨A,B⟩/(‖A‖‖B‖) against the second checkpoint: 0 where both point the same way, also if one is scaled.",
        logarithmic: true,
        needs: Needs::Other,
        value: |model, layer| finite(1.0 - model.comparison(layer)?.cosine),
        format: text::value,
    },
    Metric {
        id: "changed",
        title: "Changed share",
        short: "Changed",
        help: "Share of weights that differ from the second checkpoint. 0: identical values; few: an edit; all: training or rounding.",
        logarithmic: false,
        needs: Needs::Other,
        value: |model, layer| finite(model.comparison(layer)?.changed),
        format: text::percent,
    },
    Metric {
        id: "bit-distance",
        title: "Bit distance",
        short: "Bit dist.",
        help: "Mean number of bits in which a weight differs from the second checkpoint, where both have one element type: what a lossless delta must store, at least.",
        logarithmic: false,
        needs: Needs::Other,
        value: |model, layer| finite(model.comparison(layer)?.bit_distance?),
        format: text::value,
    },
    Metric {
        id: "sensitivity",
        title: "Sensitivity to 4 bits",
        short: "Sensitivity",
        help: "Squared relative error of the layer if it were rounded to nearest in 4 bits, groups of 128, whatever the plan says: with a calibration activation-weighted, ‖(W−Ŵ)x‖²/‖Wx‖² over the text, without one ‖W−Ŵ‖²/‖W‖². An estimate from a sample of rows. Give bits where it is high.",
        logarithmic: true,
        needs: Needs::Sensitivity,
        value: |model, layer| {
            let damage = model.damage_of(layer, &sensitive())?;
            finite(damage.relative_error.powi(2))
        },
        format: text::percent,
    },
    Metric {
        id: "activation-outliers",
        title: "Activation outliers",
        short: "Act. outl.",
        help: "Share of the values a layer receives that are more than 6 times their root mean square, from the calibration. A normal distribution has two in a billion. High shares spoil quantised activations, and make a few columns of the weights matter most: scale them (AWQ), rotate, or keep activations in 16 bits.",
        logarithmic: true,
        needs: Needs::Calibration,
        value: |model, layer| {
            let whole = &model.record(layer)?.inputs.whole;
            (whole.values > 0 && whole.absmax.is_finite()).then(|| whole.outlier_share())
        },
        format: text::percent,
    },
    Metric {
        id: "activation-kurtosis",
        title: "Activation kurtosis",
        short: "Act. kurt.",
        help: "Excess kurtosis of everything a layer receives, m₄/m₂² − 3, from the calibration: 0 for a normal distribution. Hundreds mean massive activations, which one scale for all channels cannot hold.",
        logarithmic: true,
        needs: Needs::Calibration,
        value: |model, layer| finite(model.record(layer)?.inputs.whole.kurtosis),
        format: text::value,
    },
    Metric {
        id: "tokens",
        title: "Tokens seen",
        short: "Tokens",
        help: "Tokens of the calibration that reached the layer: all of them but for the experts of a mixture, which see what the router sends. Below some 1,000 what was measured is mostly chance: calibrate with more text.",
        logarithmic: true,
        needs: Needs::Calibration,
        value: |model, layer| Some(model.record(layer)?.inputs.tokens as f64),
        format: |tokens| text::count(tokens as u64),
    },
];

/// What every layer is rounded to for its sensitivity: 4 bits to nearest, groups of 128.
pub fn sensitive() -> Assignment {
    Assignment::keep().with_bits(4).with_grouping(Grouping::Group(USUAL_GROUP))
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// The metric of that id, or the first.
pub fn metric(id: &str) -> &'static Metric {
    find(id).unwrap_or(&METRICS[0])
}

/// The metric of that id.
pub fn find(id: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.id == id)
}
