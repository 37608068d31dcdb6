//! Which blocks and experts are taken out, and what the numbers of the others become.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Blocks and experts that are taken out of a model, by their numbers in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Removal {
    /// Whole blocks.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub blocks: BTreeSet<u32>,
    /// Experts, by the block they are in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub experts: BTreeMap<u32, BTreeSet<u32>>,
}

impl Removal {
    /// Only blocks.
    pub fn of_blocks(blocks: impl IntoIterator<Item = u32>) -> Self {
        Self { blocks: blocks.into_iter().collect(), experts: BTreeMap::new() }
    }

    /// Whether nothing is taken out.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.experts.values().all(BTreeSet::is_empty)
    }

    /// Whether a block is taken out.
    pub fn has_block(&self, block: u32) -> bool {
        self.blocks.contains(&block)
    }

    /// Whether an expert is taken out, with its block or by itself.
    pub fn has_expert(&self, block: u32, expert: u32) -> bool {
        self.has_block(block) || self.experts_of(block).is_some_and(|all| all.contains(&expert))
    }

    /// Experts that are taken out of a block that stays.
    pub fn experts_of(&self, block: u32) -> Option<&BTreeSet<u32>> {
        let found = self.experts.get(&block).filter(|experts| !experts.is_empty());
        found.filter(|_| !self.has_block(block))
    }

    /// The number a block has afterwards; `None` where it is taken out.
    pub fn new_block(&self, block: u32) -> Option<u32> {
        place_among(&self.blocks, block)
    }

    /// The number an expert has afterwards; `None` where it is taken out.
    pub fn new_expert(&self, block: u32, expert: u32) -> Option<u32> {
        match self.experts_of(block) {
            None => (!self.has_block(block)).then_some(expert),
            Some(removed) => place_among(removed, expert),
        }
    }

    /// Blocks and experts of either.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.blocks.extend(&other.blocks);
        for (block, experts) in &other.experts {
            all.experts.entry(*block).or_default().extend(experts);
        }
        all
    }

    /// Without experts of blocks that are taken out, and without empty sets: two that do the same are equal.
    #[must_use]
    pub fn plain(mut self) -> Self {
        let blocks = &self.blocks;
        self.experts.retain(|block, experts| !experts.is_empty() && !blocks.contains(block));
        self
    }

    /// In a few words, as `blocks 3–5 and 8; experts 0 and 7 of block 1`.
    pub fn told(&self) -> String {
        let mut said = Vec::new();
        if !self.blocks.is_empty() {
            let word = if self.blocks.len() == 1 { "block" } else { "blocks" };
            said.push(format!("{word} {}", told_numbers(&self.blocks)));
        }
        for (block, experts) in self.experts.iter().filter(|(_, experts)| !experts.is_empty()) {
            let word = if experts.len() == 1 { "expert" } else { "experts" };
            said.push(format!("{word} {} of block {block}", told_numbers(experts)));
        }
        said.join("; ")
    }
}

/// The number of what is not among `removed`, once those before it are gone.
fn place_among(removed: &BTreeSet<u32>, number: u32) -> Option<u32> {
    (!removed.contains(&number)).then(|| number - removed.range(..number).count() as u32)
}

/// Numbers as people write them: `3–5 and 8`.
pub fn told_numbers(numbers: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if number.checked_sub(1) == Some(*last) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let said: Vec<String> = runs
        .into_iter()
        .flat_map(|(first, last)| match last - first {
            0 => vec![first.to_string()],
            1 => vec![first.to_string(), last.to_string()],
            _ => vec![format!("{first}–{last}")],
        })
        .collect();
    match said.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => said.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_closes_ranks() {
        let mut removal = Removal::of_blocks([1, 3]);
        removal.experts.insert(2, BTreeSet::from([0, 2]));
        let blocks: Vec<Option<u32>> = (0..5).map(|block| removal.new_block(block)).collect();
        assert_eq!(blocks, [Some(0), None, Some(1), None, Some(2)]);
        let experts: Vec<Option<u32>> = (0..4).map(|e| removal.new_expert(2, e)).collect();
        assert_eq!(experts, [None, Some(0), None, Some(1)]);
        assert_eq!(removal.new_expert(4, 3), Some(3));
        assert_eq!(removal.new_expert(1, 3), None);
    }

    #[test]
    fn runs_of_numbers_are_said_in_short() {
        let told = |numbers: &[u32]| told_numbers(&numbers.iter().copied().collect());
        assert_eq!(told(&[3]), "3");
        assert_eq!(told(&[3, 4]), "3 and 4");
        assert_eq!(told(&[8, 3, 4, 5]), "3–5 and 8");
        assert_eq!(told(&[]), "");
        let mut removal = Removal::of_blocks([0]);
        removal.experts.insert(1, BTreeSet::from([7, 0]));
        assert_eq!(removal.told(), "block 0; experts 0 and 7 of block 1");
    }

    #[test]
    fn what_does_the_same_is_equal() {
        let mut removal = Removal::of_blocks([1]);
        removal.experts.insert(1, BTreeSet::from([7]));
        removal.experts.insert(2, BTreeSet::new());
        assert_eq!(removal.plain(), Removal::of_blocks([1]));
        assert!(
            Removal { blocks: BTreeSet::new(), experts: BTreeMap::from([(2, BTreeSet::new())]) }
                .is_empty()
        );
    }
}
