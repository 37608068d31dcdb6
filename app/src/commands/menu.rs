//! What an action is, and the menus that actions stand in.

use egui::KeyboardShortcut;

use crate::commands::Command;
use crate::document::Document;

/// Something the person can do from menu or keyboard.
#[derive(Debug)]
pub struct Action {
    /// Its title.
    pub title: &'static str,
    /// What it does.
    pub tooltip: &'static str,
    /// Where it stands.
    pub menu: Menu,
    /// Its keys.
    pub keys: Option<KeyboardShortcut>,
    /// Whether it can be done now.
    pub enabled: fn(&Document) -> bool,
    /// What it does.
    pub command: fn() -> Command,
}

/// The menu an action stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Menu {
    /// Files.
    File,
    /// The plan.
    Edit,
    /// What is shown.
    View,
    /// Help.
    Help,
}

impl Menu {
    /// Every menu, from left to right.
    pub const ALL: [Self; 4] = [Self::File, Self::Edit, Self::View, Self::Help];

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Edit => "Edit",
            Self::View => "View",
            Self::Help => "Help",
        }
    }
}
