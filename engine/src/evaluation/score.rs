//! The figures of an evaluation: sums by window, and what is made of them.

use serde::{Deserialize, Serialize};

/// A window of text, scored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Tokens scored.
    pub tokens: u64,
    /// −Σ ln p of those tokens.
    pub nats: f64,
    /// Characters that those tokens cover.
    pub characters: u64,
    /// Against the original, where there is one.
    pub against: Option<Against>,
}

/// Sums over tokens of how far a network is from the original.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// −Σ ln p of the tokens, by the original.
    pub nats: f64,
    /// Σ KL(original ‖ network), in nats.
    pub kl: f64,
    /// Tokens whose most likely successor is another.
    pub flips: u64,
    /// Σ of the share of the original's five most likely tokens that are among the network's.
    pub top_overlap: f64,
    /// Σ Σ min(p, q).
    pub overlap: f64,
}

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The mean.
    pub value: f64,
    /// Its standard error; NaN of a single window.
    pub error: f64,
    /// Windows it is of; 0 where that is not known, as of records of before.
    #[serde(default)]
    pub windows: usize,
}

impl Figure {
    /// A number that is exact, or not known as NaN.
    pub fn exact(value: f64) -> Self {
        Self { value, error: f64::NAN, windows: 0 }
    }

    /// e to a mean; the error is the first order of that of the mean.
    fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, error: value * self.error, ..self }
    }
}

/// A text scored by a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Its windows, in the order of the text.
    pub windows: Vec<Window>,
    /// Tokens that were to be scored: more than were, if it was cancelled.
    pub planned_tokens: u64,
    /// 99th percentile of the KL divergence of a token, in nats.
    pub kl_p99: Option<f64>,
}

impl Evaluation {
    /// Tokens scored.
    pub fn tokens(&self) -> u64 {
        self.windows.iter().map(|window| window.tokens).sum()
    }

    /// Whether the whole text was scored.
    pub fn is_complete(&self) -> bool {
        self.tokens() == self.planned_tokens
    }

    /// −Σ ln p / tokens, with the standard error over windows.
    pub fn nats_per_token(&self) -> Figure {
        self.mean(|window| Some(window.nats)).unwrap_or(Figure::exact(f64::NAN))
    }

    /// e to the nats per token; the error is the first order of that of the nats.
    pub fn perplexity(&self) -> Figure {
        self.nats_per_token().exp()
    }

    /// Perplexity of the original on the same tokens.
    pub fn original_perplexity(&self) -> Option<Figure> {
        Some(self.mean(|window| Some(window.against.as_ref()?.nats))?.exp())
    }

    /// −Σ log₂ p / characters.
    pub fn bits_per_character(&self) -> f64 {
        let nats: f64 = self.windows.iter().map(|window| window.nats).sum();
        let characters: u64 = self.windows.iter().map(|window| window.characters).sum();
        nats / std::f64::consts::LN_2 / characters as f64
    }

    /// Mean KL(original ‖ network) of a token, in nats.
    pub fn mean_kl(&self) -> Option<Figure> {
        self.mean(|window| Some(window.against.as_ref()?.kl))
    }

    /// Share of tokens whose most likely successor is another.
    pub fn flip_rate(&self) -> Option<Figure> {
        self.mean(|window| Some(window.against.as_ref()?.flips as f64))
    }

    /// Mean share of the original's five most likely tokens that are among the network's.
    pub fn top_overlap(&self) -> Option<Figure> {
        self.mean(|window| Some(window.against.as_ref()?.top_overlap))
    }

    /// Mean of Σ min(p, q).
    pub fn overlap(&self) -> Option<Figure> {
        self.mean(|window| Some(window.against.as_ref()?.overlap))
    }

    /// Nats per token beyond those of the original on the same tokens, with the standard error of the difference.
    pub fn excess_nats(&self) -> Option<Figure> {
        self.mean(|window| Some(window.nats - window.against.as_ref()?.nats))
    }

    /// Nats per token beyond those of another evaluation of the same windows; `None` where they differ.
    ///
    /// Windows are paired, so that what both find hard does not count as uncertainty.
    pub fn nats_beyond(&self, other: &Self) -> Option<Figure> {
        let same = self.windows.len() == other.windows.len()
            && self.windows.iter().zip(&other.windows).all(|(a, b)| a.tokens == b.tokens);
        if !same {
            return None;
        }
        let pairs = self.windows.iter().zip(&other.windows);
        mean_of(pairs.map(|(a, b)| (a.tokens, a.nats - b.nats)))
    }

    fn mean(&self, sum: impl Fn(&Window) -> Option<f64>) -> Option<Figure> {
        let windows: Option<Vec<(u64, f64)>> =
            self.windows.iter().map(|window| Some((window.tokens, sum(window)?))).collect();
        mean_of(windows?.into_iter())
    }
}

/// The mean over tokens of sums over windows. Tokens of a window depend on one another, so the error is that of a
/// ratio over windows taken as independent: √(Σ (sum − mean·tokens)² · n/(n − 1)) / Σ tokens (Cochran 1977, 2.11).
fn mean_of(windows: impl Iterator<Item = (u64, f64)>) -> Option<Figure> {
    let windows: Vec<(u64, f64)> = windows.collect();
    let tokens: u64 = windows.iter().map(|(tokens, _)| tokens).sum();
    if tokens == 0 {
        return None;
    }
    let value = windows.iter().map(|(_, sum)| sum).sum::<f64>() / tokens as f64;
    let squares: f64 =
        windows.iter().map(|(tokens, sum)| (sum - value * *tokens as f64).powi(2)).sum();
    let n = windows.len() as f64;
    let error =
        if windows.len() > 1 { (squares * n / (n - 1.0)).sqrt() / tokens as f64 } else { f64::NAN };
    Some(Figure { value, error, windows: windows.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    #[test]
    fn the_standard_error_is_how_far_means_of_samples_scatter() {
        let mut random = Random::new(5);
        let mut means = Vec::new();
        let mut errors = Vec::new();
        for _ in 0..2000 {
            let mut window = || {
                let shared = random.normal();
                let nats = (0..50).map(|_| 3.0 + shared + random.normal()).sum();
                Window { tokens: 50, nats, ..Window::default() }
            };
            let windows = (0..40).map(|_| window()).collect();
            let figure = Evaluation { windows, ..Evaluation::default() }.nats_per_token();
            means.push(figure.value);
            errors.push(figure.error);
        }
        let n = means.len() as f64;
        let mean = means.iter().sum::<f64>() / n;
        let scatter = (means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n).sqrt();
        let said = errors.iter().sum::<f64>() / n;
        assert!((said / scatter - 1.0).abs() < 0.05, "{said} said, {scatter} seen");
    }

    #[test]
    fn paired_windows_cancel_what_both_find_hard() {
        let window = |nats: f64| Window { tokens: 10, nats, ..Window::default() };
        let a = Evaluation { windows: vec![window(10.0), window(90.0)], ..Evaluation::default() };
        let b = Evaluation { windows: vec![window(11.0), window(91.0)], ..Evaluation::default() };
        let beyond = b.nats_beyond(&a).expect("the same windows");
        assert_eq!((beyond.value, beyond.error), (0.1, 0.0));
        assert!(a.nats_per_token().error > 1.0);
    }
}
