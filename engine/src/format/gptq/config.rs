//! GPTQ's `quantization_config`: one scheme for all quantised modules, and rules by pattern in `dynamic` for those that
//! have another (`+:`) or are kept (`-:`). The first pattern that matches from the beginning of a name decides.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::format::gptq::Version;

/// How a module is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scheme {
    /// Bits of a code.
    pub bits: u32,
    /// Inputs that share a scale; `None` for all.
    pub group_size: Option<usize>,
    /// Whether every zero point is 2^(b−1).
    pub symmetric: bool,
}

impl Scheme {
    pub(super) fn settings(self) -> Map<String, Value> {
        let size = self.group_size.map_or_else(|| json!(-1), |size| json!(size));
        Map::from_iter([
            ("bits".to_owned(), json!(self.bits)),
            ("group_size".to_owned(), size),
            ("sym".to_owned(), json!(self.symmetric)),
        ])
    }
}

/// The `quantization_config` of a checkpoint whose modules have these schemes, or are kept; `None` if all are kept. The
/// commonest scheme is said once, others by module.
pub fn quantization_config(
    version: Version,
    modules: &[(String, Option<Scheme>)],
) -> Option<Value> {
    let base = commonest(modules)?;
    let mut config = Map::from_iter([("quant_method".to_owned(), json!("gptq"))]);
    config.extend(base.settings());
    config.insert("desc_act".to_owned(), json!(false));
    config.insert("checkpoint_format".to_owned(), json!(version.name()));
    config.insert("pack_dtype".to_owned(), json!("int32"));
    config.insert("lm_head".to_owned(), json!(false));
    let rule = |(module, scheme): &(String, Option<Scheme>)| match scheme {
        Some(scheme) if *scheme == base => None,
        Some(scheme) => Some((format!("+:^{}$", escaped(module)), scheme.settings().into())),
        None => Some((format!("-:^{}$", escaped(module)), json!({}))),
    };
    let dynamic: Map<String, Value> = modules.iter().filter_map(rule).collect();
    if !dynamic.is_empty() {
        config.insert("dynamic".to_owned(), dynamic.into());
    }
    let quantizer = concat!("lapidary:", env!("CARGO_PKG_VERSION"));
    config.insert("meta".to_owned(), json!({"quantizer": [quantizer]}));
    Some(config.into())
}

/// The commonest scheme of modules; `None` if all are kept.
pub(super) fn commonest(modules: &[(String, Option<Scheme>)]) -> Option<Scheme> {
    let mut counts: BTreeMap<Scheme, usize> = BTreeMap::new();
    for (_, scheme) in modules {
        if let Some(scheme) = scheme {
            *counts.entry(*scheme).or_default() += 1;
        }
    }
    counts.iter().max_by_key(|(_, count)| **count).map(|(scheme, _)| *scheme)
}

/// A name as a pattern that matches it alone.
pub(super) fn escaped(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        if c.is_ascii_punctuation() && c != '_' && c != '-' {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// A `quantization_config` as far as it tells how weights are stored.
#[derive(Clone, Debug)]
pub struct Config {
    all: Settings,
    version: Version,
    rules: Vec<(Regex, Option<Settings>)>,
    /// Bits that the stated kind of folder has.
    known_bits: &'static [u32],
}

#[derive(Clone, Debug, Deserialize)]
struct Raw {
    bits: u32,
    group_size: Option<i64>,
    checkpoint_format: Option<String>,
    dynamic: Option<Map<String, Value>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Settings {
    pub(super) bits: Option<u32>,
    pub(super) group_size: Option<i64>,
}

impl Config {
    /// Reads the `quantization_config` of a config.json.
    ///
    /// # Errors
    /// What is not understood, as half a sentence.
    pub fn read(value: &Value) -> Result<Self, String> {
        let all = Raw::deserialize(value)
            .map_err(|error| format!("its quantization_config is not understood ({error})"))?;
        let version = match all.checkpoint_format.as_deref() {
            None | Some("gptq") => Version::V1,
            Some("gptq_v2") => Version::V2,
            Some(other) => return Err(format!("its checkpoint_format is {other}")),
        };
        let rule = |(text, value): (&String, &Value)| {
            let unknown = || format!("its dynamic rule {text} is not understood");
            let kept = text.strip_prefix("-:");
            let pattern = kept.or_else(|| text.strip_prefix("+:")).unwrap_or(text);
            let regex = Regex::new(&format!("^(?:{pattern})")).map_err(|_unknown| unknown())?;
            let settings = match kept {
                Some(_) => None,
                None => Some(Settings::deserialize(value).map_err(|_unknown| unknown())?),
            };
            Ok((regex, settings))
        };
        let rules = all.dynamic.iter().flatten().map(rule).collect::<Result<_, String>>()?;
        let all = Settings { bits: Some(all.bits), group_size: all.group_size };
        Ok(Self { all, version, rules, known_bits: &[2, 3, 4, 8] })
    }

    /// Settings of all modules, and rules before them: the first that matches a name decides, nothing means kept.
    pub(super) fn of_rules(
        all: Settings,
        version: Version,
        rules: Vec<(Regex, Option<Settings>)>,
    ) -> Self {
        Self { all, version, rules, known_bits: &[2, 3, 4, 5, 6, 7, 8] }
    }

    /// How zero points are stored.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Bits and group size of the module called `module`, which is quantised; `None` for one group of all inputs.
    ///
    /// # Errors
    /// Why that cannot be told, or is of another kind, as half a sentence.
    pub fn stated(&self, module: &str) -> Result<(u32, Option<usize>), String> {
        let own = self.rules.iter().find(|(regex, _)| regex.is_match(module));
        let own = match own {
            Some((_, None)) => return Err("its config.json says it is not quantised".to_owned()),
            Some((_, Some(settings))) => Some(settings),
            None => None,
        };
        let bits = own.and_then(|own| own.bits).or(self.all.bits).unwrap_or(4);
        let size = own.and_then(|own| own.group_size).or(self.all.group_size).unwrap_or(128);
        if !self.known_bits.contains(&bits) {
            return Err(format!("its codes have {bits} bits"));
        }
        match (size, usize::try_from(size)) {
            (-1, _) => Ok((bits, None)),
            (_, Ok(size @ 1..)) => Ok((bits, Some(size))),
            _ => Err(format!("its group_size is {size}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: Scheme = Scheme { bits: 4, group_size: Some(128), symmetric: true };
    const EIGHT: Scheme = Scheme { bits: 8, group_size: None, symmetric: true };

    #[test]
    fn what_is_written_is_what_is_read() {
        let module = |name: &str, scheme| (format!("model.layers.1.{name}"), scheme);
        let modules = [
            module("q", Some(FOUR)),
            module("k", Some(FOUR)),
            module("down", Some(EIGHT)),
            module("gate", None),
        ];
        let value = quantization_config(Version::V1, &modules).unwrap();
        assert_eq!(value["checkpoint_format"], "gptq");
        assert_eq!(
            value["dynamic"],
            json!({
                r"+:^model\.layers\.1\.down$": {"bits": 8, "group_size": -1, "sym": true},
                r"-:^model\.layers\.1\.gate$": {},
            })
        );
        assert_eq!((&value["bits"], &value["sym"]), (&json!(4), &json!(true)));
        let config = Config::read(&value).unwrap();
        for (name, scheme) in &modules {
            let wanted = scheme.map(|scheme| (scheme.bits, scheme.group_size));
            assert_eq!(config.stated(name).ok(), wanted, "{name}");
        }
        // A name is a whole name.
        assert_eq!(config.stated("model.layers.1.down_proj"), Ok((4, Some(128))));
        assert_eq!(config.stated("model.layers.11.down"), Ok((4, Some(128))));
        assert!(quantization_config(Version::V1, &modules[3..]).is_none());
        let odd = [module("v", Some(Scheme { symmetric: false, ..FOUR }))];
        let value = quantization_config(Version::V2, &odd).unwrap();
        assert_eq!(
            (&value["checkpoint_format"], &value["sym"]),
            (&json!("gptq_v2"), &json!(false))
        );
        assert_eq!(Config::read(&value).unwrap().version(), Version::V2);
    }

    #[test]
    fn others_rules_are_read_in_order_and_what_is_foreign_is_named() {
        let value = json!({
            "bits": 4, "group_size": 64, "desc_act": true,
            "dynamic": {".*down": {"bits": 8}, "-:.*d": {}, "+:.*up": {"group_size": -1}},
        });
        let config = Config::read(&value).unwrap();
        assert_eq!(config.version(), Version::V1);
        assert_eq!(config.stated("a.down"), Ok((8, Some(64))));
        assert_eq!(config.stated("a.up"), Ok((4, None)));
        assert_eq!(config.stated("a.q"), Ok((4, Some(64))));
        assert!(config.stated("a.d").unwrap_err().contains("not quantised"));
        let why =
            |value: Value| Config::read(&value).and_then(|config| config.stated("a")).unwrap_err();
        assert_eq!(why(json!({"bits": 5})), "its codes have 5 bits");
        assert_eq!(why(json!({"bits": 4, "group_size": 0})), "its group_size is 0");
        assert!(why(json!({"bits": 4, "checkpoint_format": "marlin"})).contains("marlin"));
        assert!(why(json!({"bits": 4, "dynamic": {"(?!a)": {}}})).contains("(?!a)"));
        assert!(why(json!({"group_size": 4})).contains("bits"));
    }
}
