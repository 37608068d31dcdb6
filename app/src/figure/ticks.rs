//! Round numbers along an axis.

use crate::figure::Scale;

/// A mark on an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Where it lies: the value, or its logarithm.
    pub place: f64,
    /// What is written at it; empty for a minor mark.
    pub label: String,
}

/// Marks between two places: about `n` round numbers, or decades with minor marks between them.
pub fn ticks((low, high): (f64, f64), n: usize, scale: Scale) -> Vec<Tick> {
    if !(low.is_finite() && high.is_finite()) || high <= low {
        return Vec::new();
    }
    match scale {
        Scale::Linear => linear(low, high, n),
        Scale::Log => logarithmic(low, high, n),
    }
}

fn linear(low: f64, high: f64, n: usize) -> Vec<Tick> {
    let rough = (high - low) / n.max(1) as f64;
    let decade = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * decade).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * decade);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let is_plain = high.abs().max(low.abs()) < 1e5 && step > 1e-5;
    (first..=last.min(first + 50))
        .map(|i| {
            let place = i as f64 * step;
            let label = if is_plain { format!("{place:.decimals$}") } else { compact(place) };
            Tick { place, label }
        })
        .collect()
}

/// Decades with marks at 2 to 9 between them; labels at 2 and 5 too where few decades are seen, at every k-th decade
/// where many are.
fn logarithmic(low: f64, high: f64, n: usize) -> Vec<Tick> {
    if high - low < 0.7 {
        // Less than a decade: round values at their logarithms.
        let (from, to) = (10_f64.powf(low), 10_f64.powf(high));
        let at_logarithm = |tick: Tick| Tick { place: tick.place.log10(), ..tick };
        return linear(from, to, n).into_iter().map(at_logarithm).collect();
    }
    let decades = high - low;
    let every = (decades / n.max(1) as f64).ceil().max(1.0) as i64;
    let mut marks = Vec::new();
    let first = low.floor() as i64;
    for decade in first..=(high.ceil() as i64).min(first + 400) {
        for digit in 1..10 {
            let place = decade as f64 + f64::from(digit).log10();
            let is_labelled = match digit {
                1 => decade.rem_euclid(every) == 0,
                2 | 5 => decades <= 2.0,
                _ => false,
            };
            let is_seen = (low - 1e-9..=high + 1e-9).contains(&place);
            if is_seen && (digit == 1 || decades <= 6.0) {
                let value = f64::from(digit) * 10_f64.powi(decade as i32);
                let label = if is_labelled { compact(value) } else { String::new() };
                marks.push(Tick { place, label });
            }
        }
    }
    marks
}

/// A value in few characters: `0.002`, `1.5k`, `2M`, `3e-7`.
pub fn compact(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    for (limit, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if size >= limit && size < 1e13 {
            return format!("{}{unit}", trimmed(value / limit));
        }
    }
    if (1e-4..1e13).contains(&size) {
        trimmed(value)
    } else {
        format!("{value:.2e}").replace(".00e", "e")
    }
}

/// Four significant digits without zeros at the end.
fn trimmed(value: f64) -> String {
    let decimals = (3.0 - value.abs().log10().floor()).clamp(0.0, 8.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(range: (f64, f64), scale: Scale) -> Vec<String> {
        let labels = ticks(range, 5, scale).into_iter().map(|tick| tick.label);
        labels.filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn linear_marks_are_round_and_inside() {
        assert_eq!(labels((0.0, 1.0), Scale::Linear), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels((-0.45, 0.45), Scale::Linear), ["-0.4", "-0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels((0.0, 3.2e6), Scale::Linear), ["0", "1M", "2M", "3M"]);
        for tick in ticks((17.3, 391.0), 5, Scale::Linear) {
            assert!((17.3..=391.0).contains(&tick.place));
        }
    }

    #[test]
    fn logarithmic_marks_are_decades() {
        assert_eq!(labels((0.0, 4.0), Scale::Log), ["1", "10", "100", "1k", "10k"]);
        assert_eq!(
            labels((-9.0, 0.0), Scale::Log),
            ["1e-8", "1e-6", "1e-4".replace("1e-4", "0.0001").as_str(), "0.01", "1"]
        );
        let few = labels((0.1, 0.5), Scale::Log);
        assert!(few.len() >= 3, "less than a decade has marks too: {few:?}");
        assert!(ticks((1.0, 1.0), 5, Scale::Log).is_empty());
        assert!(ticks((f64::NAN, 1.0), 5, Scale::Linear).is_empty());
    }

    #[test]
    fn values_are_written_in_few_characters() {
        let written = [0.002, 1500.0, 2e6, 3e-7, -12.5, 0.0].map(compact);
        assert_eq!(written, ["0.002", "1.5k", "2M", "3e-7", "-12.5", "0"]);
    }
}
