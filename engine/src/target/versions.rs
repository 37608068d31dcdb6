//! What later readers of a format hold, and those of every age do not.

use crate::encoding::Layout;
use crate::target::lint::{Case, Fix, Lint, Severity};
use crate::target::mend::layers_text;
use crate::target::{Storage, find};

/// Layers stored in full that the target of later readers holds as they are.
pub(super) fn newer_readers(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let newer = case.aim.target.capabilities().newer;
    let Some(newer) = newer.and_then(|id| find(id).ok()) else { return };
    let holds = |index: usize, layout: &Layout| {
        newer.capabilities().why_not(case.tensor(index), layout).is_none()
    };
    let of_entry = |entry: &crate::target::Entry| match (&entry.storage, &entry.layout) {
        (Storage::Dense { .. }, Some(layout)) if holds(entry.tensor, layout) => Some(entry.tensor),
        _ => None,
    };
    let tensors: Vec<usize> = case.entries.iter().filter_map(of_entry).collect();
    if tensors.is_empty() {
        return;
    }
    let about = newer.about();
    lints.push(Lint {
        id: "newer-readers",
        severity: Severity::Note,
        what: format!(
            "{}: the target {} holds them as they are",
            layers_text(case, &tensors),
            about.title
        ),
        mend: "choose that target where all that loads the model is so new".to_owned(),
        fix: Some(Fix::Target(about.id)),
        tensors,
    });
}
