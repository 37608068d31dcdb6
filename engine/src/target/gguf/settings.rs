//! What config.json says, in numbers, and the pairs of a GGUF file that say the same.

use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::format::gguf_writer::{NewValue, Pairs};

/// What to do about a model that cannot be written.
pub(super) const MEND: &str =
    "convert this model with llama.cpp's own convert_hf_to_gguf.py, or choose another target";

/// Why a model cannot be written.
pub(super) fn refused(what: impl std::fmt::Display) -> Error {
    Error::plan(format!("this model cannot be written as GGUF: {what}"), MEND)
}

/// The settings of the text model.
pub(super) struct Settings<'a> {
    value: &'a Value,
    top: &'a Value,
}

impl<'a> Settings<'a> {
    /// # Errors
    /// [`Error::Plan`] without a config.json.
    pub(super) fn of(checkpoint: &'a Checkpoint) -> Result<Self> {
        let config = checkpoint.config().ok_or_else(|| {
            Error::plan(
                "the checkpoint has no config.json, and a GGUF file says how the model is run",
                "open the model's folder instead of a lone file, or choose the dense target",
            )
        })?;
        let top = config.value();
        Ok(Self { top, value: top.get("text_config").filter(|v| v.is_object()).unwrap_or(top) })
    }

    /// The value of `key`; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// Whether the embedding serves as the head.
    pub(super) fn is_tied(&self, default: bool) -> bool {
        let found = self.top.get("tie_word_embeddings").or_else(|| self.get("tie_word_embeddings"));
        found.and_then(Value::as_bool).unwrap_or(default)
    }

    /// A positive number of values; `None` where nothing is said.
    pub(super) fn maybe(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let bad = || refused(format!("its {key} in config.json is {value}"));
        number.filter(|&number| number > 0).map(Some).ok_or_else(bad)
    }

    /// A positive number of values.
    pub(super) fn number(&self, key: &str) -> Result<u32> {
        self.maybe(key)?.ok_or_else(|| refused(format!("its config.json has no {key}")))
    }

    pub(super) fn real(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let bad = || refused(format!("its {key} in config.json is {value}"));
        value.as_f64().filter(|number| number.is_finite()).map(Some).ok_or_else(bad)
    }

    /// Refuses settings that llama.cpp has no word for: `(key, the value it takes for granted)`.
    pub(super) fn only(&self, granted: &[(&str, Value)]) -> Result<()> {
        for (key, wanted) in granted {
            if let Some(found) = self.get(key).filter(|found| *found != wanted) {
                return Err(refused(format!("its {key} is {found}, and llama.cpp runs {wanted}")));
            }
        }
        Ok(())
    }

    /// Refuses another activation than those named, of which the first is the one where nothing is said.
    pub(super) fn activation(&self, key: &str, known: &[&str]) -> Result<()> {
        match self.text(key) {
            Some(found) if !known.contains(&found) => Err(refused(format!(
                "its activation is {found}, and llama.cpp runs {}",
                known.join(" or ")
            ))),
            _ => Ok(()),
        }
    }

    /// What it says of rotary positions, whichever way it says it.
    pub(super) fn rope(&self, layer_type: Option<&str>, default_base: f64) -> Result<Rope<'a>> {
        let parameters = self.get("rope_parameters");
        let nested = layer_type.and_then(|layer_type| parameters?.get(layer_type));
        let table = nested.or(parameters).or_else(|| self.get("rope_scaling"));
        let of_table = table.and_then(|table| table.get("rope_theta")).and_then(Value::as_f64);
        let base = match of_table {
            Some(base) => base,
            None => self.real("rope_theta")?.unwrap_or(default_base),
        };
        Ok(Rope { table, base })
    }
}

/// Rotary positions: fᵢ = base^(−2i/d), and how they are scaled.
pub(super) struct Rope<'a> {
    table: Option<&'a Value>,
    pub(super) base: f64,
}

impl Rope<'_> {
    pub(super) fn kind(&self) -> &str {
        let name = |key: &str| self.table?.get(key)?.as_str();
        name("rope_type").or_else(|| name("type")).unwrap_or("default")
    }

    fn needed(&self, key: &str) -> Result<f64> {
        let found = self.table.and_then(|table| table.get(key)?.as_f64());
        let found = found.filter(|value| *value > 0.0 && value.is_finite());
        found.ok_or_else(|| refused(format!("its rotary scaling {} has no {key}", self.kind())))
    }

    pub(super) fn factor(&self) -> Result<f64> {
        self.needed("factor")
    }

    /// What each frequency of heads of `dims` values is divided by after the rule of Llama 3.1: slow ones by the
    /// factor, fast ones by 1, those between by a blend.
    pub(super) fn llama_3(&self, dims: u32) -> Result<Vec<f32>> {
        let factor = self.factor()?;
        let original = self.needed("original_max_position_embeddings")?;
        let (low, high) = (self.needed("low_freq_factor")?, self.needed("high_freq_factor")?);
        let divisor = |i: u32| {
            let frequency = self.base.powf(-2.0 * f64::from(i) / f64::from(dims));
            let turns = original * frequency / std::f64::consts::TAU;
            let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - share) / factor + share)) as f32
        };
        Ok((0..dims / 2).map(divisor).collect())
    }

    /// Refuses heads of which a part does not turn.
    pub(super) fn whole(&self) -> Result<()> {
        let share = self.table.and_then(|table| table.get("partial_rotary_factor")?.as_f64());
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

/// Pairs of an architecture.
pub(super) struct Keys {
    pub(super) pairs: Pairs,
    architecture: &'static str,
}

impl Keys {
    pub(super) fn new(architecture: &'static str) -> Self {
        Self { pairs: Pairs::default(), architecture }
    }

    pub(super) fn number(&mut self, key: &str, value: u32) {
        self.pairs.push(&format!("{}.{key}", self.architecture), &NewValue::U32(value));
    }

    pub(super) fn real(&mut self, key: &str, value: f64) {
        self.pairs.push(&format!("{}.{key}", self.architecture), &NewValue::F32(value as f32));
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        let value = NewValue::Text(value.to_owned());
        self.pairs.push(&format!("{}.{key}", self.architecture), &value);
    }
}
