//! Layers of other formats as encodings: the codes, scales and zero points that their readers see, taken over as they are.
//! In: what a reader says of each place. Out: grouped integers. Never rounds a number.

use crate::encoding::{Affine, AffineData, AffineLayout, Encoding};
use crate::tensor::{DType, MatrixShape};

/// Where groups begin, and how their numbers are found.
pub(super) struct Places<'r> {
    /// `[rows, cols]`.
    pub(super) shape: MatrixShape,
    /// Code of the weight in a row and column, from 0 on.
    pub(super) code: &'r dyn Fn(usize, usize) -> Option<u8>,
    /// Scale of a row and group.
    pub(super) scale: &'r dyn Fn(usize, usize) -> Option<f32>,
    /// Zero point of a row and group, on the same footing as codes.
    pub(super) zero: &'r dyn Fn(usize, usize) -> Option<u8>,
}

impl Places<'_> {
    /// Grouped integers of this layout; symmetric if every zero point is in the middle. `None` where a number is not there.
    pub(super) fn affine(&self, layout: AffineLayout) -> Option<Affine> {
        let MatrixShape { rows, cols } = self.shape;
        let groups = layout.grouping.groups_per_row(cols);
        let each = |n: usize| (0..rows).flat_map(move |row| (0..n).map(move |at| (row, at)));
        let codes = each(cols).map(|(row, col)| (self.code)(row, col));
        let codes: Vec<u8> = codes.collect::<Option<_>>()?;
        let scales: Vec<f32> =
            each(groups).map(|(row, group)| (self.scale)(row, group)).collect::<Option<_>>()?;
        let zeros: Vec<u8> =
            each(groups).map(|(row, group)| (self.zero)(row, group)).collect::<Option<_>>()?;
        let symmetric = zeros.iter().all(|&zero| zero == layout.middle());
        let layout = AffineLayout { symmetric, has_offsets: false, ..layout };
        Some(Affine::new(self.shape, layout, AffineData { codes, scales, zeros }))
    }
}

/// Integers with offsets, with whole zero points instead where those stand for the very same numbers: every offset is
/// −s·z for some z, and the scales have 16 bits, so that neither form rounds.
pub(super) fn with_whole_zeros(affine: Affine) -> Encoding {
    let layout = affine.layout().clone();
    let is_short = matches!(layout.scale_dtype, DType::F16 | DType::BF16);
    let zero = |(&scale, &offset): (&f32, &f32)| {
        let zero = if scale == 0.0 { f32::from(layout.middle()) } else { -offset / scale };
        let is_code = zero >= 0.0 && zero <= f32::from(layout.largest()) && zero.fract() == 0.0;
        (is_code && scale * zero == -offset).then_some(zero as u8)
    };
    let zeros: Option<Vec<u8>> =
        affine.scales().iter().zip(affine.offsets()).map(zero).collect::<Option<_>>();
    match zeros.filter(|_| is_short) {
        None => Encoding::Affine(affine),
        Some(zeros) => {
            let symmetric = zeros.iter().all(|&zero| zero == layout.middle());
            let layout = AffineLayout { symmetric, has_offsets: false, ..layout };
            let (codes, scales) = (affine.codes().to_vec(), affine.scales().to_vec());
            let data = AffineData { codes, scales, zeros };
            Encoding::Affine(Affine::new(affine.shape(), layout, data))
        }
    }
}
