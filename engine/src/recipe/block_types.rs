//! Block types of llama.cpp as grouped integers, both ways: exactly where they are, else as the nearest.

use crate::encoding::BlockType;
use crate::method::Step;
use crate::numeric::grouping::Grouping;
use crate::recipe::form::{Integers, Symmetry};
use crate::recipe::rules::Verdict;

/// Types with an exact counterpart here, all in groups of 32.
const EXACT: &[(&str, u32, Symmetry)] = &[
    ("q4_0", 4, Symmetry::Symmetric),
    ("q4_1", 4, Symmetry::Asymmetric),
    ("q5_0", 5, Symmetry::Symmetric),
    ("q5_1", 5, Symmetry::Asymmetric),
    ("q8_0", 8, Symmetry::Restricted),
];

/// Types of two-level scales, tables and three values, with the bits, group and symmetry that are nearest.
const NEAR: &[(&str, u32, usize, Symmetry)] = &[
    ("q2_K", 2, 16, Symmetry::Asymmetric),
    ("q3_K", 3, 16, Symmetry::Symmetric),
    ("q4_K", 4, 32, Symmetry::Asymmetric),
    ("q5_K", 5, 32, Symmetry::Asymmetric),
    ("q6_K", 6, 16, Symmetry::Symmetric),
    ("iq1_s", 2, 32, Symmetry::Symmetric),
    ("iq1_m", 2, 16, Symmetry::Symmetric),
    ("iq2_xxs", 2, 32, Symmetry::Symmetric),
    ("iq2_xs", 2, 16, Symmetry::Symmetric),
    ("iq2_s", 2, 16, Symmetry::Symmetric),
    ("iq3_xxs", 3, 32, Symmetry::Symmetric),
    ("iq3_s", 3, 32, Symmetry::Symmetric),
    ("iq4_nl", 4, 32, Symmetry::Symmetric),
    ("iq4_xs", 4, 32, Symmetry::Symmetric),
    ("tq1_0", 2, 256, Symmetry::Symmetric),
    ("tq2_0", 2, 256, Symmetry::Symmetric),
    ("q1_0", 2, 128, Symmetry::Symmetric),
    ("q2_0", 2, 64, Symmetry::Symmetric),
];

/// What a type means here.
pub(super) fn verdict(name: &str) -> Verdict {
    if ["f32", "f16", "bf16"].contains(&name) {
        return Verdict::Keep;
    }
    if let Some(&(_, bits, symmetry)) = EXACT.iter().find(|(exact, ..)| *exact == name) {
        return Verdict::Integers(Integers { bits, grouping: Grouping::Group(32), symmetry });
    }
    match NEAR.iter().find(|(near, ..)| *near == name) {
        Some(&(_, bits, size, symmetry)) => {
            let integers = Integers { bits, grouping: Grouping::Group(size), symmetry };
            Verdict::Near(integers, name.to_owned())
        }
        None => Verdict::Foreign(name.to_owned()),
    }
}

/// The steps that make this very type; `None` where no method here does.
pub(super) fn steps(name: &str) -> Option<Vec<Step>> {
    if ["mxfp4", "nvfp4"].contains(&name) {
        return Some(vec![Step::new("microscaling").with("format", name)]);
    }
    let kind = BlockType::named(name)?;
    Some(vec![Step::new("gguf-blocks").with("type", kind.name())])
}

/// The type for integers in rows of so many inputs, and whether it is exactly them. Rows that are no whole
/// number of blocks take what llama-quantize would take.
pub(super) fn nearest(integers: Integers, cols: usize) -> (&'static str, bool) {
    let is_same = |&&(_, bits, symmetry): &&(&str, u32, Symmetry)| {
        let same = Integers { bits, grouping: Grouping::Group(32), symmetry };
        same == integers
    };
    let whole = |size: usize| cols.is_multiple_of(size);
    if !whole(32) {
        return ("f16", false);
    }
    if let Some((name, ..)) = EXACT.iter().find(is_same) {
        return (name, true);
    }
    let asymmetric = integers.symmetry == Symmetry::Asymmetric;
    let name = match (integers.bits, asymmetric) {
        (..=2, _) if whole(256) => "q2_K",
        (3, _) if whole(256) => "q3_K",
        (..=4, false) => "q4_0",
        (..=4, true) => "q4_1",
        (5, false) => "q5_0",
        (5, true) => "q5_1",
        (6, _) if whole(256) => "q6_K",
        _ => "q8_0",
    };
    (name, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::BLOCK_TYPES;

    #[test]
    fn every_type_has_a_meaning_and_exact_ones_return() {
        for block in BLOCK_TYPES {
            match verdict(block.name) {
                Verdict::Integers(integers) => {
                    assert_eq!(nearest(integers, 64), (block.name, true));
                }
                Verdict::Near(integers, _) => assert_eq!(integers, integers.nearest()),
                Verdict::Keep | Verdict::Foreign(_) => {}
            }
        }
        let names = EXACT.iter().map(|entry| entry.0).chain(NEAR.iter().map(|entry| entry.0));
        for name in names {
            assert!(BLOCK_TYPES.iter().any(|block| block.name == name), "{name}");
        }
        let integers = Integers::new(4, Grouping::Group(32), true);
        assert_eq!(nearest(integers, 48), ("f16", false));
        let integers = Integers::new(3, Grouping::Channel, true);
        assert_eq!((nearest(integers, 512).0, nearest(integers, 64).0), ("q3_K", "q4_0"));
    }
}
