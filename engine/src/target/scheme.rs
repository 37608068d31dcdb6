//! What makes two layers alike for a format that wants some or all of them alike.

use crate::encoding::{BlockType, Layout, Levels, Tiling};
use crate::numeric::grouping::Grouping;

/// What makes two layers alike for a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    /// Bits, symmetry, and the group size or whole rows.
    Integers(u32, bool, Option<usize>),
    Blocks(BlockType),
    Float(Levels, Tiling),
    /// Codebooks, bits, and inputs of a code.
    Additive(usize, u32, usize),
    /// Small groups with single weights or without.
    Tiles,
}

impl Scheme {
    /// That of a layout. A scale of the whole tensor is written as equal scales of its rows.
    pub(super) fn of(layout: &Layout) -> Option<Self> {
        match layout.under_masks() {
            Layout::Affine(held) => {
                let group = match held.grouping {
                    Grouping::Group(size) => Some(size),
                    Grouping::Channel | Grouping::Tensor => None,
                };
                Some(Self::Integers(held.bits, held.symmetric, group))
            }
            Layout::Blocks(kind) => Some(Self::Blocks(*kind)),
            Layout::Float(float) => Some(Self::Float(float.levels, float.tiling)),
            Layout::Additive(held) => Some(Self::Additive(held.codebooks, held.bits, held.dim)),
            Layout::Bilevel(_) | Layout::Sum(_) => Some(Self::Tiles),
            _ => None,
        }
    }
}
