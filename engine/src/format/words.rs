//! Codes in little-endian streams of 32-bit words, as readers of packed layers take them: one at a time, the words
//! wherever they lie. In: bytes, places. Out: codes, floats. Shares nothing with what packs.

use crate::tensor::{DType, Decoder};

/// Word `at` of little-endian bytes; `None` beyond their end.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let first = at.checked_mul(4)?;
    let four = bytes.get(first..first.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

/// Code `i` of the stream whose words `word` gives: bits `i·b … i·b + b − 1`, b from 1 to 8.
pub(super) fn code(i: usize, bits: usize, word: impl Fn(usize) -> Option<u32>) -> Option<u8> {
    let (at, shift) = (i * bits / 32, i * bits % 32);
    let low = word(at)? >> shift;
    let both = if shift + bits > 32 { low | word(at + 1)? << (32 - shift) } else { low };
    Some((both & ((1 << bits) - 1)) as u8)
}

/// `n` floats of `bytes`; `None` where they are more or fewer, or no floats.
pub(super) fn floats(bytes: &[u8], dtype: DType, n: usize) -> Option<Vec<f32>> {
    if bytes.len() as u64 * 8 != n as u64 * dtype.bits() {
        return None;
    }
    let mut values = vec![0.0; n];
    Decoder::new(dtype)?.f32s(bytes, &mut values);
    Some(values)
}

/// Passes over weights `first .. first + out.len()` of a row-major matrix of `cols` inputs, in runs that stay within one
/// row and one group of `width` inputs: `run(row, group, first column, values)`.
pub(super) fn for_each_run(
    first: usize,
    (cols, width): (usize, usize),
    out: &mut [f32],
    mut run: impl FnMut((usize, usize), usize, &mut [f32]) -> Option<()>,
) -> Option<()> {
    let mut done = 0;
    while done < out.len() {
        let (row, col) = ((first + done) / cols, (first + done) % cols);
        let group = col / width;
        // To the end of the group, of the row, or of what is asked for.
        let end = ((group + 1) * width).min(cols);
        let n = (end - col).min(out.len() - done);
        run((row, group), col, &mut out[done..done + n])?;
        done += n;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_straddle_words_and_end_with_the_bytes() {
        // 3 bits: code 10 has bits 30 and 31 of the first word and bit 0 of the second.
        let bytes = [0, 0, 0, 0b1000_0000, 1, 0, 0, 0];
        let of = |i| code(i, 3, |at| word(&bytes, at));
        assert_eq!((of(9), of(10), of(11), of(20)), (Some(0), Some(0b110), Some(0), Some(0)));
        assert_eq!((of(21), of(22)), (None, None));
        assert_eq!((word(&bytes, 2), word(&bytes, usize::MAX)), (None, None));
    }

    #[test]
    fn runs_stay_within_rows_and_groups_and_cover_all() {
        let mut seen = Vec::new();
        let mut out = [0.0; 9];
        // Rows of 5, groups of 2: from weight 3 on.
        for_each_run(3, (5, 2), &mut out, |place, col, values| {
            seen.push((place, col, values.len()));
            Some(())
        });
        let wanted =
            [((0, 1), 3, 1), ((0, 2), 4, 1), ((1, 0), 0, 2), ((1, 1), 2, 2), ((1, 2), 4, 1)];
        assert_eq!(seen[..5], wanted);
        assert_eq!(seen.iter().map(|run| run.2).sum::<usize>(), 9);
        let wide = floats(&[0, 0x3c, 0, 0xc0], DType::F16, 2);
        assert_eq!((wide, floats(&[0; 3], DType::F16, 1)), (Some(vec![1.0, -2.0]), None));
    }
}
