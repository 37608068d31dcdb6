//! The export form: what an export takes, and the export itself.

use std::path::PathBuf;

use crate::commands::{Command, ask, finished};
use crate::document::{Document, Foretelling, Sheet, Slot};
use crate::jobs::Jobs;

/// Opens a small window, or closes it. The export form suggests a folder and begins to say what the export takes.
pub(super) fn toggle_sheet(document: &mut Document, jobs: &mut Jobs, sheet: Sheet) {
    let is_open = document.sheet == Some(sheet);
    document.sheet = (!is_open).then_some(sheet);
    match sheet {
        Sheet::Finished(task) if is_open => finished::closed(document, jobs, task),
        Sheet::Finished(task) => finished::opened(document, jobs, task),
        _ => {}
    }
    let (Sheet::Export, false, Some(model)) = (sheet, is_open, &document.model) else { return };
    if document.export_folder.is_empty() {
        let folder = std::env::current_dir().unwrap_or_default();
        let name = format!("{}-{}", model.checkpoint.title(), model.target.about().id);
        document.export_folder = folder.join(name).display().to_string();
    }
    foretell(document, jobs);
}

/// Asks what the export takes, unless one is running.
pub(super) fn foretell(document: &mut Document, jobs: &mut Jobs) {
    let Some(model) = document.model.as_deref().filter(|_| !document.export.is_running()) else {
        return;
    };
    jobs.foretell(model, PathBuf::from(document.export_folder.trim()));
    document.foretelling = Foretelling::now(document);
    document.foretold =
        Slot::Running { what: "Estimating time, disk and memory".to_owned(), progress: None };
}

/// Exports; what is there already is replaced only after a question.
pub(super) fn export(document: &mut Document, jobs: &mut Jobs, replace: bool) {
    let Some(model) = document.model.as_deref() else {
        return;
    };
    let folder = PathBuf::from(document.export_folder.trim());
    if document.export.is_running() {
        document.complain("An export is running; wait for it or cancel it first");
        return;
    }
    if folder.as_os_str().is_empty() {
        document.complain("Name a folder to export to");
        return;
    }
    if folder.exists() && !replace {
        let text = format!("{} already exists. Replace it?", folder.display());
        ask(document, &text, "Replace it", Command::Export(true));
        return;
    }
    jobs.export(model, folder.clone(), replace);
    // Both would want the whole machine, and what is finished and free changes with it.
    document.foretold = Slot::Idle;
    document.export =
        Slot::Running { what: format!("Exporting to {}", folder.display()), progress: None };
}
