//! Many names as few expressions: names that differ in numbers only are written as one.

use std::collections::{BTreeMap, BTreeSet};

use crate::recipe::patterns::escape;

/// Names that one expression stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run<'a> {
    /// The expression, from the first letter to the last, without anchors.
    pub(super) pattern: String,
    /// The names it matches among all.
    pub(super) names: Vec<&'a str>,
}

/// A name with its numbers taken out.
type Template<'a> = Vec<Option<&'a str>>;

struct Member<'a> {
    name: &'a str,
    numbers: Vec<&'a str>,
    is_chosen: bool,
}

/// Expressions that match those of `all` that are chosen, and no others of `all`.
pub(super) fn runs<'a>(all: &[(&'a str, bool)]) -> Vec<Run<'a>> {
    let mut order = Vec::new();
    let mut families: BTreeMap<Template<'a>, Vec<Member<'a>>> = BTreeMap::new();
    for &(name, is_chosen) in all {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let template: Template<'a> =
            name.split('.').map(|part| (!is_number(part)).then_some(part)).collect();
        let numbers = name.split('.').filter(|part| is_number(part)).collect();
        let family = families.entry(template.clone()).or_default();
        if family.is_empty() {
            order.push(template);
        }
        family.push(Member { name, numbers, is_chosen });
    }
    order.iter().flat_map(|template| family_runs(template, &families[template])).collect()
}

fn family_runs<'a>(template: &Template<'a>, members: &[Member<'a>]) -> Vec<Run<'a>> {
    let chosen = |keep: &dyn Fn(&Member<'a>) -> bool| -> Vec<&'a str> {
        members.iter().filter(|m| m.is_chosen && keep(m)).map(|m| m.name).collect()
    };
    let names = chosen(&|_| true);
    if names.is_empty() {
        return Vec::new();
    }
    if let [name] = names.as_slice() {
        return vec![Run { pattern: escape(name), names }];
    }
    if names.len() == members.len() {
        return vec![Run { pattern: written(template, None), names }];
    }
    let number = |member: &Member<'a>| member.numbers.first().copied().unwrap_or("");
    let mixed: BTreeSet<&str> = members.iter().filter(|m| !m.is_chosen).map(number).collect();
    let whole = chosen(&|member| !mixed.contains(number(member)));
    let mut numbers: Vec<&str> = Vec::new();
    for member in members.iter().filter(|m| m.is_chosen && !mixed.contains(number(m))) {
        if !numbers.contains(&number(member)) {
            numbers.push(number(member));
        }
    }
    let mut runs = Vec::new();
    match (whole.as_slice(), numbers.as_slice()) {
        ([], _) => {}
        ([name], _) => runs.push(Run { pattern: escape(name), names: whole.clone() }),
        (_, [number]) => {
            runs.push(Run { pattern: written(template, Some(number)), names: whole.clone() });
        }
        (_, numbers) => {
            let choice = format!("({})", numbers.join("|"));
            runs.push(Run { pattern: written(template, Some(&choice)), names: whole.clone() });
        }
    }
    let single = |name: &'a str| Run { pattern: escape(name), names: vec![name] };
    runs.extend(chosen(&|member| mixed.contains(number(member))).into_iter().map(single));
    runs
}

/// The expression of a template: `first` stands for the first number, any digits for the others.
fn written(template: &Template<'_>, first: Option<&str>) -> String {
    let mut first = first;
    let part = |part: Option<&str>| match part {
        Some(text) => escape(text),
        None => first.take().unwrap_or(r"\d+").to_owned(),
    };
    template.iter().copied().map(part).collect::<Vec<String>>().join(r"\.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_match_exactly_the_chosen() {
        let names: Vec<String> = (0..4)
            .flat_map(|layer| {
                let experts = (0..3).map(move |e| format!("m.{layer}.experts.{e}.up"));
                experts.chain([format!("m.{layer}.q")])
            })
            .chain(["head".to_owned()])
            .collect();
        let written = |choose: &dyn Fn(&str) -> bool| -> Vec<String> {
            let all: Vec<(&str, bool)> = names.iter().map(|n| (n.as_str(), choose(n))).collect();
            let runs = runs(&all);
            let named: BTreeSet<&str> = runs.iter().flat_map(|run| run.names.clone()).collect();
            let expected: BTreeSet<&str> =
                all.iter().filter(|(_, chosen)| *chosen).map(|(name, _)| *name).collect();
            assert_eq!(named, expected);
            runs.into_iter().map(|run| run.pattern).collect()
        };
        assert_eq!(written(&|_| true), [r"m\.\d+\.experts\.\d+\.up", r"m\.\d+\.q", "head"]);
        assert_eq!(written(&|n| n.ends_with('q') && n != "m.1.q"), [r"m\.(0|2|3)\.q"]);
        assert_eq!(written(&|n| n.starts_with("m.2")), [r"m\.2\.experts\.\d+\.up", r"m\.2\.q"]);
        let odd = |n: &str| n.contains("experts") && n != "m.3.experts.1.up";
        let expected =
            [r"m\.(0|1|2)\.experts\.\d+\.up", r"m\.3\.experts\.0\.up", r"m\.3\.experts\.2\.up"];
        assert_eq!(written(&odd), expected);
        assert!(written(&|_| false).is_empty());
    }
}
