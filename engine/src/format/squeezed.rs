//! Safetensors files in fewer bytes, to the bit: planes of bytes, each in its entropy.
//!
//! A squeezed file is [`MAGIC`], the bytes of the original file (8 bytes, little-endian), its header as it is with the 8
//! bytes of its length, then its tensors in their order, each in chunks of 2¹⁸ elements, then the BLAKE3 of the original file. A chunk is 4 bytes of length and: a byte, 1
//! where it is against the base, 0 else; and for each byte of an element, from the lowest, 4 bytes of length and that plane as [`byte_codes`] holds it. Floats
//! are turned left by a bit first, so that the exponents fill a byte and the sign goes to the mantissa (`ZipNN`; `DFloat11` with a range
//! coder for its Huffman codes); against the base the XOR of both is held (`BitX`).

use crate::numeric::byte_codes;
use crate::numeric::vector::{Loops, vectorised};
use crate::tensor::DType;

/// What a squeezed file begins with.
pub const MAGIC: &[u8; 20] = b"lapidary squeezed 1\n";
/// What its name ends in, behind the original's.
pub const SUFFIX: &str = ".squeezed";
/// The list of the files of a squeezed folder, which also marks it as ours.
pub const LIST: &str = "lapidary-squeezed.json";
/// Elements of a chunk.
const CHUNK: usize = 1 << 18;

/// Bytes of an element; types of less than one are taken by bytes.
fn width(dtype: DType) -> usize {
    match dtype {
        DType::C64 => 4,
        _ => (dtype.bits() / 8).max(1) as usize,
    }
}

/// Bytes of a chunk, the last of a tensor apart.
pub fn chunk_bytes(dtype: DType) -> usize {
    CHUNK * width(dtype)
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64 | DType::C64)
}

/// A chunk, with its length before it; `base` are as many bytes of another tensor, against which it is held where that is less.
pub fn squeeze(dtype: DType, bytes: &[u8], base: Option<&[u8]>) -> Vec<u8> {
    let best = chunk(dtype, bytes, 0);
    let Some(base) = base else { return best };
    let against: Vec<u8> = bytes.iter().zip(base).map(|(a, b)| a ^ b).collect();
    let against = chunk(dtype, &against, 1);
    if against.len() < best.len() { against } else { best }
}

fn chunk(dtype: DType, bytes: &[u8], flag: u8) -> Vec<u8> {
    let is_turned = is_float(dtype);
    let mut out = Vec::with_capacity(bytes.len() + 64);
    with_length(&mut out, |out| {
        out.push(flag);
        for at in 0..width(dtype) {
            let plane = match width(dtype) {
                1 => plane::<1>(bytes, is_turned, at),
                2 => plane::<2>(bytes, is_turned, at),
                4 => plane::<4>(bytes, is_turned, at),
                _ => plane::<8>(bytes, is_turned, at),
            };
            with_length(out, |out| byte_codes::encode(&plane, out));
        }
    });
    out
}

/// What `write` appends, 4 bytes of its length before it.
fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    write(out);
    let bytes = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// Byte `at` of little-endian elements of W bytes, their bits turned left by one or as they are.
fn plane<const W: usize>(bytes: &[u8], is_turned: bool, at: usize) -> Vec<u8> {
    let elements = bytes.as_chunks::<W>().0;
    let mut plane = vec![0; elements.len()];
    vectorised(Plane { elements, is_turned, at, out: &mut plane });
    plane
}

struct Plane<'a, const W: usize> {
    elements: &'a [[u8; W]],
    is_turned: bool,
    at: usize,
    out: &'a mut [u8],
}

impl<const W: usize> Loops for Plane<'_, W> {
    type Found = ();

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) {
        let Self { elements, is_turned, at, out } = self;
        let before = (at + W - 1) % W;
        let pairs = out.iter_mut().zip(elements);
        if is_turned {
            pairs.for_each(|(out, element)| *out = element[at] << 1 | element[before] >> 7);
        } else {
            pairs.for_each(|(out, element)| *out = element[at]);
        }
    }
}

/// Whether a chunk, its length taken off, is against the base.
pub fn is_against_base(chunk: &[u8]) -> bool {
    chunk.first() == Some(&1)
}

/// The `n` bytes of a chunk, its length taken off; `None` where it is none.
pub fn restore(dtype: DType, chunk: &[u8], n: usize, base: Option<&[u8]>) -> Option<Vec<u8>> {
    let width = width(dtype);
    let (&flag, mut rest) = chunk.split_first()?;
    let mut bytes = vec![0; n];
    for at in 0..width {
        let (len, behind) = rest.split_first_chunk::<4>()?;
        let (coded, behind) = behind.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let plane = byte_codes::decode(coded, n / width)?;
        for (element, byte) in bytes.chunks_exact_mut(width).zip(plane) {
            element[at] = byte;
        }
        rest = behind;
    }
    if is_float(dtype) {
        match width {
            2 => turn_back::<2>(&mut bytes),
            4 => turn_back::<4>(&mut bytes),
            _ => turn_back::<8>(&mut bytes),
        }
    }
    if flag == 1 {
        bytes.iter_mut().zip(base?).for_each(|(byte, base)| *byte ^= base);
    }
    (rest.is_empty() && flag <= 1 && n.is_multiple_of(width)).then_some(bytes)
}

/// Elements of W bytes with their bits turned right by one.
fn turn_back<const W: usize>(bytes: &mut [u8]) {
    for element in bytes.as_chunks_mut::<W>().0 {
        let turned = *element;
        for at in 0..W {
            element[at] = turned[at] >> 1 | turned[(at + 1) % W] << 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::numeric::seeds::Random;

    fn back(dtype: DType, chunk: &[u8], n: usize, base: Option<&[u8]>) -> Option<Vec<u8>> {
        let (len, rest) = chunk.split_first_chunk::<4>()?;
        assert_eq!(u32::from_le_bytes(*len) as usize, rest.len());
        restore(dtype, rest, n, base)
    }

    #[test]
    fn every_pattern_of_every_type_comes_back() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let other: Vec<u8> = all.iter().map(|byte| byte.wrapping_mul(37)).collect();
        for dtype in DType::ALL {
            for base in [None, Some(other.as_slice()), Some(all.as_slice())] {
                let chunk = squeeze(dtype, &all, base);
                assert_eq!(back(dtype, &chunk, all.len(), base).as_ref(), Some(&all), "{dtype}");
                let is_nothing = base == Some(all.as_slice());
                assert!(!is_nothing || chunk.len() < 64, "{dtype} against itself: {}", chunk.len());
            }
        }
    }

    /// Exponents of BF16 have 2.54 bits where weights are normal of any size, 2.83 of Laplace's.
    #[test]
    fn weights_in_bf16_take_66_and_68_percent() {
        let mut random = Random::new(5);
        for size in [0.02, 0.0317, 1.0] {
            let normal: Vec<u8> = (0..1 << 18)
                .flat_map(|_| bf16::from_f64(random.normal() * size).to_le_bytes())
                .collect();
            let laplace = |random: &mut Random| {
                let x = random.uniform() - 0.5;
                -x.signum() * (1.0 - 2.0 * x.abs()).ln() * size
            };
            let laplace: Vec<u8> = (0..1 << 18)
                .flat_map(|_| bf16::from_f64(laplace(&mut random)).to_le_bytes())
                .collect();
            for (bytes, known) in [(normal, 0.659), (laplace, 0.677)] {
                let share = squeeze(DType::BF16, &bytes, None).len() as f64 / bytes.len() as f64;
                assert!((share - known).abs() < 0.002, "{share} for {known}");
            }
        }
    }

    #[test]
    fn floats_of_fewer_bits_in_disguise_lose_the_rest_and_noise_costs_nothing() {
        let mut random = Random::new(6);
        let disguised: Vec<u8> = (0..1 << 17)
            .flat_map(|_| bf16::from_f64(random.normal()).to_f32().to_le_bytes())
            .collect();
        let share = squeeze(DType::F32, &disguised, None).len() as f64 / disguised.len() as f64;
        assert!(share < 0.34, "{share}");
        let noise: Vec<u8> = (0..1 << 18).map(|_| random.bits() as u8).collect();
        for dtype in [DType::U8, DType::BF16, DType::F32] {
            assert!(squeeze(dtype, &noise, None).len() < noise.len() + 40);
        }
    }

    #[test]
    fn a_tuned_model_is_what_was_changed() {
        let mut random = Random::new(7);
        let base: Vec<f64> = (0..1 << 17).map(|_| random.normal() * 0.02).collect();
        let tuned: Vec<f64> = base.iter().map(|w| w + random.normal() * 2e-5).collect();
        let [base, tuned] = [base, tuned]
            .map(|w| w.iter().flat_map(|&w| bf16::from_f64(w).to_le_bytes()).collect::<Vec<u8>>());
        let alone = squeeze(DType::BF16, &tuned, None).len();
        let against = squeeze(DType::BF16, &tuned, Some(&base));
        assert!(against.len() * 3 < alone, "{} and {alone}", against.len());
        assert!(is_against_base(&against[4..]));
        assert_eq!(back(DType::BF16, &against, tuned.len(), Some(&base)), Some(tuned.clone()));
        assert_eq!(back(DType::BF16, &against, tuned.len(), None), None);
    }

    #[test]
    fn other_bytes_never_panic() {
        let mut random = Random::new(8);
        let bytes: Vec<u8> = (0..6000).map(|_| random.normal().abs() as u8).collect();
        let chunk = squeeze(DType::F32, &bytes, None);
        for at in 0..chunk.len() {
            let mut other = chunk.clone();
            other[at] ^= 1 << (at % 8);
            restore(DType::F32, &other[4..], 6000, None);
            assert!(restore(DType::F32, &chunk[4..at.max(4)], 6000, None).is_none());
        }
    }
}
