//! Directions of descent from derivatives alone: limited-memory BFGS (Nocedal 1980).

use std::collections::VecDeque;

/// Steps that are remembered.
const REMEMBERED: usize = 8;
/// A step whose derivative hardly changed along it says nothing of the curvature: least s·y of √(s·s·y·y).
const LEAST: f64 = 1e-8;

/// What the last steps said of the curvature of a function.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Step, change of the derivative, and 1 over their product, the oldest first.
    known: VecDeque<(Vec<f64>, Vec<f64>, f64)>,
}

impl Steps {
    /// Remembers a step and by what it changed the derivative, where the function curves upwards along it.
    pub fn learn(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let along = product(&step, &change);
        if along <= LEAST * (product(&step, &step) * product(&change, &change)).sqrt() {
            return;
        }
        if self.known.len() == REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back((step, change, 1.0 / along));
    }

    /// Whether nothing is known: then [`Steps::direction`] has no length that means anything.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// −H·g for the derivative g and what is known as H of the inverse of the Hessian: downhill wherever g is not 0.
    ///
    /// Cost: some 4·steps·n operations.
    pub fn direction(&self, slope: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = slope.iter().map(|s| -s).collect();
        let mut shares = Vec::new();
        for (step, change, inverse) in self.known.iter().rev() {
            let share = inverse * product(step, &direction);
            add(&mut direction, -share, change);
            shares.push(share);
        }
        if let Some((_, change, inverse)) = self.known.back() {
            let scale = 1.0 / (inverse * product(change, change));
            for d in &mut direction {
                *d *= scale;
            }
        }
        for ((step, change, inverse), share) in self.known.iter().zip(shares.into_iter().rev()) {
            let other = inverse * product(change, &direction);
            add(&mut direction, share - other, step);
        }
        direction
    }
}

/// Σ aᵢ·bᵢ.
pub fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// a ← a + factor·b.
fn add(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quadratic_of_few_dimensions_is_solved_in_a_few_steps() {
        // Σ kᵢ·(xᵢ − 1)², with curvatures from 1 to 1000.
        let curvatures = [1.0, 7.0, 40.0, 250.0, 1000.0];
        let slope = |x: &[f64]| -> Vec<f64> {
            x.iter().zip(curvatures).map(|(x, k)| 2.0 * k * (x - 1.0)).collect()
        };
        let (mut x, mut steps) = (vec![0.0; 5], Steps::default());
        for _ in 0..30 {
            let g = slope(&x);
            let direction = steps.direction(&g);
            assert!(product(&direction, &g) <= 0.0, "downhill");
            // The best length along it.
            let curve: f64 = direction.iter().zip(curvatures).map(|(d, k)| 2.0 * k * d * d).sum();
            if curve < 1e-24 {
                break;
            }
            let length = -product(&direction, &g) / curve;
            let step: Vec<f64> = direction.iter().map(|d| length * d).collect();
            add(&mut x, 1.0, &step);
            let change = slope(&x).iter().zip(&g).map(|(new, old)| new - old).collect();
            steps.learn(step, change);
        }
        assert!(x.iter().all(|x| (x - 1.0).abs() < 1e-6), "{x:?}");
        assert!(!steps.is_empty());
    }

    #[test]
    fn a_step_along_which_the_function_does_not_curve_upwards_is_not_remembered() {
        let mut steps = Steps::default();
        steps.learn(vec![1.0, 0.0], vec![-1.0, 2.0]);
        steps.learn(vec![1.0, 0.0], vec![0.0, 2.0]);
        assert!(steps.is_empty() && steps.direction(&[3.0, -1.0]) == [-3.0, 1.0]);
    }
}
