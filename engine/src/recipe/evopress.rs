//! `EvoPress`: `layer: level` on each line, where the level of a quantisation search is the bits.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::numeric::grouping::Grouping;
use crate::plan::Plan;
use crate::recipe::form::{self, Integers};
use crate::recipe::rules::{self, Rule, RuleSet, Verdict};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{About, Dialect, Exported, Imported, check_length};

/// The dialect of `EvoPress`.
pub(super) struct EvoPress;

/// The registry's entry.
pub(super) static ENTRY: EvoPress = EvoPress;

static ABOUT: About = About {
    id: "evopress",
    title: "EvoPress configuration",
    summary: "A line for each layer with its bits, as EvoPress's quantisation search writes it.",
    file_name: "evopress-config.txt",
    source: "IST-DASLab/EvoPress: src/model_utils.py, and results of evo_quant_search.py, read November 2026",
};

/// What is meant where a file says only bits.
const GROUPING: Grouping = Grouping::Group(128);

impl Dialect for EvoPress {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported> {
        check_length(text)?;
        let mut levels = BTreeMap::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (name, bits) = line_of(line).map_err(|why| {
                Error::plan(
                    format!("line {} of this EvoPress file, {:?}, {why}", at + 1, line.trim()),
                    "write the layer's module, a colon and its bits, as model.layers.0.mlp.up_proj: 4",
                )
            })?;
            // The last line of a layer counts, as when they are loaded one after another.
            levels.insert(name, bits);
        }
        let mut unsaid = Unsaid::default();
        let rule = |(name, bits): (&str, u32)| {
            let verdict = match bits {
                16.. => Verdict::Keep,
                _ => Verdict::Integers(Integers::new(bits, GROUPING, true)),
            };
            Rule::name(name, verdict)
        };
        if !levels.is_empty() {
            unsaid.say("EvoPress says only bits: symmetric groups of 128 were taken.");
        }
        let set = RuleSet::new(levels.into_iter().map(rule).collect())?;
        rules::import(&[set], checkpoint, Some, unsaid)
    }

    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported {
        let mut unsaid = Unsaid::default();
        let mut lines = Vec::new();
        for layer in form::layers(checkpoint, plan, &mut unsaid) {
            let Some(integers) = layer.form else { continue };
            if integers != Integers::new(integers.bits, GROUPING, true) {
                let before = format!("EvoPress says only bits; {} of ", integers.label());
                unsaid.of(&before, layer.module, " is its database's own choice.");
            }
            lines.push(format!("{}: {}\n", layer.module, integers.bits));
        }
        Exported { text: lines.concat(), unsaid: unsaid.sentences() }
    }
}

fn line_of(line: &str) -> std::result::Result<(&str, u32), String> {
    if ["attn", "mlp", "attn+mlp", "none"].contains(&line.trim()) {
        return Err("drops parts of a block, which is no level of a layer".to_owned());
    }
    let (name, level) = line.rsplit_once(':').ok_or("has no colon")?;
    let (name, level) = (name.trim(), level.trim());
    if name.is_empty() {
        return Err("names no layer".to_owned());
    }
    let number =
        level.parse::<f64>().map_err(|error| format!("has no number of bits ({error})"))?;
    let is_bits = number.fract() == 0.0 && (1.0..=32.0).contains(&number);
    is_bits
        .then_some((name, number as u32))
        .ok_or_else(|| "has a level that is no number of bits from 1 to 32".to_owned())
}
