//! When actions can be done.

use crate::document::Document;

/// Whether text can be run through the open model; while that is not known, too.
pub(super) fn can_calibrate(document: &Document) -> bool {
    let calibrations = document.model.as_ref().map(|model| &model.calibrations);
    calibrations.is_some_and(|found| !matches!(found.ability, Some(Err(_))))
}

pub(super) fn has_experts(document: &Document) -> bool {
    let model = document.model.as_ref();
    model.is_some_and(|m| m.checkpoint.tensors().iter().any(|tensor| tensor.place.expert.is_some()))
}

pub(super) fn always(_document: &Document) -> bool {
    true
}

pub(super) fn has_model(document: &Document) -> bool {
    document.model.is_some()
}

pub(super) fn has_selection(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| !model.selection.is_empty())
}

pub(super) fn can_undo(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| model.history.undo_label().is_some())
}

pub(super) fn can_redo(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| model.history.redo_label().is_some())
}

pub(super) fn can_paste(document: &Document) -> bool {
    document.copied.is_some() && has_selection(document)
}
