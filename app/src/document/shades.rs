//! The values of the present metric over all tensors, and their places on a scale of colours.

/// How a metric is laid on the scale of colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// By the logarithm, or by the value itself; `None` as the metric suggests.
    pub logarithmic: Option<bool>,
    /// Values beyond this percentile, and below its counterpart, take the colours of the ends: 50 to 100.
    pub clip: f64,
}

impl Default for Scaling {
    fn default() -> Self {
        Self { logarithmic: None, clip: 100.0 }
    }
}

/// Percentiles offered for clipping.
pub const CLIPS: [f64; 4] = [100.0, 99.0, 95.0, 90.0];

/// The values of a metric by tensor, with the ends of their scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shades {
    values: Vec<Option<f64>>,
    /// Their places between the ends.
    shares: Vec<f32>,
    /// The value at the lower end of the scale.
    pub low: f64,
    /// The value at the upper end.
    pub high: f64,
    /// Tensors with a value.
    pub known: usize,
    /// Whether values are placed by their logarithm.
    pub is_logarithmic: bool,
}

impl Shades {
    /// Lays values on a scale.
    pub fn new(values: Vec<Option<f64>>, is_logarithmic: bool, clip: f64) -> Self {
        Self::over(values, |_tensor| true, (is_logarithmic, clip))
    }

    /// Lays values on a scale whose ends are those of some of the tensors, or of all where those have no values.
    pub fn over(
        values: Vec<Option<f64>>,
        counts: impl Fn(usize) -> bool,
        (is_logarithmic, clip): (bool, f64),
    ) -> Self {
        let is_finite = |of: &(usize, &Option<f64>)| of.1.is_some_and(f64::is_finite);
        let all = || values.iter().enumerate().filter(is_finite);
        let (of_all, mut counted): (usize, Vec<f64>) =
            (all().count(), all().filter(|of| counts(of.0)).filter_map(|of| *of.1).collect());
        if counted.is_empty() {
            counted = all().filter_map(|of| *of.1).collect();
        }
        let (low, high) = ends(&mut counted, clip);
        let shares = Vec::with_capacity(values.len());
        let mut shades = Self { known: of_all, values, shares, low, high, is_logarithmic };
        let share = |value: &Option<f64>| value.map_or(0.5, |value| shades.share(value));
        shades.shares = shades.values.iter().map(share).collect();
        shades
    }

    /// How values are placed, in a word or two.
    pub fn kind(&self) -> &'static str {
        match (self.is_logarithmic, self.low > 0.0) {
            (false, _) => "linear",
            (true, true) => "log",
            (true, false) => "symmetric log",
        }
    }

    /// The value of a tensor, if it is known.
    pub fn value(&self, tensor: usize) -> Option<f64> {
        self.values.get(tensor).copied().flatten()
    }

    /// The place of a tensor's value between the ends, 0 to 1, if it is known.
    pub fn place(&self, tensor: usize) -> Option<f32> {
        self.value(tensor).and_then(|_| self.shares.get(tensor).copied())
    }

    /// The place of a value between the ends, 0 to 1.
    pub fn share(&self, value: f64) -> f32 {
        let place = |value: f64| {
            if self.is_logarithmic { logarithm(value, self.low, self.high) } else { value }
        };
        let (low, high) = (place(self.low), place(self.high));
        if high <= low || !value.is_finite() {
            return if value > self.high { 1.0 } else { 0.5 };
        }
        ((place(value.clamp(self.low, self.high)) - low) / (high - low)) as f32
    }
}

/// The percentiles `100 − clip` and `clip`.
fn ends(known: &mut [f64], clip: f64) -> (f64, f64) {
    if known.is_empty() {
        return (0.0, 0.0);
    }
    let at = |percentile: f64| ((known.len() - 1) as f64 * percentile / 100.0).round() as usize;
    let (first, last) = (at(100.0 - clip), at(clip));
    let low = *known.select_nth_unstable_by(first, f64::total_cmp).1;
    let high = *known.select_nth_unstable_by(last, f64::total_cmp).1;
    (low, high)
}

/// ln v where all values are positive; else the symmetric sgn(v)·ln(1 + |v|/c) with c a hundredth of the largest
/// magnitude, which is defined at zero and below.
fn logarithm(value: f64, low: f64, high: f64) -> f64 {
    if low > 0.0 {
        return value.ln();
    }
    let unit = high.abs().max(low.abs()) / 100.0;
    if unit == 0.0 { 0.0 } else { value.signum() * (value.abs() / unit).ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shades(values: &[f64], is_logarithmic: bool, clip: f64) -> Shades {
        Shades::new(values.iter().map(|&value| Some(value)).collect(), is_logarithmic, clip)
    }

    #[test]
    fn shares_are_even_in_value_or_in_logarithm() {
        let linear = shades(&[1.0, 100.0, 10.0], false, 100.0);
        assert_eq!((linear.share(1.0), linear.share(100.0), linear.share(50.5)), (0.0, 1.0, 0.5));
        let logarithmic = shades(&[1.0, 100.0], true, 100.0);
        assert!((logarithmic.share(10.0) - 0.5).abs() < 1e-6);
        let signed = shades(&[-5.0, 0.0, 5.0], true, 100.0);
        assert!((signed.share(0.0) - 0.5).abs() < 1e-6, "negative values have logarithms here");
    }

    #[test]
    fn clipping_spreads_the_rest_and_saturates_the_outliers() {
        let mut values: Vec<f64> = (0..=99).map(f64::from).collect();
        values.push(1e6);
        let all = shades(&values, false, 100.0);
        assert!(all.share(99.0) < 0.01);
        let clipped = shades(&values, false, 99.0);
        assert_eq!((clipped.low, clipped.high), (1.0, 99.0));
        assert_eq!((clipped.share(1e6), clipped.share(99.0)), (1.0, 1.0));
    }

    #[test]
    fn the_ends_are_those_of_the_tensors_that_count() {
        let values = vec![Some(-1.0), Some(1.0), Some(5.0), None];
        let of_two = Shades::over(values.clone(), |tensor| tensor > 0, (true, 100.0));
        assert_eq!((of_two.low, of_two.high, of_two.known), (1.0, 5.0, 3));
        assert_eq!((of_two.place(0), of_two.place(2)), (Some(0.0), Some(1.0)));
        assert_eq!(
            (of_two.kind(), shades(&[-1.0, 1.0], true, 100.0).kind()),
            ("log", "symmetric log")
        );
        let of_none = Shades::over(values, |tensor| tensor == 3, (false, 100.0));
        assert_eq!((of_none.low, of_none.high, of_none.kind()), (-1.0, 5.0, "linear"));
    }

    #[test]
    fn nothing_known_and_one_value_have_a_place() {
        assert_eq!(Shades::new(vec![None, None], true, 95.0).known, 0);
        assert_eq!(shades(&[3.0], true, 100.0).share(3.0), 0.5);
    }
}
