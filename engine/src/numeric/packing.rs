//! Codes of 1 to 8 bits in bit streams, of up to 32 bits in dense ones.
//!
//! *Dense*: element *i* occupies bits `i·b … i·b + b − 1` of a little-endian stream; values may straddle words.
//! *Padded*: `⌊32/b⌋` values per 32-bit word, the rest of the word unused (compressed-tensors before June 2026).
//! The two agree for b = 1, 2, 4, 8.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::numeric::vector::{Loops, vectorised};

/// Bytes of `n` codes of `bits` bits in a dense stream: ⌈n·b/8⌉.
pub fn dense_bytes(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(8)
}

/// Codes that one thread packs at a time; a multiple of eight, so that each thread begins on a byte.
const PIECE: usize = 1 << 16;

/// Packs `codes` (each below `2^bits`, 1 to 8 bits) as a dense little-endian stream of ⌈n·b/8⌉ bytes.
pub fn pack_dense(codes: &[u8], bits: u32) -> Vec<u8> {
    let mut out = vec![0; dense_bytes(codes.len(), bits)];
    let pieces = out.par_chunks_mut(dense_bytes(PIECE, bits)).zip(codes.par_chunks(PIECE));
    pieces.for_each(|(out, codes)| vectorised(Pack { codes, bits, out }));
    out
}

/// Codes to be packed.
struct Pack<'a> {
    codes: &'a [u8],
    bits: u32,
    out: &'a mut [u8],
}

impl Loops for Pack<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        match self.bits {
            1 => pack_eights::<1>(self.codes, self.out),
            2 => pack_eights::<2>(self.codes, self.out),
            3 => pack_eights::<3>(self.codes, self.out),
            4 => pack_eights::<4>(self.codes, self.out),
            5 => pack_eights::<5>(self.codes, self.out),
            6 => pack_eights::<6>(self.codes, self.out),
            7 => pack_eights::<7>(self.codes, self.out),
            _ => self.out.copy_from_slice(self.codes),
        }
    }
}

/// Eight codes in `BITS` bytes.
#[inline(always)]
fn pack_eights<const BITS: usize>(codes: &[u8], out: &mut [u8]) {
    let (eights, rest) = codes.as_chunks::<8>();
    let (out, end) = out.split_at_mut(eights.len() * BITS);
    for (codes, out) in eights.iter().zip(out.as_chunks_mut::<BITS>().0) {
        let mut word = 0_u64;
        for (i, &code) in codes.iter().enumerate() {
            word |= u64::from(code) << (i * BITS);
        }
        out.copy_from_slice(&word.to_le_bytes()[..BITS]);
    }
    end.copy_from_slice(&packed(rest, BITS as u32));
}

fn packed<T: Copy + Into<u64>>(codes: &[T], bits: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(dense_bytes(codes.len(), bits));
    let (mut held, mut held_bits) = (0_u64, 0);
    for &code in codes {
        held |= code.into() << held_bits;
        held_bits += bits;
        while held_bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            held_bits -= 8;
        }
    }
    if held_bits > 0 {
        out.push(held as u8);
    }
    out
}

/// The `n` codes of a dense stream; missing bytes read as 0.
pub fn unpack_dense(bytes: &[u8], bits: u32, n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    let step = dense_bytes(PIECE, bits);
    out.par_chunks_mut(PIECE).enumerate().for_each(|(piece, out)| {
        let bytes = bytes.get(piece * step..).unwrap_or_default();
        vectorised(Unpack { bytes, bits, out });
    });
    out
}

/// Codes to be unpacked.
struct Unpack<'a> {
    bytes: &'a [u8],
    bits: u32,
    out: &'a mut [u8],
}

impl Loops for Unpack<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        match self.bits {
            1 => unpack_eights::<1>(self.bytes, self.out),
            2 => unpack_eights::<2>(self.bytes, self.out),
            3 => unpack_eights::<3>(self.bytes, self.out),
            4 => unpack_eights::<4>(self.bytes, self.out),
            5 => unpack_eights::<5>(self.bytes, self.out),
            6 => unpack_eights::<6>(self.bytes, self.out),
            7 => unpack_eights::<7>(self.bytes, self.out),
            _ => unpack_eights::<8>(self.bytes, self.out),
        }
    }
}

/// Eight codes of `BITS` bytes; what the bytes do not reach is 0.
#[inline(always)]
fn unpack_eights<const BITS: usize>(bytes: &[u8], out: &mut [u8]) {
    let mask = u8::MAX >> (8 - BITS);
    let whole = (bytes.len() / BITS).min(out.len() / 8);
    let (bytes, rest) = bytes.split_at(whole * BITS);
    let (out, end) = out.split_at_mut(whole * 8);
    for (bytes, out) in bytes.as_chunks::<BITS>().0.iter().zip(out.as_chunks_mut::<8>().0) {
        let mut eight = [0; 8];
        eight[..BITS].copy_from_slice(bytes);
        let word = u64::from_le_bytes(eight);
        for (i, code) in out.iter_mut().enumerate() {
            *code = (word >> (i * BITS)) as u8 & mask;
        }
    }
    let byte = |at: usize| u16::from(rest.get(at).copied().unwrap_or(0));
    for (i, code) in end.iter_mut().enumerate() {
        let at = i * BITS;
        *code = ((byte(at / 8) | byte(at / 8 + 1) << 8) >> (at % 8)) as u8 & mask;
    }
}

/// Packs each row of `cols` codes as [`pack_dense_words`] does, one row after the other.
pub fn pack_rows(codes: &[u8], cols: usize, bits: u32) -> Vec<u8> {
    if (cols * bits as usize).is_multiple_of(32) {
        return pack_dense(codes, bits);
    }
    let rows: Vec<Vec<u8>> =
        codes.par_chunks(cols.max(1)).map(|row| pack_dense_words(row, bits)).collect();
    rows.concat()
}

/// [`pack_dense`] for codes of up to 32 bits.
pub fn pack_codes(codes: &[u32], bits: u32) -> Vec<u8> {
    packed(codes, bits)
}

/// [`unpack_dense`] for codes of up to 32 bits.
pub fn unpack_codes(bytes: &[u8], bits: u32, n: usize) -> Vec<u32> {
    let mask = (1_u64 << bits) - 1;
    let byte = |at: usize| u64::from(bytes.get(at).copied().unwrap_or(0));
    let code = |i: usize| {
        let at = i * bits as usize;
        let window = (0..5).fold(0, |window, k| window | byte(at / 8 + k) << (8 * k));
        (window >> (at % 8) & mask) as u32
    };
    (0..n).map(code).collect()
}

/// Packs `codes` as a dense stream of whole 32-bit words: ⌈n·b/32⌉ words, little-endian bytes.
pub fn pack_dense_words(codes: &[u8], bits: u32) -> Vec<u8> {
    let mut out = pack_dense(codes, bits);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Packs `codes` as 32-bit words of ⌊32/b⌋ values each.
pub fn pack_padded_words(codes: &[u8], bits: u32) -> Vec<u8> {
    codes
        .chunks((32 / bits) as usize)
        .flat_map(|chunk| {
            let word = chunk.iter().rev().fold(0_u32, |word, &code| word << bits | u32::from(code));
            word.to_le_bytes()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_round_trips_at_every_width_and_length() {
        for bits in 1..=8 {
            for n in [0, 1, 7, 8, 31, 32, 33, 100, PIECE + 13] {
                let codes: Vec<u8> = (0..n).map(|i| ((i * 37 + 11) % (1 << bits)) as u8).collect();
                let packed = pack_dense(&codes, bits);
                assert_eq!(
                    packed,
                    super::packed(&codes, bits),
                    "{bits} bits, {n} codes, one by one"
                );
                assert_eq!(packed.len(), dense_bytes(codes.len(), bits));
                assert_eq!(
                    unpack_dense(&packed, bits, codes.len()),
                    codes,
                    "{bits} bits, {n} codes"
                );
            }
        }
    }

    #[test]
    fn what_the_bytes_do_not_reach_is_zero() {
        for bits in 1..=8 {
            let codes: Vec<u8> = vec![u8::MAX >> (8 - bits); 40];
            let packed = pack_dense(&codes, bits);
            for bytes in 0..packed.len() {
                let found = unpack_dense(&packed[..bytes], bits, 40);
                let mut wanted = packed[..bytes].to_vec();
                wanted.resize(packed.len(), 0);
                assert_eq!(found, unpack_dense(&wanted, bits, 40), "{bits} bits, {bytes} bytes");
            }
            assert_eq!(unpack_dense(&[], bits, 9), [0; 9]);
        }
    }

    #[test]
    fn rows_are_packed_one_by_one() {
        for (bits, cols) in [(4, 64), (4, 60), (3, 33), (8, 5), (2, 16), (5, 1)] {
            let codes: Vec<u8> = (0..7 * cols).map(|i| (i * 29 % (1 << bits)) as u8).collect();
            let wanted: Vec<u8> =
                codes.chunks(cols).flat_map(|row| pack_dense_words(row, bits)).collect();
            assert_eq!(pack_rows(&codes, cols, bits), wanted, "{bits} bits, rows of {cols}");
        }
    }

    #[test]
    fn wide_codes_round_trip_and_narrow_ones_are_packed_alike() {
        for bits in [1, 3, 8, 9, 12, 16, 24, 31, 32] {
            let mask = u32::MAX >> (32 - bits);
            let codes: Vec<u32> =
                (0..57_u32).map(|i| i.wrapping_mul(2_654_435_761) & mask).collect();
            let packed = pack_codes(&codes, bits);
            assert_eq!(packed.len(), dense_bytes(codes.len(), bits));
            assert_eq!(unpack_codes(&packed, bits, codes.len()), codes, "{bits} bits");
            if bits <= 8 {
                let narrow: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
                assert_eq!(packed, pack_dense(&narrow, bits));
            }
        }
    }

    #[test]
    fn dense_and_padded_agree_where_codes_do_not_straddle() {
        let codes: Vec<u8> = (0..40).map(|i| i % 4).collect();
        for bits in [2, 4, 8] {
            assert_eq!(
                pack_dense_words(&codes, bits),
                pack_padded_words(&codes, bits),
                "{bits} bits"
            );
        }
        assert_ne!(pack_dense_words(&codes, 3), pack_padded_words(&codes, 3));
    }
}
