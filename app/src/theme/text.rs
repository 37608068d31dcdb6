//! Every number a person sees is formatted here, the same way everywhere.

use lapidary_engine::Unit;
use lapidary_engine::export::Estimate;
use lapidary_engine::job::Pace;
pub use lapidary_engine::numeric::digits::count;

/// Bytes in decimal units with three significant digits: `2.83 MB`.
pub fn bytes(n: u64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB", "PB"], " ")
}

/// What a job has left: `2.83 MB`, `63,495 tokens`.
pub fn amount(n: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => bytes(n),
        Unit::Tokens => format!("{} tokens", count(n)),
        Unit::Questions => format!("{} questions", count(n)),
        Unit::Candidates => format!("at most {} candidates", count(n)),
    }
}

/// Parameters with three significant digits: `5.77 M`.
pub fn parameters(n: u64) -> String {
    scaled(n, &["", "k", "M", "B", "T"], " ").trim_end().to_owned()
}

fn scaled(n: u64, units: &[&str], space: &str) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // 999.5 would round to 1000 in three digits.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        return format!("{n}{space}{}", units[0]);
    }
    format!("{}{space}{}", three_digits(value), units[unit])
}

fn three_digits(value: f64) -> String {
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

/// A value of any size with four significant digits: `0.01234`, `1.234e-7`; `–` where undefined.
pub fn value(x: f64) -> String {
    if x.is_nan() {
        return "–".to_owned();
    }
    if x == 0.0 {
        return "0".to_owned();
    }
    let magnitude = x.abs().log10().floor();
    if !(-4.0..6.0).contains(&magnitude) {
        return format!("{x:.3e}");
    }
    let decimals = (3.0 - magnitude).max(0.0) as usize;
    format!("{x:.decimals$}")
}

/// A share as percent: `0.83 %`, `12.3 %`; small shares keep two significant digits; `–` where undefined.
pub fn percent(share: f64) -> String {
    if share.is_nan() {
        return "–".to_owned();
    }
    let x = share * 100.0;
    let decimals = match x.abs() {
        0.0 => 0,
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 0.1 => 2,
        x if x >= 0.001 => 4,
        _ => return format!("{x:.1e} %"),
    };
    format!("{x:.decimals$} %")
}

/// Effective bits per weight: `4.125`.
pub fn bits(x: f64) -> String {
    if x.is_nan() { "–".to_owned() } else { format!("{x:.3}") }
}

/// A duration to wait: `12 s`, `3 min`.
pub fn secs(x: f64) -> String {
    if x < 90.0 { format!("{:.0} s", x.max(0.0)) } else { format!("{:.0} min", x / 60.0) }
}

/// How long an export takes, with what that is made of: `some 3 min, an estimate: …`.
pub fn estimated(estimate: &Estimate) -> String {
    let Pace { tried, seconds, layers } = estimate.layers;
    if layers == 0 {
        return format!(
            "some {}, an estimate: to read and hash source and output, as no layer is compressed; not the disk's own time to write",
            secs(estimate.seconds().max(1.0)),
        );
    }
    format!(
        "some {}, an estimate: {} for layers, as some rows of {tried} took, {} to read and hash source and output; not the disk's own time to write",
        secs(estimate.seconds().max(1.0)),
        secs(seconds),
        secs(estimate.hashing_seconds),
    )
}

/// A time, given in seconds since 1970: `2026-11-21 14:12`, UTC.
pub fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| "–".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

/// The first characters of a text, with … where there are more than `most`.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A number in at most so many characters, with fewer digits where it has more; what is no number, or is a large whole one, as
/// it is.
pub fn narrow(text: String, most: usize) -> String {
    let fits = |text: &String| text.chars().count() <= most;
    let Ok(x) = text.parse::<f64>() else { return text };
    if fits(&text) {
        return text;
    }
    let plain = (0..=4).rev().map(|n| format!("{x:.n$}"));
    let powers = (0..=3).rev().map(|n| format!("{x:.n$e}"));
    // What is rounded to hardly a digit says too little.
    let is_near =
        |text: &String| text.parse::<f64>().is_ok_and(|y| (y - x).abs() <= 0.05 * x.abs());
    plain.chain(powers).find(|text| fits(text) && is_near(text)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_promised() {
        assert_eq!(
            (count(5_770_496), count(12), count(1000)),
            ("5,770,496".into(), "12".into(), "1,000".into())
        );
        assert_eq!(
            (bytes(11_540_992), bytes(999), bytes(999_999)),
            ("11.5 MB".into(), "999 B".into(), "1.00 MB".into())
        );
        assert_eq!(
            (shortened("größer", 6), shortened("größer", 5)),
            ("größer".into(), "größ…".into())
        );
        let narrow = |x: f64| narrow(value(x), 7);
        assert_eq!(
            [narrow(-0.008_912), narrow(-0.000_123_4), narrow(-1.234e-6), narrow(-12.345)],
            ["-0.0089", "-1.2e-4", "-1.2e-6", "-12.35"].map(str::to_owned)
        );
        assert_eq!([narrow(f64::NAN), narrow(1.5)], ["–", "1.500"].map(str::to_owned));
        assert_eq!(time(1_700_000_000), "2023-11-14 22:13");
        assert_eq!((parameters(5_770_496), parameters(12)), ("5.77 M".into(), "12".into()));
        assert_eq!(
            (value(0.012_34), value(-1.5), value(1.234e-7), value(f64::NAN)),
            ("0.01234".into(), "-1.500".into(), "1.234e-7".into(), "–".into())
        );
        assert_eq!(
            (percent(0.0083), percent(0.123), percent(1.0), percent(0.0)),
            ("0.83 %".into(), "12.3 %".into(), "100 %".into(), "0 %".into())
        );
    }
}
