//! A plane of signs over another encoding: one bit a weight, and sizes that may be held in far fewer.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{SIGNS, prefix_under};
use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::numeric::packing::pack_dense;
use crate::tensor::{DType, MatrixShape};

/// A signed layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedLayout {
    /// How the sizes are held.
    pub inner: Box<Layout>,
}

impl SignedLayout {
    /// ⌈weights/8⌉ for the signs, and the inner layout's bytes.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        shape.elements().div_ceil(8) as u64 + self.inner.bytes(shape)
    }
}

/// w = ±inner.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    /// A bit for each weight, row-major, lowest first; 1 is minus.
    bits: Vec<u8>,
    inner: Box<Encoding>,
}

impl Signed {
    /// `inner` with every weight negated for which `minus` says so, row-major.
    ///
    /// # Panics
    /// If there is not one sign a weight.
    pub fn new(minus: &[bool], inner: Encoding) -> Self {
        assert_eq!(minus.len(), inner.shape().elements(), "one sign a weight");
        let bits: Vec<u8> = minus.iter().map(|&minus| u8::from(minus)).collect();
        Self { bits: pack_dense(&bits, 1), inner: Box::new(inner) }
    }

    /// The sizes.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    pub(super) fn layout(&self) -> SignedLayout {
        SignedLayout { inner: Box::new(self.inner.layout()) }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.inner.decode_row(row, out);
        let first = row * out.len();
        for (i, value) in out.iter_mut().enumerate() {
            let at = first + i;
            if self.bits[at / 8] >> (at % 8) & 1 == 1 {
                *value = -*value;
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part::new(SIGNS, DType::U8, &self.bits)];
        let prefix = prefix_under(&[SIGNS], &self.inner.layout(), "inner.");
        parts.extend(parts_within(&self.inner, prefix));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &SignedLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bits = part(SIGNS).filter(|bits| bits.len() == shape.elements().div_ceil(8))?;
        let prefix = prefix_under(&[SIGNS], &layout.inner, "inner.");
        let within = |name: &str| part(&format!("{prefix}{name}"));
        let inner = Encoding::from_parts(&layout.inner, shape, &within)?;
        Some(Self { bits: bits.to_vec(), inner: Box::new(inner) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{Dense, LowRank, Stack};

    #[test]
    fn first_levels_of_a_stack_are_stacks_of_the_same_bytes() {
        let shape = |rows, cols| MatrixShape { rows, cols };
        let dense = |rows, cols, values: &[f32]| {
            Encoding::Dense(Dense::new(shape(rows, cols), DType::F16, values))
        };
        let level = |size: f32, minus: &[bool]| {
            let product = LowRank::new(dense(2, 1, &[1.0, 2.0]), dense(1, 3, &[size, size, 0.5]));
            Encoding::Signed(Signed::new(minus, Encoding::LowRank(product)))
        };
        let first = level(4.0, &[false, true, false, true, false, true]);
        let second = level(0.25, &[true, true, true, false, false, false]);
        let stack = Stack::new(vec![first, second]);
        let whole = Encoding::Stack(stack.clone());
        let [a, b] = [0, 1].map(|row| {
            let mut out = [0.0; 3];
            whole.decode_row(row, &mut out);
            out
        });
        assert_eq!((a, b), ([3.75, -4.25, 0.0], [-7.5, 8.5, 0.0]));
        // A byte of signs and five factors of two bytes in each level.
        assert_eq!(whole.bytes(), 2 * (1 + 10));
        let cut = Encoding::Stack(stack.first(1));
        assert_eq!(cut.bytes(), 11);
        let names = |encoding: &Encoding| -> Vec<String> {
            encoding.parts().into_iter().map(|part| part.name).collect()
        };
        assert_eq!(names(&cut), ["0.signs", "0.left.values", "0.right.values"]);
        assert!(whole.parts().starts_with(&cut.parts()), "the same bytes under the same names");
        assert_eq!(cut.layout(), Layout::Stack(stack.layout().first(1)));
    }
}
