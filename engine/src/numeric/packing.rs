//! Codes of 1 to 8 bits in bit streams, of up to 32 bits in dense ones.
//!
//! *Dense*: element *i* occupies bits `i·b … i·b + b − 1` of a little-endian stream; values may straddle words.
//! *Padded*: `⌊32/b⌋` values per 32-bit word, the rest of the word unused (compressed-tensors before June 2026).
//! The two agree for b = 1, 2, 4, 8.

/// Bytes of `n` codes of `bits` bits in a dense stream: ⌈n·b/8⌉.
pub fn dense_bytes(n: usize, bits: u32) -> usize {
    (n * bits as usize).div_ceil(8)
}

/// Packs `codes` (each below `2^bits`) as a dense little-endian stream of ⌈n·b/8⌉ bytes.
pub fn pack_dense(codes: &[u8], bits: u32) -> Vec<u8> {
    packed(codes, bits)
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
    let mask = ((1_u32 << bits) - 1) as u8;
    let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
    (0..n)
        .map(|i| {
            let at = i * bits as usize;
            let pair = byte(at / 8) | byte(at / 8 + 1) << 8;
            (pair >> (at % 8)) as u8 & mask
        })
        .collect()
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
            for n in [0, 1, 7, 31, 32, 33, 100] {
                let codes: Vec<u8> = (0..n).map(|i| ((i * 37 + 11) % (1 << bits)) as u8).collect();
                let packed = pack_dense(&codes, bits);
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
