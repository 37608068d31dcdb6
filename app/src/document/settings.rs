//! What the program remembers between sessions: recent files and the theme.

use std::path::{Path, PathBuf};

use lapidary_engine::disk;
use serde::{Deserialize, Serialize};

const MAX_RECENT: usize = 12;
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

/// Which colours to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Colours {
    /// As the system has them.
    #[default]
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

/// Remembered between sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Checkpoints and projects, the last opened first.
    pub recent: Vec<PathBuf>,
    /// The text that models are scored on.
    pub evaluation_text: Option<PathBuf>,
    /// The colours.
    pub colours: Colours,
}

fn path(home: &Path) -> PathBuf {
    home.join("settings.ron")
}

impl Settings {
    /// What was remembered; `None` on the first start. Settings that cannot be read are begun anew.
    pub fn load(home: &Path) -> Option<Self> {
        let text = disk::read_text(&path(home), MAX_SETTINGS_BYTES).ok()?;
        Some(ron::from_str(&text).unwrap_or_default())
    }

    /// Remembers; a failure is logged, as nothing the person made is lost.
    pub fn save(&self, home: &Path) {
        let text = ron::ser::to_string_pretty(self, ron::ser::PrettyConfig::new());
        let written = text.map(|text| disk::write_file(&path(home), text.as_bytes()));
        if !matches!(written, Ok(Ok(()))) {
            tracing::warn!("cannot save settings: {written:?}");
        }
    }

    /// Puts a file at the head of the recent ones.
    pub fn opened(&mut self, path: &Path) {
        let path =
            std::path::absolute(path).unwrap_or_else(|_no_current_folder| path.to_path_buf());
        self.recent.retain(|other| *other != path);
        self.recent.insert(0, path);
        self.recent.truncate(MAX_RECENT);
    }
}
