//! Opening the window, or saying why it cannot open.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use eframe::NativeOptions;
use egui::{IconData, ViewportBuilder};
use lapidary_engine::Error;

use crate::app::App;
use crate::builtin;

const ICON: &[u8] = include_bytes!("../../../assets/icon.png");
const HEADLESS: &str =
    "without a display use `lapidary inspect`, `lapidary compress` or `lapidary demo`";

/// Whether a display seems to be there.
pub(super) fn has_display() -> bool {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !cfg!(target_os = "linux") || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(is_set)
}

/// Opens the window on a checkpoint or project; without one on what a first start shows.
pub(super) fn open(path: Option<PathBuf>) -> anyhow::Result<()> {
    if !has_display() {
        // What was mistyped is more use to know than what would be needed to show it.
        if let Some(path) = path
            && let Err(error) = path.metadata()
            && error.kind() == ErrorKind::NotFound
        {
            return Err(Error::io("open", &path)(error).into());
        }
        bail!("there is no display to open a window on; {HEADLESS}");
    }
    let viewport = ViewportBuilder::default()
        .with_title("Lapidary")
        .with_app_id("lapidary")
        .with_icon(icon()?)
        .with_inner_size([1440.0, 860.0])
        .with_min_inner_size([960.0, 600.0])
        .with_drag_and_drop(true);
    let options = NativeOptions { viewport, ..NativeOptions::default() };
    let start = Box::new(
        move |creation: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, _> {
            Ok(Box::new(App::new(&creation.egui_ctx, builtin::home(), path)?))
        },
    );
    eframe::run_native("lapidary", options, start)
        .map_err(|error| anyhow!("the window cannot open ({error}); {HEADLESS}"))
}

fn icon() -> anyhow::Result<IconData> {
    let image = image::load_from_memory(ICON)?.into_rgba8();
    let (width, height) = image.dimensions();
    Ok(IconData { rgba: image.into_raw(), width, height })
}
