//! What encodings are stored as: small tensors, of which masks keep some elements.

use std::borrow::Cow;

use crate::encoding::{Encoding, Mask};
use crate::tensor::DType;

/// A piece of an encoding as it is stored: a small tensor of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// What it holds: `codes`, `scales`, `zeros`, `offsets`, `palette`, `global`, `blocks`, `mask`, `values`,
    /// `input_scales`, `shift`, `signs`, `row_signs`, `scale_codes`, `zero_codes`, `statistics`, `run_mask`, `row_mask`, `words`, `super_scales`, `local_scales`, `code_scales`, `code_zeros`, `ends`, `levels`, `columns`;
    /// behind `left.` and `right.` in the factors of a product, `apart.` and `rest.` in the halves of a split, `0.`, `1.`, … in the levels of a stack, `outliers.` before those of outliers, behind `base.` or `inner.` where what
    /// lies within would have the same name as what lies around it.
    pub name: String,
    /// Element type of the bytes.
    pub dtype: DType,
    /// Little-endian bytes.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Part<'a> {
    pub(super) fn new(name: &str, dtype: DType, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.to_owned(), dtype, bytes: bytes.into() }
    }

    /// The part under a name that begins with `prefix`.
    pub(super) fn before(self, prefix: &str) -> Self {
        Self { name: format!("{prefix}{}", self.name), ..self }
    }
}

/// The parts of an encoding that lies within another, under names that begin with `prefix`.
pub(super) fn parts_within<'a>(inner: &'a Encoding, prefix: &str) -> Vec<Part<'a>> {
    inner.parts().into_iter().map(|part| part.before(prefix)).collect()
}

/// The elements of `all` that `mask` keeps; all of them without a mask.
pub(super) fn gather<'a, T: Copy>(all: &'a [T], mask: Option<&Mask>) -> Cow<'a, [T]> {
    let Some(mask) = mask else { return Cow::Borrowed(all) };
    all.iter().enumerate().filter(|(i, _)| mask.keeps(*i)).map(|(_, value)| *value).collect()
}

/// The inverse of [`gather`]: `fill(i)` where the mask keeps nothing.
pub(super) fn scatter<T: Copy>(
    kept: Vec<T>,
    n: usize,
    mask: Option<&Mask>,
    fill: impl Fn(usize) -> T,
) -> Option<Vec<T>> {
    let Some(mask) = mask else { return Some(kept).filter(|kept| kept.len() == n) };
    let mut next = kept.into_iter();
    let place = |i| if mask.keeps(i) { next.next() } else { Some(fill(i)) };
    let all: Option<Vec<T>> = (0..n).map(place).collect();
    if next.next().is_some() { None } else { all }
}
