//! Channels that stand out among the channels of a layer's inputs.

/// A channel stands out that is so many robust standard deviations (1.4826 times the median deviation) above the
/// median of the channels, and …
pub const STANDS_OUT_DEVIATIONS: f64 = 6.0;
/// … at least so many times that median.
pub const STANDS_OUT_MEDIANS: f64 = 3.0;
/// The standard deviation of a normal distribution in units of its median deviation.
const ROBUST: f64 = 1.4826;

/// In what a channel stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandsOut {
    /// In its largest magnitude alone: few tokens do it.
    Peak,
    /// In its root mean square alone.
    Power,
    /// In both: all tokens do it.
    Both,
}

/// A channel that stands out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierChannel {
    /// Its number.
    pub channel: usize,
    /// In what.
    pub stands_out: StandsOut,
    /// Its largest magnitude in medians of the channels' largest magnitudes.
    pub peak_medians: f64,
    /// Its root mean square in medians of the channels' root mean squares.
    pub power_medians: f64,
}

/// The channels whose largest magnitude or root mean square is more than [`STANDS_OUT_DEVIATIONS`] robust standard
/// deviations above the median of all channels, and more than [`STANDS_OUT_MEDIANS`] times it; by power, the
/// largest first. Both lists have one entry a channel.
pub fn outlier_channels(absmax: &[f32], mean_square: &[f32]) -> Vec<OutlierChannel> {
    let peaks: Vec<f64> = absmax.iter().map(|&peak| f64::from(peak)).collect();
    let powers: Vec<f64> = mean_square.iter().map(|&square| f64::from(square).sqrt()).collect();
    let (peak, power) = (Centre::of(&peaks), Centre::of(&powers));
    let found = peaks.iter().zip(&powers).enumerate().filter_map(|(channel, (&a, &b))| {
        let stands_out = match (peak.stands_out(a), power.stands_out(b)) {
            (true, true) => StandsOut::Both,
            (true, false) => StandsOut::Peak,
            (false, true) => StandsOut::Power,
            (false, false) => return None,
        };
        let (peak_medians, power_medians) = (a / peak.median, b / power.median);
        Some(OutlierChannel { channel, stands_out, peak_medians, power_medians })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|a, b| b.power_medians.total_cmp(&a.power_medians));
    found
}

/// Where the middle lies, and how wide it is.
struct Centre {
    median: f64,
    deviation: f64,
}

impl Centre {
    fn of(values: &[f64]) -> Self {
        let median = median(values.to_vec());
        let deviations = values.iter().map(|value| (value - median).abs()).collect();
        Self { median, deviation: ROBUST * self::median(deviations) }
    }

    fn stands_out(&self, value: f64) -> bool {
        value > self.median + STANDS_OUT_DEVIATIONS * self.deviation
            && value > STANDS_OUT_MEDIANS * self.median
    }
}

/// The lower median; 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}
