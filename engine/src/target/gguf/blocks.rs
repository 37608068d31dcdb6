//! Rows of an encoding as llama.cpp's blocks.

use half::f16;

use crate::encoding::{Affine, Encoding, Float};
use crate::error::{Error, Result};
use crate::numeric::minifloat::E4M3;
use crate::tensor::write_f32;

/// Weights of a block of integers or small floats.
const SIZE: usize = 32;
/// Weights of a block of NVFP4, and of those that share a scale.
const WIDE: usize = 64;
const SMALL: usize = 16;

/// Appends row `row` of a natively stored layer called `name`.
///
/// # Errors
/// [`Error::Numeric`] for a scale that 16 bits do not hold exactly, [`Error::Unsupported`] for another encoding.
pub fn write_row(encoding: &Encoding, row: usize, name: &str, out: &mut Vec<u8>) -> Result<()> {
    match encoding {
        Encoding::Blocks(blocks) => {
            let bytes = blocks.kind().row_bytes(blocks.shape().cols);
            out.extend_from_slice(&blocks.as_bytes()[row * bytes..(row + 1) * bytes]);
            Ok(())
        }
        Encoding::Dense(dense) => {
            let mut values = vec![0.0; dense.shape().cols];
            encoding.decode_row(row, &mut values);
            write_f32(dense.dtype(), &values, out);
            Ok(())
        }
        Encoding::Affine(affine) => integers(affine, row, name, out),
        Encoding::Float(float) if float.layout().has_global() => {
            small_groups(float, row, name, out)
        }
        Encoding::Float(float) => {
            floats(float, row, out);
            Ok(())
        }
        // Dropped weights already have the code of zero.
        Encoding::Sparse(sparse) => write_row(sparse.inner(), row, name, out),
        _ => Err(Error::Unsupported { what: format!("storing {name} as blocks") }),
    }
}

/// A number of 16 bits that is exactly `value`.
fn half(value: f32, is_used: bool, name: &str) -> Result<[u8; 2]> {
    let held = f16::from_f32(value);
    if held.to_f32().to_bits() == value.to_bits() || !is_used {
        return Ok(held.to_le_bytes());
    }
    Err(Error::Numeric {
        tensor: name.to_owned(),
        why: format!(
            "the scale {value:e} has no exact form in the 16 bits of a block; choose GGUF blocks for this layer, or keep it"
        ),
    })
}

/// Blocks of 32 codes: `Q4_0`, `Q5_0`, `Q8_0`, and with an offset `Q4_1`, `Q5_1`.
fn integers(affine: &Affine, row: usize, name: &str, out: &mut Vec<u8>) -> Result<()> {
    let (layout, cols) = (affine.layout(), affine.shape().cols);
    let first = layout.grouping.first_scale(row, cols);
    let codes = affine.codes()[row * cols..(row + 1) * cols].chunks_exact(SIZE);
    for (group, codes) in codes.enumerate() {
        // A scale too small for 16 bits does no harm where every weight is zero.
        let neutral = if layout.has_offsets { 0 } else { layout.middle() };
        let is_used = codes.iter().any(|&code| code != neutral);
        out.extend(half(affine.scales()[first + group], is_used, name)?);
        if layout.has_offsets {
            out.extend(half(affine.offsets()[first + group], true, name)?);
        }
        if layout.bits == 8 {
            out.extend(codes.iter().map(|code| code.wrapping_sub(layout.middle())));
            continue;
        }
        if layout.bits == 5 {
            let bit = |(i, &code): (usize, &u8)| u32::from(code >> 4 & 1) << i;
            let high: u32 = codes.iter().enumerate().map(bit).sum();
            out.extend(high.to_le_bytes());
        }
        nibbles(codes, out);
    }
    Ok(())
}

/// Code j in the low half of byte j, those of the second half of the codes in the high halves.
fn nibbles(codes: &[u8], out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(codes.len() / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| (low & 15) | (high & 15) << 4));
}

/// MXFP4: the exponent of the scale, then the codes.
fn floats(float: &Float, row: usize, out: &mut Vec<u8>) {
    let cols = float.shape().cols;
    let first = float.layout().tiling.first_scale(row, cols);
    let codes = float.codes()[row * cols..(row + 1) * cols].chunks_exact(SIZE);
    for (group, codes) in codes.enumerate() {
        // 2^−127 has no exponent of its own, and its byte is 0.
        out.push((float.scales()[first + group].to_bits() >> 23) as u8);
        nibbles(codes, out);
    }
}

/// NVFP4: the bytes of four scales, then the codes of each.
fn small_groups(float: &Float, row: usize, name: &str, out: &mut Vec<u8>) -> Result<()> {
    let cols = float.shape().cols;
    let first = float.layout().tiling.first_scale(row, cols);
    let scales = float.scales()[first..].chunks(WIDE / SMALL);
    let codes = float.codes()[row * cols..(row + 1) * cols].chunks_exact(WIDE);
    for (scales, codes) in scales.zip(codes) {
        for &scale in scales {
            out.push(unsigned(scale, name)?);
        }
        codes.chunks_exact(SMALL).for_each(|codes| nibbles(codes, out));
    }
    Ok(())
}

/// The byte of a scale without a sign. llama.cpp reads 127, which is no number, as nothing.
fn unsigned(scale: f32, name: &str) -> Result<u8> {
    let byte = E4M3.encode(scale) & 0x7f;
    if E4M3.decode(byte) == scale {
        return Ok(byte);
    }
    Err(Error::Numeric {
        tensor: name.to_owned(),
        why: format!(
            "the scale {scale:e} of 16 inputs has no form in NVFP4 of GGUF; choose other blocks for this layer, or keep it"
        ),
    })
}

/// What llama.cpp multiplies a natively stored layer called `name` by, where its blocks alone are not all of it.
///
/// # Errors
/// [`Error::Numeric`] for a scale of the matrix whose inverse is no number of use.
pub fn multiplier(encoding: &Encoding, name: &str) -> Result<Option<f32>> {
    let float = match encoding {
        Encoding::Sparse(sparse) => return multiplier(sparse.inner(), name),
        Encoding::Float(float) if float.layout().has_global() => float,
        _ => return Ok(None),
    };
    let by = 1.0 / float.global();
    if by.is_normal() {
        return Ok(Some(by));
    }
    Err(Error::Numeric {
        tensor: name.to_owned(),
        why: format!(
            "the scale of the matrix, {:e}, has no inverse in F32; choose other blocks for this layer, or keep it",
            float.global()
        ),
    })
}
