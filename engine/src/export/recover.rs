//! The plan of an output that is there already: the one its report holds, or else what its files say of their layers.
//! In: an output, the model it was made from. Out: a plan for that model with what it takes out, and the target whose
//! format the output has.

use std::path::Path;

use crate::checkpoint::{Checkpoint, Removal};
use crate::error::{Error, Result};
use crate::export::{Report, undone, verify};
use crate::plan::{Assignment, Plan};
use crate::recipe;
use crate::target;

/// Blocks of an output times blocks of a model that are held against each other, at most: names can claim any number.
const MOST_PAIRS: u64 = 1 << 22;

/// The plan of an output.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// For the whole model, with the blocks and experts that the output lacks.
    pub plan: Plan,
    /// The id of the target whose format the output has.
    pub target: &'static str,
    /// Whether it is the plan that was carried out, from the report beside the output; otherwise it was read off the files,
    /// which say how layers are stored and seldom how that was found.
    pub is_reported: bool,
    /// Sentences: what could not be taken over, and values read as the nearest.
    pub unsaid: Vec<String>,
}

/// Reads the plan of a folder or file that was made from `checkpoint`: the very plan where the report of an export lies
/// beside it and both fit, otherwise the recipe of its files. Cost: headers; where blocks are missing and no report says
/// which, the vectors of all blocks.
///
/// # Errors
/// Those of [`recipe::recover`]; [`Error::Plan`] where blocks or experts are missing and nothing says which.
pub fn recover(output: &Path, checkpoint: &Checkpoint) -> Result<Recovered> {
    let folder = if output.is_dir() { output } else { output.parent().unwrap_or(output) };
    let mut unsaid = Vec::new();
    let report = undone::read_report(folder).unwrap_or_else(|error| {
        unsaid.push(format!("The report beside it was not used: {error}."));
        None
    });
    // A conversion has no plan of its own: its files say more.
    let planned = report.filter(|report| !report.plan.0.is_empty() || !report.removed.is_empty());
    if let Some(report) = planned {
        match reported(&report, folder, checkpoint) {
            Ok(found) => return Ok(found),
            Err(because) => {
                unsaid.push(format!("The plan in the report beside it was not used: {because}."));
            }
        }
    }
    let found = of_files(output, checkpoint)?;
    unsaid.extend(found.unsaid);
    Ok(Recovered { unsaid, ..found })
}

/// The plan of a report, or why it is not that of this output and model.
fn reported(
    report: &Report,
    folder: &Path,
    checkpoint: &Checkpoint,
) -> std::result::Result<Recovered, String> {
    let said = |error: Error| error.to_string();
    let mut faults = Vec::new();
    verify::check_files(folder, report, &mut faults).map_err(said)?;
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    let target = target::find(&report.target).map_err(said)?.about().id;
    let left = left_of(checkpoint, &report.removed).map_err(said)?;
    let model = left.as_ref().unwrap_or(checkpoint);
    let is_there = |name: &str, shape: &[usize]| {
        let found = model.find(name).map(|index| &model.tensors()[index]);
        found.is_some_and(|tensor| tensor.shape.0 == shape)
    };
    let stranger = report.tensors.iter().find(|tensor| !is_there(&tensor.name, &tensor.shape));
    if let Some(stranger) = stranger {
        return Err(format!(
            "it is of another model, in which {} has the extents {:?}",
            stranger.name, stranger.shape
        ));
    }
    let mut plan = report.plan.resolve(model).map_err(said)?;
    if let Some(left) = &left {
        plan = of_whole(&plan, left, checkpoint);
        plan.set_removal(report.removed.clone());
    }
    Ok(Recovered { plan, target, is_reported: true, unsaid: Vec::new() })
}

/// What the files of an output say.
fn of_files(output: &Path, checkpoint: &Checkpoint) -> Result<Recovered> {
    let recipe = recipe::recover(output)?;
    let removal = missing(&Checkpoint::open(output)?, checkpoint)?;
    let left = left_of(checkpoint, &removal)?;
    let model = left.as_ref().unwrap_or(checkpoint);
    let imported = recipe.on(model);
    let mut plan = Plan::default();
    for (layer, steps) in imported.layers {
        plan.set(&model.tensors()[layer].name, Assignment::of(steps));
    }
    let mut unsaid = imported.unsaid;
    if let Some(left) = &left {
        plan = of_whole(&plan, left, checkpoint);
        unsaid.push(format!(
            "No report says what was taken out; the vectors of the blocks that are left are those of all but {}.",
            removal.told()
        ));
    } else {
        plan = plan.summed_up(checkpoint);
    }
    plan.set_removal(removal);
    Ok(Recovered { plan, target: recipe.target, is_reported: false, unsaid })
}

/// The model without what is taken out; `None` where nothing is.
fn left_of(checkpoint: &Checkpoint, removal: &Removal) -> Result<Option<Checkpoint>> {
    if removal.is_empty() { Ok(None) } else { checkpoint.without(removal).map(Some) }
}

/// A plan for what is left of a model under the names of the whole, in few rules.
fn of_whole(plan: &Plan, left: &Checkpoint, whole: &Checkpoint) -> Plan {
    let mut named = Plan::default();
    for tensor in left.tensors() {
        if let Some(assignment) = plan.get(&tensor.name) {
            named.set(tensor.source_name(), Assignment::clone(assignment));
        }
    }
    named.summed_up(whole)
}

/// The blocks that an output lacks, told by the vectors of those it has, which no target changes without need: they must be
/// the same as in the source for one choice of blocks alone.
fn missing(output: &Checkpoint, checkpoint: &Checkpoint) -> Result<Removal> {
    let experts = |of: &Checkpoint| of.tensors().iter().filter_map(|t| t.place.expert).max();
    let (n, of) = (output.blocks(), checkpoint.blocks());
    let unsaid = |what: String| {
        Error::plan(
            format!(
                "{} has {what}, and nothing says which were taken out",
                output.path().display()
            ),
            "put the lapidary-report.json of its export beside it, or give the model without them",
        )
    };
    if let (Some(left), Some(all)) = (experts(output), experts(checkpoint))
        && left < all
    {
        return Err(unsaid(format!("{} experts in a block, and the model {}", left + 1, all + 1)));
    }
    if n >= of {
        return Ok(Removal::default());
    }
    if u64::from(n) * u64::from(of) > MOST_PAIRS {
        return Err(unsaid(format!("{n} blocks, and the model {of}")));
    }
    let fits = fitting(output, checkpoint)?;
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for fits in &fits {
        let next = first.last().map_or(0, |last: &u32| last + 1);
        first.extend((next..of).find(|&of| fits[of as usize]));
    }
    for fits in fits.iter().rev() {
        let end = last.last().copied().unwrap_or(of);
        last.extend((0..end).rev().find(|&of| fits[of as usize]));
    }
    last.reverse();
    if first.len() < n as usize || first != last {
        return Err(unsaid(format!("{n} blocks, and the model {of}")));
    }
    Ok(Removal::of_blocks((0..of).filter(|block| !first.contains(block))))
}

/// Whether each block of an output may be each one of a model: whether all vectors that both have are the same.
fn fitting(output: &Checkpoint, checkpoint: &Checkpoint) -> Result<Vec<Vec<bool>>> {
    let (n, of) = (output.blocks() as usize, checkpoint.blocks() as usize);
    // How many vectors were the same; `None` once one was not.
    let mut same = vec![vec![Some(0_usize); of]; n];
    for (index, tensor) in output.tensors().iter().enumerate() {
        let (Some(block), true) = (tensor.place.block, tensor.shape.0.len() == 1) else { continue };
        let number = format!(".{block}.");
        let other =
            |of: usize| checkpoint.find(&tensor.name.replacen(&number, &format!(".{of}."), 1));
        if !(0..of).any(|of| other(of).is_some()) {
            continue;
        }
        let values = output_values(output, index)?;
        for (of, same) in same[block as usize].iter_mut().enumerate() {
            let Some(other) = other(of) else { continue };
            let is_same = checkpoint.values(other)? == values;
            *same = same.filter(|_| is_same).map(|count| count + 1);
        }
    }
    let fits = |same: Vec<Option<usize>>| -> Vec<bool> {
        same.into_iter().map(|n| n.is_some_and(|n| n > 0)).collect()
    };
    Ok(same.into_iter().map(fits).collect())
}

fn output_values(output: &Checkpoint, index: usize) -> Result<Vec<f32>> {
    let tensor = &output.tensors()[index];
    if output.gguf().is_none() {
        return output.values(index);
    }
    let mut values = vec![0.0; tensor.shape.0.iter().product()];
    output.read_gguf(&tensor.name, 0, &mut values)?;
    Ok(values)
}
