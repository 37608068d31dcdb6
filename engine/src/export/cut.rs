//! One stack for any size: an archive of stacks with as many of their levels as fit a budget, without compressing anything
//! again. In: an archive, bytes. Out: a folder with its proof and report, as of an export.

use std::collections::HashMap;

use ndarray::Array2;

use crate::checkpoint::Checkpoint;
use crate::encoding::{Encoding, Layout, Stack};
use crate::error::{Error, Result};
use crate::export::convert::{Layouts, Opened};
use crate::export::{Destination, Report};
use crate::numeric::digits::count;
use crate::numeric::distance::relative_error;
use crate::observer::Observer;
use crate::target::{Aim, Manifest};
use crate::tensor::MatrixShape;

/// One level of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    /// The tensor of the layer.
    layer: usize,
    /// By how much less the layer is away from its whole stack, as a share of its power, times its weights.
    gain: f64,
    /// What the level takes.
    bytes: u64,
}

/// Writes `source`, an archive with stacks of levels, within `budget` bytes of weight files, for a target that holds stacks.
///
/// Levels lie in one order for every budget, the universal stack: of each layer the first, then always the level that
/// lessens Σ Pₗ·‖W − Wₙ‖²/‖W‖² most for each of its bytes, Pₗ the weights of layer l, W its whole stack and Wₙ the first n
/// levels. As many of that order are written as fit, so a smaller output is always a part of a larger one. The authors order
/// levels of one height by the perplexity with each of them added, one run of the model each; this needs the archive alone.
/// Layers that are no stacks are taken over whole. Errors in the report are those against the whole stacks.
///
/// Cost: as of [`crate::export::convert()`], and decoding every level twice.
///
/// # Errors
/// [`Error::Plan`] where there is no stack, or not even the first levels fit, with what they take; those of
/// [`crate::export::convert()`].
pub fn cut(
    source: &Checkpoint,
    (budget, aim): (u64, impl Into<Aim>),
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Report> {
    let aim = aim.into();
    let opened = Opened::new(source, destination.limits.memory_bytes, observer)?;
    let mut stacks: Vec<Vec<Level>> = Vec::new();
    let layouts = opened.layouts(&mut |layer, encoding| {
        if let Encoding::Stack(stack) = encoding {
            stacks.push(levels(layer, stack, observer)?);
        }
        Ok(())
    })?;
    if stacks.is_empty() {
        return Err(Error::plan(
            format!("{} holds no stack of levels to cut", source.path().display()),
            "compress the model with a method that makes levels, for the target archive",
        ));
    }
    let order = order(&stacks);
    let cut = |taken: usize| -> Result<(HashMap<usize, usize>, Manifest)> {
        let heights = heights(&stacks, &order[..taken]);
        let manifest = opened.manifest(&with_heights(&layouts, &heights), aim)?;
        Ok((heights, manifest))
    };
    // More levels never take fewer bytes.
    let (mut fits, mut beyond) = (None, order.len() + 1);
    let mut low = 0;
    while low < beyond {
        let taken = usize::midpoint(low, beyond);
        let tried = cut(taken)?;
        if tried.1.weight_file_bytes() <= budget {
            (fits, low) = (Some(tried), taken + 1);
        } else {
            beyond = taken;
        }
    }
    let Some((heights, manifest)) = fits else {
        return Err(too_small(opened.restored(), budget, &cut(0)?.1));
    };
    opened.write(heights, (&manifest, aim), destination)
}

fn too_small(checkpoint: &Checkpoint, budget: u64, least: &Manifest) -> Error {
    let bytes = least.weight_file_bytes();
    Error::plan(
        format!(
            "{} with one level of every layer takes {} bytes, which is more than {}",
            checkpoint.title(),
            count(bytes),
            count(budget)
        ),
        "give more bytes, or choose a target that holds stacks",
    )
}

/// The levels of a stack with what each is good for, the first of all for what is beyond it.
fn levels(layer: usize, stack: &Stack, observer: &dyn Observer) -> Result<Vec<Level>> {
    let whole = Encoding::Stack(stack.clone()).decode();
    let shape = MatrixShape { rows: whole.nrows(), cols: whole.ncols() };
    let mut found = Vec::new();
    let mut sum = Array2::<f32>::zeros(whole.dim());
    let mut left = 1.0;
    for level in stack.levels() {
        observer.go_on()?;
        sum += &level.decode();
        let now = relative_error(whole.view(), sum.view()).powi(2);
        let gain = (left - now) * shape.elements() as f64;
        found.push(Level { layer, gain, bytes: level.layout().bytes(shape) });
        left = now;
    }
    Ok(found)
}

/// All levels but the first of each layer, the most for its bytes first, none before those beneath it.
fn order(stacks: &[Vec<Level>]) -> Vec<usize> {
    let mut next = vec![1; stacks.len()];
    let all: usize = stacks.iter().map(|levels| levels.len() - 1).sum();
    let mut order = Vec::with_capacity(all);
    while order.len() < all {
        let worth = |stack: usize| {
            let level = stacks[stack].get(next[stack])?;
            Some((level.gain / level.bytes.max(1) as f64, stack))
        };
        let most = (0..stacks.len()).filter_map(worth);
        // Of equal ones the first.
        let most = most.reduce(|best, tried| if tried.0 > best.0 { tried } else { best });
        let Some((_, stack)) = most else { break };
        next[stack] += 1;
        order.push(stack);
    }
    order
}

/// How many levels each layer has, by its tensor, with these levels on the first ones.
fn heights(stacks: &[Vec<Level>], order: &[usize]) -> HashMap<usize, usize> {
    let mut heights = vec![1; stacks.len()];
    for &stack in order {
        heights[stack] += 1;
    }
    stacks.iter().zip(heights).map(|(levels, height)| (levels[0].layer, height)).collect()
}

pub(super) fn with_heights(layouts: &Layouts, heights: &HashMap<usize, usize>) -> Layouts {
    let cut = |(&index, layout): (&usize, &Option<Layout>)| {
        let height = heights.get(&index);
        let first = layout.as_ref().zip(height).and_then(|(of, &height)| of.first_levels(height));
        (index, first.or_else(|| layout.clone()))
    };
    layouts.iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_lie_by_worth_and_above_those_beneath() {
        let stack = |layer: usize, gains: &[f64], bytes: u64| {
            gains.iter().map(|&gain| Level { layer, gain, bytes }).collect::<Vec<_>>()
        };
        // The third of layer 4 is worth most, but lies on the second.
        let stacks = [stack(4, &[9.0, 1.0, 8.0], 10), stack(7, &[9.0, 4.0, 3.0], 20)];
        let order = order(&stacks);
        assert_eq!(order, [1, 1, 0, 0]);
        let at = |taken: usize| {
            let heights = heights(&stacks, &order[..taken]);
            [heights[&4], heights[&7]]
        };
        assert_eq!([at(0), at(1), at(2), at(3), at(4)], [[1, 1], [1, 2], [1, 3], [2, 3], [3, 3]]);
    }
}
