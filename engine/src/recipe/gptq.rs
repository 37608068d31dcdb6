//! `GPTQModel`'s `quantize_config.json`: settings for all linear layers of the blocks, and `dynamic`, expressions
//! tried in order from the beginning of a module's name, with other settings (`+:`) or none (`-:`).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, Role};
use crate::error::Result;
use crate::numeric::grouping::Grouping;
use crate::plan::Plan;
use crate::recipe::form::{self, Integers, Layer, Symmetry};
use crate::recipe::patterns::Pattern;
use crate::recipe::rules::{self, Module, Rule, RuleSet, Test, Verdict};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, compact, json, not_understood, pretty};

/// The dialect of `GPTQModel`.
pub(super) struct Gptq;

/// The registry's entry.
pub(super) static ENTRY: Gptq = Gptq;

static ABOUT: About = About {
    id: "gptq",
    title: "GPTQModel configuration",
    summary: "quantize_config.json with the settings of all layers and dynamic rules for some.",
    file_name: "quantize_config.json",
    source: "gptqmodel/quantization/config.py of ModelCloud/GPTQModel and gptq_utils.py of vLLM, read November 2026",
};

const WHAT: &str = "a quantize_config.json of GPTQ";

impl Dialect for Gptq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        let mut unsaid = Unsaid::default();
        let stated = json(text, WHAT)?;
        let (set, sees) = rule_set(&stated, &mut unsaid)?;
        let target = Some(target_of(&stated));
        let found =
            rules::import(&[set], checkpoint, |module| sees(&module).then_some(module), unsaid);
        found.map(|imported| Imported { target, ..imported })
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let layers = form::layers(checkpoint, plan, &mut unsaid);
        let forms = forms(&layers, &mut unsaid);
        let lm_head = forms.iter().any(|(layer, _)| is_head(layer));
        let main =
            form::commonest(forms.iter().filter(|(l, _)| !is_head(l)).filter_map(|(_, f)| *f));
        let main = main.or_else(|| form::commonest(forms.iter().filter_map(|(_, form)| *form)));
        let base = main.unwrap_or(Integers::new(4, Grouping::Group(128), true));
        let mut dynamic = Map::new();
        let mut used: Vec<Option<Integers>> = forms.iter().map(|(_, form)| *form).collect();
        used.sort_unstable();
        used.dedup();
        for form in used.into_iter().filter(|form| *form != Some(base)) {
            let all: Vec<(&str, bool)> =
                forms.iter().map(|(layer, of)| (layer.module, *of == form)).collect();
            for run in compact::runs(&all) {
                let (sign, values) = match form {
                    Some(integers) => ('+', settings(integers)),
                    None => ('-', json!({})),
                };
                dynamic.insert(format!("{sign}:^{}$", run.pattern), values);
            }
        }
        let mut config = json!({"quant_method": "gptq"});
        for (key, value) in settings(base).as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        config["desc_act"] = json!(false);
        config["lm_head"] = json!(lm_head);
        if !dynamic.is_empty() {
            config["dynamic"] = dynamic.into();
        }
        Exported { text: pretty(&config), unsaid: unsaid.sentences() }
    }
}

fn settings(integers: Integers) -> Value {
    let size = match integers.grouping {
        Grouping::Group(size) => json!(size),
        Grouping::Tensor | Grouping::Channel => json!(-1),
    };
    let sym = integers.symmetry != Symmetry::Asymmetric;
    json!({"bits": integers.bits, "group_size": size, "sym": sym})
}

fn is_head(layer: &Layer<'_>) -> bool {
    layer.tensor.place.block.is_none()
}

/// The layers that `GPTQModel` quantises, with the form that is written for each; a head only if it is quantised.
fn forms<'a>(layers: &[Layer<'a>], unsaid: &mut Unsaid) -> Vec<(Layer<'a>, Option<Integers>)> {
    let mut forms = Vec::new();
    for layer in layers {
        let form = form::unrestricted(layer, unsaid);
        let module = Module::of(layer.tensor);
        let is_quantised = |module: &Module<'_>| {
            let is_head = module.role == Role::Head && !module.in_block;
            sees_blocks(module) || (is_head && form.is_some())
        };
        if !module.as_ref().is_some_and(is_quantised) {
            if form.is_some() {
                unsaid.of(
                    "GPTQModel quantises linear layers of the blocks and the head, not ",
                    layer.module,
                    ".",
                );
            }
            continue;
        }
        let form = form.map(|form| {
            if form.grouping == Grouping::Tensor {
                unsaid.of(
                    "GPTQModel has no scale for a whole matrix; one a row is written for ",
                    layer.module,
                    ".",
                );
                return Integers { grouping: Grouping::Channel, ..form };
            }
            form
        });
        if let Some(bits @ (5..=7)) = form.map(|form| form.bits) {
            let before = format!("Few programs besides GPTQModel read {bits} bits: ");
            unsaid.of(&before, layer.module, ".");
        }
        forms.push((*layer, form));
    }
    forms
}

#[derive(Deserialize)]
struct Config {
    quant_method: Option<String>,
    bits: u32,
    group_size: Option<i64>,
    sym: Option<bool>,
    desc_act: Option<bool>,
    lm_head: Option<bool>,
    dynamic: Option<Map<String, Value>>,
    modules_in_block_to_quantize: Option<Vec<Vec<String>>>,
}

#[derive(Deserialize)]
struct Settings {
    bits: Option<u32>,
    group_size: Option<i64>,
    sym: Option<bool>,
}

impl Settings {
    fn verdict(&self, base: &Config) -> std::result::Result<Verdict, String> {
        let bits = self.bits.unwrap_or(base.bits);
        let grouping = match self.group_size.or(base.group_size).unwrap_or(128) {
            -1 => Grouping::Channel,
            size => match usize::try_from(size) {
                Ok(size @ 1..) => Grouping::Group(size),
                _ => {
                    return Err(format!(
                        "a group_size of {size} is neither -1 nor a number of inputs"
                    ));
                }
            },
        };
        let symmetric = self.sym.or(base.sym).unwrap_or(true);
        match bits {
            0 => Err("bits is 0".to_owned()),
            16.. => Ok(Verdict::Keep),
            _ => Ok(Verdict::Integers(Integers::new(bits, grouping, symmetric))),
        }
    }
}

/// Which modules are quantised at all.
type Sees = fn(&Module<'_>) -> bool;

fn sees_blocks(module: &Module<'_>) -> bool {
    module.is_linear() && module.in_block && module.role != Role::Router
}

fn sees_head(module: &Module<'_>) -> bool {
    sees_blocks(module) || (module.is_linear() && module.role == Role::Head)
}

/// The target whose files are of this kind: zero points have a form in the second version alone.
pub(super) fn target_of(value: &Value) -> &'static str {
    let value = value.get("quantization_config").unwrap_or(value);
    let is_second = value.get("checkpoint_format").and_then(Value::as_str) == Some("gptq_v2");
    let is_asymmetric = value.get("sym") == Some(&Value::Bool(false));
    if is_second || is_asymmetric { "gptq-v2" } else { "gptq" }
}

/// The rules of a configuration, or of a config.json that holds one, and which modules they are for.
pub(super) fn rule_set(value: &Value, unsaid: &mut Unsaid) -> Result<(RuleSet, Sees)> {
    let value = value.get("quantization_config").unwrap_or(value);
    let config = Config::deserialize(value).map_err(|error| not_understood(WHAT, error))?;
    if let Some(other) = config.quant_method.as_ref().filter(|method| *method != "gptq") {
        return Err(not_understood(WHAT, format!("it is quantised by {other}")));
    }
    if config.desc_act == Some(true) {
        unsaid.say("The order in which GPTQ takes the inputs (desc_act) was not taken over.");
    }
    let mut rules = Vec::new();
    for (text, value) in config.dynamic.iter().flatten() {
        let bad = |why: String| not_understood(WHAT, format!("the dynamic rule {text}: {why}"));
        if let Some(pattern) = text.strip_prefix("-:") {
            rules.push(Rule::pattern(text, Pattern::at_start(pattern)?, Verdict::Keep));
            continue;
        }
        let pattern = Pattern::at_start(text.strip_prefix("+:").unwrap_or(text))?;
        let settings = Settings::deserialize(value).map_err(|error| bad(error.to_string()))?;
        rules.push(Rule::pattern(text, pattern, settings.verdict(&config).map_err(bad)?));
        let known = ["bits", "group_size", "sym", "desc_act"];
        let keys = value.as_object().into_iter().flatten().map(|(key, _)| key);
        for key in keys.filter(|key| !known.contains(&key.as_str())) {
            unsaid.of(&format!("The setting {key} was not taken over, of the rules "), text, ".");
        }
    }
    let base = Settings { bits: None, group_size: None, sym: None };
    let verdict = base.verdict(&config).map_err(|why| not_understood(WHAT, why))?;
    let sees: Sees = if config.lm_head == Some(true) { sees_head } else { sees_blocks };
    let ends: Vec<String> =
        config.modules_in_block_to_quantize.iter().flatten().flatten().cloned().collect();
    rules.push(Rule {
        text: String::new(),
        test: Test::Part { kind: sees, begins: Vec::new(), ends },
        verdict,
    });
    Ok((RuleSet::new(rules)?, sees))
}
