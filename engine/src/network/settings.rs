//! Typed access to config.json, with the defaults each architecture has, and errors that name the key.

use serde_json::Value;

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::numeric::activation::Activation;

/// The largest extent that is believed: beyond it a config.json is damaged.
const MAX_EXTENT: u64 = 1 << 28;
/// The largest number of blocks or experts that is believed.
const MAX_COUNT: u64 = 1 << 14;

/// What config.json says of the text model.
pub(super) struct Settings<'a> {
    config: &'a Config,
    value: &'a Value,
}

impl<'a> Settings<'a> {
    /// The settings of the text model, also where it is nested under `text_config`.
    pub(super) fn of(config: &'a Config) -> Self {
        let value = config.value();
        Self { config, value: value.get("text_config").filter(|v| v.is_object()).unwrap_or(value) }
    }

    /// `model_type` of the text model.
    pub(super) fn model_type(&self) -> Result<&'a str> {
        self.text("model_type").ok_or_else(|| self.bad("it does not say its model_type"))
    }

    /// An error that names the file.
    pub(super) fn bad(&self, what: impl Into<String>) -> Error {
        Error::malformed("config.json", &self.config.file().path, what)
            .mended_by("take config.json from the model these weights belong to")
    }

    /// The value of `key`; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// A positive number of values.
    pub(super) fn extent(&self, key: &str) -> Result<usize> {
        self.maybe_extent(key)?.ok_or_else(|| self.bad(format!("it has no {key}")))
    }

    pub(super) fn extent_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.maybe_extent(key)?.unwrap_or(default))
    }

    pub(super) fn maybe_extent(&self, key: &str) -> Result<Option<usize>> {
        self.number(key, 1..=MAX_EXTENT)
    }

    /// A number of blocks or experts.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        let found = self.number(key, 1..=MAX_COUNT)?;
        found.ok_or_else(|| self.bad(format!("it has no {key}")))
    }

    /// The number of the first blocks of which something holds, perhaps none.
    pub(super) fn first_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.number(key, 0..=MAX_COUNT)?.unwrap_or(default))
    }

    fn number(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|number| range.contains(number));
        let bad = || {
            let (low, high) = (range.start(), range.end());
            self.bad(format!("its {key} is {value}, not a whole number from {low} to {high}"))
        };
        Ok(Some(number.ok_or_else(bad)? as usize))
    }

    pub(super) fn real_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.maybe_real(key)?.unwrap_or(default))
    }

    pub(super) fn maybe_real(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let bad = || self.bad(format!("its {key} is {value}, not a number"));
        Ok(Some(value.as_f64().filter(|number| number.is_finite()).ok_or_else(bad)?))
    }

    pub(super) fn flag_or(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// The activation named by the first of `keys` that is there.
    pub(super) fn activation(&self, keys: &[&str], default: Activation) -> Result<Activation> {
        let Some((key, name)) = keys.iter().find_map(|key| Some((key, self.text(key)?))) else {
            return Ok(default);
        };
        Activation::from_name(name).ok_or_else(|| Error::Unsupported {
            what: format!("running a network whose {key} is {name:?}"),
        })
    }

    /// `layer_types[layer]`, as `sliding_attention`.
    pub(super) fn layer_type(&self, layer: usize) -> Option<&'a str> {
        self.get("layer_types")?.get(layer)?.as_str()
    }

    /// Whether the embedding serves as the head.
    pub(super) fn is_tied(&self, default: bool) -> bool {
        self.config.ties_embeddings().unwrap_or(default)
    }
}
