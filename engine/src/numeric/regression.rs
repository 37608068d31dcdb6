//! A straight line through points.

/// The line y = intercept + slope·x of least Σ(y − ŷ)².
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Change of y for each x.
    pub slope: f64,
    /// y at x = 0.
    pub intercept: f64,
    /// R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)², from 0 to 1: the share of the variance of y that the line explains.
    pub r_squared: f64,
}

impl Line {
    /// The line through `points`, given as [x, y]; `None` for fewer than three, or where x or y does not vary: then
    /// there is no line, or no variance to explain. Cost: two passes.
    pub fn through(points: &[[f64; 2]]) -> Option<Self> {
        if points.len() < 3 || points.iter().flatten().any(|value| !value.is_finite()) {
            return None;
        }
        let n = points.len() as f64;
        let mean = |axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / n;
        let (x, y) = (mean(0), mean(1));
        let sum = |a: usize, b: usize| -> f64 {
            points.iter().map(|point| (point[a] - [x, y][a]) * (point[b] - [x, y][b])).sum()
        };
        let (xx, xy, yy) = (sum(0, 0), sum(0, 1), sum(1, 1));
        (xx > 0.0 && yy > 0.0).then(|| {
            let slope = xy / xx;
            Self { slope, intercept: y - slope * x, r_squared: xy * xy / (xx * yy) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_what_scatters_around_it_is_told() {
        let line = Line::through(&[[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]).expect("a line");
        assert_eq!((line.slope, line.intercept, line.r_squared), (2.0, 1.0, 1.0));
        // By hand: means 1 and 2, Sxy = 2, Sxx = 2, Syy = 8.
        let line = Line::through(&[[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [1.0, 4.0]]).expect("one");
        assert!((line.slope - 1.0).abs() < 1e-15 && (line.r_squared - 0.2).abs() < 1e-15);
    }

    #[test]
    fn no_line_goes_through_too_few_points_or_such_as_do_not_vary() {
        assert_eq!(Line::through(&[[0.0, 1.0], [1.0, 2.0]]), None);
        assert_eq!(Line::through(&[[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]), None);
        assert_eq!(Line::through(&[[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]), None);
        assert_eq!(Line::through(&[[1.0, f64::NAN], [2.0, 2.0], [3.0, 2.0]]), None);
    }
}
