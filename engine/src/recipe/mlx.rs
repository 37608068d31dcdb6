//! MLX's `quantization` in config.json: settings for every layer whose rows are whole groups, and entries by
//! module with other settings, or false.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, MatrixKind};
use crate::error::Result;
use crate::format::mlx::module_name;
use crate::numeric::grouping::Grouping;
use crate::plan::Plan;
use crate::recipe::form::{self, Integers, Layer, Symmetry};
use crate::recipe::rules::{self, Module, Rule, RuleSet, Verdict};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, json, not_understood, pretty};

/// The dialect of MLX.
pub(super) struct Mlx;

/// The registry's entry.
pub(super) static ENTRY: Mlx = Mlx;

static ABOUT: About = About {
    id: "mlx",
    title: "MLX quantization",
    summary: "The quantization entry of an MLX model's config.json, with an entry for each layer that differs.",
    file_name: "config.json",
    source: "mlx_lm/utils.py of ml-explore/mlx-lm, read November 2026",
};

const WHAT: &str = "a quantization of MLX";

/// The target whose files are of this kind.
pub(super) const TARGET: &str = "mlx";

/// What MLX has.
const BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];
const SIZES: [usize; 3] = [128, 64, 32];

impl Dialect for Mlx {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        let mut unsaid = Unsaid::default();
        let (set, size) = rule_set(&json(text, WHAT)?, &mut unsaid)?;
        let sees = |module| see(module, size);
        rules::import(&[set], checkpoint, sees, unsaid)
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let layers = form::layers(checkpoint, plan, &mut unsaid);
        let forms = forms(&layers, &mut unsaid);
        let main = form::commonest(forms.values().filter_map(|(form, _)| *form));
        let base = main.unwrap_or((4, 64));
        let mut quantization = settings(base);
        quantization.insert("mode".to_owned(), json!("affine"));
        for (name, (form, cols)) in &forms {
            // What is said without a word: the settings for all, where rows are whole groups.
            let silent = cols.is_multiple_of(base.1).then_some(base);
            match form {
                _ if *form == silent => {}
                Some(form) => {
                    quantization.insert(name.clone(), settings(*form).into());
                }
                None => {
                    quantization.insert(name.clone(), json!(false));
                }
            }
        }
        Exported {
            text: pretty(&json!({"quantization": quantization})),
            unsaid: unsaid.sentences(),
        }
    }
}

fn settings((bits, size): (u32, usize)) -> Map<String, Value> {
    Map::from_iter([("group_size".to_owned(), json!(size)), ("bits".to_owned(), json!(bits))])
}

/// Whether MLX quantises modules of a kind.
fn is_known(kind: MatrixKind) -> bool {
    !matches!(kind, MatrixKind::Convolution)
}

/// The module as the rules see it. What has no rule of its own and no whole groups is left alone.
pub(super) fn see(mut module: Module<'_>, size: usize) -> Option<Module<'_>> {
    if !is_known(module.kind) {
        return None;
    }
    module.name = match module_name(&module.name) {
        Cow::Owned(name) => Cow::Owned(name),
        Cow::Borrowed(_) => module.name,
    };
    // Rules for all ask the columns; that they are whole groups is noted there.
    module.cols = if size == 0 { 0 } else { module.cols % size };
    Some(module)
}

type Form = (u32, usize);

/// What is written for each module of MLX, and its inputs.
fn forms(layers: &[Layer<'_>], unsaid: &mut Unsaid) -> BTreeMap<String, (Option<Form>, usize)> {
    let mut forms: BTreeMap<String, (Option<Form>, usize)> = BTreeMap::new();
    for layer in layers {
        let Some(matrix) = layer.tensor.matrix else { continue };
        if !is_known(matrix.kind) {
            if layer.form.is_some() {
                unsaid.of("MLX does not quantise convolutions: ", layer.module, ".");
            }
            continue;
        }
        let cols = matrix.shape.cols;
        let form = layer.form.and_then(|form| nearest(form, cols, layer.module, unsaid));
        let name = module_name(layer.module);
        match forms.get_mut(name.as_ref()) {
            None => {
                forms.insert(name.into_owned(), (form, cols));
            }
            Some((old, _)) if *old != form => {
                let before =
                    "MLX holds the experts of a block in one; the finest settings are written for ";
                unsaid.of(before, &name, ".");
                // Kept is finest; then more bits; then smaller groups.
                let fine = |form: Option<Form>| {
                    form.map_or((u32::MAX, 0), |(bits, size)| (bits, usize::MAX - size))
                };
                if fine(form) > fine(*old) {
                    *old = form;
                }
            }
            Some(_) => {}
        }
    }
    forms
}

/// The nearest that MLX has for rows of so many inputs.
fn nearest(form: Integers, cols: usize, name: &str, unsaid: &mut Unsaid) -> Option<Form> {
    let bits = BITS.into_iter().find(|&bits| bits >= form.bits).unwrap_or(8);
    let wanted = match form.grouping {
        Grouping::Group(size) => size,
        Grouping::Tensor | Grouping::Channel => usize::MAX,
    };
    let whole = |&size: &usize| cols.is_multiple_of(size);
    let mut sizes = SIZES.into_iter().filter(whole);
    let size = sizes.clone().find(|&size| size <= wanted).or_else(|| sizes.next_back());
    let Some(size) = size else {
        unsaid.of("MLX wants rows of whole groups of 32; written as kept: ", name, ".");
        return None;
    };
    let written = Integers::new(bits, Grouping::Group(size), false);
    if written != form {
        let before = format!("MLX has no {}; {} is written for ", form.label(), written.label());
        unsaid.of(&before, name, ".");
    }
    Some((bits, size))
}

#[derive(Deserialize)]
struct Settings {
    group_size: Option<usize>,
    bits: Option<u32>,
    mode: Option<String>,
}

impl Settings {
    fn verdict(&self, base: &Self) -> std::result::Result<Verdict, String> {
        let mode = self.mode.as_deref().or(base.mode.as_deref()).unwrap_or("affine");
        if mode != "affine" {
            return Ok(Verdict::Foreign(mode.to_owned()));
        }
        let bits = self.bits.or(base.bits).unwrap_or(4);
        let size = self.group_size.or(base.group_size).unwrap_or(64);
        if bits == 0 || bits > 8 || size == 0 {
            return Err(format!("{bits} bits in groups of {size} are none of MLX"));
        }
        let symmetry = Symmetry::Asymmetric;
        Ok(Verdict::Integers(Integers { bits, grouping: Grouping::Group(size), symmetry }))
    }
}

/// The rules of a quantization, or of a config.json that holds one, and the group size for all.
pub(super) fn rule_set(value: &Value, unsaid: &mut Unsaid) -> Result<(RuleSet, usize)> {
    let held = ["quantization", "quantization_config"].iter().find_map(|key| value.get(key));
    let value = held.unwrap_or(value);
    let base = Settings::deserialize(value).map_err(|error| not_understood(WHAT, error))?;
    if base.bits.is_none() && base.mode.is_none() {
        return Err(not_understood(WHAT, "it says no bits"));
    }
    if value.get("quant_method").is_some_and(Value::is_string) {
        return Err(not_understood(WHAT, format!("it is quantised by {}", value["quant_method"])));
    }
    let all = base.verdict(&base).map_err(|why| not_understood(WHAT, why))?;
    let known = ["group_size", "bits", "mode", "quant_method"];
    let mut rules = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        if known.contains(&name.as_str()) {
            continue;
        }
        let bad = |why: String| not_understood(WHAT, format!("{name}: {why}"));
        let verdict = match value {
            Value::Bool(false) => Verdict::Keep,
            Value::Bool(true) => all.clone(),
            Value::Object(_) => {
                let settings = Settings::deserialize(value).map_err(|e| bad(e.to_string()))?;
                settings.verdict(&base).map_err(bad)?
            }
            Value::Null | Value::String(_) | Value::Number(_) => {
                unsaid.of("Settings of MLX that were not taken over: ", name, ".");
                continue;
            }
            Value::Array(_) => return Err(bad("it is a list".to_owned())),
        };
        rules.push(Rule::name(name, verdict));
    }
    // Rows that are no whole groups stay as they are, as the converter leaves them.
    rules.push(Rule::others(|module| module.cols == 0, all));
    Ok((RuleSet::new(rules)?, base.group_size.unwrap_or(64)))
}
