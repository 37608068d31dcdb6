//! The functions between the linear layers of a network: activations, softmax, normalisation. All in place, in f32
//! in the widest vectors of the processor; sums in f64.
#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use serde::{Deserialize, Serialize};

use crate::numeric::vector::{Loops, exact_sum_of, largest, sum_of, vectorised};

/// A function applied to every value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// x·σ(x), also called swish.
    Silu,
    /// x·Φ(x), with the error function.
    Gelu,
    /// x·Φ(x), with the approximation by tanh (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// x·σ(1.702·x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    ReluSquared,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// The function that transformers calls `name` in `hidden_act`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "relu" => Self::Relu,
            "relu2" => Self::ReluSquared,
            "tanh" => Self::Tanh,
            _ => return None,
        })
    }

    /// Applies it to every value.
    pub fn apply(self, values: &mut [f32]) {
        vectorised(Apply(self, values));
    }

    /// gate ← act(gate) ⊙ up.
    pub fn gate(self, gate: &mut [f32], up: &[f32]) {
        vectorised(Gate(self, gate, up));
    }
}

struct Apply<'a>(Activation, &'a mut [f32]);

impl Loops for Apply<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let Self(activation, values) = self;
        match activation {
            Activation::Silu => each(values, |x| x * sigmoid(x)),
            Activation::Gelu => {
                let root = std::f32::consts::FRAC_1_SQRT_2;
                each(values, |x| 0.5 * x * (1.0 + erf(x * root)));
            }
            Activation::GeluTanh => each(values, |x| {
                // ½·(1 + tanh u) = σ(2u)
                const TWICE_ROOT: f32 = 1.595_769;
                x * sigmoid(TWICE_ROOT * (x + 0.044_715 * x * x * x))
            }),
            Activation::QuickGelu => each(values, |x| x * sigmoid(1.702 * x)),
            Activation::Relu => each(values, |x| x.max(0.0)),
            Activation::ReluSquared => each(values, |x| x.max(0.0) * x.max(0.0)),
            Activation::Tanh => each(values, tanh),
        }
    }
}

struct Gate<'a>(Activation, &'a mut [f32], &'a [f32]);

impl Loops for Gate<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let Self(activation, gate, up) = self;
        // In pieces that stay in the cache between the two loops.
        for (gate, up) in gate.chunks_mut(GATED).zip(up.chunks(GATED)) {
            Apply(activation, gate).run();
            gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
        }
    }
}

/// Values gated at once.
const GATED: usize = 1024;

#[inline(always)]
fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
    for value in values {
        *value = f(*value);
    }
}

/// eˣ to 2 units in the last place, zero below −87.3, +∞ above 88.7; NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½·ln 2, eʳ by its Taylor polynomial of degree 7, 2ⁿ through the exponent's bits
/// (Cody & Waite 1980). Without branches or tables, so that loops over it vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5·2²³ rounds to the nearest integer.
    const ROUNDER: f32 = 12_582_912.0;
    let bounded = x.clamp(-87.3, 88.7);
    let n = (bounded * std::f32::consts::LOG2_E + ROUNDER) - ROUNDER;
    let r = (bounded - n * LN2_HIGH) - n * LN2_LOW;
    let tail = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
    let p = 1.0 + r + r * r * (0.5 + r * tail);
    // 2ⁿ in two factors, as n may be 128. What rounds also leaves the integer in the low bits.
    let half = (n * 0.5 + ROUNDER) - ROUNDER;
    let power = |n: f32| f32::from_bits((n + ROUNDER).to_bits().wrapping_add(127) << 23);
    let value = p * power(half) * power(n - half);
    let value = if x < -87.3 { 0.0 } else { value };
    if x > 88.72 { f32::INFINITY } else { value }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh x = 1 − 2 / (e²ˣ + 1), by its series where that would cancel.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    let far = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if square < 0.01 { near } else { far }
}

/// The error function to 1.5e-7 (Abramowitz & Stegun 1964, 7.1.26).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let poly = t
        * (0.254_829_6
            + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - poly * exp(-x * x)).copysign(x)
}

/// cap·tanh(x / cap) for every value: Gemma 2's soft cap.
pub fn soft_cap(values: &mut [f32], cap: f32) {
    struct Cap<'a>(&'a mut [f32], f32);
    impl Loops for Cap<'_> {
        type Found = ();

        #[inline(always)]
        fn run(self) {
            let cap = self.1;
            each(self.0, |x| cap * tanh(x / cap));
        }
    }
    vectorised(Cap(values, cap));
}

/// eˣ / Σ eˣ over `values`, in place; zeros where all are −∞.
pub fn softmax(values: &mut [f32]) {
    vectorised(Softmax(values));
}

struct Softmax<'a>(&'a mut [f32]);

impl Loops for Softmax<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let Self(values) = self;
        let largest = largest(values);
        if largest == f32::NEG_INFINITY {
            values.fill(if values.iter().any(|x| x.is_nan()) { f32::NAN } else { 0.0 });
            return;
        }
        each(values, |x| exp(x - largest));
        let factor = (1.0 / sum_of(values, |x| x)) as f32;
        each(values, |x| x * factor);
    }
}

/// x·(w + `shift`) / √(mean x² + ε) (Zhang & Sennrich 2019); `shift` is 1 in the Gemma family.
pub fn rms_norm(x: &mut [f32], weight: &[f32], shift: f32, epsilon: f64) {
    vectorised(RmsNorm { x, weight, shift, epsilon });
}

struct RmsNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    shift: f32,
    epsilon: f64,
}

impl Loops for RmsNorm<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let sum = exact_sum_of(self.x, |x| x * x);
        let factor = (1.0 / (sum / self.x.len() as f64 + self.epsilon).sqrt()) as f32;
        for (x, w) in self.x.iter_mut().zip(self.weight) {
            *x = *x * factor * (w + self.shift);
        }
    }
}

/// (x − mean)·w / √(variance + ε) + b (Ba et al. 2016); without `bias`, b = 0.
pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f64) {
    vectorised(LayerNorm { x, weight, bias, epsilon });
}

struct LayerNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f64,
}

impl Loops for LayerNorm<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let n = self.x.len() as f64;
        let mean = exact_sum_of(self.x, |x| x) / n;
        let variance = exact_sum_of(self.x, |x| (x - mean) * (x - mean)) / n;
        let (mean, factor) = (mean as f32, (1.0 / (variance + self.epsilon).sqrt()) as f32);
        for (x, w) in self.x.iter_mut().zip(self.weight) {
            *x = (*x - mean) * factor * w;
        }
        for (x, b) in self.x.iter_mut().zip(self.bias.unwrap_or(&[])) {
            *x += b;
        }
    }
}

#[cfg(test)]
impl Activation {
    /// Every one.
    pub(super) const ALL: [Self; 7] = [
        Self::Silu,
        Self::Gelu,
        Self::GeluTanh,
        Self::QuickGelu,
        Self::Relu,
        Self::ReluSquared,
        Self::Tanh,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=20_000).map(move |i| from + (to - from) * i as f32 / 20_000.0)
    }

    #[test]
    fn exponentials_are_exact_to_a_few_last_places() {
        for x in grid(-87.0, 88.7) {
            let exact = f64::from(x).exp();
            let off = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(off < 3e-7, "exp({x}) is off by {off}");
        }
        assert_eq!([exp(-1e4), exp(f32::NEG_INFINITY), exp(0.0)], [0.0, 0.0, 1.0]);
        assert_eq!([exp(1e4), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn functions_agree_with_their_formulas_in_f64() {
        let exact = |activation: Activation, x: f64| match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2.0_f64.sqrt())),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + u.tanh())
            }
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::Relu => x.max(0.0),
            Activation::ReluSquared => x.max(0.0).powi(2),
            Activation::Tanh => x.tanh(),
        };
        for activation in Activation::ALL {
            for x in grid(-12.0, 12.0) {
                let mut value = [x];
                activation.apply(&mut value);
                let exact = exact(activation, f64::from(x));
                let off = (f64::from(value[0]) - exact).abs() / exact.abs().max(1.0);
                assert!(off < 1e-6, "{activation:?}({x}) = {} for {exact}", value[0]);
            }
        }
    }

    #[test]
    fn a_softmax_sums_to_one_and_stands_large_values() {
        let mut values = [1e4, 1e4 - 1.0, -1e4];
        softmax(&mut values);
        let e = std::f32::consts::E;
        assert!((values[0] - e / (e + 1.0)).abs() < 1e-6 && values[2] == 0.0, "{values:?}");
        let mut masked = [f32::NEG_INFINITY; 3];
        softmax(&mut masked);
        assert_eq!(masked, [0.0; 3]);
        let mut bad = [f32::NAN, 0.0];
        softmax(&mut bad);
        assert!(bad.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn normalised_values_have_the_moments_asked_for() {
        let mut x: Vec<f32> = (0..64).map(|i| i as f32 * 3.0 + 5.0).collect();
        let mut y = x.clone();
        layer_norm(&mut x, &[2.0; 64], Some(&[1.0; 64]), 0.0);
        let mean = x.iter().sum::<f32>() / 64.0;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 64.0;
        assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4, "{mean}, {variance}");
        rms_norm(&mut y, &[0.5; 64], 1.0, 0.0);
        let square = y.iter().map(|y| y * y).sum::<f32>() / 64.0;
        assert!((square - 2.25).abs() < 1e-5, "{square}");
    }
}
