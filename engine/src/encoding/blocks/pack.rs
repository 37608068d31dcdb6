//! Where the codes and the multiples of scales lie in a block: the other way round from decoding.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::encoding::BlockType;

/// Puts the codes of all weights of a block, counted from its lowest level, where `kind` has them; what else it
/// holds stays.
#[inline(always)]
pub(crate) fn codes(kind: BlockType, codes: &[u8], block: &mut [u8]) {
    match kind {
        BlockType::Q4_0 | BlockType::IQ4_NL => halves(codes, &mut block[2..18]),
        BlockType::Q4_1 => halves(codes, &mut block[4..20]),
        BlockType::Q5_0 => fives(codes, &mut block[2..22]),
        BlockType::Q5_1 => fives(codes, &mut block[4..24]),
        BlockType::Q8_0 => {
            // Two's complement of the code less 128.
            block[2..34].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code ^ 128);
        }
        BlockType::Q2_K => quarters(codes, &mut block[16..80]),
        BlockType::Q3_K => {
            block[..32].fill(0);
            for (i, code) in codes.iter().enumerate() {
                block[i % 32] |= code >> 2 << (i / 32);
            }
            quarters(codes, &mut block[32..96]);
        }
        BlockType::Q4_K => pairs(codes, &mut block[16..144]),
        BlockType::Q5_K => {
            block[16..48].fill(0);
            for (j, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
                for (high, code) in block[16..48].iter_mut().zip(codes) {
                    *high |= *code >> 4 << j;
                }
            }
            pairs(codes, &mut block[48..176]);
        }
        BlockType::Q6_K => sixes(codes, &mut block[..192]),
        BlockType::IQ4_XS => {
            let runs = codes.as_chunks::<32>().0.iter();
            for (codes, out) in runs.zip(block[8..136].as_chunks_mut::<16>().0) {
                halves(codes, out);
            }
        }
    }
}

/// Puts scales, and minimums where there are such, of the runs of a super-block as whole multiples.
#[inline(always)]
pub(crate) fn multiples(kind: BlockType, runs: &[(i8, u8)], block: &mut [u8]) {
    match kind {
        BlockType::Q2_K => {
            for (byte, &(scale, minimum)) in block[..16].iter_mut().zip(runs) {
                *byte = scale.cast_unsigned() | minimum << 4;
            }
        }
        BlockType::Q3_K => {
            block[96..108].fill(0);
            for (j, &(scale, _)) in runs.iter().enumerate() {
                let six = (scale + 32).cast_unsigned();
                block[96 + j % 8] |= (six & 15) << (j / 8 * 4);
                block[104 + j % 4] |= six >> 4 << (j / 4 * 2);
            }
        }
        BlockType::Q4_K | BlockType::Q5_K => six_bits(runs, &mut block[4..16]),
        BlockType::Q6_K => {
            for (byte, &(scale, _)) in block[192..208].iter_mut().zip(runs) {
                *byte = scale.cast_unsigned();
            }
        }
        BlockType::IQ4_XS => {
            let mut high = 0_u16;
            block[4..8].fill(0);
            for (j, &(scale, _)) in runs.iter().enumerate() {
                let six = (scale + 32).cast_unsigned();
                block[4 + j / 2] |= (six & 15) << (j % 2 * 4);
                high |= u16::from(six >> 4) << (2 * j);
            }
            block[2..4].copy_from_slice(&high.to_le_bytes());
        }
        // One run a block, with numbers of its own.
        _ => {}
    }
}

/// Nibbles: code j low and j + 16 high.
#[inline(always)]
fn halves(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for ((byte, low), high) in out.iter_mut().zip(low).zip(high) {
        *byte = low & 15 | high << 4;
    }
}

/// The fifth bits of all, code i in bit i, then nibbles.
#[inline(always)]
fn fives(codes: &[u8], out: &mut [u8]) {
    let fifth = |all: u32, (i, &code): (usize, &u8)| all | u32::from(code >> 4) << i;
    let fifths = codes.iter().enumerate().fold(0, fifth);
    out[..4].copy_from_slice(&fifths.to_le_bytes());
    halves(codes, &mut out[4..20]);
}

/// Four codes of 2 bits a byte: of 128 codes, code 32s + l at bit 2s of byte l.
#[inline(always)]
fn quarters(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            let of = |s: usize| (codes[32 * s + l] & 3) << (2 * s);
            *byte = of(0) | of(1) | of(2) | of(3);
        }
    }
}

/// Nibbles: of 64 codes, the first 32 low and the others high.
#[inline(always)]
fn pairs(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = codes[l] & 15 | codes[l + 32] << 4;
        }
    }
}

/// The low four bits of all in 128 bytes, the high two in 64.
#[inline(always)]
fn sixes(codes: &[u8], out: &mut [u8]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let of = |c: usize| codes[32 * c + l];
            out[64 * half + l] = of(0) & 15 | of(2) << 4;
            out[64 * half + 32 + l] = of(1) & 15 | of(3) << 4;
            let high = |c: usize| of(c) >> 4 << (2 * c);
            out[128 + 32 * half + l] = high(0) | high(1) | high(2) | high(3);
        }
    }
}

/// 8 scales and minimums of 6 bits in 12 bytes.
#[inline(always)]
fn six_bits(runs: &[(i8, u8)], out: &mut [u8]) {
    let (before, after) = runs.split_at(4);
    for (j, (before, after)) in before.iter().zip(after).enumerate() {
        let (scale, scale_after) = (before.0.cast_unsigned(), after.0.cast_unsigned());
        out[j] = scale | scale_after >> 4 << 6;
        out[j + 4] = before.1 | after.1 >> 4 << 6;
        out[j + 8] = scale_after & 15 | after.1 << 4;
    }
}
