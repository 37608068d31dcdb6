//! One table of actions: title, tooltip, keys, when enabled. Menus, keys and the list of keys walk it.

use egui::{Key, KeyboardShortcut, Modifiers};

use crate::commands::allocate::Allocate;
use crate::commands::evaluate::Evaluate;
pub use crate::commands::menu::Menu;
use crate::commands::{Command, Direction, Grow, removal::Parts};
use crate::document::{Document, Sheet, evaluation::Page, model::Side};
use crate::jobs::Purpose;

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

#[expect(clippy::unnecessary_wraps, reason = "actions without keys stand beside those with them")]
const fn keys(modifiers: Modifiers, key: Key) -> Option<KeyboardShortcut> {
    Some(KeyboardShortcut::new(modifiers, key))
}

/// Whether text can be run through the open model; while that is not known, too.
fn can_calibrate(document: &Document) -> bool {
    let calibrations = document.model.as_ref().map(|model| &model.calibrations);
    calibrations.is_some_and(|found| !matches!(found.ability, Some(Err(_))))
}

fn has_experts(document: &Document) -> bool {
    let model = document.model.as_ref();
    model.is_some_and(|m| m.checkpoint.tensors().iter().any(|tensor| tensor.place.expert.is_some()))
}

fn always(_document: &Document) -> bool {
    true
}

fn has_model(document: &Document) -> bool {
    document.model.is_some()
}

fn has_selection(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| !model.selection.is_empty())
}

fn can_undo(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| model.history.undo_label().is_some())
}

fn can_redo(document: &Document) -> bool {
    document.model.as_ref().is_some_and(|model| model.history.redo_label().is_some())
}

fn can_paste(document: &Document) -> bool {
    document.copied.is_some() && has_selection(document)
}

macro_rules! bits_action {
    ($bits:literal, $key:ident) => {
        Action {
            title: concat!("Set ", $bits, " bits"),
            tooltip: "Quantise the selected layers to this many bits, leaving their other parameters.",
            menu: Menu::Edit,
            keys: keys(Modifiers::NONE, Key::$key),
            enabled: has_selection,
            command: || Command::SetBits($bits),
        }
    };
}

/// Every action, in the order of menus.
pub static ACTIONS: &[Action] = &[
    Action {
        title: "Open folder…",
        tooltip: "Open a Hugging Face folder: config.json and safetensors files.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::O),
        enabled: always,
        command: || Command::Pick(Purpose::OpenFolder),
    },
    Action {
        title: "Open file…",
        tooltip: "Open a lone .safetensors file or a project (.ron).",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::O),
        enabled: always,
        command: || Command::Pick(Purpose::OpenFile),
    },
    Action {
        title: "Open the sample",
        tooltip: "Open the small language model that comes with the program.",
        menu: Menu::File,
        keys: None,
        enabled: always,
        command: || Command::OpenSample,
    },
    Action {
        title: "Compare with folder…",
        tooltip: "Compare every tensor with a second checkpoint of the same architecture: the base of a fine-tune, or an export.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::D),
        enabled: has_model,
        command: || Command::Pick(Purpose::CompareFolder),
    },
    Action {
        title: "Calibrate…",
        tooltip: "Run text through the model and measure what every layer receives: errors are then weighted by it.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::T),
        enabled: can_calibrate,
        command: || Command::ToggleSheet(Sheet::Calibrate),
    },
    Action {
        title: "Import an importance matrix…",
        tooltip: "Take an imatrix of llama.cpp, .gguf or .dat, for a calibration.",
        menu: Menu::File,
        keys: None,
        enabled: has_model,
        command: || Command::Pick(Purpose::ReadImatrix),
    },
    Action {
        title: "Save project",
        tooltip: "Save checkpoint path, plan, target and view as a project file.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::S),
        enabled: has_model,
        command: || Command::Save,
    },
    Action {
        title: "Save project as…",
        tooltip: "Save the project under another name.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::S),
        enabled: has_model,
        command: || Command::Pick(Purpose::SaveProject),
    },
    Action {
        title: "Export…",
        tooltip: "Compress, write the files of the target, read them back and prove them.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::E),
        enabled: has_model,
        command: || Command::ToggleSheet(Sheet::Export),
    },
    Action {
        title: "Allocate…",
        tooltip: "Score candidates once, then drag the budget: the best plan of each size.",
        menu: Menu::Edit,
        keys: keys(Modifiers::COMMAND, Key::B),
        enabled: has_model,
        command: || Command::Allocate(Allocate::Toggle),
    },
    Action {
        title: "Evaluate…",
        tooltip: "Run the plan, the original or another checkpoint on a text: perplexity, and how far it is from the original.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::R),
        enabled: has_model,
        command: || Command::Evaluate(Evaluate::Show(Page::Text)),
    },
    Action {
        title: "Continue a prompt…",
        tooltip: "Let the plan and the original continue the same text, side by side.",
        menu: Menu::File,
        keys: None,
        enabled: has_model,
        command: || Command::Evaluate(Evaluate::Show(Page::Prompt)),
    },
    Action {
        title: "Answer questions…",
        tooltip: "Let the plan and the original answer multiple-choice questions by the likelihood of each option.",
        menu: Menu::File,
        keys: None,
        enabled: has_model,
        command: || Command::Evaluate(Evaluate::Show(Page::Questions)),
    },
    Action {
        title: "Quit",
        tooltip: "Close the window.",
        menu: Menu::File,
        keys: keys(Modifiers::COMMAND, Key::Q),
        enabled: always,
        command: || Command::Quit,
    },
    Action {
        title: "Undo",
        tooltip: "Take back the last change of the plan.",
        menu: Menu::Edit,
        keys: keys(Modifiers::COMMAND, Key::Z),
        enabled: can_undo,
        command: || Command::Undo,
    },
    Action {
        title: "Redo",
        tooltip: "Repeat the change that was taken back.",
        menu: Menu::Edit,
        keys: keys(Modifiers::COMMAND, Key::Y),
        enabled: can_redo,
        command: || Command::Redo,
    },
    Action {
        title: "Select all shown",
        tooltip: "Select every layer the list shows with its present filter.",
        menu: Menu::Edit,
        keys: keys(Modifiers::COMMAND, Key::A),
        enabled: has_model,
        command: || Command::SelectAll,
    },
    Action {
        title: "Invert the selection",
        tooltip: "Select every layer shown that is not selected.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::I),
        enabled: has_model,
        command: || Command::Invert,
    },
    Action {
        title: "Select the same role",
        tooltip: "Let the selection grow to all layers of the same roles.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::R),
        enabled: has_selection,
        command: || Command::Grow(Grow::Role),
    },
    Action {
        title: "Select the same block",
        tooltip: "Let the selection grow to all layers of the same blocks.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::B),
        enabled: has_selection,
        command: || Command::Grow(Grow::Block),
    },
    Action {
        title: "Select the fused group",
        tooltip: "Let the selection grow to the layers that runtimes store together with those selected.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::G),
        enabled: has_selection,
        command: || Command::Grow(Grow::Fused),
    },
    bits_action!(2, Num2),
    bits_action!(3, Num3),
    bits_action!(4, Num4),
    bits_action!(5, Num5),
    bits_action!(6, Num6),
    bits_action!(7, Num7),
    bits_action!(8, Num8),
    Action {
        title: "Keep",
        tooltip: "Leave the selected layers as they are on disk.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::Num0),
        enabled: has_selection,
        command: || Command::Keep,
    },
    Action {
        title: "Take blocks out or put them back",
        tooltip: "Leave the blocks of the selected layers out of the export: the residual stream goes past them. Evaluate shows what that costs.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::Delete),
        enabled: has_selection,
        command: || Command::ToggleRemoval(Parts::Blocks),
    },
    Action {
        title: "Take experts out or put them back",
        tooltip: "Leave the experts of the selected layers out of the export: the router chooses among the others. Every block must lose as many.",
        menu: Menu::Edit,
        keys: keys(Modifiers::SHIFT, Key::Delete),
        enabled: has_experts,
        command: || Command::ToggleRemoval(Parts::Experts),
    },
    Action {
        title: "Lock or unlock",
        tooltip: "A locked layer keeps its assignment whatever is done to several layers at once.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::L),
        enabled: has_selection,
        command: || Command::ToggleLock,
    },
    Action {
        title: "Copy assignment",
        tooltip: "Copy the assignment of the layer in the inspector.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::C),
        enabled: has_selection,
        command: || Command::CopyAssignment,
    },
    Action {
        title: "Paste assignment",
        tooltip: "Give the copied assignment to the selected layers.",
        menu: Menu::Edit,
        keys: keys(Modifiers::NONE, Key::V),
        enabled: can_paste,
        command: || Command::PasteAssignment,
    },
    Action {
        title: "Leave to the rules",
        tooltip: "Take back what was set for the selected layers by hand, so that the rules decide.",
        menu: Menu::Edit,
        keys: None,
        enabled: has_selection,
        command: || Command::Forget,
    },
    Action {
        title: "Mend all problems",
        tooltip: "Mend every error and warning that a click can, as one step.",
        menu: Menu::Edit,
        keys: None,
        enabled: has_model,
        command: || Command::MendAll,
    },
    Action {
        title: "Copy rows as CSV",
        tooltip: "Copy the selected rows of the list, or all of them if fewer than two are selected, with the columns shown.",
        menu: Menu::Edit,
        keys: keys(Modifiers::COMMAND, Key::C),
        enabled: has_model,
        command: || Command::CopyRows,
    },
    Action {
        title: "Map by blocks or by bytes",
        tooltip: "Show the map as blocks × roles, or as a treemap whose areas are bytes.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::M),
        enabled: has_model,
        command: || Command::ToggleMapMode,
    },
    Action {
        title: "List as a tree or flat",
        tooltip: "Show tensors under their blocks, or in one list.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::T),
        enabled: has_model,
        command: || Command::ToggleTree,
    },
    Action {
        title: "Before or after",
        tooltip: "Show histogram and picture of the layer as it is, or after its assignment.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::Space),
        enabled: has_model,
        command: || Command::ToggleAfter,
    },
    Action {
        title: "Brush",
        tooltip: "Take a brush with the assignment of the layer in the inspector, or lay it down; drag over the map to paint.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::P),
        enabled: has_model,
        command: || Command::ToggleBrush,
    },
    Action {
        title: "Show layers",
        tooltip: "Show the layer list in the left column.",
        menu: Menu::View,
        keys: keys(Modifiers::ALT, Key::Num1),
        enabled: has_model,
        command: || Command::SetSide(Side::Layers),
    },
    Action {
        title: "Show rules",
        tooltip: "Show the plan as ordered rules in the left column.",
        menu: Menu::View,
        keys: keys(Modifiers::ALT, Key::Num2),
        enabled: has_model,
        command: || Command::SetSide(Side::Rules),
    },
    Action {
        title: "Show problems",
        tooltip: "Show what is wrong with the plan, and what mends it.",
        menu: Menu::View,
        keys: keys(Modifiers::ALT, Key::Num3),
        enabled: has_model,
        command: || Command::SetSide(Side::Problems),
    },
    Action {
        title: "Show history",
        tooltip: "Show every step of the plan.",
        menu: Menu::View,
        keys: keys(Modifiers::ALT, Key::Num4),
        enabled: has_model,
        command: || Command::SetSide(Side::History),
    },
    Action {
        title: "Next layer",
        tooltip: "Select the layer below, in the list or on the map, whichever was clicked last.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::ArrowDown),
        enabled: has_model,
        command: || Command::Walk(Direction::Down, false),
    },
    Action {
        title: "Previous layer",
        tooltip: "Select the layer above, in the list or on the map.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::ArrowUp),
        enabled: has_model,
        command: || Command::Walk(Direction::Up, false),
    },
    Action {
        title: "Next role on the map",
        tooltip: "Select the layer to the right on the map.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::ArrowRight),
        enabled: has_model,
        command: || Command::Walk(Direction::Right, false),
    },
    Action {
        title: "Previous role on the map",
        tooltip: "Select the layer to the left on the map.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::ArrowLeft),
        enabled: has_model,
        command: || Command::Walk(Direction::Left, false),
    },
    Action {
        title: "Add the next layer",
        tooltip: "Take the layer below into the selection too; the inspector overlays up to eight.",
        menu: Menu::View,
        keys: keys(Modifiers::SHIFT, Key::ArrowDown),
        enabled: has_model,
        command: || Command::Walk(Direction::Down, true),
    },
    Action {
        title: "Add the previous layer",
        tooltip: "Take the layer above into the selection too.",
        menu: Menu::View,
        keys: keys(Modifiers::SHIFT, Key::ArrowUp),
        enabled: has_model,
        command: || Command::Walk(Direction::Up, true),
    },
    Action {
        title: "Add the next role on the map",
        tooltip: "Take the layer to the right into the selection too.",
        menu: Menu::View,
        keys: keys(Modifiers::SHIFT, Key::ArrowRight),
        enabled: has_model,
        command: || Command::Walk(Direction::Right, true),
    },
    Action {
        title: "Add the previous role on the map",
        tooltip: "Take the layer to the left into the selection too.",
        menu: Menu::View,
        keys: keys(Modifiers::SHIFT, Key::ArrowLeft),
        enabled: has_model,
        command: || Command::Walk(Direction::Left, true),
    },
    Action {
        title: "Expert coverage",
        tooltip: "Show how many tokens of the calibration went to each expert of a mixture.",
        menu: Menu::View,
        keys: keys(Modifiers::NONE, Key::X),
        enabled: has_experts,
        command: || Command::ToggleSheet(Sheet::Experts),
    },
    Action {
        title: "Stop or go on measuring",
        tooltip: "Statistics and spectra are computed in the background; stop them to leave the machine alone.",
        menu: Menu::View,
        keys: None,
        enabled: has_model,
        command: || Command::ToggleMeasuring,
    },
    Action {
        title: "Palette…",
        tooltip: "Find anything there is to do by typing a few letters of it.",
        menu: Menu::Help,
        keys: keys(Modifiers::COMMAND, Key::K),
        enabled: always,
        command: || Command::ToggleSheet(Sheet::Palette),
    },
    Action {
        title: "Keys",
        tooltip: "Show every key.",
        menu: Menu::Help,
        keys: keys(Modifiers::NONE, Key::F1),
        enabled: always,
        command: || Command::ToggleSheet(Sheet::Keys),
    },
    Action {
        title: "About Lapidary",
        tooltip: "Version and licence.",
        menu: Menu::Help,
        keys: None,
        enabled: always,
        command: || Command::ToggleSheet(Sheet::About),
    },
];
