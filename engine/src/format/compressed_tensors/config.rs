//! What a `quantization_config` of compressed-tensors says of a module: which group covers it, and how that
//! group stores weights. Targets and exceptions are names of modules, patterns (`re:` and a regular expression
//! that must match from the beginning), or classes of modules, of which `Linear` is known here.

use regex_lite::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::format::compressed_tensors::{Floats, Packing};
use crate::numeric::grouping::Grouping;

/// A `quantization_config` as far as it tells how weights are stored.
#[derive(Clone, Debug)]
pub struct Config {
    groups: Vec<Group>,
    ignore: Vec<Target>,
}

/// How a module's weights are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Packed, or one byte a code.
    pub packing: Packing,
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// Whether there are no zero points.
    pub symmetric: bool,
    /// Which weights share a scale.
    pub grouping: Grouping,
}

#[derive(Clone, Debug)]
struct Group {
    targets: Vec<Target>,
    format: Option<String>,
    weights: Option<Weights>,
}

#[derive(Clone, Debug)]
enum Target {
    Name(String),
    Pattern(Regex),
}

#[derive(Deserialize)]
struct RawConfig {
    quant_method: Option<String>,
    format: Option<String>,
    #[serde(default)]
    config_groups: Map<String, Value>,
    ignore: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawGroup {
    targets: Vec<String>,
    format: Option<String>,
    weights: Option<Weights>,
}

/// The fields, and what is meant where they are left out, as in `QuantizationArgs`.
#[derive(Clone, Debug, Deserialize)]
struct Weights {
    #[serde(default = "eight")]
    num_bits: u32,
    #[serde(default = "int", rename = "type")]
    kind: String,
    #[serde(default = "yes")]
    symmetric: bool,
    strategy: Option<String>,
    group_size: Option<i64>,
    block_structure: Option<[usize; 2]>,
}

fn eight() -> u32 {
    8
}

fn int() -> String {
    "int".to_owned()
}

fn yes() -> bool {
    true
}

impl Config {
    /// Reads the `quantization_config` of a config.json.
    ///
    /// # Errors
    /// What is not understood, as half a sentence: "it is quantised by gptq".
    pub fn read(value: &Value) -> Result<Self, String> {
        let raw = RawConfig::deserialize(value)
            .map_err(|error| format!("its quantization_config is not understood ({error})"))?;
        match raw.quant_method.as_deref() {
            Some("compressed-tensors") => {}
            Some(other) => return Err(format!("it is quantised by {other}")),
            None => return Err("its quantization_config does not say by which method".to_owned()),
        }
        let group = |(name, value): (&String, &Value)| {
            let group = RawGroup::deserialize(value);
            let group = group.map_err(|error| format!("its {name} is not understood ({error})"))?;
            Ok(Group {
                targets: targets(&group.targets)?,
                format: group.format.or_else(|| raw.format.clone()),
                weights: group.weights,
            })
        };
        Ok(Self {
            groups: raw.config_groups.iter().map(group).collect::<Result<_, String>>()?,
            ignore: targets(raw.ignore.as_deref().unwrap_or_default())?,
        })
    }

    /// How the weights of the linear module called `module` are stored. A group that names it goes before one
    /// whose pattern matches it, and that before one for all linear layers.
    ///
    /// # Errors
    /// Why that cannot be told, or is of another kind than grouped integers, as half a sentence.
    pub fn stated(&self, module: &str) -> Result<Stated, String> {
        if self.ignore.iter().any(|target| target.rank(module).is_some()) {
            return Err("its config.json says it is not quantised".to_owned());
        }
        let (group, _) = self.group_of(module).ok_or("no group of its config.json covers it")?;
        group.stated()
    }

    /// How the weights of a module are stored, where they are small floats; `None` where they are not.
    ///
    /// # Errors
    /// Why they are not read, as half a sentence.
    pub fn floats(&self, module: &str) -> Option<Result<Floats, String>> {
        let (group, _) = self.group_of(module)?;
        group.floats()
    }

    /// The group that means a module most closely, unless it is left out.
    fn group_of(&self, module: &str) -> Option<(&Group, u8)> {
        if self.ignore.iter().any(|target| target.rank(module).is_some()) {
            return None;
        }
        let rank =
            |group: &Group| group.targets.iter().filter_map(|target| target.rank(module)).min();
        let groups = self.groups.iter().filter_map(|group| Some((group, rank(group)?)));
        groups.min_by_key(|(_, rank)| *rank)
    }
}

fn targets(texts: &[String]) -> Result<Vec<Target>, String> {
    texts.iter().map(|text| Target::read(text)).collect()
}

impl Target {
    fn read(text: &str) -> Result<Self, String> {
        let Some(pattern) = text.strip_prefix("re:") else {
            return Ok(Self::Name(text.to_owned()));
        };
        let pattern = Regex::new(&format!("^(?:{pattern})"));
        pattern
            .map(Self::Pattern)
            .map_err(|_unknown| format!("its pattern {text} is not understood"))
    }

    /// How closely it means a linear module: 0 by name, 1 by pattern, 2 by class; `None` if it does not.
    fn rank(&self, module: &str) -> Option<u8> {
        match self {
            Self::Name(name) if name == module => Some(0),
            Self::Pattern(pattern) if pattern.is_match(module) => Some(1),
            Self::Name(name) if name == "Linear" => Some(2),
            _ => None,
        }
    }
}

impl Group {
    fn floats(&self) -> Option<Result<Floats, String>> {
        let weights = self.weights.as_ref().filter(|weights| weights.kind == "float")?;
        let strategy = weights.strategy.as_deref().unwrap_or("tensor");
        let sized = |size, floats| {
            let is_sized = weights.group_size == Some(size);
            is_sized.then_some(floats).ok_or_else(|| format!("its groups are not of {size}"))
        };
        Some(match (self.format.as_deref()?, weights.num_bits) {
            ("float-quantized" | "naive-quantized", 8) => match strategy {
                "channel" | "tensor" => Ok(Floats::Channels),
                "block" if weights.block_structure == Some([128, 128]) => Ok(Floats::Squares),
                other => Err(format!("its floats are scaled by {other}")),
            },
            ("nvfp4-pack-quantized", 4) => sized(16, Floats::Nvfp4),
            ("mxfp4-pack-quantized", 4) => sized(32, Floats::Mxfp4),
            ("mxfp8-quantized", 8) => sized(32, Floats::Mxfp8),
            _ => return None,
        })
    }

    fn stated(&self) -> Result<Stated, String> {
        let weights = self.weights.as_ref().ok_or("its config.json says it is not quantised")?;
        let packing = match self.format.as_deref() {
            Some("pack-quantized") => Packing::Packed,
            Some("int-quantized") => Packing::Int,
            Some(other) => return Err(format!("its format is {other}")),
            None => return Err("its config.json names no format".to_owned()),
        };
        if weights.kind != "int" || !(2..=8).contains(&weights.num_bits) {
            let Weights { num_bits, kind, .. } = weights;
            return Err(format!("its weights are {num_bits}-bit {kind}"));
        }
        Ok(Stated {
            packing,
            bits: weights.num_bits,
            symmetric: weights.symmetric,
            grouping: weights.grouping()?,
        })
    }
}

impl Weights {
    fn grouping(&self) -> Result<Grouping, String> {
        let size = self.group_size.and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|&size| size > 0);
        match (self.strategy.as_deref(), size) {
            (Some("channel"), _) => Ok(Grouping::Channel),
            (Some("group") | None, Some(size)) => Ok(Grouping::Group(size)),
            (Some("group"), None) => Err("its groups have no size".to_owned()),
            // Left out: a size of −1 means a channel, none the whole tensor.
            (None, None) if self.group_size.is_some() => Ok(Grouping::Channel),
            (Some("tensor"), _) | (None, None) => Ok(Grouping::Tensor),
            (Some(other), _) => Err(format!("its strategy is {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(format: &str, groups: Value, ignore: Value) -> Result<Config, String> {
        Config::read(&json!({
            "quant_method": "compressed-tensors", "format": format, "config_groups": groups,
            "ignore": ignore, "kv_cache_scheme": null, "quantization_status": "compressed",
        }))
    }

    fn weights(bits: u32) -> Value {
        json!({"num_bits": bits, "type": "int", "symmetric": true, "strategy": "channel"})
    }

    #[test]
    fn names_go_before_patterns_and_patterns_before_classes() {
        let groups = json!({
            "group_0": {"targets": ["Linear"], "weights": weights(2)},
            "group_1": {"targets": ["re:.*\\.mlp\\."], "weights": weights(4)},
            "group_2": {"targets": ["a.mlp.up"], "weights": weights(8), "format": "int-quantized"},
            "group_3": {"targets": ["re:attn"], "weights": weights(3)},
        });
        let config = config("pack-quantized", groups, json!(["lm_head", "re:vision.*"])).unwrap();
        let bits = |module| config.stated(module).map(|stated| (stated.bits, stated.packing));
        assert_eq!(bits("a.mlp.up"), Ok((8, Packing::Int)));
        assert_eq!(bits("a.mlp.down"), Ok((4, Packing::Packed)));
        // A pattern matches from the beginning, as re.match does.
        assert_eq!(bits("a.attn.q"), Ok((2, Packing::Packed)));
        assert_eq!(bits("attn.q"), Ok((3, Packing::Packed)));
        for ignored in ["lm_head", "vision.tower.fc1"] {
            assert!(bits(ignored).unwrap_err().contains("not quantised"), "{ignored}");
        }
        assert_eq!(bits("model.lm_head"), Ok((2, Packing::Packed)), "a name is a whole name");
    }

    #[test]
    fn strategies_and_what_is_meant_where_none_is_named() {
        let grouping = |strategy: Value, size: Value| {
            let weights = json!({"num_bits": 4, "strategy": strategy, "group_size": size});
            let groups = json!({"group_0": {"targets": ["Linear"], "weights": weights}});
            let stated = config("pack-quantized", groups, Value::Null).unwrap().stated("a")?;
            assert!(stated.symmetric);
            Ok(stated.grouping)
        };
        assert_eq!(grouping(json!("group"), json!(128)), Ok(Grouping::Group(128)));
        assert_eq!(grouping(json!("channel"), Value::Null), Ok(Grouping::Channel));
        assert_eq!(grouping(json!("tensor"), Value::Null), Ok(Grouping::Tensor));
        assert_eq!(grouping(Value::Null, json!(32)), Ok(Grouping::Group(32)));
        assert_eq!(grouping(Value::Null, json!(-1)), Ok(Grouping::Channel));
        assert_eq!(grouping(Value::Null, Value::Null), Ok(Grouping::Tensor));
        let failed: Result<Grouping, String> = grouping(json!("block"), Value::Null);
        assert_eq!(failed, Err("its strategy is block".to_owned()));
        assert!(grouping(json!("group"), json!(0)).is_err());
    }

    #[test]
    fn what_is_not_grouped_integers_is_named() {
        let stated = |format: &str, weights: Value| {
            let groups = json!({"group_0": {"targets": ["Linear"], "weights": weights}});
            config(format, groups, json!([])).and_then(|config| config.stated("a")).unwrap_err()
        };
        assert_eq!(stated("float-quantized", weights(8)), "its format is float-quantized");
        let float = json!({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 16});
        assert_eq!(stated("pack-quantized", float), "its weights are 4-bit float");
        assert_eq!(stated("pack-quantized", weights(16)), "its weights are 16-bit int");
        assert!(stated("int-quantized", Value::Null).contains("not quantised"));
        assert!(stated("int-quantized", json!("many")).contains("group_0 is not understood"));
        let gptq = Config::read(&json!({"quant_method": "gptq", "bits": 4}));
        assert_eq!(gptq.unwrap_err(), "it is quantised by gptq");
        assert!(Config::read(&json!([1])).is_err());
        let ahead = config("x", json!({}), json!(["re:(?!a)b"]));
        assert_eq!(ahead.unwrap_err(), "its pattern re:(?!a)b is not understood");
    }
}
