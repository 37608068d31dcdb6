//! Lints of sources that are finished files already.

use std::collections::BTreeSet;

use crate::target::{Case, Fix, Lint, Severity, Storage, mend};

/// A GGUF file is written again for llama.cpp alone; layers of other compressed checkpoints are only looked at.
pub(super) fn finished_gguf(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if case.checkpoint.decoder().is_some() {
        let path = case.checkpoint.path().display();
        lints.push(Lint {
            id: "finished-layers",
            severity: Severity::Error,
            tensors: Vec::new(),
            what: format!(
                "{path} is compressed already, and shown as what it decodes to; layers that are kept count as they are stored"
            ),
            mend: "convert it, or start from the checkpoint it was made from".to_owned(),
            fix: None,
        });
    }
    if case.checkpoint.gguf().is_none() || case.aim.target.rewrites() {
        return;
    }
    lints.push(Lint {
        id: "finished-gguf",
        severity: Severity::Error,
        tensors: Vec::new(),
        what: format!(
            "{} is a finished GGUF file, which is written again for llama.cpp alone; tensors that are kept count as they are stored",
            case.checkpoint.path().display()
        ),
        mend: "choose llama.cpp (target gguf), or export from the safetensors checkpoint it was made from"
            .to_owned(),
        fix: Some(Fix::Target("gguf")),
    });
}

/// Layers that are in codes already and are encoded again from what those decode to.
pub(super) fn encoded_again(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let is_coded_anew = |index: &usize| {
        let entry = &case.entries[*index];
        let layout = entry.layout.as_ref().filter(|_| entry.storage == Storage::Native);
        layout.is_some_and(|layout| !layout.is_dense()) && case.tensor(*index).coded.is_some()
    };
    let tensors: Vec<usize> = (0..case.entries.len()).filter(is_coded_anew).collect();
    if tensors.is_empty() {
        return;
    }
    let before: BTreeSet<&str> =
        tensors.iter().map(|&index| case.tensor(index).type_name()).collect();
    let before: Vec<&str> = before.into_iter().collect();
    lints.push(Lint {
        id: "encoded-again",
        severity: Severity::Warning,
        what: format!(
            "{}: in {} already, and encoded again from what that decodes to, so that both errors add up",
            mend::layers_text(case, &tensors),
            before.join(", ")
        ),
        mend: "start from the checkpoint the file was made from, where there is one".to_owned(),
        fix: None,
        tensors,
    });
}
