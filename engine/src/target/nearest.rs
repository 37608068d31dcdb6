//! What a target holds instead of an assignment that it does not: another grouping, grid or more bits of the same method,
//! grouped integers, or at last blocks.

use crate::checkpoint::Tensor;
use crate::encoding::{BlockType, Layout};
use crate::method::{Stage, Step, with_folded_scales};
use crate::numeric::grouping::Grouping;
use crate::plan::Assignment;
use crate::target::Target;

pub(super) fn is_held_by(tensor: &Tensor, assignment: &Assignment, target: &dyn Target) -> bool {
    let Some(matrix) = tensor.matrix else {
        return false;
    };
    let layout = assignment.layout(matrix.shape, tensor.dtype);
    layout.is_ok_and(|layout| target.capabilities().why_not(tensor, &layout).is_none())
}

/// Group sizes to try, and rows.
const GROUPINGS: [Grouping; 6] = [
    Grouping::Group(128),
    Grouping::Group(64),
    Grouping::Group(32),
    Grouping::Group(16),
    Grouping::Group(256),
    Grouping::Channel,
];

/// Groupings to try, the nearest to `now` first: a finer one loses nothing, a coarser one is the last resort.
pub(super) fn groupings_near(now: Grouping) -> Vec<Grouping> {
    let distance = |grouping: &Grouping| match (grouping, now) {
        (a, b) if *a == b => 0,
        (Grouping::Group(a), Grouping::Group(b)) if *a < b => 1 + b / a,
        (Grouping::Group(a), Grouping::Channel | Grouping::Tensor) => 1 + 1024 / a,
        (Grouping::Group(a), _) => 10_000 + a,
        _ => 20_000,
    };
    let mut groupings: Vec<Grouping> = std::iter::once(now).chain(GROUPINGS).collect();
    groupings.sort_by_key(distance);
    groupings
}

/// The assignment nearest to `now` that a target holds: as many bits or more, the same grid and grouping where
/// possible; otherwise the layer is kept.
pub fn held_instead(tensor: &Tensor, now: &Assignment, target: &dyn Target) -> Assignment {
    let Some(matrix) = tensor.matrix else {
        return Assignment::keep();
    };
    let layout = now.layout(matrix.shape, tensor.dtype);
    let Some(layout) = layout.ok().filter(|layout| !layout.is_dense()) else {
        return Assignment::keep();
    };
    let base = target.capabilities().in_adapter(tensor, &layout).map_or(&layout, |(base, _)| base);
    let Some(affine) = base.affine().cloned() else {
        if let Some(found) = blocks_instead(tensor, now, &layout, target) {
            return found;
        }
        // What is no grouped integers becomes such of as many bits.
        let plain = now.with_step_at(Stage::Quantise, None);
        let integers = plain.with_bits(i64::from(layout.nominal_bits().max(2)));
        return held_instead(tensor, &Assignment { locked: now.locked, ..integers }, target);
    };
    let groupings = groupings_near(affine.grouping);
    let own = now.grid().unwrap_or_else(|| "symmetric".to_owned());
    let grids = [own.as_str(), "asymmetric", "symmetric"];
    for bits in i64::from(affine.bits)..=8 {
        for grid in grids {
            let candidate = now.with_bits(bits).with_grid(grid);
            let candidates = groupings.iter().map(|grouping| candidate.with_grouping(*grouping));
            if let Some(found) =
                { candidates }.find(|candidate| is_held_by(tensor, candidate, target))
            {
                return Assignment { locked: now.locked, ..found };
            }
        }
    }
    let blocks = blocks_of_bits(tensor, now, affine.bits, target);
    Assignment { locked: now.locked, ..blocks.unwrap_or_else(Assignment::keep) }
}

/// llama.cpp's blocks by the least bits they stand for.
const BLOCKS_BY_BITS: [(u32, BlockType); 6] = [
    (2, BlockType::Q2_K),
    (3, BlockType::Q3_K),
    (4, BlockType::Q4_K),
    (5, BlockType::Q5_K),
    (6, BlockType::Q6_K),
    (8, BlockType::Q8_0),
];

/// Blocks in place of integers of so many bits whose scales have no form there, as in a model in F32.
fn blocks_of_bits(
    tensor: &Tensor,
    now: &Assignment,
    bits: u32,
    target: &dyn Target,
) -> Option<Assignment> {
    let (_, kind) = BLOCKS_BY_BITS.into_iter().find(|(of, _)| *of >= bits)?;
    let candidates = [kind, kind.of_32()].map(|kind| {
        let step = Step::new("gguf-blocks").with("type", kind.name());
        now.with_step_at(Stage::Quantise, Some(step))
    });
    candidates.into_iter().find(|candidate| is_held_by(tensor, candidate, target))
}

/// The blocks of 32 that llama-quantize takes instead of super-blocks, where a target holds them.
fn blocks_instead(
    tensor: &Tensor,
    now: &Assignment,
    layout: &Layout,
    target: &dyn Target,
) -> Option<Assignment> {
    let Layout::Blocks(kind) = layout.under_masks() else {
        return None;
    };
    let step = now.step_at(Stage::Quantise)?.clone().with("type", kind.of_32().name());
    let found = now.with_step_at(Stage::Quantise, Some(step));
    is_held_by(tensor, &found, target).then_some(found)
}

/// Which way to go from an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// More bits.
    Up,
    /// Fewer bits.
    Down,
}

/// The next assignment with more or fewer bits that a target holds. Beyond 8 bits the layer is kept; from a kept layer
/// the next step down is 8 bits. `None` at the ends, and where the target holds nothing.
pub fn step_from(
    tensor: &Tensor,
    now: &Assignment,
    next: Next,
    target: &dyn Target,
) -> Option<Assignment> {
    let matrix = tensor.matrix?;
    let layout = now.layout(matrix.shape, tensor.dtype).ok()?;
    let bits = (!layout.is_dense()).then(|| i64::from(layout.nominal_bits()));
    let candidates: Vec<i64> = match (next, bits) {
        (Next::Up, Some(bits)) => (bits + 1..=8).collect(),
        (Next::Up, None) => return None,
        (Next::Down, bits) => (2..bits.unwrap_or(9)).rev().collect(),
    };
    let found = candidates
        .into_iter()
        .find_map(|bits| held_at_same_bits(tensor, &now.with_bits(bits), target));
    let last = (next == Next::Up).then(|| Assignment { locked: now.locked, ..Assignment::keep() });
    found.or(last)
}

/// The assignment, or the nearest with as many bits that a target holds: another grouping or grid, never another method.
pub fn held_at_same_bits(
    tensor: &Tensor,
    wanted: &Assignment,
    target: &dyn Target,
) -> Option<Assignment> {
    if refusal(tensor, wanted, target).is_none() {
        return Some(wanted.clone());
    }
    let shape = tensor.matrix?.shape;
    let bits = |assignment: &Assignment| {
        let layout = assignment.layout(shape, tensor.dtype).ok()?;
        (!layout.is_dense()).then(|| layout.nominal_bits())
    };
    let near = held_instead(tensor, wanted, target);
    let is_same = quantiser(&near) == quantiser(wanted);
    (is_same && bits(&near).is_some() && bits(&near) == bits(wanted)).then_some(near)
}

/// The method by which weights are rounded.
fn quantiser(assignment: &Assignment) -> Option<&str> {
    assignment.step_at(Stage::Quantise).map(|step| step.method.as_str())
}

/// The nearest assignment that a target holds and that does not change the method: with another grouping, grid or more
/// bits, with scales that go into what makes the inputs. Where these cannot go there, the layer is stored in full after all.
pub fn held_by_same_method(
    tensor: &Tensor,
    wanted: &Assignment,
    target: &dyn Target,
) -> Option<Assignment> {
    let folded = Assignment { steps: with_folded_scales(&wanted.steps), ..wanted.clone() };
    [wanted, &folded].into_iter().find_map(|wanted| {
        let near = match refusal(tensor, wanted, target) {
            None => wanted.clone(),
            Some(_) => held_instead(tensor, wanted, target),
        };
        (!near.is_keep() && quantiser(&near) == quantiser(wanted)).then_some(near)
    })
}

/// The assignment with a grid that a target holds, where only its own grid keeps it from being held.
pub fn held_in_other_grid(
    tensor: &Tensor,
    wanted: &Assignment,
    target: &dyn Target,
) -> Option<Assignment> {
    refusal(tensor, wanted, target)?;
    let grids = ["asymmetric", "symmetric"].map(|grid| wanted.with_grid(grid));
    grids.into_iter().find(|candidate| refusal(tensor, candidate, target).is_none())
}

/// Why a hand may not give a layer this assignment for a target, in a sentence without a full stop; `None` if it may.
/// Keeping is always allowed, and sparsity too, which is for measuring; a dense target takes everything.
pub fn refusal(tensor: &Tensor, assignment: &Assignment, target: &dyn Target) -> Option<String> {
    let Some(matrix) = tensor.matrix else {
        return Some(tensor.why_no_matrix());
    };
    if assignment.is_keep() || target.capabilities().is_dense() {
        return None;
    }
    match assignment.layout(matrix.shape, tensor.dtype) {
        Err(error) => Some(error.to_string()),
        Ok(layout) if layout.is_dense() => None,
        Ok(layout) => target.capabilities().why_not(tensor, &layout),
    }
}
