//! The normal and the Laplace distribution, for fits drawn on histograms.

/// A distribution with a location and a scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// exp(−(x−μ)²/2σ²)/(σ√2π).
    Normal {
        /// μ.
        mean: f64,
        /// σ.
        std: f64,
    },
    /// exp(−|x−μ|/b)/2b.
    Laplace {
        /// μ.
        mean: f64,
        /// b, the mean absolute deviation.
        scale: f64,
    },
}

impl Distribution {
    /// Density at `x`; 0 for a scale of 0.
    pub fn density(self, x: f64) -> f64 {
        match self {
            Self::Normal { std: 0.0, .. } | Self::Laplace { scale: 0.0, .. } => 0.0,
            Self::Normal { mean, std } => {
                let z = (x - mean) / std;
                (-0.5 * z * z).exp() / (std * std::f64::consts::TAU.sqrt())
            }
            Self::Laplace { mean, scale } => (-(x - mean).abs() / scale).exp() / (2.0 * scale),
        }
    }

    /// Probability of a value below `x`.
    pub fn cumulative(self, x: f64) -> f64 {
        match self {
            Self::Normal { mean, std: 0.0 } | Self::Laplace { mean, scale: 0.0 } => {
                if x >= mean {
                    1.0
                } else {
                    0.0
                }
            }
            Self::Normal { mean, std } => {
                0.5 * libm::erfc(-(x - mean) / (std * std::f64::consts::SQRT_2))
            }
            Self::Laplace { mean, scale } => {
                let z = (x - mean) / scale;
                if z < 0.0 { 0.5 * z.exp() } else { 1.0 - 0.5 * (-z).exp() }
            }
        }
    }
}

/// Degrees of freedom from which Student's distribution is taken for the normal one: 1e-4 of the quantile apart.
const MANY_DEGREES: usize = 10_000;

/// The t for which Student's t with ν ≥ 1 degrees of freedom is within ±t with this probability, of 0 to 1.
///
/// P(|T| ≤ t) by the finite sums for whole ν (Abramowitz & Stegun 26.7.3 and 26.7.4), halved into 60 times. Cost: 60·ν/2
/// products.
pub fn within_student(probability: f64, degrees: usize) -> f64 {
    let degrees = degrees.clamp(1, MANY_DEGREES);
    let (mut low, mut high) = (0.0, std::f64::consts::FRAC_PI_2);
    // θ = atan(t/√ν).
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if within_angle(middle, degrees) < probability { low = middle } else { high = middle }
    }
    low.tan() * (degrees as f64).sqrt()
}

/// P(|T| ≤ √ν·tan θ).
fn within_angle(angle: f64, degrees: usize) -> f64 {
    let (sin, cos) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    // Of even ν: sin θ·(1 + 1/2·cos²θ + 1·3/(2·4)·cos⁴θ + …), ν/2 terms; of odd ν the same with 2/3, 2·4/(3·5), … and cos θ before.
    let terms = if is_odd { (degrees - 1) / 2 } else { degrees / 2 };
    let (mut term, mut sum) = (1.0, 0.0);
    for k in 0..terms {
        sum += term;
        let k = k as f64;
        let ratio = if is_odd {
            (2.0 * k + 2.0) / (2.0 * k + 3.0)
        } else {
            (2.0 * k + 1.0) / (2.0 * k + 2.0)
        };
        term *= ratio * cos * cos;
    }
    if is_odd { (angle + sin * cos * sum) * std::f64::consts::FRAC_2_PI } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn densities_are_slopes_of_known_probabilities() {
        let normal = Distribution::Normal { mean: 1.0, std: 2.0 };
        let laplace = Distribution::Laplace { mean: 1.0, scale: 2.0 };
        assert!((normal.cumulative(3.0) - 0.841_344_746_068_543).abs() < 1e-12);
        assert!((laplace.cumulative(3.0) - (1.0 - 0.5 / std::f64::consts::E)).abs() < 1e-12);
        for distribution in [normal, laplace] {
            assert!((distribution.cumulative(1.0) - 0.5).abs() < 1e-12);
            let slope = (distribution.cumulative(2.5001) - distribution.cumulative(2.4999)) / 2e-4;
            assert!((slope - distribution.density(2.5)).abs() < 1e-6, "{distribution:?}");
        }
    }

    #[test]
    fn students_quantiles_are_those_of_the_tables() {
        // Two-sided 95 %: Fisher & Yates.
        let known =
            [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)];
        for (degrees, t) in known {
            let found = within_student(0.95, degrees);
            assert!((found - t).abs() < 1e-4, "{degrees}: {found}");
        }
        assert!((within_student(0.95, usize::MAX) - 1.959_964).abs() < 3e-4);
    }
}
