//! The `quantization_config` of compressed-tensors: groups of targets with a scheme each, and what to ignore.
//! A module's own name goes before expressions (`re:`, from the beginning of the name, in alphabetical order),
//! and those before a class of modules; what is ignored is ignored first.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, MatrixKind};
use crate::error::Result;
use crate::numeric::grouping::Grouping;
use crate::plan::Plan;
use crate::recipe::compact;
use crate::recipe::form::{self, Integers, Layer, Symmetry};
use crate::recipe::patterns::Pattern;
use crate::recipe::rules::{self, Module, Rule, RuleSet, Test, Verdict};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, json, not_understood, pretty};

/// The dialect of compressed-tensors.
pub(super) struct CompressedTensors;

/// The registry's entry.
pub(super) static ENTRY: CompressedTensors = CompressedTensors;

static ABOUT: About = About {
    id: "compressed-tensors",
    title: "compressed-tensors configuration",
    summary: "The quantization_config that vLLM and transformers read: groups of modules with a scheme each.",
    file_name: "quantization_config.json",
    source: "the Python package compressed-tensors 0.20.0 (quant_config, quant_scheme, utils/match), read November 2026",
};

const WHAT: &str = "a quantization_config of compressed-tensors";

/// Names up to which a group lists its modules one by one.
const LISTED: usize = 8;

impl Dialect for CompressedTensors {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        let mut unsaid = Unsaid::default();
        let set = rule_set(&json(text, WHAT)?, &mut unsaid)?;
        rules::import(&[set], checkpoint, Some, unsaid)
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let Groups { groups, ignore } = groups(checkpoint, plan, &mut unsaid);
        let group = |(at, (integers, targets)): (usize, (Integers, Vec<String>))| {
            let group = json!({"targets": targets, "weights": weights(integers)});
            (format!("group_{at}"), group)
        };
        let groups: Map<String, Value> = groups.into_iter().enumerate().map(group).collect();
        let config = json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": groups, "ignore": ignore,
        });
        Exported { text: pretty(&config), unsaid: unsaid.sentences() }
    }
}

#[derive(Deserialize)]
struct Config {
    quant_method: Option<String>,
    #[serde(rename = "config_groups")]
    groups: Map<String, Value>,
    ignore: Option<Vec<String>>,
    kv_cache_scheme: Option<Value>,
    #[serde(rename = "sparsity_config")]
    sparsity: Option<Map<String, Value>>,
    #[serde(rename = "transform_config")]
    transform: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Group {
    targets: Vec<String>,
    weights: Option<Weights>,
    input_activations: Option<Value>,
    output_activations: Option<Value>,
}

/// The fields, and what is meant where they are left out, as in `QuantizationArgs`.
#[derive(Deserialize)]
struct Weights {
    num_bits: Option<u32>,
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric: Option<bool>,
    strategy: Option<String>,
    group_size: Option<i64>,
    actorder: Option<Value>,
    observer: Option<String>,
}

/// The rules of a `quantization_config`, or of a config.json that holds one.
pub(super) fn rule_set(value: &Value, unsaid: &mut Unsaid) -> Result<RuleSet> {
    let value = value.get("quantization_config").unwrap_or(value);
    let config = Config::deserialize(value).map_err(|error| not_understood(WHAT, error))?;
    if let Some(other) = config.quant_method.filter(|method| method != "compressed-tensors") {
        return Err(not_understood(WHAT, format!("it is quantised by {other}")));
    }
    if config.kv_cache_scheme.is_some() {
        unsaid.say("The file quantises the cache of keys and values; this program does not.");
    }
    if config.sparsity.is_some_and(|sparsity| !sparsity.is_empty()) {
        unsaid.say("Its sparsity_config was not taken over.");
    }
    if config.transform.is_some_and(|transform| !transform.is_empty()) {
        unsaid.say("Its transform_config was not taken over.");
    }
    let ignore = config.ignore.unwrap_or_default();
    groups_rules(&config.groups, &ignore, unsaid)
}

/// The target whose files are of this kind: a byte a weight, packed words as readers of every age take them, or with
/// codes that only newer ones read.
pub(super) fn target_of(value: &Value) -> &'static str {
    let value = value.get("quantization_config").unwrap_or(value);
    if value.get("format").and_then(Value::as_str) == Some("int-quantized") {
        return "compressed-tensors-int";
    }
    let groups = value.get("config_groups").and_then(Value::as_object).into_iter().flatten();
    let mut bits = groups.filter_map(|(_, group)| group.get("weights")?.get("num_bits")?.as_u64());
    let is_new = bits.any(|bits| matches!(bits, 3 | 5 | 6 | 7));
    if is_new { "compressed-tensors-0.18" } else { "compressed-tensors" }
}

/// The rules of groups and of what is ignored.
pub(super) fn groups_rules(
    groups: &Map<String, Value>,
    ignore: &[String],
    unsaid: &mut Unsaid,
) -> Result<RuleSet> {
    let mut targets: Vec<(u8, String, Verdict)> = Vec::new();
    for (name, value) in groups {
        let (of_group, verdict) = read_group(name, value, unsaid)?;
        targets.extend(of_group.into_iter().map(|target| (rank(&target), target, verdict.clone())));
    }
    // Stable: of equal targets the later group counts, as in a Python dict.
    targets.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    targets.reverse();
    targets.dedup_by(|later, kept| later.1 == kept.1);
    targets.reverse();
    let ignored = ignore.iter().map(|text| rule(text, Verdict::Keep));
    let targets = targets.into_iter().map(|(_, text, verdict)| rule(&text, verdict));
    RuleSet::new(ignored.chain(targets).collect::<Result<_>>()?)
}

/// Names before expressions before classes.
fn rank(target: &str) -> u8 {
    match target {
        _ if target.starts_with("re:") => 1,
        _ if class(target).is_some() => 2,
        _ => 0,
    }
}

/// The modules of a class, as far as classes are known here.
fn class(name: &str) -> Option<fn(&Module<'_>) -> bool> {
    match name {
        "Linear" => Some(|module| module.kind == MatrixKind::Linear),
        "Embedding" => Some(|module| module.kind == MatrixKind::Embedding),
        "Conv1D" => Some(|module| module.kind == MatrixKind::Conv1d),
        "Conv2d" => Some(|module| module.kind == MatrixKind::Convolution),
        _ => None,
    }
}

fn rule(target: &str, verdict: Verdict) -> Result<Rule> {
    if let Some(pattern) = target.strip_prefix("re:") {
        return Ok(Rule::pattern(target, Pattern::at_start(pattern)?, verdict));
    }
    Ok(match class(target) {
        Some(class) => Rule { text: target.to_owned(), test: Test::Kind(class), verdict },
        None => Rule::name(target, verdict),
    })
}

fn read_group(name: &str, value: &Value, unsaid: &mut Unsaid) -> Result<(Vec<String>, Verdict)> {
    let bad = |why: String| not_understood(WHAT, format!("{name}: {why}"));
    if value.is_array() {
        // A group may be a preset and its targets: {"W4A16": ["Linear"]}.
        let targets = Vec::deserialize(value).map_err(|error| bad(error.to_string()))?;
        return Ok((targets, preset(name, unsaid)?));
    }
    let group = Group::deserialize(value).map_err(|error| bad(error.to_string()))?;
    if group.input_activations.is_some() || group.output_activations.is_some() {
        activations(name, unsaid);
    }
    let verdict = match group.weights {
        None => Verdict::Keep,
        Some(weights) => weights.verdict(name, unsaid).map_err(bad)?,
    };
    Ok((group.targets, verdict))
}

fn activations(name: &str, unsaid: &mut Unsaid) {
    unsaid.of("Activations are quantised too, which this program does not do: ", name, ".");
}

/// What a preset scheme means, as `W4A16`.
pub(super) fn preset(name: &str, unsaid: &mut Unsaid) -> Result<Verdict> {
    let upper = name.to_ascii_uppercase();
    let integers =
        |bits, grouping, symmetric| Verdict::Integers(Integers::new(bits, grouping, symmetric));
    let group = Grouping::Group(128);
    Ok(match upper.as_str() {
        "UNQUANTIZED" => Verdict::Keep,
        "W4A16_ASYM" => integers(4, group, false),
        "W8A8" | "INT8" => {
            activations(name, unsaid);
            integers(8, Grouping::Channel, true)
        }
        "W4AFP8" => {
            activations(name, unsaid);
            integers(4, group, true)
        }
        _ if ["FP", "NVFP", "MXFP"].iter().any(|kind| upper.starts_with(kind)) => {
            Verdict::Foreign(upper)
        }
        _ => {
            let sizes = upper.strip_prefix('W').and_then(|rest| rest.split_once('A'));
            let sizes = sizes.and_then(|(w, a)| Some((w.parse().ok()?, a.parse().ok()?)));
            let Some((bits @ 2..=8, activation_bits @ (4_u32 | 8 | 16))) = sizes else {
                let known = "W2A16 to W8A16, W4A16_ASYM, W8A8, FP8, NVFP4 and MXFP4 are";
                return Err(not_understood(WHAT, format!("{name} is no known scheme; {known}")));
            };
            if activation_bits < 16 {
                activations(name, unsaid);
            }
            integers(bits, group, true)
        }
    })
}

impl Weights {
    fn verdict(&self, name: &str, unsaid: &mut Unsaid) -> std::result::Result<Verdict, String> {
        if self
            .actorder
            .as_ref()
            .is_some_and(|order| *order != Value::Null && *order != json!(false))
        {
            unsaid.of("The order in which GPTQ takes the inputs was not taken over: ", name, ".");
        }
        if let Some(observer) =
            self.observer.as_ref().filter(|observer| !observer.contains("minmax"))
        {
            let before = format!("The search for scales ({observer}) was not taken over: ");
            unsaid.of(&before, name, ".");
        }
        let bits = self.num_bits.unwrap_or(8);
        let kind = self.kind.as_deref().unwrap_or("int").to_ascii_lowercase();
        let strategy = self.strategy.as_deref().map(str::to_ascii_lowercase);
        let size = self.group_size.filter(|&size| size > 0).and_then(|s| usize::try_from(s).ok());
        let grouping = match (strategy.as_deref(), size) {
            (Some("channel"), _) => Grouping::Channel,
            (Some("group") | None, Some(size)) => Grouping::Group(size),
            (Some("group"), None) => return Err("its groups have no group_size".to_owned()),
            // Left out: a size of −1 means a channel, none the whole tensor.
            (None, None) if self.group_size.is_some() => Grouping::Channel,
            (Some("tensor"), _) | (None, None) => Grouping::Tensor,
            (Some(other @ ("block" | "token" | "tensor_group" | "attn_head")), _) => {
                return Ok(Verdict::Foreign(format!("{bits}-bit {kind} by {other}")));
            }
            (Some(other), _) => return Err(format!("its strategy {other} is not known")),
        };
        let verdict = match kind.as_str() {
            "int" if bits == 0 => return Err("its weights have 0 bits".to_owned()),
            "int" => {
                Verdict::Integers(Integers::new(bits, grouping, self.symmetric.unwrap_or(true)))
            }
            _ => Verdict::Foreign(format!("{bits}-bit {kind}")),
        };
        Ok(verdict)
    }
}

/// The weights of a group.
pub(super) fn weights(integers: Integers) -> Value {
    let (strategy, size) = match integers.grouping {
        Grouping::Tensor => ("tensor", None),
        Grouping::Channel => ("channel", None),
        Grouping::Group(size) => ("group", Some(size)),
    };
    let symmetric = integers.symmetry != Symmetry::Asymmetric;
    let mut weights = json!({
        "num_bits": integers.bits, "type": "int", "symmetric": symmetric, "strategy": strategy,
    });
    if let Some(size) = size {
        weights["group_size"] = json!(size);
    }
    weights
}

/// Groups of a plan with their targets, and what is to be ignored.
pub(super) struct Groups {
    pub(super) groups: Vec<(Integers, Vec<String>)>,
    pub(super) ignore: Vec<String>,
}

/// The groups of a plan. Where at least half of the linear layers have one form, its target is the class and
/// what is kept is ignored; all other modules are named, or meant by an expression.
pub(super) fn groups(checkpoint: &Checkpoint, plan: &Plan, unsaid: &mut Unsaid) -> Groups {
    let layers = form::layers(checkpoint, plan, unsaid);
    let forms: Vec<(Layer<'_>, Option<Integers>)> =
        layers.into_iter().map(|layer| (layer, form::unrestricted(&layer, unsaid))).collect();
    let has_class = |layer: &Layer<'_>, kind| layer.tensor.matrix.is_some_and(|m| m.kind == kind);
    let linear = |layer: &Layer<'_>| has_class(layer, MatrixKind::Linear);
    let main =
        form::commonest(forms.iter().filter(|(l, _)| linear(l)).filter_map(|(_, form)| *form));
    let total = forms.iter().filter(|(layer, _)| linear(layer)).count();
    let main = main.filter(|main| {
        let same = |(layer, form): &&(Layer<'_>, _)| linear(layer) && *form == Some(*main);
        forms.iter().filter(same).count() * 2 >= total
    });
    let targets = |chosen: &dyn Fn(&Layer<'_>, Option<Integers>) -> bool| -> Vec<String> {
        let all: Vec<(&str, bool)> =
            forms.iter().map(|(layer, form)| (layer.module, chosen(layer, *form))).collect();
        let runs = compact::runs(&all).into_iter();
        runs.flat_map(|run| written(&run, &all)).collect()
    };
    let mut used: Vec<Integers> = forms.iter().filter_map(|(_, form)| *form).collect();
    used.sort_unstable();
    used.dedup();
    used.sort_by_key(|form| Some(*form) != main);
    let group = |integers: Integers| {
        let is_main = main == Some(integers);
        let chosen = |layer: &Layer<'_>, form: Option<Integers>| {
            form == Some(integers) && !(is_main && linear(layer))
        };
        let class = is_main.then(|| "Linear".to_owned());
        (integers, class.into_iter().chain(targets(&chosen)).collect())
    };
    let groups = used.into_iter().map(group).collect();
    // A matrix of unknown kind may be a linear layer too.
    let may_be = |layer: &Layer<'_>| linear(layer) || has_class(layer, MatrixKind::Unknown);
    let ignore = match main {
        Some(_) => targets(&|layer, form| form.is_none() && may_be(layer)),
        None => Vec::new(),
    };
    Groups { groups, ignore }
}

/// A run as targets: an expression where it stands for a whole role or for many, else names.
fn written(run: &compact::Run<'_>, all: &[(&str, bool)]) -> Vec<String> {
    let is_role = run.names.len() > 1 && run.pattern.contains(r"\d+") && !run.pattern.contains('|');
    let names_clash = run.names.iter().any(|name| class(name).is_some() || name.starts_with("re:"));
    if is_role || run.names.len() > LISTED || (names_clash && all.len() > 1) {
        vec![format!("re:^{}$", run.pattern)]
    } else {
        run.names.iter().map(|&name| name.to_owned()).collect()
    }
}
