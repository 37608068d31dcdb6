//! One encoding added to another: a matrix and what makes good its errors.

use serde::{Deserialize, Serialize};

use crate::encoding::{Encoding, Layout, LowRank, Part, parts_within};
use crate::tensor::MatrixShape;

/// A sum without its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SumLayout {
    /// What is corrected.
    pub base: Box<Layout>,
    /// The correction.
    pub correction: Box<Layout>,
}

impl SumLayout {
    /// The bytes of both.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        self.base.bytes(shape) + self.correction.bytes(shape)
    }
}

/// An encoding and a correction: W ≈ base + correction, added in f32. Sums nest: the base may be one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    base: Box<Encoding>,
    correction: Box<Encoding>,
}

impl Sum {
    /// The sum of both.
    ///
    /// # Panics
    /// If their shapes differ.
    pub fn new(base: Encoding, correction: Encoding) -> Self {
        assert_eq!(base.shape(), correction.shape(), "a correction of the same shape");
        Self { base: Box::new(base), correction: Box::new(correction) }
    }

    /// What is corrected.
    pub fn base(&self) -> &Encoding {
        &self.base
    }

    /// The correction.
    pub fn correction(&self) -> &Encoding {
        &self.correction
    }

    /// What is corrected, and the correction.
    pub fn into_parts(self) -> (Encoding, Encoding) {
        (*self.base, *self.correction)
    }

    /// Both, where the correction is of low rank.
    pub fn of_low_rank(&self) -> Option<(&Encoding, &LowRank)> {
        match &*self.correction {
            Encoding::LowRank(correction) => Some((&self.base, correction)),
            _ => None,
        }
    }

    pub(super) fn layout(&self) -> SumLayout {
        SumLayout {
            base: Box::new(self.base.layout()),
            correction: Box::new(self.correction.layout()),
        }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.base.decode_row(row, out);
        let mut added = vec![0.0; out.len()];
        self.correction.decode_row(row, &mut added);
        for (value, added) in out.iter_mut().zip(added) {
            *value += added;
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let prefix = self.layout().prefix();
        let mut parts = parts_within(&self.base, prefix);
        parts.extend(self.correction.parts());
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &SumLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let prefix = layout.prefix();
        let of_base = |name: &str| part(&format!("{prefix}{name}"));
        let base = Encoding::from_parts(&layout.base, shape, &of_base)?;
        let correction = Encoding::from_parts(&layout.correction, shape, part)?;
        Some(Self { base: Box::new(base), correction: Box::new(correction) })
    }
}
