//! Shapes with checked arithmetic, and how a tensor is seen as a matrix.

use serde::{Deserialize, Serialize};

/// Extents of a tensor, outermost first (row-major).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub Vec<usize>);

impl Shape {
    /// Number of elements: 1 for a scalar, 0 if any extent is 0; `None` on overflow.
    pub fn elements(&self) -> Option<u64> {
        // A zero extent makes the tensor empty even where the other extents overflow.
        if self.0.contains(&0) {
            return Some(0);
        }
        self.0.iter().try_fold(1_u64, |n, &extent| n.checked_mul(extent as u64))
    }
}

impl std::fmt::Display for Shape {
    /// `256 × 768`, or `scalar`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("scalar");
        }
        for (i, extent) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" × ")?;
            }
            write!(f, "{extent}")?;
        }
        Ok(())
    }
}

/// A tensor seen as a weight matrix: `[rows, cols]` = `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatrixShape {
    /// Outputs.
    pub rows: usize,
    /// Inputs; for a convolution, input channels × kernel height × kernel width.
    pub cols: usize,
}

impl MatrixShape {
    /// Number of weights.
    pub fn elements(self) -> usize {
        self.rows * self.cols
    }

    /// ⌊rows·cols/(rows + cols)⌋: the largest rank whose two factors hold no more numbers than the matrix.
    pub fn break_even_rank(self) -> usize {
        self.elements().checked_div(self.rows + self.cols).unwrap_or(0)
    }
}

impl std::fmt::Display for MatrixShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {}", self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_scalars_empties_and_monsters() {
        assert_eq!(Shape(vec![]).elements(), Some(1));
        assert_eq!(Shape(vec![3, 0, usize::MAX, usize::MAX]).elements(), Some(0));
        assert_eq!(Shape(vec![usize::MAX, 2]).elements(), None);
        assert_eq!(Shape(vec![256, 768]).to_string(), "256 × 768");
    }
}
