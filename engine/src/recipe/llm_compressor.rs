//! Recipes of llm-compressor in YAML: stages of modifiers, of which those that quantise hold the groups of
//! compressed-tensors, or a scheme and its targets.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::method::Step;
use crate::plan::Plan;
use crate::recipe::compressed_tensors::{self, Groups};
use crate::recipe::rules::{self, RuleSet};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, check_length, not_understood};

/// The dialect of llm-compressor.
pub(super) struct LlmCompressor;

/// The registry's entry.
pub(super) static ENTRY: LlmCompressor = LlmCompressor;

static ABOUT: About = About {
    id: "llm-compressor",
    title: "llm-compressor recipe",
    summary: "A YAML recipe of stages and modifiers, as llm-compressor's oneshot takes it.",
    file_name: "recipe.yaml",
    source: "examples and tests/e2e/recipes of vllm-project/llm-compressor, read November 2026",
};

const WHAT: &str = "a recipe of llm-compressor";

impl Dialect for LlmCompressor {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        check_length(text)?;
        let recipe: Value = serde_saphyr::from_str(text).map_err(|error| {
            let error = error.to_string();
            not_understood(WHAT, format!("it is not YAML ({})", error.lines().next().unwrap_or("")))
        })?;
        let mut unsaid = Unsaid::default();
        let mut sets = Vec::new();
        for (name, arguments) in modifiers(&recipe)? {
            sets.extend(modifier(name, arguments, &mut unsaid)?);
        }
        if sets.is_empty() {
            unsaid.say("No modifier of the recipe quantises weights.");
        }
        rules::import(&sets, checkpoint, Some, unsaid)
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let Groups { groups, ignore } = compressed_tensors::groups(checkpoint, plan, &mut unsaid);
        let quoted = |text: &String| Value::from(text.as_str()).to_string();
        let list = |texts: &[String]| {
            let texts: Vec<String> = texts.iter().map(quoted).collect();
            format!("[{}]", texts.join(", "))
        };
        let head = "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n";
        let mut text = vec![head.to_owned()];
        text.push(format!("      ignore: {}\n", list(&ignore)));
        let none = if groups.is_empty() { " {}" } else { "" };
        text.push(format!("      config_groups:{none}\n"));
        for (at, (integers, targets)) in groups.iter().enumerate() {
            // JSON on one line is YAML too.
            let weights = compressed_tensors::weights(*integers);
            text.push(format!("        group_{at}:\n          targets: {}\n", list(targets)));
            text.push(format!("          weights: {}\n", flow(&weights)));
        }
        Exported { text: text.concat(), unsaid: unsaid.sentences() }
    }
}

/// A flat object as people write it in YAML.
fn flow(value: &Value) -> String {
    let empty = Map::new();
    let pairs = value.as_object().unwrap_or(&empty).iter();
    let pairs: Vec<String> = pairs
        .map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key}: {text}"),
            None => format!("{key}: {value}"),
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Every modifier of every stage, in order.
fn modifiers(recipe: &Value) -> Result<Vec<(&str, &Value)>> {
    let Some(stages) = recipe.as_object() else {
        return Err(not_understood(WHAT, "it is no map of stages"));
    };
    let mut found = Vec::new();
    for (stage, value) in stages.iter().filter(|(_, value)| value.is_object()) {
        let groups = value.as_object().into_iter().flatten();
        let mut groups = groups.filter(|(key, _)| key.ends_with("modifiers")).peekable();
        if groups.peek().is_none() && stage.ends_with("stage") {
            return Err(not_understood(WHAT, format!("the stage {stage} has no modifiers")));
        }
        for (key, group) in groups {
            let maps: Vec<&Value> = match group {
                Value::Array(list) => list.iter().collect(),
                other => vec![other],
            };
            for map in maps {
                let Some(map) = map.as_object() else {
                    return Err(not_understood(
                        WHAT,
                        format!("{key} of {stage} is no map of modifiers"),
                    ));
                };
                found.extend(map.iter().map(|(name, arguments)| (name.as_str(), arguments)));
            }
        }
    }
    if found.is_empty() {
        return Err(not_understood(WHAT, "it has no stage with modifiers"));
    }
    Ok(found)
}

/// One text or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn many(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Deserialize)]
struct Arguments {
    config_groups: Option<Map<String, Value>>,
    scheme: Option<Value>,
    targets: Option<Texts>,
    ignore: Option<Texts>,
    kv_cache_scheme: Option<Value>,
}

/// The rules of a modifier; none if it does not quantise weights.
fn modifier(name: &str, arguments: &Value, unsaid: &mut Unsaid) -> Result<Option<RuleSet>> {
    let bad = |why: String| not_understood(WHAT, format!("{name}: {why}"));
    let quantises = ["scheme", "config_groups"]
        .iter()
        .any(|key| arguments.get(key).is_some_and(|value| !value.is_null()));
    if name != "QuantizationModifier" && name != GPTQ {
        let after = if quantises { "; its layers are read as rounded to nearest." } else { "." };
        unsaid.of("Modifiers this program does not have: ", name, after);
    }
    if !quantises {
        return Ok(None);
    }
    let own = arguments;
    let arguments = Arguments::deserialize(arguments).map_err(|error| bad(error.to_string()))?;
    if arguments.kv_cache_scheme.is_some() {
        unsaid.say("The file quantises the cache of keys and values; this program does not.");
    }
    let ignore = arguments.ignore.map(Texts::many).unwrap_or_default();
    let targets = arguments.targets.map_or_else(|| vec!["Linear".to_owned()], Texts::many);
    let groups = match (arguments.config_groups, arguments.scheme) {
        (Some(groups), _) => groups,
        (None, Some(Value::String(scheme))) => Map::from_iter([(scheme, json!(targets))]),
        (None, Some(Value::Object(schemes))) => schemes,
        (None, _) => return Err(bad("its scheme is neither a name nor a map".to_owned())),
    };
    let rules = compressed_tensors::groups_rules(&groups, &ignore, unsaid)?;
    if name != GPTQ {
        return Ok(Some(rules));
    }
    let own = OfGptq::deserialize(own).map_err(|error| bad(error.to_string()))?;
    Ok(Some(rules.by(own.step(unsaid)?)))
}

/// The modifier that is GPTQ.
const GPTQ: &str = "GPTQModifier";

/// What GPTQ takes beside its groups. How many columns it brings up to date at once (`block_size`) changes no result.
#[derive(Deserialize)]
struct OfGptq {
    dampening_frac: Option<f64>,
    /// Absent means `static`, null none.
    #[serde(default = "by_weight")]
    actorder: Value,
}

fn by_weight() -> Value {
    Value::from("static")
}

impl OfGptq {
    /// The step without its grid; parameters at their defaults are left out.
    fn step(&self, unsaid: &mut Unsaid) -> Result<Step> {
        let mut step = Step::new("gptq");
        match self.actorder.as_str() {
            Some("static" | "weight") => {}
            Some("group" | "dynamic") => unsaid.say(
                "GPTQModifier groups inputs in the order of their activation (actorder: group); here \
                 that order is used with groups of neighbours (actorder: static).",
            ),
            None if self.actorder.is_null() || self.actorder == Value::Bool(false) => {
                step = step.with("order", "columns");
            }
            _ => {
                let why = format!("{GPTQ}: there is no actorder {}", self.actorder);
                return Err(not_understood(WHAT, why));
            }
        }
        let Some(wanted) = self.dampening_frac.filter(|&wanted| wanted != 0.01) else {
            return Ok(step);
        };
        let damping = wanted.clamp(0.0001, 1.0);
        if damping.total_cmp(&wanted).is_ne() {
            unsaid.say(format!("A dampening_frac of {wanted} is read as {damping}."));
        }
        Ok(step.with("damping", damping))
    }
}
