//! The norms of a checkpoint whose outputs nothing but linear layers read, and the arithmetic of dividing one.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::fold::{Divides, Producer};
use crate::method::Takes;
use crate::network::design::{Design, NormKind, Read};
use crate::network::tensor_of;
use crate::tensor::{DType, is_exact_in, round_f32};

/// How far the divisor of a weight may be from that of its bias.
const ALIKE: f32 = 1e-6;

/// A norm whose outputs are divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Index of its weight w.
    pub weight: usize,
    /// Index of its bias b, which is added behind the weight.
    pub bias: Option<usize>,
    /// What is added to each weight: 1 in the Gemma family.
    pub shift: f32,
    /// Element type of weight and bias.
    pub dtype: DType,
}

/// What a norm becomes when its outputs are divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Divided {
    /// Its weight, as it is stored.
    pub weight: Vec<f32>,
    /// Its bias, as it is stored; empty without one.
    pub bias: Vec<f32>,
    /// By what each output was divided, as stored weight and bias say.
    pub by: Vec<f32>,
}

/// A norm and all layers that read it; `None` where a tensor is missing.
pub(super) fn producer(
    checkpoint: &Checkpoint,
    design: &Design,
    read: &Read<'_>,
) -> Option<Producer> {
    let index = |name: &str| tensor_of(design, checkpoint, name);
    let weight = index(&read.norm.weight)?;
    let bias = match &read.norm.kind {
        NormKind::Layer { bias: Some(bias) } => Some(index(bias)?),
        _ => None,
    };
    let shift = match read.norm.kind {
        NormKind::Rms { shift } => shift,
        NormKind::Layer { .. } => 0.0,
    };
    let norm = Norm { weight, bias, shift, dtype: checkpoint.tensors()[weight].dtype };
    let layers: Option<Vec<usize>> = read.layers.iter().map(|layer| index(&layer.weight)).collect();
    let layers = layers?;
    let why_not = why_not(checkpoint, read, (&norm, &layers));
    Some(Producer { divides: Divides::Norm(norm), layers, why_not })
}

/// Why a norm takes no scales.
fn why_not(
    checkpoint: &Checkpoint,
    read: &Read<'_>,
    (norm, layers): (&Norm, &[usize]),
) -> Option<String> {
    let tensor = |index: usize| &checkpoint.tensors()[index];
    let is_plain = |tensor: &Tensor| {
        let is_float = matches!(tensor.dtype, DType::F16 | DType::BF16 | DType::F32);
        is_float && tensor.dtype == norm.dtype && tensor.parameters() == read.norm.width as u64
    };
    let reads_all = |&layer: &usize| {
        tensor(layer).matrix.is_some_and(|matrix| matrix.shape.cols == read.norm.width)
    };
    if read.has_router {
        return Some("a router that stays as it is reads the same norm".to_owned());
    }
    if checkpoint.tied().is_some_and(|tied| layers.contains(&tied.embedding)) {
        return Some("the embedding that is tied to them takes no scales".to_owned());
    }
    let is_whole = is_plain(tensor(norm.weight))
        && norm.bias.is_none_or(|bias| is_plain(tensor(bias)))
        && layers.iter().all(reads_all);
    (!is_whole).then(|| "the norm before them is no vector of 16 or 32 bits".to_owned())
}

impl Norm {
    /// The norm with output j divided by `wanted[j]`, as near as its element type comes.
    ///
    /// What is stored is w′ = round((shift + w)/s − shift), and the divisor that counts is (shift + w)/(shift + w′): with
    /// the layers multiplied by that, nothing changes but by the rounding of f32. With a bias both must be divided by
    /// the same, so there, unless it is stored in 32 bits, s is a power of two, which costs no rounding. Where a stored
    /// value would vanish or not be finite, the output stays as it is.
    pub fn divided(&self, weight: &[f32], bias: &[f32], wanted: &[f32]) -> Divided {
        let by_twos = self.bias.is_some() && self.dtype != DType::F32;
        let mut divided =
            Divided { weight: weight.to_vec(), bias: bias.to_vec(), by: vec![1.0; weight.len()] };
        for (j, (&w, &wanted)) in weight.iter().zip(wanted).enumerate() {
            let s = if by_twos { wanted.log2().round().exp2() } else { wanted };
            let new = round_f32(self.dtype, (self.shift + w) / s - self.shift);
            let by = self.by(w, new);
            let is_sound = by.is_finite() && by > 0.0 && (self.shift + new).is_normal();
            let b = bias.get(j).map(|&b| round_f32(self.dtype, b / s));
            let is_exact = b.is_none_or(|b| {
                let exact = f64::from(bias[j]) / f64::from(s);
                let is_kept = !by_twos || is_exact_in(self.dtype, exact);
                b.is_finite() && is_kept && (by / s - 1.0).abs() <= ALIKE
            });
            if !(is_sound && is_exact) {
                continue;
            }
            (divided.weight[j], divided.by[j]) = (new, by);
            if let Some(b) = b {
                divided.bias[j] = b;
            }
        }
        divided
    }

    /// By what the outputs were divided when its weight went from `before` to `after`.
    pub fn divisors(&self, before: &[f32], after: &[f32]) -> Vec<f32> {
        before.iter().zip(after).map(|(&before, &after)| self.by(before, after)).collect()
    }

    fn by(&self, before: f32, after: f32) -> f32 {
        if before.to_bits() == after.to_bits() {
            return 1.0;
        }
        (f64::from(self.shift + before) / f64::from(self.shift + after)) as f32
    }
}

/// A norm that takes scales, with its values.
#[derive(Clone, Copy, Debug)]
pub struct ByNorm<'a> {
    /// The norm.
    pub norm: &'a Norm,
    /// Its weight.
    pub weight: &'a [f32],
    /// Its bias, empty without one.
    pub bias: &'a [f32],
}

impl Takes for ByNorm<'_> {
    fn stored(&self, wanted: &[f32]) -> Vec<f32> {
        self.norm.divided(self.weight, self.bias, wanted).by
    }
}
