//! What a plan does to vectors beside the matrices: norms that take scales, and why some take none.

use crate::fold;
use crate::target::lint::{Case, Fix, Lint, Severity};
use crate::target::mend::layers_text;

/// Layers that keep scales which the plan folds into norms.
pub(super) fn scales_kept(case: &Case<'_>, lints: &mut Vec<Lint>) {
    for kept in fold::settle(case.checkpoint, case.plan).kept {
        let (severity, mend) = if kept.is_by_plan {
            (Severity::Warning, "fold the scales of all layers that read the norm, or of none")
        } else {
            (Severity::Note, "nothing needs to be done, or choose scales that are kept")
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
