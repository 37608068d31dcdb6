//! Ways to walk and to grow a selection.

/// A way to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// Upwards.
    Up,
    /// Downwards.
    Down,
}

/// What a selection grows to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grow {
    /// Every layer of the same roles.
    Role,
    /// Every layer of the same blocks.
    Block,
    /// The rest of fused groups.
    Fused,
}
