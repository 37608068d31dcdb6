//! config.json: kept as written, with the few fields that looking needs.

use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::SideFile;
use crate::disk;
use crate::error::{Error, Result};

/// The largest config.json that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

const MEND: &str = "repair or move away config.json: the weights beside it open without one, too";

/// A model's config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    value: Value,
    file: SideFile,
    /// Whether the file says just what `value` says.
    is_as_file: bool,
}

/// Takes keys out, the others in their order; whether any was there.
fn without(object: &mut Map<String, Value>, keys: &[&str]) -> bool {
    let before = object.len();
    object.retain(|key, _| !keys.contains(&key.as_str()));
    object.len() < before
}

impl Config {
    /// # Errors
    /// [`Error::Malformed`] for what is no JSON object: weights open without a config.json, but not beside one that
    /// says nobody knows what.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::malformed("config.json", path, what).mended_by(MEND);
        let bytes = disk::read_bytes(path, MAX_CONFIG_BYTES)?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if !value.is_object() {
            return Err(bad("it is not a JSON object".to_owned()));
        }
        let file = SideFile { path: path.to_path_buf(), bytes: bytes.len() as u64 };
        Ok(Self { value, file, is_as_file: true })
    }

    /// What another file says, in the words of config.json.
    pub(super) fn said_by(value: Value, file: SideFile) -> Self {
        Self { value, file, is_as_file: false }
    }

    /// The same without a word on how weights are quantised.
    pub(super) fn unquantised(mut self) -> Self {
        const KEYS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];
        let nested = self.value.get_mut("text_config").and_then(Value::as_object_mut);
        let mut found = nested.is_some_and(|nested| without(nested, &KEYS));
        found |= self.value.as_object_mut().is_some_and(|all| without(all, &KEYS));
        self.is_as_file &= !found;
        self
    }

    /// The same file, to say something else.
    pub(super) fn changed_to(&self, value: Value) -> Self {
        let is_as_file = self.is_as_file && value == self.value;
        Self { value, file: self.file.clone(), is_as_file }
    }

    /// Whether a copy of the file says what this says.
    pub fn is_as_file(&self) -> bool {
        self.is_as_file
    }

    /// The whole document, its keys in the order of the file.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The file it was read from.
    pub fn file(&self) -> &SideFile {
        &self.file
    }

    /// `model_type`, as `llama`.
    pub fn model_type(&self) -> Option<&str> {
        self.value.get("model_type")?.as_str()
    }

    /// `tie_word_embeddings`, also where a text model is nested; `None` where nothing is said.
    pub fn ties_embeddings(&self) -> Option<bool> {
        let nested = || self.value.get("text_config")?.get("tie_word_embeddings");
        self.value.get("tie_word_embeddings").or_else(nested)?.as_bool()
    }

    /// Whether the first architecture generates text, and so has a head.
    pub fn is_causal(&self) -> bool {
        let first =
            self.value.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
        first.is_some_and(|name| name.contains("CausalLM") || name.contains("LMHead"))
    }
}
