//! How llama.cpp orders the rows of q and k.

/// How the rows of a tensor follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As in the source.
    Kept,
    /// The two halves of each of so many heads woven: row 2i + p of a head is its row i + p·d/2 in the source, for
    /// heads of d rows. llama.cpp turns neighbours where transformers turns halves.
    Woven {
        /// Number of heads.
        heads: usize,
    },
}

impl RowOrder {
    /// The row of the source, of `rows`, that stands at `row`.
    pub fn source(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Kept => row,
            Self::Woven { heads } => {
                let size = rows / heads;
                let (head, at) = (row / size, row % size);
                head * size + at / 2 + at % 2 * (size / 2)
            }
        }
    }

    /// Where row `row` of the source stands, of `rows`.
    pub fn place(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Kept => row,
            Self::Woven { heads } => {
                let size = rows / heads;
                let (head, at) = (row / size, row % size);
                head * size + 2 * (at % (size / 2)) + at / (size / 2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_woven_head_by_head() {
        let order = RowOrder::Woven { heads: 2 };
        let sources: Vec<usize> = (0..8).map(|row| order.source(row, 8)).collect();
        assert_eq!(sources, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert!((0..8).all(|row| order.place(order.source(row, 8), 8) == row));
        assert_eq!((RowOrder::Kept.source(5, 8), RowOrder::Kept.place(5, 8)), (5, 5));
    }
}
