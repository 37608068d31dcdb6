//! How a plan that a budget made is told: a line for each role, the files it makes, the fields of a document.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use lapidary_engine::checkpoint::{Checkpoint, Role};
use lapidary_engine::scores::{LeftOut, UnitScores, active_bytes, cache_bytes};
use lapidary_engine::target::Manifest;
use lapidary_engine::{Result, network};
use serde_json::{Value, json};

use crate::cli::allocation::{Allocation, Opened, Solved};
use crate::cli::output::Table;
use crate::theme::text;

impl Allocation {
    /// What became of the units, for the end of a table.
    pub(in crate::cli) fn told(&self, opened: &Opened, solved: &Solved) -> Result<String> {
        let manifest = opened.laid_out(&solved.plan)?;
        let files = self.files(opened, &manifest);
        let memory = self.memory(opened, &manifest).map_or_else(String::new, |memory| {
            let [weights, cache, active] = memory.map(text::bytes);
            let context = text::count(self.context);
            format!(
                "in memory: weights of {weights}, keys and values of {context} tokens {cache}; {active} of weights are read for each token\n"
            )
        });
        Ok(by_role(&opened.checkpoint, solved) + &spread(solved) + &files + &memory)
    }

    /// What the files of a plan take and where it is.
    pub(in crate::cli) fn files(&self, opened: &Opened, manifest: &Manifest) -> String {
        let size = text::bytes(manifest.weight_file_bytes());
        let place = self.out.as_ref().map_or_else(
            || "--out keeps it".to_owned(),
            |out| format!("written to {}", out.display()),
        );
        format!("weight files of {size} for {}; {place}\n", opened.target.about().title)
    }

    /// Bytes of weights, of keys and values, and of weights read for a token; `None` where that was not asked for, or
    /// the network is not known.
    fn memory(&self, opened: &Opened, manifest: &Manifest) -> Option<[u64; 3]> {
        self.wanted.memory.as_ref()?;
        let design = network::architectures::design(opened.checkpoint.config()?).ok()?;
        let active = active_bytes(&opened.checkpoint, manifest, &design);
        Some([manifest.tensor_bytes(), cache_bytes(&design, self.context), active])
    }

    /// The plan as the fields of a JSON object.
    pub(in crate::cli) fn json(&self, opened: &Opened, solved: &Solved) -> Result<Value> {
        let checkpoint = &opened.checkpoint;
        let manifest = opened.laid_out(&solved.plan)?;
        let unit = |(of, &option): (&UnitScores, &usize)| {
            let option = &of.options[option];
            let name = |&layer: &usize| &checkpoint.tensors()[layer].name;
            json!({
                "layers": of.unit.layers.iter().map(name).collect::<Vec<_>>(),
                "assignment": option.assignments[0].label(),
                "bytes": option.bytes,
                "damage": option.damage,
                "locked": of.unit.is_locked,
            })
        };
        let units: Vec<Value> =
            solved.scores.iter().zip(&solved.choice.options).map(unit).collect();
        let mut object = json!({
            "target": opened.target.about().id,
            "score": opened.metric,
            "bits_per_weight": solved.bits(checkpoint, solved.choice.bytes),
            "unit_bytes": solved.choice.bytes,
            "weight_file_bytes": manifest.weight_file_bytes(),
            "predicted_damage": solved.choice.damage,
            "units": units,
            "left_out": opened.left_out.iter().map(left_out).collect::<Vec<_>>(),
            "problems": opened.problems_json(&solved.plan),
        });
        if let Some([weights, cache, active]) = self.memory(opened, &manifest) {
            object["memory"] = json!({
                "weight_bytes": weights,
                "cache_bytes": cache,
                "context": self.context,
                "active_bytes_per_token": active,
            });
        }
        Ok(object)
    }
}

fn left_out(of: &LeftOut) -> Value {
    json!({ "candidates": of.candidates, "because": of.because })
}

/// Layers with what each has.
fn chosen(solved: &Solved) -> impl Iterator<Item = (usize, String)> {
    let units = solved.scores.iter().zip(&solved.choice.options);
    units.flat_map(|(of, &option)| {
        let assigned = of.unit.layers.iter().zip(&of.options[option].assignments);
        assigned.map(|(&layer, assignment)| (layer, assignment.label()))
    })
}

/// How many layers have each of some assignments, as `14 × 4-bit g128, 8 × keep`.
fn counted(labels: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    labels.for_each(|label| *counts.entry(label).or_default() += 1);
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| Reverse(*n));
    let parts: Vec<String> = counts.iter().map(|(label, n)| format!("{n} × {label}")).collect();
    parts.join(", ")
}

/// How many layers have each assignment.
fn spread(solved: &Solved) -> String {
    format!("layers: {}\n", counted(chosen(solved).map(|(_, label)| label)))
}

/// The same, a line for each role.
fn by_role(checkpoint: &Checkpoint, solved: &Solved) -> String {
    let mut table = Table::new(&["<role", "layers", "<what they have"]);
    let role = |layer: usize| checkpoint.tensors()[layer].place.role;
    for each in Role::ALL {
        let of_role = || chosen(solved).filter(|(layer, _)| role(*layer) == each);
        let n = of_role().count();
        if n > 0 {
            let has = counted(of_role().map(|(_, label)| label));
            table.row(vec![each.name().to_owned(), n.to_string(), has]);
        }
    }
    format!("\n{}\n", table.render())
}
