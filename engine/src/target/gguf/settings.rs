//! What config.json says, in numbers, and the pairs of a GGUF file that say the same.

use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::format::gguf_writer::{NewValue, Pairs};
use crate::target::gguf::rope::{ORIGINAL, Rope};

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
        Ok(Rope {
            table,
            base,
            context: self.maybe("max_position_embeddings")?,
            original: self.maybe(ORIGINAL)?,
        })
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
