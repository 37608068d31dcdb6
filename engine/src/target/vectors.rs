//! What a plan does beside the layers it compresses: what takes scales of inputs, and why some layers keep theirs.

use crate::fold;
use crate::target::lint::{Case, Fix, Lint, Severity};
use crate::target::mend::layers_text;

/// Layers that keep scales which the plan folds.
pub(super) fn scales_kept(case: &Case<'_>, lints: &mut Vec<Lint>) {
    for kept in fold::settle(case.checkpoint, case.plan).kept {
        let (severity, mend) = match kept.mend {
            Some(mend) => (Severity::Warning, mend),
            None => (Severity::Note, "nothing needs to be done, or choose scales that are kept"),
        };
        lints.push(Lint {
            id: "scales-kept",
            severity,
            what: format!(
                "{}: their scales of inputs stay with them, 16 bits an input, as {}",
                layers_text(case, &kept.layers),
                kept.because
            ),
            mend: mend.to_owned(),
            fix: Some(Fix::KeptScales),
            tensors: kept.layers,
        });
    }
}
