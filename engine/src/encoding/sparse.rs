//! A mask over another encoding: weights the mask drops are exactly zero and take one bit each.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{MASK, prefix_under};
use crate::encoding::{Encoding, Layout, Part};
use crate::tensor::{DType, MatrixShape};

/// Which weights are kept, one bit each, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    bits: Vec<u8>,
    n: usize,
    kept: usize,
}

impl Mask {
    /// Keeps what `keep` marks.
    pub fn new(keep: &[bool]) -> Self {
        let bits = keep
            .chunks(8)
            .map(|chunk| chunk.iter().enumerate().fold(0, |byte, (i, &k)| byte | u8::from(k) << i))
            .collect();
        Self { bits, n: keep.len(), kept: keep.iter().filter(|&&k| k).count() }
    }

    fn from_bytes(bytes: &[u8], n: usize) -> Option<Self> {
        if bytes.len() != n.div_ceil(8) {
            return None;
        }
        let mask = Self { bits: bytes.to_vec(), n, kept: 0 };
        let kept = (0..n).filter(|&i| mask.keeps(i)).count();
        Some(Self { kept, ..mask })
    }

    /// Whether weight `i` is kept.
    #[inline]
    pub fn keeps(&self, i: usize) -> bool {
        self.bits[i / 8] >> (i % 8) & 1 == 1
    }

    /// Number of weights kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Number of weights in all.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is no weight at all.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
}

/// A masked layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SparseLayout {
    /// Weights kept.
    pub kept: usize,
    /// How the kept ones are held.
    pub inner: Box<Layout>,
}

impl SparseLayout {
    /// `inner` under the mask of `previous`, where that has one.
    pub fn over(previous: Option<&Layout>, inner: Layout) -> Layout {
        match previous {
            Some(Layout::Sparse(sparse)) => {
                Layout::Sparse(Self { kept: sparse.kept, inner: Box::new(inner) })
            }
            _ => inner,
        }
    }

    /// ⌈weights/8⌉ for the mask and the inner layout's bytes for the kept weights.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        shape.elements().div_ceil(8) as u64 + self.inner.bytes_of(shape, self.kept)
    }
}

/// A masked encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparse {
    mask: Mask,
    inner: Box<Encoding>,
}

impl Sparse {
    /// Puts `mask` over `inner`. What stores the inner encoding alone, without the mask, may do so only where that
    /// decodes to zero wherever the mask drops: dense values, integers with whole zero points, small floats.
    ///
    /// # Panics
    /// If mask and encoding have different numbers of weights.
    pub fn new(mask: Mask, inner: Encoding) -> Self {
        assert_eq!(mask.len(), inner.shape().elements(), "one bit a weight");
        Self { mask, inner: Box::new(inner) }
    }

    /// `inner` under a mask, if there is one.
    pub fn over(mask: Option<&Mask>, inner: Encoding) -> Encoding {
        match mask {
            Some(mask) => Encoding::Sparse(Self::new(mask.clone(), inner)),
            None => inner,
        }
    }

    /// Which weights are kept.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// What holds the kept weights, as an encoding of the whole matrix.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    /// What lies under the mask, without a copy.
    pub fn into_inner(self) -> Encoding {
        *self.inner
    }

    pub(super) fn layout(&self) -> SparseLayout {
        SparseLayout { kept: self.mask.kept(), inner: Box::new(self.inner.layout()) }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.inner.decode_row(row, out);
        let first = row * out.len();
        for (i, value) in out.iter_mut().enumerate() {
            if !self.mask.keeps(first + i) {
                *value = 0.0;
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part::new("mask", DType::U8, &self.mask.bits)];
        let prefix = prefix_under(&[MASK], &self.inner.layout(), "inner.");
        let inner = self.inner.parts_under(Some(&self.mask)).into_iter();
        parts.extend(inner.map(|part| part.before(prefix)));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &SparseLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let mask = Mask::from_bytes(part(MASK)?, shape.elements())?;
        if mask.kept() != layout.kept {
            return None;
        }
        let prefix = prefix_under(&[MASK], &layout.inner, "inner.");
        let part = |name: &str| part(&format!("{prefix}{name}"));
        let inner = Encoding::from_parts_under(&layout.inner, shape, Some(&mask), &part)?;
        Some(Self { mask, inner: Box::new(inner) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Dense;

    #[test]
    fn dropped_weights_decode_to_zero_and_cost_one_bit() {
        let shape = MatrixShape { rows: 2, cols: 8 };
        let values: Vec<f32> = (0..16_u8).map(f32::from).collect();
        let keep: Vec<bool> = (0..16).map(|i| i % 4 == 3).collect();
        let masked: Vec<f32> =
            values.iter().zip(&keep).map(|(&v, &k)| if k { v } else { 0.0 }).collect();
        let inner = Encoding::Dense(Dense::new(shape, DType::BF16, &masked));
        let sparse = Encoding::Sparse(Sparse::new(Mask::new(&keep), inner));
        assert_eq!(sparse.decode().iter().copied().collect::<Vec<_>>(), masked);
        assert_eq!(sparse.bytes(), 2 + 4 * 2);
        assert_eq!(sparse.layout().bytes(shape), 10);
        assert_eq!(sparse.layout().density(shape), 0.25);
    }
}
