//! Every character the window shows has a glyph in its fonts.

use std::collections::BTreeSet;

use std::path::{Path, PathBuf};

use egui::FontId;

/// The text of every source file below a folder.
fn sources(folder: PathBuf) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            texts.extend(sources(path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(lapidary_engine::disk::read_text(&path, 1 << 20).expect("a source file"));
        }
    }
    texts
}

#[test]
fn every_character_of_the_window_has_a_glyph() {
    let mut shown = BTreeSet::new();
    for folder in ["../app/src", "../engine/src"] {
        for text in sources(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)) {
            // Comments are not shown; everything else that is not ASCII stands in a string.
            let code = text.lines().filter_map(|line| line.split("//").next());
            shown.extend(code.flat_map(str::chars).filter(|c| !c.is_ascii()));
        }
    }
    assert!(shown.contains(&'→'), "the corpus must hold the arrows of the size meter");
    let mut missing = BTreeSet::new();
    let mut harness = egui_kittest::Harness::new_ui(|ui| {
        lapidary::theme::apply(ui.ctx());
    });
    harness.run_steps(3);
    for font in [FontId::proportional(13.5), FontId::monospace(12.5)] {
        harness.ctx.fonts_mut(|fonts| {
            missing.extend(
                shown
                    .iter()
                    .filter(|c| !fonts.has_glyph(&font, **c))
                    .map(|c| (format!("{:?}", font.family), *c)),
            );
        });
    }
    assert!(missing.is_empty(), "no glyph for {missing:?}");
}
