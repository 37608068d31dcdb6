//! Block types of llama.cpp as grouped integers, both ways: exactly where they are, else as the nearest.

use crate::encoding::{BlockType, Layout, Levels, Tiling};
use crate::format::gguf;
use crate::method::{Step, Value};
use crate::numeric::grouping::Grouping;
use crate::recipe::form::{Integers, Symmetry};
use crate::recipe::rules::Verdict;
use crate::tensor::DType;

/// The method that makes blocks.
const METHOD: &str = "gguf-blocks";

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

/// What a type means here: itself where a method here makes it, otherwise the nearest.
pub(super) fn meant(name: &str) -> Verdict {
    steps(name).map_or_else(|| verdict(name), Verdict::Blocks)
}

/// The type that llama-quantize takes instead of `kind` for rows of so many inputs, which must be whole blocks; `None`
/// where they are.
pub(super) fn for_rows(kind: BlockType, cols: usize) -> Option<&'static str> {
    if cols.is_multiple_of(kind.weights()) {
        return None;
    }
    if !cols.is_multiple_of(32) {
        return Some("f16");
    }
    Some(match kind.name().to_ascii_lowercase().as_str() {
        "tq1_0" | "tq2_0" => "q4_0",
        "q4_k" => "q5_0",
        "q5_k" => "q5_1",
        "q6_k" => "q8_0",
        _ => "iq4_nl",
    })
}

/// The name in GGUF files of the type that a layout has, if it has one.
pub(super) fn of_layout(layout: &Layout) -> Option<&'static str> {
    let name = match layout {
        Layout::Blocks(kind) => kind.name(),
        Layout::Float(float) => {
            let is = |scales: DType, size| {
                float.scale_dtype == scales && float.tiling == Tiling::Rows(Grouping::Group(size))
            };
            match float.levels {
                Levels::E2m1 if is(DType::F8E8M0, 32) => "mxfp4",
                Levels::E2m1 if is(DType::F8E4M3, 16) && float.has_global() => "nvfp4",
                _ => return None,
            }
        }
        _ => return None,
    };
    gguf::BlockType::named(name).map(|found| found.name)
}

/// What a type means in integers.
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
    Some(vec![Step::new(METHOD).with("type", kind.name())])
}

/// The type that a step makes, where it is one of blocks.
pub(super) fn of_steps(step: &Step) -> Option<BlockType> {
    match step.parameters.0.get("type") {
        Some(Value::Text(name)) if step.method == METHOD => BlockType::named(name),
        _ => None,
    }
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
    fn rows_that_are_no_whole_blocks_take_another_type() {
        let of = |name: &str, cols| for_rows(BlockType::named(name).unwrap(), cols);
        assert_eq!(
            (of("Q4_K", 512), of("Q4_K", 96), of("Q4_K", 100)),
            (None, Some("q5_0"), Some("f16"))
        );
        assert_eq!((of("Q8_0", 96), of("Q8_0", 48)), (None, Some("f16")));
        assert_eq!((of("Q6_K", 320), of("IQ4_XS", 320)), (Some("q8_0"), Some("iq4_nl")));
        let layout = |steps: Vec<Step>| {
            let shape = crate::tensor::MatrixShape { rows: 4, cols: 256 };
            crate::method::chain_layout(&steps, shape, DType::BF16).unwrap()
        };
        for block in BLOCK_TYPES {
            if let Verdict::Blocks(steps) = meant(block.name) {
                assert_eq!(of_layout(&layout(steps)), Some(block.name));
            }
        }
    }

    #[test]
    fn every_type_has_a_meaning_and_exact_ones_return() {
        for block in BLOCK_TYPES {
            match verdict(block.name) {
                Verdict::Integers(integers) => {
                    assert_eq!(nearest(integers, 64), (block.name, true));
                }
                Verdict::Near(integers, _) => assert_eq!(integers, integers.nearest()),
                Verdict::Keep | Verdict::Foreign(_) | Verdict::Blocks(_) => {}
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
