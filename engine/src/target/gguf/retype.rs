//! Plans that give the tensors of a GGUF file other types: one type for all, or a starting point.

use crate::checkpoint::{Checkpoint, Matrix, Role, Tensor};
use crate::encoding::Layout;
use crate::error::{Error, Result};
use crate::method::{self, Kind, Needs, Step};
use crate::plan::{Assignment, Plan, Rule};
use crate::target::gguf::retyped::is_already;
use crate::target::{Aim, Lint, PRESETS, mend_all};

/// The method whose types are llama.cpp's, and its parameters.
const BLOCKS: &str = "gguf-blocks";
const TYPE: &str = "type";
const IMPORTANCE: &str = "importance";

/// The method whose small floats are types of llama.cpp too, with its parameter and their names as it knows them.
const FLOATS: &str = "microscaling";
const FORMAT: &str = "format";
const FORMATS: [(&str, &str); 2] = [("MXFP4", "mxfp4"), ("NVFP4", "nvfp4")];

/// Names of the types that tensors can be given, as llama.cpp writes them.
pub fn types() -> Vec<&'static str> {
    let parameters = method::find(BLOCKS).map_or(&[][..], |method| method.about().parameters);
    let found = parameters.iter().find(|parameter| parameter.name == TYPE);
    let blocks = match found.map(|parameter| &parameter.kind) {
        Some(Kind::Choice(options)) => *options,
        _ => &[],
    };
    let floats = FORMATS.iter().map(|(name, _)| *name);
    blocks.iter().map(|option| option.id).chain(floats).collect()
}

/// The step that makes a type.
fn step_of(kind: &str) -> Step {
    match FORMATS.iter().find(|(name, _)| *name == kind) {
        Some((_, format)) => Step::new(FLOATS).with(FORMAT, *format),
        None => Step::new(BLOCKS).with(TYPE, kind),
    }
}

/// The plan that gives every matrix of a GGUF file the type called `wish`, or what a starting point of that name (`Q4_K_M`)
/// gives it, fitted to the rows of each; layers that have that type are kept as they are, and so are routers and tables of
/// positions. Errors count by what is `known` of the inputs of a layer: by the outputs where that is a Gram matrix. Gives
/// what had to be fitted.
///
/// # Errors
/// [`Error::Plan`] for another source, and for a wish that names nothing.
pub fn retype(
    checkpoint: &Checkpoint,
    wish: &str,
    known: &dyn Fn(&str) -> Needs,
    aim: Aim,
) -> Result<(Plan, Vec<Lint>)> {
    if checkpoint.gguf().is_none() {
        return Err(Error::plan(
            format!(
                "{} is no GGUF file, so its tensors have no types to change",
                checkpoint.title()
            ),
            "compress it with a project for the target gguf",
        ));
    }
    let preset = wish.to_ascii_lowercase().replace('_', "-");
    let preset = PRESETS.iter().find(|known| known.id == preset);
    let kind = types().into_iter().find(|known| known.eq_ignore_ascii_case(wish));
    let (mut plan, fitted) = match (kind, preset) {
        (Some(kind), _) => of_type(checkpoint, kind, aim)?,
        (None, Some(preset)) => preset.plan(checkpoint, &Plan::default(), aim)?,
        (None, None) => return Err(unknown(wish)),
    };
    if let Some(layer) = pruned(checkpoint, &plan) {
        return Err(Error::plan(
            format!("{wish} prunes {layer}, and no type of a GGUF file has fewer bytes for zeros"),
            format!("choose a type, as {}", types().join(", ")),
        ));
    }
    for tensor in checkpoint.tensors() {
        let Some(matrix) = tensor.matrix else { continue };
        let now = plan.assignment(&tensor.name);
        if now.is_keep() || now.locked {
            continue;
        }
        if is_already(tensor, &now.layout(matrix.shape, tensor.dtype)?) {
            plan.set(&tensor.name, Assignment::keep());
        } else if tensor.shape.0.len() == 2
            && let Some(importance) = importance(known(&tensor.name))
        {
            plan.set(&tensor.name, weighted(&now, importance));
        }
    }
    Ok((plan.summed_up(checkpoint), fitted))
}

/// A wish that names neither a type nor a starting point that a GGUF file can hold.
fn unknown(wish: &str) -> Error {
    let presets = PRESETS.iter().filter(|known| known.retypes).map(|known| spelt(known.id));
    let types = types().into_iter().map(str::to_owned);
    let known: Vec<String> = types.chain(presets).collect();
    Error::plan(
        format!("there is no type {wish:?} to give to tensors"),
        format!("choose one of {}", known.join(", ")),
    )
}

/// The first layer of which a plan prunes weights.
fn pruned<'a>(checkpoint: &'a Checkpoint, plan: &Plan) -> Option<&'a str> {
    let is_pruned = |tensor: &&Tensor| {
        let layout =
            |matrix: Matrix| plan.assignment(&tensor.name).layout(matrix.shape, tensor.dtype).ok();
        tensor.matrix.and_then(layout).is_some_and(|layout| matches!(layout, Layout::Sparse(_)))
    };
    checkpoint.tensors().iter().find(is_pruned).map(|tensor| tensor.name.as_str())
}

/// A starting point as llama.cpp spells it, where it is one of its mixtures: `Q4_K_M`.
fn spelt(preset: &str) -> String {
    let is_mixture = preset.starts_with('q');
    if is_mixture { preset.to_ascii_uppercase().replace('-', "_") } else { preset.to_owned() }
}

fn of_type(checkpoint: &Checkpoint, kind: &str, aim: Aim) -> Result<(Plan, Vec<Lint>)> {
    let matches = |rule: &Rule| checkpoint.tensors().iter().any(|t| rule.pattern.matches(t));
    let mut rules = Vec::new();
    for role in [Role::Router, Role::Position] {
        rules.push(Rule::new(&format!("role:{role}"), Assignment::keep())?);
    }
    rules.push(Rule::new("default", Assignment::of(vec![step_of(kind)]))?);
    let mut plan = Plan::default();
    plan.set_rules(checkpoint, rules.into_iter().filter(matches).collect());
    let fitted = mend_all(checkpoint, &mut plan, aim);
    Ok((plan, fitted))
}

/// By what errors count where so much is known of the inputs.
fn importance(known: Needs) -> Option<&'static str> {
    match known {
        Needs::Weights | Needs::Tokens => None,
        Needs::Moments => Some("inputs"),
        Needs::Gram => Some("outputs"),
    }
}

/// The same with blocks whose errors count so.
fn weighted(assignment: &Assignment, importance: &str) -> Assignment {
    let step = |step: &Step| match step.method.as_str() {
        BLOCKS => step.clone().with(IMPORTANCE, importance),
        _ => step.clone(),
    };
    Assignment { steps: assignment.steps.iter().map(step).collect(), ..assignment.clone() }
}
