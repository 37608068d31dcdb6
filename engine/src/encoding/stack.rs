//! Levels of one matrix, each of which makes good what those before it left: any first few of them are the matrix, too.

use serde::{Deserialize, Serialize};

use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::tensor::MatrixShape;

/// A stack without its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StackLayout {
    /// The levels, at least one, the coarsest first.
    pub levels: Vec<Layout>,
}

impl StackLayout {
    /// The bytes of all levels.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        self.levels.iter().map(|level| level.bytes(shape)).sum()
    }

    /// The first `count` of its levels, at least one.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self { levels: self.levels.iter().take(count.max(1)).cloned().collect() }
    }
}

/// What the parts of a level begin with.
pub(super) fn prefix(level: usize) -> String {
    format!("{level}.")
}

/// W ≈ the sum of the levels, added in f32 in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    levels: Vec<Encoding>,
}

impl Stack {
    /// The sum of `levels`.
    ///
    /// # Panics
    /// If there is none, or their shapes differ.
    pub fn new(levels: Vec<Encoding>) -> Self {
        assert!(!levels.is_empty(), "at least one level");
        assert!(levels.iter().all(|level| level.shape() == levels[0].shape()), "of one shape");
        Self { levels }
    }

    /// The levels, the coarsest first.
    pub fn levels(&self) -> &[Encoding] {
        &self.levels
    }

    /// The first `count` of its levels, at least one: the same bytes as in the whole.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self { levels: self.levels.iter().take(count.max(1)).cloned().collect() }
    }

    pub(super) fn shape(&self) -> MatrixShape {
        self.levels[0].shape()
    }

    pub(super) fn layout(&self) -> StackLayout {
        StackLayout { levels: self.levels.iter().map(Encoding::layout).collect() }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let mut added = vec![0.0; out.len()];
        for (at, level) in self.levels.iter().enumerate() {
            if at == 0 {
                level.decode_row(row, out);
                continue;
            }
            level.decode_row(row, &mut added);
            for (value, added) in out.iter_mut().zip(&added) {
                *value += added;
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let levels = self.levels.iter().enumerate();
        levels.flat_map(|(at, level)| parts_within(level, &prefix(at))).collect()
    }

    pub(super) fn from_parts<'a>(
        layout: &StackLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let of = |(at, level): (usize, &Layout)| {
            let prefix = prefix(at);
            Encoding::from_parts(level, shape, &|name: &str| part(&format!("{prefix}{name}")))
        };
        let levels: Option<Vec<Encoding>> = layout.levels.iter().enumerate().map(of).collect();
        levels.filter(|levels| !levels.is_empty()).map(|levels| Self { levels })
    }
}
