//! Offspring: a parent with a few bytes moved between groups, its bytes the same or within the budget.

use crate::allocator::Problem;
use crate::numeric::seeds::Random;

/// Attempts at an exchange before an offspring stays as it is.
const ATTEMPTS: usize = 8;

/// Groups that one exchange may lower.
const MOST_LOWERED: usize = 10;

/// Of the bytes taken away at least this part must have been added.
const LEAST_ADDED: f64 = 0.8;

/// A uniform index below `n`, which is positive.
pub(super) fn below(random: &mut Random, n: usize) -> usize {
    ((random.uniform() * n as f64) as usize).min(n - 1)
}

/// Where every group stands, as positions among its allowed options by bytes.
#[derive(Clone)]
pub(super) struct Levels<'a> {
    problem: &'a Problem,
    positions: Vec<usize>,
    bytes: u64,
}

impl<'a> Levels<'a> {
    /// The levels of allowed options.
    pub(super) fn of(problem: &'a Problem, options: &[usize]) -> Self {
        let position = |(group, option): (usize, &usize)| {
            problem.allowed(group).iter().position(|allowed| allowed == option).unwrap_or(0)
        };
        let positions = options.iter().enumerate().map(position).collect();
        Self { problem, positions, bytes: problem.choice(options.to_vec()).bytes }
    }

    /// Their options.
    pub(super) fn options(&self) -> Vec<usize> {
        let option = |(group, &at): (usize, &usize)| self.problem.allowed(group)[at];
        self.positions.iter().enumerate().map(option).collect()
    }

    fn bytes_at(&self, group: usize, position: usize) -> u64 {
        self.problem.at(group, self.problem.allowed(group)[position]).0
    }

    /// Bytes that the step down to the next lower option frees.
    fn freed(&self, group: usize) -> Option<u64> {
        let at = self.positions[group];
        (at > 0).then(|| self.bytes_at(group, at) - self.bytes_at(group, at - 1))
    }

    /// Bytes that the step up to the next higher option needs.
    fn needed(&self, group: usize) -> Option<u64> {
        let at = self.positions[group];
        (at + 1 < self.problem.allowed(group).len())
            .then(|| self.bytes_at(group, at + 1) - self.bytes_at(group, at))
    }

    fn raise(&mut self, group: usize, bytes: u64) {
        self.positions[group] += 1;
        self.bytes += bytes;
    }

    fn lower(&mut self, group: usize, bytes: u64) {
        self.positions[group] -= 1;
        self.bytes -= bytes;
    }

    /// A group that can go down by a step that `suits`, other than `but`, at random.
    fn lowerable(
        &self,
        but: usize,
        random: &mut Random,
        suits: impl Fn(u64) -> bool,
    ) -> Option<(usize, u64)> {
        let can = |group: usize| Some((group, self.freed(group).filter(|bytes| suits(*bytes))?));
        let all: Vec<(usize, u64)> =
            (0..self.positions.len()).filter(|group| *group != but).filter_map(can).collect();
        (!all.is_empty()).then(|| all[below(random, all.len())])
    }

    /// One group up by a step and, unless that fits as it is, one down by a step of the same bytes; where no step
    /// is the same, others down at random until the budget is kept. `None` where that went too far.
    fn exchanged(&self, random: &mut Random) -> Option<Self> {
        let up: Vec<(usize, u64)> = (0..self.positions.len())
            .filter_map(|group| Some((group, self.needed(group)?)))
            .collect();
        if up.is_empty() {
            return None;
        }
        let (raised, added) = up[below(random, up.len())];
        let mut next = self.clone();
        next.raise(raised, added);
        if next.bytes <= self.problem.budget() {
            return Some(next);
        }
        if let Some((lowered, freed)) = next.lowerable(raised, random, |bytes| bytes == added) {
            next.lower(lowered, freed);
            return Some(next);
        }
        let mut removed = 0;
        for _ in 0..MOST_LOWERED {
            let (lowered, freed) = next.lowerable(raised, random, |bytes| bytes > 0)?;
            next.lower(lowered, freed);
            removed += freed;
            if next.bytes <= self.problem.budget() {
                return (added as f64 >= LEAST_ADDED * removed as f64).then_some(next);
            }
        }
        None
    }

    /// The same after min(U{1…most}, U{1…most}) exchanges; fewer where none was found.
    pub(super) fn mutated(&self, most: usize, random: &mut Random) -> Self {
        let mut draw = || 1 + below(random, most.max(1));
        let exchanges = draw().min(draw());
        let mut next = self.clone();
        for _ in 0..exchanges {
            if let Some(found) = (0..ATTEMPTS).find_map(|_| next.exchanged(random)) {
                next = found;
            }
        }
        next
    }

    /// The same with random steps up while one fits.
    pub(super) fn filled(mut self, random: &mut Random) -> Self {
        loop {
            let fits = |bytes: &u64| self.bytes + bytes <= self.problem.budget();
            let step = |group| Some((group, self.needed(group).filter(fits)?));
            let up: Vec<(usize, u64)> = (0..self.positions.len()).filter_map(step).collect();
            if up.is_empty() {
                return self;
            }
            let (group, bytes) = up[below(random, up.len())];
            self.raise(group, bytes);
        }
    }
}
