//! An adapter of low rank beside a checkpoint, in the words of PEFT: the factors of corrections that the format of the
//! checkpoint itself has no place for. Names, settings, and the product of two factors added to what they correct.
//!
//! `lora_A` is the right factor `[rank, in]`, `lora_B` the left one `[out, rank]`. PEFT adds B·A times `lora_alpha / r`, which
//! is 1 here for every layer, whatever its rank.

use serde_json::{Map, Value, json};

use crate::encoding::{Dense, Encoding, LowRank};
use crate::tensor::{DType, Decoder, MatrixShape};

/// The folder in that of the checkpoint.
pub const FOLDER: &str = "adapter";

/// The factors, within that folder.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// The settings, within that folder.
pub const CONFIG: &str = "adapter_config.json";

/// The entry of the header's metadata that tells an adapter which belongs to its checkpoint from anybody's fine-tuning.
pub const KEY: &str = "lapidary_adapter";

/// Its value.
pub const VERSION: &str = "1";

/// Where the checkpoint lies, as seen from the folder of its adapter.
const BASE: &str = "..";

/// What the names of factors begin with.
const PREFIX: &str = "base_model.model.";

/// What they end with: the right factor and the left one.
const SUFFIXES: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// What a reader of parts calls them.
pub const PARTS: [&str; 2] = ["lora_A", "lora_B"];

/// The names of the right factor and the left one of a module.
pub fn names(module: &str) -> [String; 2] {
    SUFFIXES.map(|suffix| format!("{PREFIX}{module}{suffix}"))
}

/// The module of a factor, and whether it is the left one.
pub fn module_of(name: &str) -> Option<(&str, bool)> {
    let name = name.strip_prefix(PREFIX)?;
    let sides = SUFFIXES.into_iter().zip([false, true]);
    { sides }.find_map(|(suffix, is_left)| Some((name.strip_suffix(suffix)?, is_left)))
}

/// A pattern that matches this module and no other. PEFT takes its keys for regular expressions that match an end of a name.
fn exactly(module: &str) -> String {
    let mut pattern = String::from("^");
    for letter in module.chars() {
        if r".^$*+?()[]{}|\".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// `adapter_config.json` for modules of these ranks.
///
/// Loaders that know of no pattern (vLLM) make room for `r`, so that is the largest rank.
pub fn config(ranks: &[(&str, usize)], is_causal: bool) -> Value {
    let rank = ranks.iter().map(|&(_, rank)| rank).max().unwrap_or(1);
    let targets: Vec<&str> = ranks.iter().map(|&(module, _)| module).collect();
    let others = ranks.iter().filter(|&&(_, other)| other != rank);
    let pattern: Map<String, Value> =
        others.map(|&(module, other)| (exactly(module), other.into())).collect();
    json!({
        "peft_type": "LORA",
        "task_type": if is_causal { Value::from("CAUSAL_LM") } else { Value::Null },
        "base_model_name_or_path": BASE,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": targets,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
    })
}

/// Whether settings are of an adapter for the folder that it lies in.
pub fn is_of_folder(config: &Value) -> bool {
    config.get("base_model_name_or_path").and_then(Value::as_str) == Some(BASE)
}

/// The rank that settings of [`config`] give a module, whose product is then added as it is.
///
/// # Errors
/// What is missing, not understood or not so, as half a sentence.
pub fn rank_of(config: &Value, module: &str) -> Result<usize, String> {
    let of = |pattern: &str, plain: &str| {
        let own = config.get(pattern).and_then(|pattern| pattern.get(exactly(module)));
        let found = own.or_else(|| config.get(plain)).and_then(Value::as_u64);
        found.ok_or_else(|| format!("it says no {plain} for {module}"))
    };
    let (rank, alpha) = (of("rank_pattern", "r")?, of("alpha_pattern", "lora_alpha")?);
    if rank != alpha {
        return Err(format!("it multiplies the factors of {module} by {alpha}/{rank}, not by 1"));
    }
    let is_target = |targets: &Vec<Value>| targets.iter().any(|target| target == module);
    if !config.get("target_modules").and_then(Value::as_array).is_some_and(is_target) {
        return Err(format!("it does not list {module}"));
    }
    usize::try_from(rank).map_err(|_too_large| format!("the rank {rank} of {module} is too large"))
}

/// What else of the settings would make the sum another one.
///
/// # Errors
/// What it is, as half a sentence.
pub fn check_config(config: &Value) -> Result<(), String> {
    if config.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err("its peft_type is not LORA".to_owned());
    }
    let is_on = |key: &&&str| config.get(**key).is_some_and(|value| *value != Value::Bool(false));
    match ["fan_in_fan_out", "use_rslora", "use_dora"].iter().find(is_on) {
        Some(key) => Err(format!("it sets {key}")),
        None => Ok(()),
    }
}

/// How the factors of a layer are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factors {
    /// Rows of `lora_A`, columns of `lora_B`.
    pub rank: usize,
    /// Element type of both.
    pub dtype: DType,
}

impl Factors {
    /// Reads both from `get(part)`; `None` if one is missing or of another length.
    pub fn reader<'a>(
        self,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Reader<'a>> {
        let Self { rank, dtype } = self;
        let decoder = Decoder::new(dtype)?;
        let part = |name: &str, extents: [usize; 2]| {
            let elements = extents[0].checked_mul(extents[1])?;
            let bytes = dtype.bytes(elements as u64)?;
            Some((get(name)?, elements)).filter(|(found, _)| found.len() as u64 == bytes)
        };
        let (right, elements) = part(PARTS[0], [rank, shape.cols])?;
        let mut decoded = vec![0.0; elements];
        decoder.f32s(right, &mut decoded);
        let (left, _) = part(PARTS[1], [shape.rows, rank])?;
        Some(Reader { factors: self, shape, right: decoded, left, decoder })
    }

    /// The product that the stored factors are.
    pub fn encoding<'a>(
        self,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<LowRank> {
        let Self { rank, dtype } = self;
        let reader = self.reader(shape, get)?;
        let mut left = vec![0.0; shape.rows * rank];
        reader.decoder.f32s(reader.left, &mut left);
        let left = Dense::new(MatrixShape { rows: shape.rows, cols: rank }, dtype, &left);
        let right = MatrixShape { rows: rank, cols: shape.cols };
        let right = Dense::new(right, dtype, &reader.right);
        let [left, right] = [left, right].map(Encoding::Dense);
        Some(LowRank::new(left, right))
    }
}

/// The stored factors of a layer.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    factors: Factors,
    shape: MatrixShape,
    /// `[rank, cols]`, decoded.
    right: Vec<f32>,
    left: &'a [u8],
    decoder: Decoder,
}

impl Reader<'_> {
    /// Adds the product's values `first .. first + out.len()` of the row-major matrix to `out`: sums in f64 in the order of
    /// the rank, rounded to f32, added in f32. `None` beyond the last row.
    pub fn add(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let (MatrixShape { rows, cols }, rank) = (self.shape, self.factors.rank);
        let row_bytes = self.factors.dtype.bytes(rank as u64)? as usize;
        let mut weights = vec![0.0_f32; rank];
        let mut at = first;
        let mut rest = out;
        while !rest.is_empty() {
            let (row, col) = (at.checked_div(cols)?, at % cols);
            if row >= rows {
                return None;
            }
            let n = rest.len().min(cols - col);
            let (values, later) = rest.split_at_mut(n);
            let left = self.left.get(row * row_bytes..(row + 1) * row_bytes)?;
            self.decoder.f32s(left, &mut weights);
            let mut sums = vec![0.0_f64; n];
            for (weight, right) in weights.iter().zip(self.right.chunks_exact(cols)) {
                let right = &right[col..col + n];
                for (sum, &value) in sums.iter_mut().zip(right) {
                    *sum += f64::from(*weight) * f64::from(value);
                }
            }
            for (value, sum) in values.iter_mut().zip(sums) {
                *value += sum as f32;
            }
            (at, rest) = (at + n, later);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_is_added_as_it_is() {
        let ranks = [("m.a", 4), ("m.b", 16), ("m.a.a", 2)];
        let config = config(&ranks, true);
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(16), &json!(16)));
        assert_eq!(config["rank_pattern"], json!({"^m\\.a": 4, "^m\\.a\\.a": 2}));
        assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
        for (module, rank) in ranks {
            assert_eq!(rank_of(&config, module), Ok(rank));
        }
        assert!(rank_of(&config, "m.c").is_err());
        let mut doubled = config.clone();
        doubled["alpha_pattern"]["^m\\.a"] = json!(8);
        assert!(rank_of(&doubled, "m.a").unwrap_err().contains("8/4"));
        assert!(check_config(&config).is_ok());
        for (key, value) in [("use_rslora", json!(true)), ("peft_type", json!("LOHA"))] {
            let mut other = config.clone();
            other[key] = value;
            assert!(check_config(&other).is_err());
        }
    }

    #[test]
    fn names_are_those_of_peft() {
        let [right, left] = names("model.layers.0.mlp.up_proj");
        assert_eq!(right, "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight");
        assert_eq!(module_of(&left), Some(("model.layers.0.mlp.up_proj", true)));
        assert_eq!(module_of(&right), Some(("model.layers.0.mlp.up_proj", false)));
        assert_eq!(module_of("model.layers.0.mlp.up_proj.weight"), None);
    }

    #[test]
    fn a_product_is_added_from_anywhere_in_a_row() {
        // [[1, 2], [3, 4], [0, -1]] · [[1, 0, 2], [0, 1, -1]]
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let left: Vec<u8> = bytes(&[1.0, 2.0, 3.0, 4.0, 0.0, -1.0]);
        let right: Vec<u8> = bytes(&[1.0, 0.0, 2.0, 0.0, 1.0, -1.0]);
        let get = |part: &str| Some(if part == PARTS[0] { &right[..] } else { &left[..] });
        let factors = Factors { rank: 2, dtype: DType::F32 };
        let shape = MatrixShape { rows: 3, cols: 3 };
        let reader = factors.reader(shape, &get).unwrap();
        let wanted = [1.0, 2.0, 0.0, 3.0, 4.0, 2.0, 0.0, -1.0, 1.0];
        for first in 0..9 {
            for end in first..=9 {
                let mut out = vec![10.0; end - first];
                reader.add(first, &mut out).unwrap();
                let sum: Vec<f32> = wanted[first..end].iter().map(|v| v + 10.0).collect();
                assert_eq!(out, sum);
            }
        }
        assert!(reader.add(8, &mut [0.0; 2]).is_none());
        let product = Encoding::LowRank(factors.encoding(shape, &get).unwrap());
        assert_eq!(product.decode().into_raw_vec_and_offset().0, wanted);
        assert!(factors.reader(MatrixShape { rows: 3, cols: 4 }, &get).is_none());
    }
}
