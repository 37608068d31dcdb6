//! What singular values a matrix of independent entries would have.

/// Upper edge σ·(√rows + √cols) of the singular values of a `[rows, cols]` matrix of independent entries of mean 0
/// and standard deviation `std` (Marchenko & Pastur 1967).
///
/// As the matrix grows, none lies above; at finite size the largest exceeds it by a relative order of n^(−2/3)
/// (Johnstone 2001). Singular values above it are structure that such noise does not have.
pub fn marchenko_pastur_edge(rows: usize, cols: usize, std: f64) -> f64 {
    std * ((rows as f64).sqrt() + (cols as f64).sqrt())
}

/// Lower edge σ·|√rows − √cols|: 0 for a square matrix.
pub fn marchenko_pastur_lower_edge(rows: usize, cols: usize, std: f64) -> f64 {
    std * ((rows as f64).sqrt() - (cols as f64).sqrt()).abs()
}

/// How many of `singular_values`, largest first, lie above `edge`.
pub fn above_edge(singular_values: &[f64], edge: f64) -> usize {
    singular_values.iter().take_while(|&&s| s > edge).count()
}
