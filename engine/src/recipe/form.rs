//! What layers of all dialects have in common: grouped integers of so many bits, or nothing. From an assignment
//! by its layout, and back to steps with every default left out.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::Layout;
use crate::method::{self, Kind, Parameters, Resolved, Stage, Step, Value};
use crate::numeric::grouping::Grouping;
use crate::plan::{Assignment, Plan};
use crate::recipe::block_types;
use crate::recipe::sentences::Unsaid;

/// The method that other tools' integers are read as.
const METHOD: &str = "round-to-nearest";
/// What of a quantiser's parameters its layout tells.
const TOLD: [&str; 4] = ["bits", "granularity", "group_size", "symmetry"];

/// How the grid of a group lies around zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Symmetry {
    Symmetric,
    Restricted,
    Asymmetric,
}

impl Symmetry {
    pub(super) fn of(symmetric: bool) -> Self {
        if symmetric { Self::Symmetric } else { Self::Asymmetric }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Restricted => "symmetric-restricted",
            Self::Asymmetric => "asymmetric",
        }
    }
}

/// Grouped integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Integers {
    pub(super) bits: u32,
    pub(super) grouping: Grouping,
    pub(super) symmetry: Symmetry,
}

impl Integers {
    pub(super) fn new(bits: u32, grouping: Grouping, symmetric: bool) -> Self {
        Self { bits, grouping, symmetry: Symmetry::of(symmetric) }
    }

    /// The nearest that this program has.
    pub(super) fn nearest(self) -> Self {
        let grouping = match self.grouping {
            Grouping::Group(size) => Grouping::Group(clamp(
                "group_size",
                i64::try_from(size).unwrap_or(i64::MAX),
            ) as usize),
            other => other,
        };
        Self { bits: clamp("bits", i64::from(self.bits)) as u32, grouping, ..self }
    }

    /// The steps that make it; parameters at their defaults are left out.
    pub(super) fn steps(self) -> Vec<Step> {
        let mut values = vec![("bits", Value::from(i64::from(self.bits)))];
        match self.grouping {
            Grouping::Tensor => values.push(("granularity", "tensor".into())),
            Grouping::Channel => values.push(("granularity", "channel".into())),
            Grouping::Group(size) => values.push(("group_size", (size as i64).into())),
        }
        values.push(("symmetry", self.symmetry.name().into()));
        let defaults = resolved(&Step::new(METHOD));
        let differs = |(name, value): &(&str, Value)| {
            defaults.as_ref().and_then(|defaults| defaults.get(name)) != Some(value)
        };
        let step = |step: Step, (name, value): (&str, Value)| step.with(name, value);
        vec![values.into_iter().filter(differs).fold(Step::new(METHOD), step)]
    }

    /// In a few characters, as `4-bit g128 asym`.
    pub(super) fn label(self) -> String {
        let grouping = match self.grouping {
            Grouping::Tensor => "tensor".to_owned(),
            Grouping::Channel => "channel".to_owned(),
            Grouping::Group(size) => format!("g{size}"),
        };
        let symmetry = match self.symmetry {
            Symmetry::Symmetric => "",
            Symmetry::Restricted => " restr",
            Symmetry::Asymmetric => " asym",
        };
        format!("{}-bit {grouping}{symmetry}", self.bits)
    }
}

/// `value` within the range that the method's schema allows for the integer `name`.
fn clamp(name: &str, value: i64) -> i64 {
    let parameters =
        method::find(METHOD).map(|method| method.about().parameters).unwrap_or_default();
    let kind = parameters.iter().find(|parameter| parameter.name == name).map(|found| &found.kind);
    match kind {
        Some(Kind::Integer { min, max, .. }) => value.clamp(*min, *max),
        _ => value,
    }
}

fn resolved(step: &Step) -> Option<Resolved> {
    method::find(&step.method).ok()?.about().resolve(&step.parameters).ok()
}

/// The step to integers of as many bits and groups whose zero points lie anywhere between two levels, for one to integers
/// with whole ones; `None` for all others.
pub(super) fn with_offsets(step: &Step) -> Option<Step> {
    let told = resolved(step).filter(|_| step.method == METHOD)?;
    if told.get("symmetry") != Some(&Value::from(Symmetry::Asymmetric.name())) {
        return None;
    }
    let told = |name: &str| told.get(name).cloned();
    let step = Step::new("hqq").with("bits", told("bits")?);
    Some(step.with("group_size", told("group_size")?))
}

/// A step to integers by another method, whose parameters are added; other steps stay.
pub(super) fn by(step: Step, method: Option<&Step>) -> Step {
    match method {
        Some(method) if step.method == METHOD => {
            let added = method.parameters.0.clone();
            step.parameters
                .0
                .into_iter()
                .chain(added)
                .fold(Step::new(&method.method), |step, (name, value)| step.with(&name, value))
        }
        _ => step,
    }
}

/// Leaves a layer as it is.
pub(super) fn keep() -> Vec<Step> {
    vec![Step::new("keep")]
}

/// The steps that make a layout, where one method here makes it from the weights alone; `None` for all others.
pub(super) fn steps_of(layout: &Layout) -> Option<Vec<Step>> {
    match layout {
        Layout::Blocks(kind) => block_types::steps(kind.name()),
        Layout::Affine(affine) => {
            let integers = Integers::new(affine.bits, affine.grouping, affine.symmetric);
            let steps = (integers.nearest() == integers).then(|| integers.steps())?;
            if affine.has_offsets {
                return steps.iter().map(with_offsets).collect();
            }
            Some(steps)
        }
        _ => None,
    }
}

/// A layer of a plan, as far as other tools may say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer<'a> {
    pub(super) tensor: &'a Tensor,
    pub(super) module: &'a str,
    /// Its integers; `None` where it is kept.
    pub(super) form: Option<Integers>,
    /// Its block type in GGUF files, for tools that know those; it has no integers then.
    pub(super) blocks: Option<&'static str>,
}

impl Layer<'_> {
    /// Whether the plan compresses it, as far as the tool may say that.
    pub(super) fn is_compressed(&self) -> bool {
        self.form.is_some() || self.blocks.is_some()
    }
}

/// Every layer of the checkpoint with what the plan makes of it; what no tool can say goes to `unsaid`.
pub(super) fn layers<'a>(
    checkpoint: &'a Checkpoint,
    plan: &Plan,
    unsaid: &mut Unsaid,
) -> Vec<Layer<'a>> {
    gathered(checkpoint, plan, false, unsaid)
}

/// The same for a tool that knows block types of llama.cpp.
pub(super) fn layers_or_blocks<'a>(
    checkpoint: &'a Checkpoint,
    plan: &Plan,
    unsaid: &mut Unsaid,
) -> Vec<Layer<'a>> {
    gathered(checkpoint, plan, true, unsaid)
}

fn gathered<'a>(
    checkpoint: &'a Checkpoint,
    plan: &Plan,
    knows_blocks: bool,
    unsaid: &mut Unsaid,
) -> Vec<Layer<'a>> {
    for (name, _) in plan.iter().filter(|(name, _)| checkpoint.find(name).is_none()) {
        unsaid.of("The checkpoint has no layer ", name, ".");
    }
    let tensors = checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some());
    tensors
        .map(|tensor| {
            let assignment = plan.get(&tensor.name);
            let layout = |of: &Assignment| of.layout(tensor.matrix?.shape, tensor.dtype).ok();
            let known = assignment.filter(|_| knows_blocks);
            let blocks = known.and_then(|of| block_types::of_layout(&layout(of)?));
            let integers = assignment.filter(|_| blocks.is_none());
            let form = integers.and_then(|assignment| form(tensor, assignment, unsaid));
            Layer { tensor, module: tensor.module(), form, blocks }
        })
        .collect()
}

fn form(tensor: &Tensor, assignment: &Assignment, unsaid: &mut Unsaid) -> Option<Integers> {
    let module = tensor.module();
    let shape = tensor.matrix?.shape;
    let layout = match assignment.layout(shape, tensor.dtype) {
        Ok(layout) => layout,
        Err(error) => {
            unsaid.of(&format!("Written as kept, because {error}: "), module, ".");
            return None;
        }
    };
    if layout.density(shape) < 1.0 || matches!(layout, Layout::Sparse(_)) {
        unsaid.of("Such a file holds no sparsity; that of ", module, " is not written.");
    }
    let Some(affine) = layout.affine() else {
        if !layout.is_dense() {
            let before =
                format!("Such a file holds grouped integers only; {} of ", assignment.label());
            unsaid.of(&before, module, " is written as kept.");
        }
        return None;
    };
    if affine.has_offsets {
        let after = " lie between two levels; the other tool is told whole ones.";
        unsaid.of("The zero points of ", module, after);
    }
    let step = assignment.step_at(Stage::Quantise);
    if step.is_some_and(is_searched) {
        unsaid.of(
            "How codes and scales are found is the other tool's own choice; for ",
            module,
            " it is not written.",
        );
    }
    let is_restricted = step.and_then(resolved).is_some_and(|resolved| {
        resolved.get("symmetry") == Some(&Value::from(Symmetry::Restricted.name()))
    });
    let symmetry = match affine.symmetric {
        true if is_restricted => Symmetry::Restricted,
        symmetric => Symmetry::of(symmetric),
    };
    Some(Integers { bits: affine.bits, grouping: affine.grouping, symmetry })
}

/// Whether more goes into the codes of a step than its layout tells.
fn is_searched(step: &Step) -> bool {
    let (Some(given), Some(defaults)) =
        (resolved(step), resolved(&Step { parameters: Parameters::default(), ..step.clone() }))
    else {
        return false;
    };
    let parameters = method::find(&step.method).map(|method| method.about().parameters);
    step.method != METHOD
        || parameters.unwrap_or_default().iter().any(|parameter| {
            let name = parameter.name;
            !TOLD.contains(&name) && given.uses(parameter) && given.get(name) != defaults.get(name)
        })
}

/// The same layer without the restricted grid, which tools of symmetric integers do not know.
pub(super) fn unrestricted(layer: &Layer<'_>, unsaid: &mut Unsaid) -> Option<Integers> {
    let form = layer.form?;
    if form.symmetry == Symmetry::Restricted {
        let after = ", whose lowest level is unused here.";
        unsaid.of("The other tool uses every level of ", layer.module, after);
        return Some(Integers { symmetry: Symmetry::Symmetric, ..form });
    }
    Some(form)
}

/// The form that most of `forms` have, the first of several.
pub(super) fn commonest<T: Copy + Ord>(forms: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = std::collections::BTreeMap::new();
    for form in forms {
        *counts.entry(form).or_insert(0_usize) += 1;
    }
    counts
        .into_iter()
        .max_by_key(|&(form, count)| (count, std::cmp::Reverse(form)))
        .map(|(form, _)| form)
}
