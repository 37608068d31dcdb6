//! The scale and the minimum of least Σ w(x − (s·q − m))² for the values of every run of a block, as
//! [`search`](crate::method::gguf::search) finds scales alone.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::method::gguf::search::{
    Fits, Lanes, NOTHING, ROUNDS, Weights, inverses, round, spans, within,
};

/// Steps tried by [`offset`]: the span of the values in n + `first`, n + `first` + 0.1, … parts.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// Largest code.
    pub(super) n: f32,
    /// Where the search begins.
    pub(super) first: f32,
    /// How many are tried.
    pub(super) count: u8,
}

/// Those that fit the codes round((x − low)·inverse) best: they gain s·Σwqx − m·Σwx.
#[inline(always)]
fn fitted<const N: usize, const L: usize>(
    (x, w): (&Lanes<N, L>, &impl Weights<N, L>),
    (sum_w, sum_x): (&[f32; L], &[f32; L]),
    (low, inverse): (&[f32; L], &[f32; L]),
    n: f32,
) -> Fits<L> {
    let (mut q1, mut q2, mut qx) = ([0.0; L], [0.0; L], [0.0; L]);
    for (v, x) in x.iter().enumerate() {
        for s in 0..L {
            let q = within(round((x[s] - low[s]) * inverse[s]), 0.0, n);
            let wq = w.of(v, s) * q;
            q1[s] += wq;
            q2[s] += wq * q;
            qx[s] += wq * x[s];
        }
    }
    let mut found = Fits::gaining(f32::NEG_INFINITY);
    for i in 0..L {
        let d = sum_w[i] * q2[i] - q1[i] * q1[i];
        let s = (sum_w[i] * qx[i] - sum_x[i] * q1[i]) / d;
        let m = (q1[i] * qx[i] - q2[i] * sum_x[i]) / d;
        let is_joint = d > 0.0 && s > 0.0 && m >= 0.0;
        let is_alone = q2[i] > 0.0 && qx[i] > 0.0;
        let alone = if is_alone { qx[i] / q2[i] } else { 0.0 };
        let gain = if is_alone { qx[i] * qx[i] / q2[i] } else { f32::NEG_INFINITY };
        found.scale[i] = if is_joint { s } else { alone };
        found.minimum[i] = if is_joint { m } else { 0.0 };
        found.gain[i] = if is_joint { s * qx[i] - m * sum_x[i] } else { gain };
    }
    found
}

/// Scale s ≥ 0 and minimum m ≥ 0 of least Σ w(x − (s·q − m))², q = 0 … n, of each run, as far as the search finds them.
#[inline(always)]
pub(super) fn offset<const N: usize, const L: usize>(
    x: &Lanes<N, L>,
    w: &impl Weights<N, L>,
    steps: Steps,
) -> ([f32; L], [f32; L]) {
    let ((low, _), high) = (spans(x), most(x));
    let (mut sum_w, mut sum_x) = ([0.0; L], [0.0; L]);
    for (v, x) in x.iter().enumerate() {
        for s in 0..L {
            sum_w[s] += w.of(v, s);
            sum_x[s] += w.of(v, s) * x[s];
        }
    }
    let mut best = Fits::gaining(f32::NEG_INFINITY);
    for s in 0..L {
        best.scale[s] = (high[s] - low[s]) / steps.n;
        best.minimum[s] = -low[s];
    }
    for step in 0..steps.count {
        let parts = steps.n + steps.first + 0.1 * f32::from(step);
        let mut inverse = [0.0; L];
        for s in 0..L {
            inverse[s] = parts / (high[s] - low[s]);
        }
        best.take(&fitted((x, w), (&sum_w, &sum_x), (&low, &inverse), steps.n));
    }
    for _ in 0..ROUNDS {
        let (mut from, mut inverse) = ([0.0; L], [0.0; L]);
        for s in 0..L {
            from[s] = -best.minimum[s];
            inverse[s] = 1.0 / best.scale[s];
        }
        best.take(&fitted((x, w), (&sum_w, &sum_x), (&from, &inverse), steps.n));
    }
    for s in 0..L {
        let is_flat = high[s] - low[s] < NOTHING;
        let flat = if low[s] > -NOTHING { 0.0 } else { -low[s] };
        best.scale[s] = if is_flat { 0.0 } else { best.scale[s] };
        best.minimum[s] = if is_flat { flat } else { best.minimum[s] };
    }
    (best.scale, best.minimum)
}

/// Largest value of every run.
#[inline(always)]
fn most<const N: usize, const L: usize>(x: &Lanes<N, L>) -> [f32; L] {
    let mut high = [f32::NEG_INFINITY; L];
    for x in x {
        for s in 0..L {
            high[s] = if x[s] > high[s] { x[s] } else { high[s] };
        }
    }
    high
}

/// Σ w(x − (s·q − m))² of each run with every q the nearest of 0 … n, and the minimum that is best for these codes.
#[inline(always)]
pub(super) fn offset_error<const N: usize, const L: usize>(
    x: &Lanes<N, L>,
    w: &impl Weights<N, L>,
    (scale, minimum): (&[f32; L], &[f32; L]),
    n: f32,
) -> ([f32; L], [f32; L]) {
    let inverse = inverses(scale);
    let (mut error, mut above, mut all) = ([0.0; L], [0.0; L], [0.0; L]);
    for (v, x) in x.iter().enumerate() {
        for s in 0..L {
            let w = w.of(v, s);
            let level = scale[s] * within(round((x[s] + minimum[s]) * inverse[s]), 0.0, n);
            let away = x[s] - (level - minimum[s]);
            error[s] += w * away * away;
            above[s] += w * (level - x[s]);
            all[s] += w;
        }
    }
    for s in 0..L {
        above[s] /= all[s];
    }
    (error, above)
}
