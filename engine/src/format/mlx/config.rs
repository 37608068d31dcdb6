//! MLX's `quantization` in config.json: settings for all quantised modules, and entries by module with others, or false.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::format::mlx::{Form, Mode};

/// The module under its name in MLX, which keeps the experts of a block in one, and names blocks of GPT-NeoX as GPT-2's.
pub fn module_name(module: &str) -> Cow<'_, str> {
    if let Some(inner) = module.strip_prefix("gpt_neox.") {
        let inner = inner.strip_prefix("layers.").map_or(inner.into(), |of| format!("h.{of}"));
        return format!("model.{inner}").into();
    }
    if module == "embed_out" {
        return "model.embed_out".into();
    }
    let Some((before, rest)) = module.split_once(".experts.") else {
        return module.into();
    };
    let Some((number, tail)) = rest.split_once('.') else {
        return module.into();
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return module.into();
    }
    let tail = match tail {
        "w1" => "gate_proj",
        "w2" => "down_proj",
        "w3" => "up_proj",
        other => other,
    };
    format!("{before}.switch_mlp.{tail}").into()
}

/// The `quantization` of a checkpoint whose modules have these forms, or are kept; `None` if all are kept. The commonest
/// form is said once, others by module.
pub fn quantization(modules: &[(&str, Option<Form>)]) -> Option<Value> {
    let mut counts: BTreeMap<Form, usize> = BTreeMap::new();
    for (_, form) in modules {
        if let Some(form) = form {
            *counts.entry(*form).or_default() += 1;
        }
    }
    let (&base, _) = counts.iter().max_by_key(|(_, count)| **count)?;
    let mut all = settings(base);
    all.insert("mode".to_owned(), json!(base.mode.name()));
    for (module, form) in modules {
        let same = |form: &Form| settings(*form) == settings(base);
        let entry = match form {
            Some(form) if same(form) => continue,
            Some(form) => Value::Object(settings(*form)),
            None => json!(false),
        };
        all.insert(module_name(module).into_owned(), entry);
    }
    Some(all.into())
}

/// Group size and bits, and the mode where it is not the one that is meant when none is said.
fn settings(form: Form) -> Map<String, Value> {
    let mut settings = Map::new();
    settings.insert("group_size".to_owned(), json!(form.group_size));
    settings.insert("bits".to_owned(), json!(form.bits));
    if form.mode != Mode::Affine {
        settings.insert("mode".to_owned(), json!(form.mode.name()));
    }
    settings
}

/// A `quantization` as far as it tells how weights are stored.
#[derive(Clone, Debug)]
pub struct Config {
    all: Settings,
    modules: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct Settings {
    group_size: Option<usize>,
    bits: Option<u32>,
    mode: Option<String>,
}

impl Config {
    /// Reads the `quantization` of a config.json.
    ///
    /// # Errors
    /// What is not understood, as half a sentence.
    pub fn read(value: &Value) -> Result<Self, String> {
        let all = Settings::deserialize(value)
            .map_err(|error| format!("its quantization is not understood ({error})"))?;
        let modules = value.as_object().cloned().unwrap_or_default();
        Ok(Self { all, modules })
    }

    /// Mode, bits and group size of the module called `module`, which has scales.
    ///
    /// # Errors
    /// Why that cannot be told, or is of another kind, as half a sentence.
    pub fn stated(&self, module: &str) -> Result<(Mode, u32, usize), String> {
        let own = [module, &module_name(module)].iter().find_map(|name| self.modules.get(*name));
        let settings = match own {
            Some(Value::Bool(false)) => {
                return Err("its config.json says it is not quantised".to_owned());
            }
            Some(value @ Value::Object(_)) => Settings::deserialize(value)
                .map_err(|error| format!("its entry in config.json is not understood ({error})"))?,
            _ => self.all.clone(),
        };
        let mode = match settings.mode.as_deref() {
            None | Some("affine") => Mode::Affine,
            Some("mxfp4") => Mode::Mxfp4,
            Some("mxfp8") => Mode::Mxfp8,
            Some(other) => return Err(format!("its mode is {other}")),
        };
        let (bits, size) = match mode {
            Mode::Affine => (settings.bits.unwrap_or(4), settings.group_size.unwrap_or(64)),
            Mode::Mxfp4 => (settings.bits.unwrap_or(4), settings.group_size.unwrap_or(32)),
            Mode::Mxfp8 => (settings.bits.unwrap_or(8), settings.group_size.unwrap_or(32)),
        };
        let known: &[u32] = match mode {
            Mode::Affine => &[2, 3, 4, 5, 6, 8],
            Mode::Mxfp4 => &[4],
            Mode::Mxfp8 => &[8],
        };
        if !known.contains(&bits) || !(1..=1 << 20).contains(&size) {
            return Err(format!("it has groups of {size} codes of {bits} bits ({})", mode.name()));
        }
        Ok((mode, bits, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn form(mode: Mode, bits: u32, group_size: usize) -> Form {
        Form { mode, bits, group_size, scale_dtype: DType::BF16 }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let four = form(Mode::Affine, 4, 64);
        let modules = [
            ("model.embed_tokens", None),
            ("model.layers.0.q", Some(four)),
            ("model.layers.0.k", Some(four)),
            ("model.layers.0.v", Some(form(Mode::Affine, 6, 32))),
            ("model.layers.0.moe.experts.3.w2", Some(form(Mode::Mxfp4, 4, 32))),
        ];
        let value = quantization(&modules).unwrap();
        assert_eq!(
            value,
            json!({
                "group_size": 64, "bits": 4, "mode": "affine", "model.embed_tokens": false,
                "model.layers.0.v": {"group_size": 32, "bits": 6},
                "model.layers.0.moe.switch_mlp.down_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
            })
        );
        let config = Config::read(&value).unwrap();
        for (module, form) in modules {
            let wanted = form.map(|form| (form.mode, form.bits, form.group_size));
            assert_eq!(config.stated(module).ok(), wanted, "{module}");
        }
        assert_eq!(quantization(&modules[..1]), None);
        // An entry of its own has no mode but the usual one, as mlx passes it on alone.
        let value = json!({"bits": 4, "group_size": 32, "mode": "mxfp4", "a": {"bits": 5}});
        let config = Config::read(&value).unwrap();
        assert_eq!(config.stated("b"), Ok((Mode::Mxfp4, 4, 32)));
        assert_eq!(config.stated("a"), Ok((Mode::Affine, 5, 64)));
    }

    #[test]
    fn modules_have_the_names_that_mlx_gives_them() {
        for (module, name) in [
            ("gpt_neox.layers.3.mlp.dense_h_to_4h", "model.h.3.mlp.dense_h_to_4h"),
            ("gpt_neox.embed_in", "model.embed_in"),
            ("embed_out", "model.embed_out"),
            ("model.layers.0.mlp.experts.12.up_proj", "model.layers.0.mlp.switch_mlp.up_proj"),
            (
                "model.layers.0.mlp.shared_expert.up_proj",
                "model.layers.0.mlp.shared_expert.up_proj",
            ),
        ] {
            assert_eq!(module_name(module), name);
        }
    }

    #[test]
    fn what_mlx_has_not_is_named() {
        let stated = |value: Value| Config::read(&value)?.stated("a");
        assert_eq!(stated(json!({"bits": 4, "mode": "nvfp4"})), Err("its mode is nvfp4".into()));
        for value in [
            json!({"bits": 7}),
            json!({"bits": 4, "group_size": 0}),
            json!({"bits": 4, "a": {"bits": "many"}}),
            json!({"bits": 8, "mode": "mxfp4"}),
            json!({"bits": -4}),
            json!({"bits": 4, "a": false}),
        ] {
            assert!(stated(value.clone()).is_err(), "{value}");
        }
    }
}
