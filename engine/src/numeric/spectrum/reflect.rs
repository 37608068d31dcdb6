//! Householder reflections of vectors, and the sums they are made of.

/// Sums kept side by side, so that the compiler may use vector instructions without changing the order.
const LANES: usize = 8;

/// Σ a·b, in [`LANES`] interleaved sums.
#[inline]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + rest
}

/// y ← y + α·x.
#[inline]
pub(super) fn axpy(alpha: f64, x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// The reflection I − τ·v·vᵀ that takes `x` to (β, 0, …, 0), with v₀ = 1: overwrites `x` with v, returns (τ, β).
/// τ = 0 where nothing is to be done. As LAPACK's `dlarfg`.
#[inline]
pub(super) fn reflector(x: &mut [f64]) -> (f64, f64) {
    let Some((head, tail)) = x.split_first_mut() else {
        return (0.0, 0.0);
    };
    let alpha = *head;
    let below = dot(tail, tail);
    *head = 1.0;
    if below == 0.0 {
        tail.fill(0.0);
        return (0.0, alpha);
    }
    let beta = -(alpha * alpha + below).sqrt().copysign(alpha);
    let factor = 1.0 / (alpha - beta);
    for value in tail {
        *value *= factor;
    }
    ((beta - alpha) / beta, beta)
}
