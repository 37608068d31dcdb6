//! Bytes of each element type to numbers and back.
//! 8-bit floats: OCP E4M3 (bias 7, no infinities, S.1111.111 is NaN) and E5M2 (bias 15, IEEE-like).

use half::{bf16, f16};

use crate::tensor::DType;

/// Elements per chunk when a tensor is streamed: 1 MiB of f32.
pub const CHUNK_ELEMENTS: usize = 1 << 18;

/// Decodes little-endian bytes of one element type.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    dtype: DType,
}

impl Decoder {
    /// A decoder of `dtype`; `None` where its values cannot be read as numbers.
    pub fn new(dtype: DType) -> Option<Self> {
        dtype.is_readable().then_some(Self { dtype })
    }

    /// Decodes `bytes` into `out`; integers and F64 are rounded to f32.
    ///
    /// # Panics
    /// If `bytes` does not hold exactly `out.len()` elements.
    pub fn f32s(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            bytes.len() as u64 * 8,
            out.len() as u64 * self.dtype.bits(),
            "bytes and elements must agree"
        );
        match self.dtype {
            DType::F32 => fill(bytes, out, f32::from_le_bytes),
            DType::BF16 => {
                fill(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
            }
            DType::F16 => fill(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            DType::F8E4M3 => fill(bytes, out, |[b]| f32_from_e4m3(b)),
            DType::F8E5M2 => fill(bytes, out, |[b]| f32_from_e5m2(b)),
            _ => {
                let mut at = 0;
                for_each_f64(self.dtype, bytes, |value| {
                    out[at] = value as f32;
                    at += 1;
                });
            }
        }
    }
}

/// Calls `visit` with every element as f64 (64-bit integers rounded); nothing for unreadable types.
pub fn for_each_f64(dtype: DType, bytes: &[u8], mut visit: impl FnMut(f64)) {
    match dtype {
        DType::Bool | DType::U8 => each(bytes, |[b]: [u8; 1]| visit(f64::from(b))),
        DType::I8 => each(bytes, |b| visit(f64::from(i8::from_le_bytes(b)))),
        DType::U16 => each(bytes, |b| visit(f64::from(u16::from_le_bytes(b)))),
        DType::I16 => each(bytes, |b| visit(f64::from(i16::from_le_bytes(b)))),
        DType::U32 => each(bytes, |b| visit(f64::from(u32::from_le_bytes(b)))),
        DType::I32 => each(bytes, |b| visit(f64::from(i32::from_le_bytes(b)))),
        DType::U64 => each(bytes, |b| visit(u64::from_le_bytes(b) as f64)),
        DType::I64 => each(bytes, |b| visit(i64::from_le_bytes(b) as f64)),
        DType::F64 => each(bytes, |b| visit(f64::from_le_bytes(b))),
        DType::F32 => each(bytes, |b| visit(f64::from(f32::from_le_bytes(b)))),
        DType::F16 => each(bytes, |b| visit(f16::from_le_bytes(b).to_f64())),
        DType::BF16 => each(bytes, |b| visit(bf16::from_le_bytes(b).to_f64())),
        DType::F8E4M3 => each(bytes, |[b]: [u8; 1]| visit(f64::from(f32_from_e4m3(b)))),
        DType::F8E5M2 => each(bytes, |[b]: [u8; 1]| visit(f64::from(f32_from_e5m2(b)))),
        DType::F4
        | DType::F6E2M3
        | DType::F6E3M2
        | DType::F8E8M0
        | DType::F8E4M3Fnuz
        | DType::F8E5M2Fnuz
        | DType::C64 => {}
    }
}

/// Appends `values` to `out` as little-endian `dtype`, rounding to nearest, ties to even.
///
/// # Panics
/// If `dtype` is not a float type that can be compressed (see [`DType::is_compressible`]).
pub fn write_f32(dtype: DType, values: &[f32], out: &mut Vec<u8>) {
    let first = out.len();
    out.resize(first + (values.len() as u64 * dtype.bits() / 8) as usize, 0);
    put_f32(dtype, values, &mut out[first..]);
}

/// [`write_f32`] into bytes that are there: as many as the values take.
///
/// # Panics
/// If `dtype` is no float type that is written.
pub fn put_f32(dtype: DType, values: &[f32], out: &mut [u8]) {
    match dtype {
        DType::F64 => put(values, out, |v| f64::from(v).to_le_bytes()),
        DType::F32 => put(values, out, f32::to_le_bytes),
        DType::F16 => put(values, out, |v| f16::from_f32(v).to_le_bytes()),
        DType::BF16 => put(values, out, |v| bf16::from_f32(v).to_le_bytes()),
        DType::F8E4M3 => put(values, out, |v| [nearest_f8(v, f32_from_e4m3, 0x7e)]),
        DType::F8E5M2 => put(values, out, |v| [nearest_f8(v, f32_from_e5m2, 0x7b)]),
        _ => panic!("{dtype} holds no weights"),
    }
}

fn put<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, &value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *out = bytes(value);
    }
}

/// `value` rounded to a float type and back, ties to even.
///
/// # Panics
/// If `dtype` is not F16, BF16, F32 or F64.
pub fn round_f32(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        DType::F32 | DType::F64 => value,
        _ => panic!("{dtype} is not a type of scales"),
    }
}

/// Whether a float type holds a finite value exactly.
///
/// # Panics
/// If `dtype` is not a float type that can be compressed (see [`DType::is_compressible`]).
pub fn is_exact_in(dtype: DType, value: f64) -> bool {
    let narrow = value as f32;
    match dtype {
        DType::F64 => true,
        DType::F32 => f64::from(narrow) == value,
        DType::F16 => f16::from_f64(value).to_f64() == value,
        DType::BF16 => bf16::from_f64(value).to_f64() == value,
        DType::F8E4M3 => f64::from(f32_from_e4m3(nearest_f8(narrow, f32_from_e4m3, 0x7e))) == value,
        DType::F8E5M2 => f64::from(f32_from_e5m2(nearest_f8(narrow, f32_from_e5m2, 0x7b))) == value,
        _ => panic!("{dtype} holds no weights"),
    }
}

fn each<const N: usize>(bytes: &[u8], mut visit: impl FnMut([u8; N])) {
    for element in bytes.as_chunks::<N>().0 {
        visit(*element);
    }
}

fn fill<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (value, element) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = decode(*element);
    }
}

/// E4M3: 1 sign, 4 exponent (bias 7), 3 mantissa bits; largest 448, no infinity.
fn f32_from_e4m3(byte: u8) -> f32 {
    if byte & 0x7f == 0x7f {
        return f32::NAN;
    }
    signed(byte, small_float(u32::from(byte & 0x7f), 3, 7))
}

/// E5M2: 1 sign, 5 exponent (bias 15), 2 mantissa bits; largest 57344, then infinity and NaN.
fn f32_from_e5m2(byte: u8) -> f32 {
    match byte & 0x7f {
        0x7c => signed(byte, f32::INFINITY),
        0x7d..=0x7f => f32::NAN,
        magnitude => signed(byte, small_float(u32::from(magnitude), 2, 15)),
    }
}

fn signed(byte: u8, magnitude: f32) -> f32 {
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

fn small_float(magnitude: u32, mantissa_bits: u32, bias: i32) -> f32 {
    let exponent = (magnitude >> mantissa_bits) as i32;
    let mantissa = (magnitude & ((1 << mantissa_bits) - 1)) as f32;
    let scale = |e: i32| 2_f32.powi(e - mantissa_bits as i32);
    let one = (1 << mantissa_bits) as f32;
    if exponent == 0 {
        mantissa * scale(1 - bias)
    } else {
        (one + mantissa) * scale(exponent - bias)
    }
}

/// The code whose value is nearest, ties to the even code; magnitudes beyond `largest` saturate.
///
/// Codes of one sign are ordered by magnitude, so the nearest is found by bisection.
fn nearest_f8(value: f32, decode: fn(u8) -> f32, largest: u8) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = value.abs();
    let (mut below, mut above) = (0_u8, largest);
    if magnitude >= decode(largest) {
        return sign | largest;
    }
    while above - below > 1 {
        let middle = below.midpoint(above);
        if decode(middle) <= magnitude {
            below = middle;
        } else {
            above = middle;
        }
    }
    let (down, up) = (magnitude - decode(below), decode(above) - magnitude);
    let code = if down < up || (down == up && below % 2 == 0) { below } else { above };
    sign | code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let n = bytes.len() * 8 / dtype.bits() as usize;
        let mut out = vec![0.0; n];
        Decoder::new(dtype).unwrap().f32s(bytes, &mut out);
        out
    }

    #[test]
    fn every_8_bit_float_survives_a_round_trip() {
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            let bytes: Vec<u8> = (0..=255).collect();
            let values = decoded(dtype, &bytes);
            for (&byte, &value) in bytes.iter().zip(&values) {
                let mut again = Vec::new();
                write_f32(dtype, &[value], &mut again);
                if value.is_finite() {
                    assert_eq!(again, [byte], "{dtype} code {byte:#x} = {value}");
                }
            }
        }
    }

    #[test]
    fn known_values_of_8_bit_floats() {
        assert_eq!(
            decoded(DType::F8E4M3, &[0x38, 0x7e, 0x01, 0x81]),
            [1.0, 448.0, 2_f32.powi(-9), -(2_f32.powi(-9))]
        );
        assert_eq!(
            decoded(DType::F8E5M2, &[0x3c, 0x7b, 0x7c, 0x01]),
            [1.0, 57344.0, f32::INFINITY, 2_f32.powi(-16)]
        );
        let mut out = Vec::new();
        // 17 lies half-way between 16 and 18; 16 has the even code.
        write_f32(DType::F8E4M3, &[17.0, 1e9], &mut out);
        assert_eq!(decoded(DType::F8E4M3, &out), [16.0, 448.0]);
    }

    #[test]
    fn integers_and_wide_floats_decode() {
        assert_eq!(decoded(DType::I16, &(-3_i16).to_le_bytes()), [-3.0]);
        assert_eq!(decoded(DType::U64, &7_u64.to_le_bytes()), [7.0]);
        assert_eq!(decoded(DType::F64, &0.1_f64.to_le_bytes()), [0.1]);
        assert_eq!(decoded(DType::Bool, &[1, 0]), [1.0, 0.0]);
        assert_eq!(decoded(DType::BF16, &[0x80, 0x3f]), [1.0]);
        assert_eq!(decoded(DType::F16, &[0x00, 0x3c]), [1.0]);
    }
}
