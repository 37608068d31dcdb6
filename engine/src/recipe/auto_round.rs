//! `AutoRound`'s `quantization_config`: settings for all linear layers of the blocks, and `extra_config`, other
//! settings by the name of a module or by an expression that is found in it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::numeric::grouping::Grouping;
use crate::plan::Plan;
use crate::recipe::form::{self, Integers, Layer, Symmetry};
use crate::recipe::patterns::Pattern;
use crate::recipe::rules::{self, Module, Rule, RuleSet, Test, Verdict};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, compact, json, not_understood, pretty};

/// The dialect of `AutoRound`.
pub(super) struct AutoRound;

/// The registry's entry.
pub(super) static ENTRY: AutoRound = AutoRound;

static ABOUT: About = About {
    id: "auto-round",
    title: "AutoRound configuration",
    summary: "Settings of all layers, and other ones for some in extra_config.",
    file_name: "quantization_config.json",
    source: "configurations of AutoRound 0.5 to 0.13 and the readers of vLLM and SGLang, read November 2026",
};

const WHAT: &str = "a quantization_config of AutoRound";

/// Names up to which `extra_config` lists modules one by one.
const LISTED: usize = 8;
/// An entry with one of these is an expression.
const SPECIAL: [char; 12] = ['*', '+', '?', '^', '$', '(', ')', '[', ']', '{', '|', '\\'];

impl Dialect for AutoRound {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        let mut unsaid = Unsaid::default();
        let set = rule_set(&json(text, WHAT)?, &mut unsaid)?;
        let imported = rules::import(&[set], checkpoint, Some, unsaid)?;
        Ok(Imported { target: Some(TARGET), ..imported })
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let layers = form::layers(checkpoint, plan, &mut unsaid);
        let forms: Vec<(Layer<'_>, Option<Integers>)> = layers
            .into_iter()
            .map(|layer| (layer, form::unrestricted(&layer, &mut unsaid)))
            .collect();
        let in_blocks = |layer: &Layer<'_>| Module::of(layer.tensor).is_some_and(|m| sees(&m));
        let of_blocks = forms.iter().filter(|(layer, _)| in_blocks(layer));
        let main = form::commonest(of_blocks.filter_map(|(_, form)| *form));
        let base = main.unwrap_or(Integers::new(4, Grouping::Group(128), true));
        // What is said without a word: the settings for all, and nothing outside the blocks.
        let silent = |layer: &Layer<'_>| in_blocks(layer).then_some(base);
        let mut used: Vec<Option<Integers>> = forms.iter().map(|(_, form)| *form).collect();
        used.sort_unstable();
        used.dedup();
        let mut extra = Map::new();
        for form in used {
            let chosen =
                |(layer, of): &(Layer<'_>, Option<Integers>)| *of == form && *of != silent(layer);
            let all: Vec<(&str, bool)> =
                forms.iter().map(|entry| (entry.0.module, chosen(entry))).collect();
            let values = form.map_or_else(|| json!({"bits": 16}), settings);
            for run in compact::runs(&all) {
                if run.names.len() > LISTED {
                    extra.insert(format!("^{}$", run.pattern), values.clone());
                } else {
                    extra.extend(run.names.iter().map(|&name| (name.to_owned(), values.clone())));
                }
            }
        }
        let mut config =
            json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"});
        for (key, value) in settings(base).as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        if !extra.is_empty() {
            config["extra_config"] = extra.into();
        }
        Exported { text: pretty(&config), unsaid: unsaid.sentences() }
    }
}

fn settings(integers: Integers) -> Value {
    let size = match integers.grouping {
        Grouping::Group(size) => json!(size),
        Grouping::Channel => json!(-1),
        Grouping::Tensor => json!(0),
    };
    let sym = integers.symmetry != Symmetry::Asymmetric;
    json!({"bits": integers.bits, "group_size": size, "sym": sym, "data_type": "int"})
}

#[derive(Deserialize)]
struct Config {
    quant_method: Option<String>,
    bits: u32,
    group_size: Option<i64>,
    sym: Option<bool>,
    data_type: Option<String>,
    act_bits: Option<u32>,
    #[serde(rename = "extra_config")]
    extra: Option<Map<String, Value>>,
    #[serde(alias = "to_quant_block_names")]
    block_name_to_quantize: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Settings {
    bits: Option<u32>,
    group_size: Option<i64>,
    sym: Option<bool>,
    data_type: Option<String>,
    act_bits: Option<u32>,
}

impl Settings {
    fn verdict(&self, base: &Config) -> std::result::Result<Verdict, String> {
        let bits = self.bits.unwrap_or(base.bits);
        if bits >= 16 {
            return Ok(Verdict::Keep);
        }
        let kind = self.data_type.as_deref().or(base.data_type.as_deref()).unwrap_or("int");
        // "int_sym" and "int_asym" are integers too; what they say of the grid is in `sym`.
        if kind != "int" && !kind.starts_with("int_") {
            return Ok(Verdict::Foreign(format!("{bits}-bit {kind}")));
        }
        let grouping = match self.group_size.or(base.group_size).unwrap_or(128) {
            -1 => Grouping::Channel,
            0 => Grouping::Tensor,
            size => match usize::try_from(size) {
                Ok(size) => Grouping::Group(size),
                Err(_) => return Err(format!("a group_size of {size} is no number of inputs")),
            },
        };
        let symmetric = self.sym.or(base.sym).unwrap_or(true);
        match bits {
            0 => Err("bits is 0".to_owned()),
            _ => Ok(Verdict::Integers(Integers::new(bits, grouping, symmetric))),
        }
    }
}

/// The target whose files are of this kind.
pub(super) const TARGET: &str = "auto-round";

/// Which modules the settings for all are for.
fn sees(module: &Module<'_>) -> bool {
    module.is_linear() && module.in_block
}

/// The rules of a configuration, or of a config.json that holds one.
pub(super) fn rule_set(value: &Value, unsaid: &mut Unsaid) -> Result<RuleSet> {
    let value = value.get("quantization_config").unwrap_or(value);
    let config = Config::deserialize(value).map_err(|error| not_understood(WHAT, error))?;
    let is_other =
        |method: &&String| !["auto-round", "intel/auto-round"].contains(&method.as_str());
    if let Some(other) = config.quant_method.as_ref().filter(is_other) {
        return Err(not_understood(WHAT, format!("it is quantised by {other}")));
    }
    if config.act_bits.is_some_and(|bits| bits < 16) {
        unsaid.say("Activations are quantised too, which this program does not do.");
    }
    let (mut names, mut patterns) = (Vec::new(), Vec::new());
    for (text, value) in config.extra.iter().flatten() {
        let bad = |why: String| not_understood(WHAT, format!("{text} of extra_config: {why}"));
        let settings = Settings::deserialize(value).map_err(|error| bad(error.to_string()))?;
        let verdict = settings.verdict(&config).map_err(bad)?;
        if settings.act_bits.is_some_and(|bits| bits < 16) {
            unsaid.of("Activations are quantised too, which this program does not do: ", text, ".");
        }
        names.push(Rule::name(text, verdict.clone()));
        if text.contains(SPECIAL) {
            names.pop();
            patterns.push(Rule::pattern(text, Pattern::anywhere(text)?, verdict));
        }
    }
    let base = Settings::default().verdict(&config).map_err(|why| not_understood(WHAT, why))?;
    let begins = config.block_name_to_quantize.as_ref().map(blocks).unwrap_or_default();
    let test = Test::Part { kind: sees, begins, ends: Vec::new() };
    let others = Rule { text: String::new(), test, verdict: base };
    RuleSet::new(names.into_iter().chain(patterns).chain([others]).collect())
}

/// Names of blocks: one text with commas, a list, or lists in a list.
fn blocks(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect(),
        Value::Array(list) => list
            .iter()
            .flat_map(|value| match value {
                Value::Array(inner) => inner.iter().filter_map(blocks_text).collect::<Vec<_>>(),
                other => blocks_text(other).into_iter().collect(),
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn blocks_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
