//! MXFP4 and NVFP4 of GGUF, for the proof: decoded from the words of their definitions, and what a layer of them stands for
//! there. It shares no code with what writes or reads such files elsewhere.

use crate::encoding::{Encoding, Float, FloatData};
use crate::numeric::minifloat::E2M1;

/// 32 codes under 2^(e − 127); e = 0 is 2^−127 too.
pub(super) fn mxfp4(block: &[u8], out: &mut [f32]) {
    let scale = 2.0_f64.powi(i32::from(block[0]) - 127) as f32;
    for (j, byte) in block[1..].iter().enumerate() {
        out[j] = E2M1.decode(byte & 15) * scale;
        out[j + 16] = E2M1.decode(byte >> 4) * scale;
    }
}

/// Four scales of E4M3 without a sign, then 16 codes of each: the first 8 in the low halves of 8 bytes.
pub(super) fn nvfp4(block: &[u8], out: &mut [f32]) {
    for (i, value) in out.iter_mut().enumerate() {
        let (run, at) = (i / 16, i % 16);
        let byte = block[4 + 8 * run + at % 8];
        let code = if at < 8 { byte & 15 } else { byte >> 4 };
        *value = (f64::from(E2M1.decode(code)) * e4m3(block[run])) as f32;
    }
}

/// The value of a scale: 0 and the one that is no number count as nothing.
fn e4m3(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    match (byte, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * 2.0_f64.powi(-9),
        _ => (8.0 + mantissa) * 2.0_f64.powi(exponent - 10),
    }
}

/// What divides the scales of a layer, where one number does.
pub(super) fn divisor(encoding: &Encoding) -> Option<f32> {
    match encoding {
        Encoding::Sparse(sparse) => divisor(sparse.inner()),
        Encoding::Float(float) => float.layout().has_global().then(|| float.global()),
        _ => None,
    }
}

/// What a layer stands for in GGUF, and what multiplies its weights there: NVFP4 is multiplied by the inverse of what divides
/// its scales, and rounded once.
pub(super) fn held(encoding: Encoding) -> (Encoding, Option<f32>) {
    match encoding {
        Encoding::Sparse(sparse) if divisor(sparse.inner()).is_some() => held(sparse.into_inner()),
        Encoding::Float(float) if float.layout().has_global() => {
            let (codes, scales) = (float.codes().to_vec(), float.scales().to_vec());
            let data = FloatData { codes, scales, global: 1.0 };
            let by = 1.0 / float.global();
            (Encoding::Float(Float::new(float.shape(), *float.layout(), data)), Some(by))
        }
        other => (other, None),
    }
}
