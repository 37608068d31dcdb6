//! Rotary positions (Su et al. 2021, `RoFormer`): frequencies with every scaling in use, and the rotation.
//!
//! Values i and i + d/2 of a head of d rotated values turn by the angle position · fᵢ, fᵢ = base^(−2i/d).

use ndarray::ArrayViewMut2;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::network::settings::Settings;

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

    /// Cosines and sines of every position of a sequence, for [`Turns::apply`].
    pub(super) fn turns(&self, first: usize, tokens: usize) -> Turns {
        let long = self.long.as_ref().filter(|(original, _)| first + tokens > *original);
        let frequencies = long.map_or(&self.frequencies, |(_, frequencies)| frequencies);
        let angles = (first..first + tokens)
            .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let turn = |angle: f64| {
            let (sin, cos) = angle.sin_cos();
            [(cos * self.factor) as f32, (sin * self.factor) as f32]
        };
        Turns { pairs: frequencies.len(), turns: angles.map(turn).collect() }
    }
}

/// The rotation of each position of a sequence.
pub(super) struct Turns {
    pairs: usize,
    turns: Vec<[f32; 2]>,
}

impl Turns {
    /// Turns every head of every token of `x` `[tokens, heads · head_dim]`.
    pub(super) fn apply(&self, x: &mut ArrayViewMut2<'_, f32>, head_dim: usize) {
        for (token, mut row) in x.rows_mut().into_iter().enumerate() {
            let turns = &self.turns[token * self.pairs..(token + 1) * self.pairs];
            let Some(row) = row.as_slice_mut() else { continue };
            for head in row.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * self.pairs].split_at_mut(self.pairs);
                for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
