//! Lints about names: what a loader cannot tell apart by them, and what it does not find under them.

use serde::Serialize;

use crate::target::lint::{Case, Fix, Lint, Severity};
use crate::target::{Storage, is_linear_module};

/// Which modules loaders keep by the name of a kept one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptNames {
    /// That one.
    Whole,
    /// All whose names contain it.
    Part,
    /// All whose names end in it, or begin with it up to a dot.
    Ends,
}

impl KeptNames {
    /// Whether loaders keep `module` by the name of the kept one.
    pub(super) fn keep(self, module: &str, kept: &str) -> bool {
        match self {
            Self::Whole => module == kept,
            Self::Part => module.contains(kept),
            Self::Ends => {
                let rest = module.strip_prefix(kept);
                module.ends_with(kept) || rest.is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }
}

/// AWQ's loaders leave out every module whose name contains that of a kept one, compressed or not; those of AQLM and `SpQR`
/// every one whose name ends in it.
pub(super) fn kept_within(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let names = case.aim.target.capabilities().kept_names;
    if names == KeptNames::Whole {
        return;
    }
    let is_native = |&index: &usize| case.entries[index].storage == Storage::Native;
    let all = 0..case.entries.len();
    if !all.clone().any(|index| is_native(&index)) {
        return;
    }
    let kept = all
        .clone()
        .filter(|index| !is_native(index) && is_linear_module(case.tensor(*index)))
        .map(|index| case.tensor(index).module());
    for name in kept {
        let within = |index: &usize| names.keep(case.tensor(*index).module(), name);
        let tensors: Vec<usize> = all.clone().filter(is_native).filter(within).collect();
        let Some(&first) = tensors.first() else { continue };
        lints.push(Lint {
            id: "kept-within",
            severity: Severity::Error,
            what: format!(
                "{name} is kept, and loaders of this format then take {} for kept too, whose name contains it",
                case.tensor(first).module()
            ),
            mend: "keep both, or compress both".to_owned(),
            fix: Some(Fix::Keep),
            tensors,
        });
    }
}

/// Models whose experts mlx-lm joins by their `weight` alone, so that scales of single experts find no place.
const UNJOINED: [&str; 2] = ["qwen3_moe", "qwen3_next"];

/// Compressed experts that mlx-lm does not join when it loads them.
pub(super) fn unjoined_experts(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let model_type = case.checkpoint.config().and_then(|config| config.model_type());
    let is_unjoined = model_type.is_some_and(|model_type| UNJOINED.contains(&model_type));
    if case.aim.target.about().id != "mlx" || !is_unjoined {
        return;
    }
    let is_packed = |index: &usize| {
        let is_expert = case.tensor(*index).place.expert.is_some();
        is_expert && case.entries[*index].storage == Storage::Native
    };
    let tensors: Vec<usize> = (0..case.entries.len()).filter(is_packed).collect();
    if tensors.is_empty() {
        return;
    }
    lints.push(Lint {
        id: "unjoined-experts",
        severity: Severity::Error,
        what: format!(
            "mlx-lm (0.28 to 0.32) joins the experts of {} only where they are in full, and these are not: {} layers",
            model_type.unwrap_or_default(),
            tensors.len()
        ),
        mend: "keep the experts, or convert the dense export with mlx_lm.convert".to_owned(),
        fix: Some(Fix::Keep),
        tensors,
    });
}
