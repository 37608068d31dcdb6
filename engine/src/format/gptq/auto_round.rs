//! `AutoRound`'s `quantization_config` for layers in the layout of GPTQ: settings for all linear layers of the blocks, and
//! in `extra_config` others by the name of a module, or by an expression that is found in it. 16 bits mean kept.
//!
//! `packing_format` says how zero points are stored: `auto_round:auto_gptq` as in v1, `auto_round` as they are. Source:
//! `get_layer_config` and `BackendInfos` of auto-round 0.16.

use regex_lite::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::format::gptq::config::{Settings, commonest, escaped};
use crate::format::gptq::{Config, Scheme, Version};

/// The `quantization_config` of a checkpoint whose linear modules have these symmetric schemes, or are kept; `None` if all
/// are kept. The commonest scheme is said once, others by name; `blocks` is what names of modules begin with that loaders
/// quantise without being told.
pub fn auto_round_config(modules: &[(String, Option<Scheme>)], blocks: &[String]) -> Option<Value> {
    let base = commonest(modules)?;
    let mut config = Map::from_iter([
        ("quant_method".to_owned(), json!("auto-round")),
        ("packing_format".to_owned(), json!("auto_round:auto_gptq")),
        ("data_type".to_owned(), json!("int")),
    ]);
    config.extend(base.settings());
    if !blocks.is_empty() {
        config.insert("block_name_to_quantize".to_owned(), json!(blocks.join(",")));
    }
    let is_in_blocks = |module: &str| {
        let begins = |block: &String| {
            module.strip_prefix(block.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        blocks.iter().any(begins)
    };
    let other = |(module, scheme): &(String, Option<Scheme>)| match scheme {
        Some(scheme) if *scheme == base && is_in_blocks(module) => None,
        Some(scheme) => Some((module.clone(), of_layer(*scheme))),
        None if is_in_blocks(module) => Some((module.clone(), json!({"bits": 16}))),
        None => None,
    };
    let extra: Map<String, Value> = modules.iter().filter_map(other).collect();
    if !extra.is_empty() {
        config.insert("extra_config".to_owned(), extra.into());
    }
    Some(config.into())
}

/// A layer's own settings.
fn of_layer(scheme: Scheme) -> Value {
    let mut settings = scheme.settings();
    settings.insert("data_type".to_owned(), json!("int"));
    settings.into()
}

#[derive(Deserialize)]
struct Raw {
    bits: u32,
    group_size: Option<i64>,
    data_type: Option<String>,
    packing_format: Option<String>,
    extra_config: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct RawLayer {
    bits: Option<u32>,
    group_size: Option<i64>,
    data_type: Option<String>,
}

/// Bits from which on a layer is kept.
const KEPT: u32 = 16;

impl Config {
    /// Reads `AutoRound`'s `quantization_config`.
    ///
    /// # Errors
    /// What is not understood, or stored in another layout than GPTQ's, as half a sentence.
    pub fn read_auto_round(value: &Value) -> Result<Self, String> {
        let all = Raw::deserialize(value)
            .map_err(|error| format!("its quantization_config is not understood ({error})"))?;
        let version = match all.packing_format.as_deref() {
            None | Some("auto" | "auto_round:auto_gptq" | "auto_round:gptq") => Version::V1,
            Some("auto_round" | "auto_round:gptqmodel") => Version::V2,
            Some(other) => return Err(format!("its packing_format is {other}")),
        };
        check_integers(all.data_type.as_deref())?;
        let (mut names, mut patterns) = (Vec::new(), Vec::new());
        for (text, value) in all.extra_config.iter().flatten() {
            let unknown = || format!("its extra_config {text} is not understood");
            let layer = RawLayer::deserialize(value).map_err(|_unknown| unknown())?;
            check_integers(layer.data_type.as_deref())?;
            let is_kept = layer.bits.is_some_and(|bits| bits >= KEPT);
            let settings = Settings { bits: layer.bits, group_size: layer.group_size };
            let settings = (!is_kept).then_some(settings);
            let name = Regex::new(&format!("^{}$", escaped(text))).map_err(|_unknown| unknown())?;
            names.push((name, settings));
            // A name of letters and points is an expression too, found in longer names: `layers.1` is not meant so.
            if text.contains(SPECIAL) {
                let pattern = Regex::new(text).map_err(|_unknown| unknown())?;
                patterns.push((pattern, settings));
            }
        }
        names.append(&mut patterns);
        let settings = Settings { bits: Some(all.bits), group_size: all.group_size };
        Ok(Self::of_rules(settings, version, names))
    }
}

/// An entry with one of these is an expression.
const SPECIAL: [char; 12] = ['*', '+', '?', '^', '$', '(', ')', '[', ']', '{', '|', '\\'];

/// "`int_sym`" and "`int_asym`" are integers too.
fn check_integers(kind: Option<&str>) -> Result<(), String> {
    match kind {
        Some(kind) if kind != "int" && !kind.starts_with("int_") => {
            Err(format!("its weights are {kind}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Scheme = Scheme { bits: 4, group_size: Some(128), symmetric: true };
    const EIGHT: Scheme = Scheme { bits: 8, group_size: None, symmetric: true };

    #[test]
    fn what_is_written_is_what_is_read() {
        let module = |name: &str, scheme| (name.to_owned(), scheme);
        let modules = [
            module("model.layers.1.q", Some(FOUR)),
            module("model.layers.1.k", Some(FOUR)),
            module("model.layers.1.down", Some(EIGHT)),
            module("model.layers.1.gate", None),
            module("model.outside", None),
            module("model.head", Some(FOUR)),
        ];
        let value = auto_round_config(&modules, &["model.layers".to_owned()]).unwrap();
        assert_eq!(value["packing_format"], "auto_round:auto_gptq");
        assert_eq!(value["block_name_to_quantize"], "model.layers");
        assert_eq!((&value["bits"], &value["sym"]), (&json!(4), &json!(true)));
        let eight = json!({"bits": 8, "group_size": -1, "sym": true, "data_type": "int"});
        let four = json!({"bits": 4, "group_size": 128, "sym": true, "data_type": "int"});
        assert_eq!(
            value["extra_config"],
            json!({
                "model.layers.1.down": eight, "model.layers.1.gate": {"bits": 16},
                "model.head": four,
            })
        );
        let config = Config::read_auto_round(&value).unwrap();
        assert_eq!(config.version(), Version::V1);
        for (name, scheme) in modules.iter().filter(|(name, _)| name != "model.outside") {
            let wanted = scheme.map(|scheme| (scheme.bits, scheme.group_size));
            assert_eq!(config.stated(name).ok(), wanted, "{name}");
        }
        // A name is a whole name.
        assert_eq!(config.stated("model.layers.1.down_proj"), Ok((4, Some(128))));
        assert_eq!(config.stated("a.model.layers.1.down"), Ok((4, Some(128))));
        assert!(auto_round_config(&modules[3..5], &[]).is_none());
    }

    #[test]
    fn names_go_before_expressions_and_what_is_foreign_is_named() {
        let value = json!({
            "bits": 4, "group_size": 64, "packing_format": "auto_round", "data_type": "int",
            "extra_config": {
                ".*down.*": {"bits": 8}, "a.down": {"bits": 6, "group_size": 32},
                "v_pro[jk]": {"bits": 16},
            },
        });
        let config = Config::read_auto_round(&value).unwrap();
        assert_eq!(config.version(), Version::V2);
        assert_eq!(config.stated("a.down"), Ok((6, Some(32))));
        assert_eq!(config.stated("b.down"), Ok((8, Some(64))));
        assert_eq!(config.stated("b.q_proj"), Ok((4, Some(64))));
        assert!(config.stated("b.v_proj.x").unwrap_err().contains("not quantised"));
        let why = |value: Value| Config::read_auto_round(&value).unwrap_err();
        assert!(why(json!({"bits": 4, "packing_format": "auto_round:auto_awq"})).contains("awq"));
        assert_eq!(why(json!({"bits": 4, "data_type": "mx_fp"})), "its weights are mx_fp");
        assert!(why(json!({"bits": 4, "extra_config": {"(?!a)": {}}})).contains("(?!a)"));
        assert!(why(json!({"group_size": 4})).contains("bits"));
        let many = Config::read_auto_round(&json!({"bits": 9})).unwrap();
        assert_eq!(many.stated("a").unwrap_err(), "its codes have 9 bits");
    }
}
