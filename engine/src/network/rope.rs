//! Rotary positions (Su et al. 2021, `RoFormer`): frequencies with every scaling in use, and the rotation.
//!
//! Values i and i + d/2 of a head of d rotated values turn by the angle position · fᵢ, fᵢ = base^(−2i/d).

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::network::settings::Settings;

/// Tokens that one task turns, at least.
const MIN_ROWS: usize = 32;

/// How heads turn with position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// fᵢ, one for each pair of values.
    frequencies: Vec<f64>,
    /// Other frequencies, for sequences of more than so many tokens.
    long: Option<(usize, Vec<f64>)>,
    /// What sine and cosine are multiplied by.
    factor: f64,
}

/// What a config says of rotary positions, whichever way it says it.
pub(super) struct RopeSettings<'a> {
    settings: &'a Settings<'a>,
    table: Option<&'a Value>,
    /// base of the frequencies.
    base: f64,
}

impl<'a> RopeSettings<'a> {
    /// The settings for `layer_type` (as `full_attention`), or of the whole model: transformers 5 writes
    /// `rope_parameters`, those before it `rope_theta` and `rope_scaling`.
    pub(super) fn of(
        settings: &'a Settings<'a>,
        layer_type: Option<&str>,
        default_base: f64,
    ) -> Result<Self> {
        let parameters = settings.get("rope_parameters");
        let nested = layer_type.and_then(|layer_type| parameters?.get(layer_type));
        let table = nested.or(parameters).or_else(|| settings.get("rope_scaling"));
        let of_table = table.and_then(|table| table.get("rope_theta")).and_then(Value::as_f64);
        let base = match of_table {
            Some(base) => base,
            None => settings.real_or("rope_theta", default_base)?,
        };
        Self { settings, table, base }.checked()
    }

    /// Unscaled frequencies of `base`.
    pub(super) fn plain(settings: &'a Settings<'a>, base: f64) -> Result<Self> {
        Self { settings, table: None, base }.checked()
    }

    fn checked(self) -> Result<Self> {
        if self.base > 0.0 && self.base.is_finite() {
            return Ok(self);
        }
        Err(self.settings.bad(format!("its rope_theta is {}", self.base)))
    }

    /// The share of a head that is rotated.
    pub(super) fn partial(&self, default: f64) -> Result<f64> {
        let here = self.table.and_then(|table| table.get("partial_rotary_factor"));
        match here.and_then(Value::as_f64) {
            Some(share) => Ok(share),
            None => self.settings.real_or("partial_rotary_factor", default),
        }
    }

    fn kind(&self) -> &'a str {
        let name = |key| self.table?.get(key)?.as_str();
        name("rope_type").or_else(|| name("type")).unwrap_or("default")
    }

    fn real(&self, key: &str) -> Option<f64> {
        self.table?.get(key)?.as_f64()
    }

    fn needed(&self, key: &str) -> Result<f64> {
        let found = self.real(key).filter(|value| *value > 0.0 && value.is_finite());
        found.ok_or_else(|| {
            self.settings.bad(format!("its rotary scaling {:?} has no {key}", self.kind()))
        })
    }

    /// Tokens the model was first trained on.
    fn original(&self, context: usize) -> f64 {
        let key = "original_max_position_embeddings";
        let top = || self.settings.get(key)?.as_f64();
        self.real(key).or_else(top).unwrap_or(context as f64)
    }

    /// The rotation of heads of which `dims` values turn, in a model of `context` tokens.
    pub(super) fn rope(&self, dims: usize, context: usize) -> Result<Rope> {
        if dims == 0 {
            return Err(self.settings.bad("none of the values of a head rotates"));
        }
        let plain = frequencies(dims, self.base);
        let simple = |frequencies| Rope { frequencies, long: None, factor: 1.0 };
        match self.kind() {
            "default" => Ok(simple(plain)),
            "linear" => {
                let factor = self.needed("factor")?;
                Ok(simple(plain.iter().map(|f| f / factor).collect()))
            }
            "llama3" => self.llama3(&plain, context).map(simple),
            "yarn" => self.yarn(dims, context),
            "longrope" | "su" => self.long(dims, context),
            other => Err(Error::Unsupported {
                what: format!("running a network with rotary scaling {other:?}"),
            }),
        }
    }

    /// Llama 3.1: slow frequencies are divided by the factor, fast ones kept, those between blended.
    fn llama3(&self, plain: &[f64], context: usize) -> Result<Vec<f64>> {
        let (factor, original) = (self.needed("factor")?, self.original(context));
        let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
        let scaled = |&f: &f64| {
            let turns = original * f / std::f64::consts::TAU;
            let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - share) * f / factor + share * f
        };
        Ok(plain.iter().map(scaled).collect())
    }

    /// `YaRN` (Peng et al. 2023): as above with a ramp over the index, and a temperature.
    fn yarn(&self, dims: usize, context: usize) -> Result<Rope> {
        let (factor, original) = (self.needed("factor")?, self.original(context));
        let index = |turns: f64| {
            dims as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.base.ln())
        };
        let fast = index(self.real("beta_fast").unwrap_or(32.0));
        let slow = index(self.real("beta_slow").unwrap_or(1.0));
        let truncates =
            self.table.and_then(|table| table.get("truncate")?.as_bool()).unwrap_or(true);
        let (low, high) = if truncates { (fast.floor(), slow.ceil()) } else { (fast, slow) };
        let (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
        let width = if (high - low).abs() < f64::EPSILON { 0.001 } else { high - low };
        let scaled = |(i, f): (usize, f64)| {
            let share = ((i as f64 - low) / width).clamp(0.0, 1.0);
            share * f / factor + (1.0 - share) * f
        };
        let frequencies = frequencies(dims, self.base).into_iter().enumerate().map(scaled);
        let temperature = |scale: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
        };
        let scales = [self.real("mscale"), self.real("mscale_all_dim")];
        let computed = match scales {
            [Some(scale), Some(all)] if scale != 0.0 && all != 0.0 => {
                temperature(scale) / temperature(all)
            }
            _ => temperature(1.0),
        };
        let factor = self.real("attention_factor").unwrap_or(computed);
        Ok(Rope { frequencies: frequencies.collect(), long: None, factor })
    }

    /// `LongRoPE` (Ding et al. 2024): a factor for each frequency, others for long sequences.
    fn long(&self, dims: usize, context: usize) -> Result<Rope> {
        let original = self.original(context);
        let plain = frequencies(dims, self.base);
        let scaled = |key: &str| {
            let factors = self.table.and_then(|table| table.get(key)?.as_array());
            let factors: Option<Vec<f64>> =
                factors.and_then(|all| all.iter().map(Value::as_f64).collect());
            let factors = factors.filter(|factors| factors.len() == plain.len());
            let factors = factors.ok_or_else(|| {
                self.settings.bad(format!("its rotary scaling needs {} of {key}", plain.len()))
            })?;
            Ok::<_, Error>(plain.iter().zip(factors).map(|(f, factor)| f / factor).collect())
        };
        let stretch = self.real("factor").unwrap_or(context as f64 / original);
        let computed =
            if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
        Ok(Rope {
            frequencies: scaled("short_factor")?,
            long: Some((original as usize, scaled("long_factor")?)),
            factor: self.real("attention_factor").unwrap_or(computed),
        })
    }
}

/// An odd number of values is rotated as one more, as transformers does.
fn frequencies(dims: usize, base: f64) -> Vec<f64> {
    (0..dims.div_ceil(2)).map(|i| base.powf(-2.0 * i as f64 / dims as f64)).collect()
}

impl Rope {
    /// Values of a head that turn.
    pub fn dims(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Turns every head of `xs` `[tokens, heads · head_dim]`: sequences of `lengths` tokens one after another, each
    /// from position `first`.
    pub(super) fn apply(
        &self,
        places: (usize, &[usize]),
        xs: [&mut Array2<f32>; 2],
        head_dim: usize,
    ) {
        self.turn(places, xs, (head_dim, 1.0));
    }

    /// The same by the transposed rotations: from derivatives by what was turned to those by what it was before.
    pub(super) fn apply_transposed(
        &self,
        places: (usize, &[usize]),
        xs: [&mut Array2<f32>; 2],
        head_dim: usize,
    ) {
        self.turn(places, xs, (head_dim, -1.0));
    }

    fn turn(
        &self,
        (first, lengths): (usize, &[usize]),
        xs: [&mut Array2<f32>; 2],
        (head_dim, sign): (usize, f64),
    ) {
        let mut known: Option<(usize, Turns)> = None;
        let [mut a, mut b] = xs.map(|x| x.as_slice_mut().unwrap_or_default());
        let tokens: usize = lengths.iter().sum();
        let widths = [a.len() / tokens.max(1), b.len() / tokens.max(1)];
        for &length in lengths {
            let turns = match known.take() {
                Some((of, turns)) if of == length => turns,
                _ => self.turns(first, length, sign),
            };
            let (of_a, later_a) = a.split_at_mut(length * widths[0]);
            let (of_b, later_b) = b.split_at_mut(length * widths[1]);
            turns.apply(of_a, widths[0], head_dim);
            turns.apply(of_b, widths[1], head_dim);
            (a, b) = (later_a, later_b);
            known = Some((length, turns));
        }
    }

    /// Cosines and sines of every position of a sequence, of angles with a sign.
    fn turns(&self, first: usize, tokens: usize, sign: f64) -> Turns {
        let long = self.long.as_ref().filter(|(original, _)| first + tokens > *original);
        let frequencies = long.map_or(&self.frequencies, |(_, frequencies)| frequencies);
        let angles = (first..first + tokens)
            .flat_map(|position| frequencies.iter().map(move |f| sign * position as f64 * f));
        let turn = |angle: f64| {
            let (sin, cos) = angle.sin_cos();
            ((cos * self.factor) as f32, (sin * self.factor) as f32)
        };
        let (cosines, sines) = angles.map(turn).unzip();
        Turns { pairs: frequencies.len(), cosines, sines }
    }
}

/// The rotation of each position of a sequence.
struct Turns {
    pairs: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Turns {
    /// Turns every head of every token of `x`, whose rows have `width` values.
    fn apply(&self, x: &mut [f32], width: usize, head_dim: usize) {
        let rows = x.par_chunks_exact_mut(width.max(1)).enumerate().with_min_len(MIN_ROWS);
        rows.for_each(|(token, row)| {
            let here = token * self.pairs..(token + 1) * self.pairs;
            let turns = (&self.cosines[here.clone()], &self.sines[here]);
            row.chunks_exact_mut(head_dim).for_each(|head| turn(head, turns));
        });
    }
}

/// Turns the values of a head.
fn turn(head: &mut [f32], (cosines, sines): (&[f32], &[f32])) {
    let (first, second) = head[..2 * cosines.len()].split_at_mut(cosines.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
