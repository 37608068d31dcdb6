//! Opening the window, or saying why it cannot open.

use std::path::PathBuf;

/// Whether a display seems to be there.
pub(super) fn has_display() -> bool {
    !cfg!(target_os = "linux")
        || ["DISPLAY", "WAYLAND_DISPLAY"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()))
}

/// Opens the window on a checkpoint or project.
pub(super) fn open(_path: Option<PathBuf>) -> anyhow::Result<()> {
    anyhow::bail!("no window yet")
}
