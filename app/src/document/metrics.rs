//! Numbers of a layer that colour the map and fill columns: each with a sentence, a formula, and advice.

use crate::document::model::Model;

/// A number every layer has, once measured.
pub struct Metric {
    /// Name in project files.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// What it means, its formula, what is good or bad for compression.
    pub help: &'static str,
    /// Whether colours follow its logarithm.
    pub logarithmic: bool,
    /// The value of a tensor; `None` while it is not known or has none.
    pub value: fn(&Model, usize) -> Option<f64>,
    /// The value as text.
    pub format: fn(f64) -> String,
}

impl std::fmt::Debug for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

use crate::theme::text;

/// Every metric, in the order menus show them; the first is where a project names none.
pub static METRICS: &[Metric] = &[
    Metric {
        id: "bits",
        title: "Bits per weight",
        help: "Effective bits a weight takes in the exported file: codes, scales and zero points, bytes × 8 / weights. The fewer, the smaller the file.",
        logarithmic: false,
        value: |model, layer| model.effective_bits(layer),
        format: text::bits,
    },
    Metric {
        id: "kurtosis",
        title: "Kurtosis",
        help: "How heavy the tails are: excess kurtosis m₄/m₂² − 3, 0 for a normal, 3 for a Laplace distribution. High values mean outliers that stretch a quantisation grid: use smaller groups, clipping, or more bits.",
        logarithmic: true,
        value: |model, layer| {
            Some(model.statistics(layer)?.kurtosis).filter(|value| value.is_finite())
        },
        format: text::value,
    },
    Metric {
        id: "outliers",
        title: "Outlier share",
        help: "Share of weights further than 6 standard deviations from the mean. A normal distribution has two in a billion; more means that a few weights decide the range of their group.",
        logarithmic: true,
        value: |model, layer| {
            Some(model.statistics(layer)?.outlier_fraction).filter(|value| value.is_finite())
        },
        format: text::percent,
    },
    Metric {
        id: "rank",
        title: "Effective rank share",
        help: "exp(entropy of σ/Σσ) over the full rank (Roy & Vetterli 2007). Near 1 the singular values are flat and low rank costs much; small values mean that few directions carry the layer.",
        logarithmic: false,
        value: |model, layer| {
            let spectrum = model.spectrum(layer)?;
            Some(spectrum.effective_rank / spectrum.singular_values.len().max(1) as f64)
        },
        format: text::percent,
    },
];

/// The metric of that id, or the first.
pub fn metric(id: &str) -> &'static Metric {
    METRICS.iter().find(|metric| metric.id == id).unwrap_or(&METRICS[0])
}
