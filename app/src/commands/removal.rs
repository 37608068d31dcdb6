//! Taking blocks and experts of the selection out of the model, and putting them back: one named step that undo takes back.

use std::collections::{BTreeMap, BTreeSet};

use lapidary_engine::checkpoint::Removal;

use crate::document::model::Model;

/// What of the selection is taken out, or put back where all of it is out already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The blocks of the selected layers.
    Blocks,
    /// The experts that the selected layers belong to.
    Experts,
}

/// Carries it out; gives what the status bar should say.
pub(super) fn toggle(model: &mut Model, parts: Parts) -> String {
    let wanted = selected(model, parts);
    if wanted.is_empty() {
        return match parts {
            Parts::Blocks => {
                "Only blocks can be taken out, and the selection is in none".to_owned()
            }
            Parts::Experts => "Select layers of experts to take those out".to_owned(),
        };
    }
    let now = model.plan().removal();
    let all = now.with(&wanted).plain();
    let is_out = all == *now;
    let (then, verb) = if is_out { (less(now, &wanted), "Put back") } else { (all, "Take out") };
    if let Err(error) = model.checkpoint.check_removal(&then)
        // Experts are marked one after another until every block has lost as many: Problems says what is missing.
        && (parts == Parts::Blocks || model.checkpoint.removable_blocks().is_none())
    {
        return error.sentence();
    }
    let label = format!("{verb} {}", wanted.told());
    model.history.edit(&label, |draft| draft.plan_mut().set_removal(then));
    model.plan_changed();
    if is_out {
        format!("{label}: the export has it again")
    } else {
        format!(
            "{label}: the export is a smaller model; evaluate it before you rely on it (Ctrl+R)"
        )
    }
}

/// What the selection comes to.
fn selected(model: &Model, parts: Parts) -> Removal {
    let mut removal = Removal::default();
    let found = model.checkpoint.parts_of(model.selection.layers());
    for (block, expert) in found.into_iter().flatten() {
        match (parts, expert) {
            (Parts::Blocks, _) => {
                removal.blocks.insert(block);
            }
            (Parts::Experts, Some(expert)) => {
                removal.experts.entry(block).or_default().insert(expert);
            }
            (Parts::Experts, None) => {}
        }
    }
    removal
}

/// What is still taken out once `back` is not.
fn less(now: &Removal, back: &Removal) -> Removal {
    let blocks: BTreeSet<u32> = now.blocks.difference(&back.blocks).copied().collect();
    let left = |(block, experts): (&u32, &BTreeSet<u32>)| {
        let nothing = BTreeSet::new();
        let back = back.experts.get(block).unwrap_or(&nothing);
        (*block, experts.difference(back).copied().collect())
    };
    let experts: BTreeMap<u32, BTreeSet<u32>> = now.experts.iter().map(left).collect();
    Removal { blocks, experts }.plain()
}
