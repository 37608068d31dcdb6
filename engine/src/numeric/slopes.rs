//! Derivatives of the functions between the linear layers of a network ([`crate::numeric::activation`]): all in place, in
//! f32 in the widest vectors of the processor; sums in f64.
#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::numeric::activation::{Activation, erf, exp, sigmoid, tanh};
use crate::numeric::vector::{Loops, exact_sum_of, vectorised};

impl Activation {
    /// x ← act'(x) for every value; 0 at the edge of those that have one.
    pub fn slope(self, values: &mut [f32]) {
        vectorised(Slope(self, values));
    }
}

struct Slope<'a>(Activation, &'a mut [f32]);

impl Loops for Slope<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let Self(activation, values) = self;
        match activation {
            Activation::Silu => each(values, |x| {
                let s = sigmoid(x);
                s * (1.0 + x * (1.0 - s))
            }),
            Activation::Gelu => each(values, |x| {
                // Φ(x) + x·φ(x), with 1/√(2π) of the density.
                const DENSITY: f32 = 0.398_942_3;
                let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                below + x * DENSITY * exp(-0.5 * x * x)
            }),
            Activation::GeluTanh => each(values, |x| {
                const TWICE_ROOT: f32 = 1.595_769;
                let s = sigmoid(TWICE_ROOT * (x + 0.044_715 * x * x * x));
                s + x * s * (1.0 - s) * TWICE_ROOT * (1.0 + 0.134_145 * x * x)
            }),
            Activation::QuickGelu => each(values, |x| {
                let s = sigmoid(1.702 * x);
                s + 1.702 * x * s * (1.0 - s)
            }),
            Activation::Relu => each(values, |x| if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::ReluSquared => each(values, |x| if x > 0.0 { 2.0 * x } else { 0.0 }),
            Activation::Tanh => each(values, |x| {
                let y = tanh(x);
                1.0 - y * y
            }),
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    for value in values {
        *value = f(*value);
    }
}

/// From the derivative by what a norm by the root of the mean square gave, `slope`, to that by its input `x`, in place.
///
/// y = x·v·r with v = w + `shift` and r = 1/√(mean x² + ε), so r·(v ⊙ s − x·r²·mean(x ⊙ v ⊙ s)).
pub fn rms_norm_slope(x: &[f32], (weight, shift): (&[f32], f32), epsilon: f64, slope: &mut [f32]) {
    vectorised(RmsNorm { x, weight, shift, epsilon, slope });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    shift: f32,
    epsilon: f64,
    slope: &'a mut [f32],
}

impl Loops for RmsNorm<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let n = self.x.len() as f64;
        let square = exact_sum_of(self.x, |x| x * x) / n + self.epsilon;
        for (s, w) in self.slope.iter_mut().zip(self.weight) {
            *s *= w + self.shift;
        }
        let along = product(self.x, self.slope) / (n * square);
        let (factor, along) = ((1.0 / square.sqrt()) as f32, along as f32);
        for (s, x) in self.slope.iter_mut().zip(self.x) {
            *s = factor * (*s - x * along);
        }
    }
}

/// The same of a norm by mean and variance: with z = (x − mean)·r and r = 1/√(variance + ε),
/// r·(w ⊙ s − mean(w ⊙ s) − z·mean(z ⊙ w ⊙ s)).
pub fn layer_norm_slope(x: &[f32], weight: &[f32], epsilon: f64, slope: &mut [f32]) {
    vectorised(LayerNorm { x, weight, epsilon, slope });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f64,
    slope: &'a mut [f32],
}

impl Loops for LayerNorm<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let n = self.x.len() as f64;
        let mean = exact_sum_of(self.x, |x| x) / n;
        let square = exact_sum_of(self.x, |x| (x - mean) * (x - mean)) / n + self.epsilon;
        for (s, w) in self.slope.iter_mut().zip(self.weight) {
            *s *= w;
        }
        let of_all = exact_sum_of(self.slope, |s| s);
        let along = (product(self.x, self.slope) - mean * of_all) / (n * square);
        let (factor, along) = ((1.0 / square.sqrt()) as f32, along as f32);
        let (mean, of_all) = (mean as f32, (of_all / n) as f32);
        for (s, x) in self.slope.iter_mut().zip(self.x) {
            *s = factor * (*s - of_all - (x - mean) * along);
        }
    }
}

/// Σ aᵢ·bᵢ in f64.
#[inline(always)]
fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// From the derivative by a softmax `shares`, `slope`, to that by its input, in place: p ⊙ (s − p·s).
pub fn softmax_slope(shares: &[f32], slope: &mut [f32]) {
    let along = product(shares, slope) as f32;
    slope.iter_mut().zip(shares).for_each(|(s, p)| *s = p * (*s - along));
}

/// From the derivative by values under a soft cap, `capped`, to that by the values before: s·(1 − (y/cap)²), in place.
pub fn soft_cap_slope(capped: &[f32], cap: f32, slope: &mut [f32]) {
    slope.iter_mut().zip(capped).for_each(|(s, y)| *s *= 1.0 - (y / cap) * (y / cap));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::activation::{layer_norm, rms_norm, soft_cap, softmax};
    use crate::numeric::seeds::Random;

    #[test]
    fn slopes_of_activations_are_those_of_differences() {
        const H: f32 = 1.0 / 64.0;
        for activation in Activation::ALL {
            for at in (-600..600).map(|i| (i as f32 + 0.5) / 64.0) {
                let mut values = [at - 2.0 * H, at - H, at + H, at + 2.0 * H].map(|x| x + 0.001);
                activation.apply(&mut values);
                let [a, b, c, d] = values.map(f64::from);
                // Where there is an edge between the points no difference holds.
                let is_edged = at.abs() < 3.0 * H
                    && matches!(activation, Activation::Relu | Activation::ReluSquared);
                let difference = (8.0 * (c - b) - (d - a)) / (12.0 * f64::from(H));
                let mut slope = [at + 0.001];
                activation.slope(&mut slope);
                let off = (f64::from(slope[0]) - difference).abs();
                assert!(
                    is_edged || off < 2e-4 * difference.abs().max(1.0),
                    "{activation:?}'({at}): {} {difference}",
                    slope[0]
                );
            }
        }
    }

    /// Holds a derivative on the way back against differences of Σ s·f(x).
    fn check(f: &dyn Fn(&mut [f32]), back: &dyn Fn(&[f32], &mut [f32])) {
        const H: f32 = 1.0 / 32.0;
        let mut random = Random::new(3);
        let x: Vec<f32> = (0..37).map(|_| 1.5 * random.normal() as f32 + 0.4).collect();
        let s: Vec<f32> = (0..37).map(|_| random.normal() as f32).collect();
        let mut slope = s.clone();
        back(&x, &mut slope);
        for at in 0..37 {
            let value = |h: f32| {
                let mut moved = x.clone();
                moved[at] += h;
                f(&mut moved);
                product(&moved, &s)
            };
            let near = value(H) - value(-H);
            let far = value(2.0 * H) - value(-2.0 * H);
            let difference = (8.0 * near - far) / (12.0 * f64::from(H));
            let off = (f64::from(slope[at]) - difference).abs();
            assert!(off < 1e-3, "{at}: {} for {difference}", slope[at]);
        }
    }

    #[test]
    fn slopes_of_norms_and_shares_are_those_of_differences() {
        let weight: Vec<f32> = (0..37).map(|i| 0.5 + i as f32 / 20.0).collect();
        check(&|x| rms_norm(x, &weight, 1.0, 0.1), &|x, s| {
            rms_norm_slope(x, (&weight, 1.0), 0.1, s);
        });
        let bias = vec![0.3; 37];
        check(&|x| layer_norm(x, &weight, Some(&bias), 0.1), &|x, s| {
            layer_norm_slope(x, &weight, 0.1, s);
        });
        check(&softmax, &|x, s| {
            let mut shares = x.to_vec();
            softmax(&mut shares);
            softmax_slope(&shares, s);
        });
        check(&|x| soft_cap(x, 3.0), &|x, s| {
            let mut capped = x.to_vec();
            soft_cap(&mut capped, 3.0);
            soft_cap_slope(&capped, 3.0, s);
        });
    }
}
