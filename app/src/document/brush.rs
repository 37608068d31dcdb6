//! What a drag over the map leaves behind while the brush is out.

use std::sync::Arc;

use lapidary_engine::plan::Assignment;

/// What is painted.
#[derive(Clone, Debug, PartialEq)]
pub enum Brush {
    /// The quantiser's bits; other parameters of each layer stay.
    Bits(i64),
    /// A whole assignment.
    Assignment(Arc<Assignment>),
    /// The layers stay as they are on disk.
    Keep,
    /// Locks, or takes them off.
    Lock(bool),
}

impl Brush {
    /// What it does, as a label of undo: `Paint 4 bits`.
    pub fn label(&self) -> String {
        match self {
            Self::Bits(bits) => format!("Paint {bits} bits"),
            Self::Assignment(assignment) => format!("Paint {}", assignment.label()),
            Self::Keep => "Paint keep".to_owned(),
            Self::Lock(true) => "Paint locks".to_owned(),
            Self::Lock(false) => "Paint locks away".to_owned(),
        }
    }

    /// What becomes of a layer.
    pub fn on(&self, now: &Assignment) -> Assignment {
        match self {
            Self::Bits(bits) => now.with_bits(*bits),
            Self::Assignment(wanted) => {
                Assignment { locked: now.locked, ..Assignment::clone(wanted) }
            }
            Self::Keep => Assignment { locked: now.locked, ..Assignment::keep() },
            Self::Lock(locked) => Assignment { locked: *locked, ..now.clone() },
        }
    }

    /// Whether it goes over locked layers too.
    pub fn passes_locks(&self) -> bool {
        matches!(self, Self::Lock(_))
    }
}
