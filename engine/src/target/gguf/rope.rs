//! Rotary positions as llama.cpp is told of them: keys, and tensors of what frequencies are divided by.

use serde_json::Value;

use crate::error::Result;
use crate::target::gguf::settings::{Keys, refused};

/// The key of the tokens a model was first trained on.
pub(super) const ORIGINAL: &str = "original_max_position_embeddings";

/// Tensors that the source has not: names and values.
pub(super) type Extras = Vec<(&'static str, Vec<f32>)>;

/// Rotary positions: fᵢ = base^(−2i/d), and how they are scaled.
pub(super) struct Rope<'a> {
    pub(super) table: Option<&'a Value>,
    pub(super) base: f64,
    /// Tokens the model takes, and those it was first trained on, where the table does not say.
    pub(super) context: Option<u32>,
    pub(super) original: Option<u32>,
}

impl Rope<'_> {
    pub(super) fn kind(&self) -> &str {
        let name = |key: &str| self.table?.get(key)?.as_str();
        name("rope_type").or_else(|| name("type")).unwrap_or("default")
    }

    fn real(&self, key: &str) -> Option<f64> {
        self.table?.get(key)?.as_f64()
    }

    fn needed(&self, key: &str) -> Result<f64> {
        let found = self.real(key).filter(|value| *value > 0.0 && value.is_finite());
        found.ok_or_else(|| refused(format!("its rotary scaling {} has no {key}", self.kind())))
    }

    fn factor(&self) -> Result<f64> {
        self.needed("factor")
    }

    /// What each frequency of heads of `dims` values is divided by after the rule of Llama 3.1: slow ones by the
    /// factor, fast ones by 1, those between by a blend.
    pub(super) fn llama_3(&self, dims: u32) -> Result<Vec<f32>> {
        let factor = self.factor()?;
        let original = self.needed(ORIGINAL)?;
        let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
        let divisor = |i: u32| {
            let frequency = self.base.powf(-2.0 * f64::from(i) / f64::from(dims));
            let turns = original * frequency / std::f64::consts::TAU;
            let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - share) / factor + share)) as f32
        };
        Ok((0..dims / 2).map(divisor).collect())
    }

    /// Tokens the model was first trained on.
    fn original(&self) -> f64 {
        let said = self.real(ORIGINAL).or_else(|| self.original.map(f64::from));
        said.unwrap_or_else(|| f64::from(self.context.unwrap_or(2048)))
    }

    /// Keys of `YaRN` (Peng et al. 2023). llama.cpp computes the temperature 0.1·ln(factor) + 1 itself, and multiplies it
    /// by `attn_factor`, so that is what config.json asks beside it.
    fn yarn(&self, keys: &mut Keys) -> Result<()> {
        let factor = self.factor()?;
        if self.table.and_then(|table| table.get("truncate")?.as_bool()) == Some(false) {
            return Err(refused("its yarn does not truncate, and llama.cpp's does"));
        }
        keys.text("rope.scaling.type", "yarn");
        keys.real("rope.scaling.factor", factor);
        keys.number("rope.scaling.original_context_length", self.original().round() as u32);
        for (key, known) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            if let Some(turns) = self.real(known) {
                keys.real(&format!("rope.scaling.{key}"), turns);
            }
        }
        let temperature = |scale: f64| 1.0 + 0.1 * scale * factor.max(1.0).ln();
        let scales = [self.real("mscale"), self.real("mscale_all_dim")];
        let asked = match (self.real("attention_factor"), scales) {
            (Some(asked), _) => asked,
            (None, [Some(scale), Some(all)]) if scale != 0.0 && all != 0.0 => {
                temperature(scale) / temperature(all)
            }
            _ => temperature(1.0),
        };
        if (asked / temperature(1.0) - 1.0).abs() > 1e-9 {
            keys.real("rope.scaling.attn_factor", asked / temperature(1.0));
        }
        Ok(())
    }

    /// `LongRoPE` (Ding et al. 2024): keys, and the divisors of frequencies of heads of `dims` values, for contexts beyond
    /// the original one and within it.
    pub(super) fn long(&self, dims: u32, keys: &mut Keys) -> Result<Extras> {
        let divisors = |key: &str| {
            let found = self.table.and_then(|table| table.get(key)?.as_array());
            let found = found.and_then(|all| {
                all.iter().map(|one| Some(one.as_f64()? as f32)).collect::<Option<Vec<f32>>>()
            });
            let is_whole = |found: &Vec<f32>| {
                found.len() == dims as usize / 2 && found.iter().all(|one| *one > 0.0)
            };
            found
                .filter(is_whole)
                .ok_or_else(|| refused(format!("its rotary scaling needs {} of {key}", dims / 2)))
        };
        let original = self.original();
        let stretch = self.real("factor");
        let stretch = stretch.unwrap_or_else(|| self.context.map_or(1.0, f64::from) / original);
        let computed =
            if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() };
        keys.real("rope.scaling.attn_factor", self.real("attention_factor").unwrap_or(computed));
        Ok(vec![
            ("rope_factors_long.weight", divisors("long_factor")?),
            ("rope_factors_short.weight", divisors("short_factor")?),
        ])
    }

    /// Keys of positions that are plain, or scaled by a rule that llama.cpp has for every architecture.
    pub(super) fn scaled(&self, keys: &mut Keys) -> Result<()> {
        self.only(&["default", "linear", "yarn"])?;
        keys.real("rope.freq_base", self.base);
        match self.kind() {
            "linear" => {
                keys.text("rope.scaling.type", "linear");
                keys.real("rope.scaling.factor", self.factor()?);
                Ok(())
            }
            "yarn" => self.yarn(keys),
            _ => Ok(()),
        }
    }

    /// Keys of the tokens the model was first trained on.
    pub(super) fn original_context(&self, keys: &mut Keys) {
        keys.number("rope.scaling.original_context_length", self.original().round() as u32);
    }

    /// Refuses heads of which a part does not turn.
    pub(super) fn whole(&self) -> Result<()> {
        let share = self.real("partial_rotary_factor");
        match share.filter(|share| *share < 1.0) {
            Some(share) => Err(refused(format!("its partial_rotary_factor is {share}"))),
            None => Ok(()),
        }
    }

    /// Refuses any scaling but those named.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        let kind = self.kind();
        if known.contains(&kind) {
            return Ok(());
        }
        Err(refused(format!("its rotary scaling is {kind}, which is not written yet")))
    }
}
