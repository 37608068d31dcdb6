//! What is wrong with a plan for a target, in sentences, each with what mends it. Errors keep a plan from export.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Role, Tensor};
use crate::encoding::{AffineLayout, Layout};
use crate::error::{Error, Result};
use crate::numeric::grouping::Grouping;
use crate::plan::Plan;
use crate::target::scheme::Scheme;
use crate::target::{
    Agreement, Aim, Entry, Holds, Storage, adapter, biases, finished, mend, names, vectors,
    versions,
};

/// The kinds of lints there are.
pub static LINTS: &[&str] = &[
    "dead-rule",
    "no-config",
    "quantised-already",
    "finished-gguf",
    "finished-layers",
    "encoded-again",
    "not-written",
    "unequal-fused",
    "unequal-experts",
    "several-schemes",
    "tied-head",
    "kept-within",
    "unjoined-experts",
    "cut-groups",
    "slow-kernel",
    "in-full",
    "newer-readers",
    "asymmetric-mix",
    "scales-kept",
    "new-bias",
    "adapter",
    "sparsity-saves-nothing",
    "not-removable",
    "removed",
    "not-finite",
];

/// How much a lint matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The output would not load, or not as meant: no export.
    Error,
    /// It loads, and is not what the plan seems to want.
    Warning,
    /// Worth knowing.
    Note,
}

/// What mends a lint at one click; which assignments that comes to is worked out when it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Keep the tensors as they are on disk.
    Keep,
    /// The nearest assignments that the target holds.
    Held,
    /// Take the sparsity out.
    Unpruned,
    /// Scales of inputs that stay with their layers.
    KeptScales,
    /// Products that carry the mean of the inputs.
    Uncentred,
    /// Take the corrections out.
    Uncorrected,
    /// Grids without zero points.
    Symmetric,
    /// Like this layer.
    As(usize),
    /// All alike: as that one of them that keeps most.
    Alike,
    /// Groups that no device boundary cuts.
    Uncut,
    /// What the fast kernel runs.
    ForKernel,
    /// Another target.
    Target(&'static str),
    /// The plan without this rule.
    RemoveRule(usize),
}

/// Something about a plan that a person should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Lint {
    /// Its kind, for tests and scripts.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The tensors concerned.
    pub tensors: Vec<usize>,
    /// What is wrong, in a sentence without a full stop.
    pub what: String,
    /// What to do.
    pub mend: String,
    /// What does it, where one click can.
    pub fix: Option<Fix>,
}

/// A plan for a target, laid out.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The model.
    pub checkpoint: &'a Checkpoint,
    /// What is wanted.
    pub plan: &'a Plan,
    /// For what.
    pub aim: Aim,
    /// What becomes of each tensor.
    pub entries: &'a [Entry],
}

impl<'a> Case<'a> {
    pub(super) fn tensor(&self, index: usize) -> &'a Tensor {
        &self.checkpoint.tensors()[index]
    }

    /// The integers a tensor is stored as, if it is stored in the target's own form.
    pub(super) fn held(&self, index: usize) -> Option<&'a AffineLayout> {
        self.entries[index].own_form()?.affine()
    }

    /// What formats must agree about.
    pub(super) fn scheme(&self, index: usize) -> Option<Scheme> {
        Scheme::of(self.entries[index].own_form()?)
    }
}

/// Everything to know about a plan for a target: errors first, then warnings, then notes. Opens no weights.
/// Cost: some comparisons for each tensor.
pub fn lints(case: &Case<'_>) -> Vec<Lint> {
    let mut lints = dead_rules(case.checkpoint, case.plan);
    config(case, &mut lints);
    finished::finished_gguf(case, &mut lints);
    finished::encoded_again(case, &mut lints);
    not_written(case, &mut lints);
    fused(case, &mut lints);
    experts(case, &mut lints);
    schemes(case, &mut lints);
    tied_head(case, &mut lints);
    names::kept_within(case, &mut lints);
    names::unjoined_experts(case, &mut lints);
    split(case, &mut lints);
    in_full(case, &mut lints);
    versions::newer_readers(case, &mut lints);
    asymmetric_mix(case, &mut lints);
    vectors::scales_kept(case, &mut lints);
    biases::new_biases(case, &mut lints);
    adapter::beside(case, &mut lints);
    sparsity(case, &mut lints);
    lints.sort_by_key(|lint| lint.severity);
    lints
}

/// [`Error::Plan`] with the first error among the lints, or where the target's files cannot be written.
pub fn refuse_errors(case: &Case<'_>) -> Result<()> {
    let about = case.aim.target.about();
    if !about.writes {
        return Err(Error::plan(
            format!("plans can be made for {}, but its files cannot be written yet", about.title),
            "choose another target for the export",
        ));
    }
    let error = lints(case).into_iter().find(|lint| lint.severity == Severity::Error);
    error.map_or(Ok(()), |lint| Err(Error::plan(lint.what, lint.mend)))
}

/// Patterns of a plan that match nothing of a model.
pub fn dead_rules(checkpoint: &Checkpoint, plan: &Plan) -> Vec<Lint> {
    let mut lints = Vec::new();
    let matches = plan.matches();
    for (at, found) in matches.iter().enumerate().filter(|(_, found)| found.all == 0) {
        debug_assert_eq!(found.decided, 0, "what matches nothing decides nothing");
        let pattern = &plan.rules()[at].pattern;
        lints.push(Lint {
            id: "dead-rule",
            severity: Severity::Error,
            tensors: Vec::new(),
            what: format!(
                "the pattern {pattern} matches no layer of {}",
                checkpoint.path().display()
            ),
            mend: "correct or remove it".to_owned(),
            fix: Some(Fix::RemoveRule(at)),
        });
    }
    lints
}

fn config(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if !case.aim.target.needs_config() || case.checkpoint.gguf().is_some() {
        return;
    }
    let quantised = |config: &crate::checkpoint::Config| {
        config.value().get("quantization_config").is_some_and(|value| !value.is_null())
    };
    let (id, what, mend) = match case.checkpoint.config() {
        None => (
            "no-config",
            "the checkpoint has no config.json, where loaders read how it is quantised",
            "open the model's folder instead of a lone file, or choose the dense target",
        ),
        Some(config) if quantised(config) => (
            "quantised-already",
            "the checkpoint's config.json says it is quantised already",
            "start from the original checkpoint, or choose the dense target",
        ),
        Some(_) => return,
    };
    lints.push(Lint {
        id,
        severity: Severity::Error,
        tensors: Vec::new(),
        what: what.to_owned(),
        mend: mend.to_owned(),
        fix: Some(Fix::Target("dense")),
    });
}

/// Models that the target's files cannot hold, whatever the plan.
fn not_written(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let Some(Err(error)) = case.aim.target.files(case.checkpoint, case.entries) else {
        return;
    };
    lints.push(Lint {
        id: "not-written",
        severity: Severity::Error,
        tensors: Vec::new(),
        what: error.to_string(),
        mend: error.hint().unwrap_or_else(|| "choose another target".to_owned()),
        fix: Some(Fix::Target("dense")),
    });
}

fn fused(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if case.aim.target.capabilities().fused == Agreement::May {
        return;
    }
    for group in case.checkpoint.fused_groups() {
        let first = case.scheme(group.members[0]);
        if group.members.iter().all(|&member| case.scheme(member) == first) {
            continue;
        }
        let names: Vec<&str> = group.members.iter().map(|&i| case.tensor(i).module()).collect();
        lints.push(Lint {
            id: "unequal-fused",
            severity: Severity::Error,
            tensors: group.members.clone(),
            what: format!(
                "{} are one layer in vLLM but would be stored differently",
                names.join(", ")
            ),
            mend: format!(
                "give {} of this block the same bits, grouping and symmetry",
                group.kind.name()
            ),
            fix: Some(Fix::Alike),
        });
    }
}

fn experts(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if case.aim.target.capabilities().experts == Agreement::May {
        return;
    }
    let mut cells: BTreeMap<(Option<u32>, Role), Vec<usize>> = BTreeMap::new();
    for (index, tensor) in case.checkpoint.tensors().iter().enumerate() {
        if tensor.place.expert.is_some() && tensor.matrix.is_some() {
            cells.entry((tensor.place.block, tensor.place.role)).or_default().push(index);
        }
    }
    for ((block, role), members) in cells {
        let first = case.scheme(members[0]);
        if members.iter().all(|&member| case.scheme(member) == first) {
            continue;
        }
        let block = block.map_or_else(String::new, |block| format!(" of block {block}"));
        lints.push(Lint {
            id: "unequal-experts",
            severity: Severity::Error,
            what: format!(
                "the {role} layers of all experts{block} are one tensor here but would be stored differently"
            ),
            mend: "give all experts of the block the same bits, grouping and symmetry".to_owned(),
            fix: Some(Fix::Alike),
            tensors: members,
        });
    }
}

fn schemes(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if case.aim.target.capabilities().schemes == Agreement::May {
        return;
    }
    let mut by_scheme: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for index in 0..case.entries.len() {
        if let Some(scheme) = case.scheme(index) {
            by_scheme.entry(scheme).or_default().push(index);
        }
    }
    let Some(most) = by_scheme.values().max_by_key(|members| members.len()) else {
        return;
    };
    if by_scheme.len() < 2 {
        return;
    }
    let others: Vec<usize> = by_scheme
        .values()
        .filter(|members| *members != most)
        .flat_map(|members| members.iter().copied())
        .collect();
    lints.push(Lint {
        id: "several-schemes",
        severity: Severity::Error,
        what: format!(
            "the format has one scheme for all compressed layers, and this plan has {}",
            by_scheme.len()
        ),
        mend: "compress all layers alike, and keep those that need more".to_owned(),
        fix: Some(Fix::As(most[0])),
        tensors: others,
    });
}

fn tied_head(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let Some(head) = case.checkpoint.tied().and_then(|tied| tied.head) else {
        return;
    };
    let capabilities = case.aim.target.capabilities();
    if capabilities.may_quantise_tied_head || case.scheme(head).is_none() {
        return;
    }
    lints.push(Lint {
        id: "tied-head",
        severity: Severity::Error,
        tensors: vec![head],
        what: format!(
            "{} is tied to the embedding, so loaders never read its compressed form: {}",
            case.tensor(head).name,
            capabilities.tied
        ),
        mend: "keep the head".to_owned(),
        fix: Some(Fix::Keep),
    });
}

/// Layers split over devices: groups must not be cut, and the fast kernel has its own wishes.
fn split(case: &Case<'_>, lints: &mut Vec<Lint>) {
    let Some(kernel) = &case.aim.target.capabilities().kernel else {
        return;
    };
    let mut cut = Vec::new();
    let mut slow: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for index in 0..case.entries.len() {
        let Some(held) = case.held(index) else { continue };
        let (inputs, outputs) = mend::part(case, index);
        match held.grouping {
            Grouping::Group(size) if !inputs.is_some_and(|n| n.is_multiple_of(size)) => {
                cut.push(index);
            }
            _ => {
                if let Some(why) = kernel.why_not(held, (inputs, outputs)) {
                    slow.entry(why).or_default().push(index);
                }
            }
        }
    }
    if !cut.is_empty() {
        lints.push(Lint {
            id: "cut-groups",
            severity: Severity::Error,
            what: format!(
                "{}: split over {} devices, a part of the inputs is no whole number of groups",
                mend::layers_text(case, &cut),
                case.aim.tensor_parallel
            ),
            mend: "choose smaller groups, or keep these layers".to_owned(),
            fix: Some(Fix::Uncut),
            tensors: cut,
        });
    }
    for (why, tensors) in slow {
        lints.push(Lint {
            id: "slow-kernel",
            severity: Severity::Warning,
            what: format!(
                "{}: {} cannot run them, as {why}; vLLM falls back to a slower kernel, or has none",
                mend::layers_text(case, &tensors),
                kernel.name
            ),
            mend: "keep these layers, or choose what the kernel takes".to_owned(),
            fix: Some(Fix::ForKernel),
            tensors,
        });
    }
}

/// Compressed layers that the target stores in full: nothing is saved.
fn in_full(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if case.aim.target.capabilities().is_dense() {
        return;
    }
    let mut by_reason: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for entry in case.entries {
        let is_pruned_only = entry
            .layout
            .as_ref()
            .is_some_and(|layout| layout.is_dense() && !matches!(layout, Layout::Dense(_)));
        if let (Storage::Dense { because }, false) = (&entry.storage, is_pruned_only) {
            by_reason.entry(because).or_default().push(entry.tensor);
        }
    }
    for (because, tensors) in by_reason {
        lints.push(Lint {
            id: "in-full",
            severity: Severity::Warning,
            what: format!(
                "{}: stored in full, so damage is done and nothing saved, as {because}",
                mend::layers_text(case, &tensors)
            ),
            mend: "take the nearest assignment that is held, or keep the layers".to_owned(),
            fix: Some(Fix::Held),
            tensors,
        });
    }
}

/// Packed layers with zero points load in transformers only where all share one scheme.
fn asymmetric_mix(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if !["compressed-tensors", "compressed-tensors-0.18"].contains(&case.aim.target.about().id) {
        return;
    }
    let mut schemes = std::collections::BTreeSet::new();
    let mut asymmetric = Vec::new();
    for index in 0..case.entries.len() {
        let Some(scheme) = case.scheme(index) else { continue };
        schemes.insert(scheme);
        if matches!(scheme, Scheme::Integers(_, false, _)) {
            asymmetric.push(index);
        }
    }
    if asymmetric.is_empty() || schemes.len() < 2 {
        return;
    }
    lints.push(Lint {
        id: "asymmetric-mix",
        severity: Severity::Warning,
        what: format!(
            "{} with zero points beside layers of another scheme: transformers 5.23 with compressed-tensors 0.20 loads such a mix wrong; vLLM takes it",
            mend::layers_text(case, &asymmetric)
        ),
        mend: "make these layers symmetric".to_owned(),
        fix: Some(Fix::Symmetric),
        tensors: asymmetric,
    });
}

fn sparsity(case: &Case<'_>, lints: &mut Vec<Lint>) {
    if case.aim.target.capabilities().holds == Holds::Everything {
        return;
    }
    let is_pruned = |entry: &&Entry| matches!(entry.layout, Some(Layout::Sparse(_)));
    let pruned: Vec<usize> =
        case.entries.iter().filter(is_pruned).map(|entry| entry.tensor).collect();
    if pruned.is_empty() {
        return;
    }
    lints.push(Lint {
        id: "sparsity-saves-nothing",
        severity: Severity::Note,
        what: format!(
            "the sparsity of {} saves 0 bytes: {}",
            mend::layers_text(case, &pruned),
            case.aim.target.capabilities().sparsity
        ),
        mend: "keep it to measure what zeros cost, or remove the sparsity".to_owned(),
        fix: Some(Fix::Unpruned),
        tensors: pruned,
    });
}
