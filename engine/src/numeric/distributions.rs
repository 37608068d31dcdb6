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
}
