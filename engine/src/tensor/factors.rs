//! What a matrix is multiplied by where layers are scaled, row by row and column by column.

use crate::tensor::MatrixShape;

/// Weight ij of a matrix `[rows, cols]` is multiplied by `outputs[i]·inputs[j]`, in f32. Either may be empty, for ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// One for each row.
    pub outputs: Vec<f32>,
    /// One for each column.
    pub inputs: Vec<f32>,
}

impl Factors {
    /// Whether there is one for each row and column of such a matrix, or none.
    pub fn fits(&self, shape: MatrixShape) -> bool {
        let fits = |all: &[f32], n: usize| all.is_empty() || all.len() == n;
        fits(&self.outputs, shape.rows) && fits(&self.inputs, shape.cols)
    }

    /// The weight at a place times its factors.
    pub fn times(&self, weight: f32, row: usize, col: usize) -> f32 {
        let by = |all: &[f32], at: usize| all.get(at).copied().unwrap_or(1.0);
        weight * by(&self.inputs, col) * by(&self.outputs, row)
    }

    /// Multiplies a row.
    pub fn multiply(&self, row: usize, weights: &mut [f32]) {
        self.each(row, weights, |weight, by| *weight *= by);
    }

    /// Divides a row.
    pub fn divide(&self, row: usize, weights: &mut [f32]) {
        self.each(row, weights, |weight, by| *weight /= by);
    }

    fn each(&self, row: usize, weights: &mut [f32], change: impl Fn(&mut f32, f32)) {
        weights.iter_mut().zip(&self.inputs).for_each(|(weight, &by)| change(weight, by));
        if let Some(&by) = self.outputs.get(row) {
            for weight in weights {
                change(weight, by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_multiplied_as_single_weights_are_and_divided_back() {
        let factors = Factors { outputs: vec![0.5, 4.0], inputs: vec![3.0, 1.0, -2.0] };
        assert!(factors.fits(MatrixShape { rows: 2, cols: 3 }));
        assert!(!factors.fits(MatrixShape { rows: 3, cols: 2 }));
        let mut row = [1.0, 2.0, 3.0];
        factors.multiply(1, &mut row);
        assert_eq!(row, [12.0, 8.0, -24.0]);
        assert_eq!(row, [0, 1, 2].map(|col| factors.times((col + 1) as f32, 1, col)));
        factors.divide(1, &mut row);
        assert_eq!(row, [1.0, 2.0, 3.0]);
        let none = Factors::default();
        none.multiply(1, &mut row);
        assert_eq!(row, [1.0, 2.0, 3.0]);
        assert!(none.fits(MatrixShape { rows: 9, cols: 9 }));
    }
}
