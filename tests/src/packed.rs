//! The layers of MLX, GPTQ, `AutoRound`, AWQ, AQLM and `SpQR` folders, decoded by arithmetic on 32-bit words as their config.json says. Shares
//! nothing with the engine.

use std::collections::BTreeSet;

use safetensors::Dtype;
use serde_json::Value;

use crate::reader::{Output, Stored, floats};

/// The layout of a folder that compressed-tensors did not write.
pub(crate) enum Method {
    Mlx,
    Gptq,
    AutoRound,
    Awq,
    Aqlm,
    Spqr,
}

impl Method {
    /// As a `quantization_config` says.
    pub(crate) fn of(quantization: &Value) -> Option<Self> {
        match quantization["quant_method"].as_str() {
            Some("gptq") => Some(Self::Gptq),
            Some("auto-round") => Some(Self::AutoRound),
            Some("awq") => Some(Self::Awq),
            Some("aqlm") => Some(Self::Aqlm),
            Some("spqr") => Some(Self::Spqr),
            None if quantization["bits"].is_u64() => Some(Self::Mlx),
            _ => None,
        }
    }

    /// Modules that a loader takes for quantised.
    pub(crate) fn modules(&self, output: &Output) -> Vec<String> {
        let config = &output.quantization;
        let is_matrix = |stored: &Stored| stored.shape.len() == 2;
        let weights = output.tensors.iter().filter(|(_, stored)| is_matrix(stored));
        let modules: BTreeSet<&str> = weights
            .filter_map(|(name, _)| {
                name.strip_suffix(".qweight").or_else(|| name.strip_suffix(".weight"))
            })
            .chain(output.tensors.keys().filter_map(|name| {
                name.strip_suffix(".codes").or_else(|| name.strip_suffix(".dense_weights"))
            }))
            .collect();
        let is_quantised = |module: &&str| match self {
            Self::Mlx => {
                let has_scales = output.tensors.contains_key(&format!("{module}.scales"));
                assert!(!has_scales || config[*module] != false, "{module} is said to be kept");
                has_scales
            }
            Self::Gptq => {
                let rules = config["dynamic"].as_object().into_iter().flatten();
                let mut kept = rules.filter_map(|(rule, _)| rule.strip_prefix("-:"));
                module.contains(".layers.") && !kept.any(|rule| plain(rule) == **module)
            }
            Self::AutoRound => {
                let begin = config["block_name_to_quantize"].as_str().expect("blocks");
                let is_kept = config["extra_config"][*module]["bits"] == 16;
                module.starts_with(&format!("{begin}.")) && !is_kept
            }
            Self::Awq => {
                let kept = config["modules_to_not_convert"].as_array().expect("a list");
                let is_in = |name: &Value| module.contains(name.as_str().expect("a name"));
                !module.contains("embed") && !kept.iter().any(is_in)
            }
            Self::Aqlm | Self::Spqr => {
                let is_aqlm = matches!(self, Self::Aqlm);
                let key = if is_aqlm {
                    "linear_weights_not_to_quantize"
                } else {
                    "modules_to_not_convert"
                };
                let kept = config[key].as_array().expect("a list");
                // As transformers 5 matches them, and before it the names of weights.
                let is_in = |name: &Value| {
                    let name = name.as_str().expect("a name");
                    module.ends_with(name) || module.starts_with(&format!("{name}."))
                };
                let found = kept.iter().any(is_in);
                let is_old = kept.contains(&Value::from(format!("{module}.weight")));
                assert!(!is_aqlm || is_old == kept.contains(&Value::from(*module)), "{module}");
                !module.contains("embed") && !found
            }
        };
        modules.into_iter().filter(is_quantised).map(str::to_owned).collect()
    }

    /// The weights of a quantised module, `[out, in]`.
    pub(crate) fn decode(&self, output: &Output, module: &str) -> Vec<f32> {
        let part = |suffix: &str| {
            let name = format!("{module}.{suffix}");
            output.tensors.get(&name).unwrap_or_else(|| panic!("{name} is not in the output"))
        };
        match self {
            Self::Mlx => mlx(&settings(&output.quantization, module), part),
            Self::Gptq => {
                let config = &output.quantization;
                let less = match config["checkpoint_format"].as_str() {
                    Some("gptq") => 1.0,
                    Some("gptq_v2") => 0.0,
                    other => panic!("the checkpoint format {other:?} is unknown"),
                };
                let ruled = |key: &str| rule(config, module, key).clone();
                gptq((module, less), &ruled, Some(part("g_idx")), part)
            }
            Self::AutoRound => {
                let config = &output.quantization;
                assert_eq!(config["packing_format"], "auto_round:auto_gptq");
                assert!(!output.tensors.contains_key(&format!("{module}.g_idx")));
                let own = &config["extra_config"][module];
                let ruled = |key: &str| {
                    if own[key].is_null() { config[key].clone() } else { own[key].clone() }
                };
                gptq((module, 1.0), &ruled, None, part)
            }
            Self::Awq => awq(&output.quantization, part),
            Self::Aqlm => aqlm(&output.quantization, part),
            Self::Spqr => spqr(&output.quantization, module, part),
        }
    }
}

/// The module that a pattern of one plain name matches.
fn plain(pattern: &str) -> String {
    let name = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
    name.unwrap_or_else(|| panic!("{pattern} is not for one module")).replace('\\', "")
}

/// A module's own entry of MLX, or what is said for all.
fn settings(config: &Value, module: &str) -> Value {
    let own = match module.split_once(".experts.") {
        Some((before, rest)) => {
            let tail = rest.split_once('.').expect("a number and a name").1;
            let tail = match tail {
                "w1" => "gate_proj",
                "w2" => "down_proj",
                "w3" => "up_proj",
                other => other,
            };
            config[format!("{before}.switch_mlp.{tail}")].clone()
        }
        None => config[module].clone(),
    };
    if own.is_object() { own } else { config.clone() }
}

fn words(stored: &Stored) -> Vec<u32> {
    assert!(matches!(stored.dtype, Dtype::I32 | Dtype::U32), "{:?}", stored.dtype);
    stored.bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number")) as usize
}

/// Code `i` of a little-endian stream.
fn code(stream: &[u32], bits: usize, i: usize) -> f32 {
    let bit = |at: usize| (stream[at / 32] >> (at % 32)) & 1;
    (0..bits).map(|k| bit(i * bits + k) << k).sum::<u32>() as f32
}

fn mlx<'a>(settings: &Value, part: impl Fn(&str) -> &'a Stored) -> Vec<f32> {
    let (bits, width) = (number(&settings["bits"]), number(&settings["group_size"]));
    let (weight, scales) = (part("weight"), part("scales"));
    assert_eq!(weight.dtype, Dtype::U32);
    let (rows, groups) = (weight.shape[0], scales.shape[1]);
    let cols = groups * width;
    assert_eq!((weight.shape[1] * 32, scales.shape[0]), (cols * bits, rows));
    let words = words(weight);
    let codes = words.chunks(weight.shape[1]).flat_map(|row| {
        let row = row.to_vec();
        (0..cols).map(move |i| code(&row, bits, i))
    });
    let at = |i: usize| i / cols * groups + i % cols / width;
    match settings["mode"].as_str() {
        None | Some("affine") => {
            let (scales, biases) = (floats(scales), floats(part("biases")));
            codes.enumerate().map(|(i, q)| scales[at(i)] * q + biases[at(i)]).collect()
        }
        Some(mode) => {
            assert_eq!((scales.dtype, width), (Dtype::U8, 32));
            let scale = |i: usize| 2_f32.powi(i32::from(scales.bytes[at(i)]) - 127);
            let level = |q: f32| if mode == "mxfp4" { e2m1(q as u8) } else { e4m3(q as u8) };
            codes.enumerate().map(|(i, q)| scale(i) * level(q)).collect()
        }
    }
}

fn e2m1(code: u8) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa * 2_f32.powi(-9),
        _ => (8.0 + mantissa) * 2_f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// What a `dynamic` rule or the configuration says of a module.
fn rule<'v>(config: &'v Value, module: &str, key: &str) -> &'v Value {
    let rules = config["dynamic"].as_object().into_iter().flatten();
    let own = rules.filter(|(rule, _)| rule.strip_prefix("+:").is_some_and(|r| plain(r) == module));
    let own = own.map(|(_, values)| &values[key]).find(|value| !value.is_null());
    own.unwrap_or(&config[key])
}

/// Of a module whose settings are `ruled`, and whose zero points are stored less one where that is so. Without an order
/// inputs lie as they are.
fn gptq<'a>(
    (module, less): (&str, f32),
    ruled: &dyn Fn(&str) -> Value,
    order: Option<&Stored>,
    part: impl Fn(&str) -> &'a Stored,
) -> Vec<f32> {
    let bits = number(&ruled("bits"));
    let [weight, zeros, scales] = ["qweight", "qzeros", "scales"].map(part);
    assert_eq!((weight.dtype, zeros.dtype, scales.dtype), (Dtype::I32, Dtype::I32, Dtype::F16));
    let (outs, ins, groups) = (weight.shape[1], weight.shape[0] * 32 / bits, scales.shape[0]);
    assert_eq!(weight.shape[0] * 32, ins * bits, "{module}");
    assert!(order.is_none_or(|order| order.shape[0] == ins), "{module}");
    assert_eq!(zeros.shape, [groups, outs * bits / 32], "{module}");
    let size = ruled("group_size").as_i64().expect("a size");
    assert_eq!(groups, if size == -1 { 1 } else { ins / size as usize }, "{module}");
    let in_order = || (0..ins).map(|input| (input / (ins / groups)) as u32).collect();
    let (weight, order, values) =
        (words(weight), order.map_or_else(in_order, words), floats(scales));
    let zero_words = words(zeros);
    let zeros: Vec<f32> = zero_words
        .chunks(outs * bits / 32)
        .flat_map(|row| (0..outs).map(|out| code(row, bits, out) + less).collect::<Vec<f32>>())
        .collect();
    if ruled("sym").as_bool().expect("sym") {
        let middle = 2_f32.powi(bits as i32 - 1);
        assert!(zeros.iter().all(|zero| *zero == middle), "{module} is not symmetric");
    }
    let mut found = Vec::with_capacity(outs * ins);
    for out in 0..outs {
        let column: Vec<u32> = weight.iter().skip(out).step_by(outs).copied().collect();
        found.extend((0..ins).map(|i| {
            let at = order[i] as usize * outs + out;
            values[at] * (code(&column, bits, i) - zeros[at])
        }));
    }
    found
}

fn awq<'a>(config: &Value, part: impl Fn(&str) -> &'a Stored) -> Vec<f32> {
    assert_eq!((&config["bits"], &config["version"]), (&4.into(), &"gemm".into()));
    assert_eq!(config["zero_point"], true);
    let [weight, zeros, scales] = ["qweight", "qzeros", "scales"].map(part);
    assert_eq!((weight.dtype, zeros.dtype, scales.dtype), (Dtype::I32, Dtype::I32, Dtype::F16));
    let (ins, outs) = (weight.shape[0], scales.shape[1]);
    let width = number(&config["group_size"]);
    assert_eq!((scales.shape[0], zeros.shape[0]), (ins / width, ins / width));
    let (weight, zeros, scales) = (words(weight), words(zeros), floats(scales));
    let nibble = |words: &[u32], row: usize, out: usize| {
        let place = [0, 4, 1, 5, 2, 6, 3, 7][out % 8];
        (words[row * (outs / 8) + out / 8] >> (4 * place) & 15) as f32
    };
    let value = |out: usize, i: usize| {
        let group = i / width;
        scales[group * outs + out] * (nibble(&weight, i, out) - nibble(&zeros, group, out))
    };
    (0..outs)
        .flat_map(|out| (0..ins).map(move |i| (out, i)))
        .map(|(out, i)| value(out, i))
        .collect()
}

fn aqlm<'a>(config: &Value, part: impl Fn(&str) -> &'a Stored) -> Vec<f32> {
    let of = |key: &str| number(&config[key]);
    let (bits, n, width) = (of("nbits_per_codebook"), of("num_codebooks"), of("in_group_size"));
    assert_eq!(of("out_group_size"), 1);
    let [codes, books, scales] = ["codes", "codebooks", "scales"].map(part);
    let (rows, runs) = (codes.shape[0], codes.shape[1]);
    assert_eq!(codes.shape, [rows, runs, n]);
    assert_eq!(books.shape, [n, 1 << bits, 1, width]);
    assert_eq!(scales.shape, [rows, 1, 1, 1]);
    assert_eq!(codes.dtype, if bits > 8 { Dtype::I16 } else { Dtype::I8 });
    let code = |at: usize| {
        let signed = match bits {
            9.. => i64::from(i16::from_le_bytes([codes.bytes[2 * at], codes.bytes[2 * at + 1]])),
            _ => i64::from(codes.bytes[at] as i8),
        };
        assert!((-(1 << (bits - 1))..1 << (bits - 1)).contains(&signed), "{signed} of {bits} bits");
        signed.rem_euclid(1 << bits) as usize
    };
    let (books, scales) = (floats(books), floats(scales));
    let value = |i: usize| {
        let (row, col) = (i / (runs * width), i % (runs * width));
        let at = (row * runs + col / width) * n;
        let entry = |k: usize| books[((k << bits) + code(at + k)) * width + col % width];
        scales[row] * (0..n).fold(0.0, |sum, k| sum + entry(k))
    };
    (0..rows * runs * width).map(value).collect()
}

/// Weights in groups of 16 inputs, 16 outputs a tile.
fn spqr<'a>(config: &Value, module: &str, part: impl Fn(&str) -> &'a Stored) -> Vec<f32> {
    assert_eq!(
        (&config["bits"], &config["beta1"], &config["beta2"]),
        (&3.into(), &16.into(), &16.into())
    );
    let all = ["dense_weights", "row_offsets", "col_vals", "in_perm"];
    for suffix in all {
        let said = number(&config["shapes"][format!("{module}.{suffix}.shape")]);
        assert_eq!(part(suffix).shape, [said], "{module}.{suffix}");
    }
    let [dense, offsets, few, order] = all.map(part);
    assert_eq!((dense.dtype, order.shape[0]), (Dtype::I64, 0));
    let dense: Vec<u64> =
        dense.bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let (offsets, few) = (words(offsets), words(few));
    let rows = offsets.len() - 1;
    let cols = dense.len() / rows * 16;
    let mut found = vec![0.0; rows * cols];
    for (tile, words) in dense.chunks(16).enumerate() {
        let (down, across) = (tile / (cols / 16), tile % (cols / 16));
        let bytes: Vec<u8> = words.iter().step_by(2).map(|word| (word >> 54) as u8).collect();
        let halves: Stored =
            Stored { file: String::new(), dtype: Dtype::F16, shape: vec![4], bytes };
        let numbers = floats(&halves);
        let [unit, zero_unit, zero, zero_zero] = numbers[..] else { panic!("four numbers") };
        for (output, word) in words.iter().enumerate() {
            let code = |i: usize| (word >> (3 * i) & 7) as f32;
            // One rounding, as both products are exact.
            let scale = unit * code(0) - unit * zero;
            let zero = zero_unit * code(1) - zero_unit * zero_zero;
            let first = (down * 16 + output) * cols + across * 16;
            for i in 0..16 {
                found[first + i] = scale * (code(i + 2) - zero);
            }
        }
    }
    for row in 0..rows {
        for word in &few[offsets[row] as usize..offsets[row + 1] as usize] {
            let bytes = ((word >> 16) as u16).to_le_bytes().to_vec();
            let value = Stored { file: String::new(), dtype: Dtype::F16, shape: vec![1], bytes };
            found[row * cols + (word & 0xffff) as usize] += floats(&value)[0];
        }
    }
    found
}
