//! Rules of other tools in their order: the first that means a layer decides it.

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::{Checkpoint, MatrixKind, Role, Tensor};
use crate::error::{Error, Result};
use crate::method::Step;
use crate::recipe::Imported;
use crate::recipe::form::{self, Integers};
use crate::recipe::patterns::Pattern;
use crate::recipe::sentences::Unsaid;

/// The most rules.
const MAX_RULES: usize = 1 << 20;
/// The most rules whose expression is costly to keep.
const MAX_COSTLY: usize = 4096;
/// The most tries of a rule on a layer.
const MAX_TRIES: usize = 50_000_000;

/// A module as rules see it.
#[derive(Clone, Debug)]
pub(super) struct Module<'a> {
    /// Its name as the tool writes it.
    pub(super) name: std::borrow::Cow<'a, str>,
    /// Its name here, for sentences.
    pub(super) own: &'a str,
    pub(super) kind: MatrixKind,
    pub(super) role: Role,
    pub(super) in_block: bool,
    /// Inputs; 0 where they are not known.
    pub(super) cols: usize,
}

impl<'a> Module<'a> {
    /// The module of a tensor that is a weight matrix.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Self> {
        let matrix = tensor.matrix?;
        Some(Self {
            name: tensor.module().into(),
            own: tensor.module(),
            kind: matrix.kind,
            role: tensor.place.role,
            in_block: tensor.place.block.is_some(),
            cols: matrix.shape.cols,
        })
    }

    /// Whether it is a linear layer, stored either way.
    pub(super) fn is_linear(&self) -> bool {
        matches!(self.kind, MatrixKind::Linear | MatrixKind::Conv1d)
    }
}

/// Which modules a rule means.
#[derive(Debug)]
pub(super) enum Test {
    /// The one of this name.
    Name(String),
    /// Those an expression matches.
    Pattern(Pattern),
    /// Those that are of some kind.
    Kind(fn(&Module<'_>) -> bool),
    /// Those of a kind whose names begin or end with one of these texts, up to a dot.
    Part { kind: fn(&Module<'_>) -> bool, begins: Vec<String>, ends: Vec<String> },
}

/// What a rule says of its modules.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// They stay as they are.
    Keep,
    /// They become integers.
    Integers(Integers),
    /// They become blocks of a type of llama.cpp, which these steps make.
    Blocks(Vec<Step>),
    /// They become something of this name, to which these integers are nearest.
    Near(Integers, String),
    /// They become something of this name, which this program does not have.
    Foreign(String),
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// As the file writes it; empty for what it says of all other modules.
    pub(super) text: String,
    pub(super) test: Test,
    pub(super) verdict: Verdict,
}

impl Rule {
    /// A rule for the module called `name`.
    pub(super) fn name(name: &str, verdict: Verdict) -> Self {
        Self { text: name.to_owned(), test: Test::Name(name.to_owned()), verdict }
    }

    /// A rule for modules that a pattern matches.
    pub(super) fn pattern(text: &str, pattern: Pattern, verdict: Verdict) -> Self {
        Self { text: text.to_owned(), test: Test::Pattern(pattern), verdict }
    }

    /// What is said of every other module of a kind.
    pub(super) fn others(kind: fn(&Module<'_>) -> bool, verdict: Verdict) -> Self {
        Self { text: String::new(), test: Test::Kind(kind), verdict }
    }
}

/// Rules in their order.
#[derive(Debug)]
pub(super) struct RuleSet {
    rules: Vec<Rule>,
    /// The first rule that names each module.
    names: HashMap<String, usize>,
    /// The rules that name none.
    others: Vec<usize>,
    /// The method by which integers are found, with its own parameters; rounding to nearest if `None`.
    method: Option<Step>,
}

impl RuleSet {
    pub(super) fn new(rules: Vec<Rule>) -> Result<Self> {
        let costly =
            |rule: &&Rule| matches!(&rule.test, Test::Pattern(pattern) if pattern.is_costly());
        if rules.len() > MAX_RULES || rules.iter().filter(costly).count() > MAX_COSTLY {
            return Err(Error::plan(
                format!("a recipe of {} rules is not read", rules.len()),
                format!("give one of at most {MAX_RULES} rules and {MAX_COSTLY} expressions"),
            ));
        }
        let (mut names, mut others) = (HashMap::new(), Vec::new());
        for (index, rule) in rules.iter().enumerate() {
            match &rule.test {
                Test::Name(name) => {
                    names.entry(name.clone()).or_insert(index);
                }
                _ => others.push(index),
            }
        }
        Ok(Self { rules, names, others, method: None })
    }

    /// The same rules with integers found by a method that takes the parameters of rounding to nearest and its own.
    pub(super) fn by(self, method: Step) -> Self {
        Self { method: Some(method), ..self }
    }

    /// The first rule that means `module`.
    fn first(&self, module: &Module<'_>) -> Result<Option<usize>> {
        let by_name = self.names.get(module.name.as_ref()).copied();
        let before = |&&index: &&usize| by_name.is_none_or(|name| index < name);
        for &index in self.others.iter().take_while(before) {
            if self.rules[index].test.means(module)? {
                return Ok(Some(index));
            }
        }
        Ok(by_name)
    }
}

impl Test {
    fn means(&self, module: &Module<'_>) -> Result<bool> {
        let whole = |rest: Option<&str>, at: fn(&str) -> bool| {
            rest.is_some_and(|rest| rest.is_empty() || at(rest))
        };
        Ok(match self {
            Self::Name(name) => *name == module.name,
            Self::Pattern(pattern) => pattern.matches(&module.name)?,
            Self::Kind(kind) => kind(module),
            Self::Part { kind, begins, ends } => {
                let begin = |text: &String| {
                    whole(module.name.strip_prefix(text.as_str()), |rest| rest.starts_with('.'))
                };
                let end = |text: &String| {
                    whole(module.name.strip_suffix(text.as_str()), |rest| rest.ends_with('.'))
                };
                kind(module)
                    && (begins.is_empty() || begins.iter().any(begin))
                    && (ends.is_empty() || ends.iter().any(end))
            }
        })
    }
}

/// What rules say of modules, by their place in `modules`. Several sets are the stages of a recipe: what a later
/// one compresses, it compresses again; what it leaves out stays as the earlier ones made it.
pub(super) fn resolve(
    stages: &[RuleSet],
    modules: &[Module<'_>],
    unsaid: &mut Unsaid,
) -> Result<Vec<(usize, Vec<Step>)>> {
    let tries: usize = stages.iter().map(|stage| stage.others.len()).sum();
    if tries.saturating_mul(modules.len()) > MAX_TRIES {
        return Err(Error::plan(
            format!("{tries} expressions would be tried on {} layers", modules.len()),
            "name layers exactly, or write fewer expressions",
        ));
    }
    let mut decides: Vec<Vec<bool>> =
        stages.iter().map(|stage| vec![false; stage.rules.len()]).collect();
    let mut decided = BTreeMap::new();
    for (at, module) in modules.iter().enumerate() {
        for (stage, decides) in stages.iter().zip(&mut decides) {
            let Some(rule) = stage.first(module)? else { continue };
            decides[rule] = true;
            let verdict = &stage.rules[rule].verdict;
            if *verdict != Verdict::Keep || !decided.contains_key(&at) {
                decided.insert(at, (verdict, stage.method.as_ref()));
            }
        }
        if module.kind == MatrixKind::Unknown && !decided.contains_key(&at) && has_kinds(stages) {
            let before = "It is not known here what kind of module these are, and rules for a kind were not \
                          applied to them: ";
            unsaid.of(before, module.own, ".");
        }
    }
    let silent = stages.iter().zip(&decides).flat_map(|(stage, decides)| {
        stage.rules.iter().zip(decides).filter(|(_, decides)| !**decides).map(|(rule, _)| rule)
    });
    for rule in silent.filter(|rule| !rule.text.is_empty()) {
        let before =
            "These rules decide no layer here, because they match none or others come first: ";
        unsaid.of(before, &rule.text, ".");
    }
    let steps = |(at, (verdict, method)): (usize, (&Verdict, Option<&Step>))| {
        let steps = steps_of(verdict, modules[at].own, unsaid)?;
        Some((at, steps.into_iter().map(|step| form::by(step, method)).collect()))
    };
    Ok(decided.into_iter().filter_map(steps).collect())
}

fn has_kinds(stages: &[RuleSet]) -> bool {
    let mut rules = stages.iter().flat_map(|stage| &stage.rules);
    rules.any(|rule| matches!(rule.test, Test::Kind(_) | Test::Part { .. }))
}

/// The steps of a verdict; `None` for what this program does not have.
pub(super) fn steps_of(verdict: &Verdict, name: &str, unsaid: &mut Unsaid) -> Option<Vec<Step>> {
    let (integers, said) = match verdict {
        Verdict::Keep => return Some(form::keep()),
        Verdict::Blocks(steps) => return Some(steps.clone()),
        Verdict::Foreign(what) => {
            unsaid.of(
                &format!("This program has no {what}; nothing was taken over for "),
                name,
                ".",
            );
            return None;
        }
        Verdict::Integers(integers) => (*integers, None),
        Verdict::Near(integers, what) => (*integers, Some(what.clone())),
    };
    let nearest = integers.nearest();
    let said = said.or_else(|| (nearest != integers).then(|| integers.label()));
    if let Some(said) = said {
        let label = nearest.label();
        unsaid.of(&format!("{said} is read as {label}, the nearest grid here, for "), name, ".");
    }
    Some(nearest.steps())
}

/// What rules say of the layers of a checkpoint that `sees` turns into modules.
pub(super) fn import<'a>(
    stages: &[RuleSet],
    checkpoint: &'a Checkpoint,
    sees: impl Fn(Module<'a>) -> Option<Module<'a>>,
    mut unsaid: Unsaid,
) -> Result<Imported> {
    let seen = checkpoint.tensors().iter().enumerate();
    let (indices, modules): (Vec<usize>, Vec<Module<'_>>) =
        seen.filter_map(|(index, tensor)| Some((index, sees(Module::of(tensor)?)?))).unzip();
    let layers = resolve(stages, &modules, &mut unsaid)?;
    let layers = layers.into_iter().map(|(at, steps)| (indices[at], steps)).collect();
    Ok(Imported { layers, target: None, unsaid: unsaid.sentences() })
}
