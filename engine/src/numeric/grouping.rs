//! How the weights of a matrix share a scale: one for all, one a row, or one for every run of inputs in a row.

use serde::{Deserialize, Serialize};

/// Which weights of a `[rows, cols]` matrix share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// One scale for the matrix.
    Tensor,
    /// One scale for each output row.
    Channel,
    /// One scale for each run of this many inputs in a row; the last run of a row may be shorter.
    Group(usize),
}

impl Grouping {
    /// Columns that share a scale within one row.
    pub fn width(self, cols: usize) -> usize {
        match self {
            Self::Tensor | Self::Channel => cols.max(1),
            Self::Group(size) => size,
        }
    }

    /// Groups in one row: ⌈cols / width⌉.
    pub fn groups_per_row(self, cols: usize) -> usize {
        cols.div_ceil(self.width(cols))
    }

    /// Scales of the matrix.
    pub fn scales(self, rows: usize, cols: usize) -> usize {
        match self {
            Self::Tensor => usize::from(rows * cols > 0),
            Self::Channel | Self::Group(_) => rows * self.groups_per_row(cols),
        }
    }

    /// Index of the first scale of `row`; its groups follow one another.
    pub fn first_scale(self, row: usize, cols: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::Channel | Self::Group(_) => row * self.groups_per_row(cols),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_groups_are_counted() {
        assert_eq!(Grouping::Group(64).groups_per_row(172), 3);
        assert_eq!(Grouping::Group(64).scales(10, 172), 30);
        assert_eq!(Grouping::Channel.scales(10, 172), 10);
        assert_eq!(Grouping::Tensor.scales(10, 172), 1);
        assert_eq!(Grouping::Tensor.scales(0, 172), 0);
        assert_eq!(Grouping::Channel.scales(10, 0), 0);
    }
}
