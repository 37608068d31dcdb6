//! The multiple-choice knapsack for one capacity, solved exactly around the solution of its linear relaxation.

use crate::allocator::hull::{self, HullStep, Points};
use crate::error::Result;
use crate::observer::Observer;

/// Partial choices that are kept at most: 12 bytes each.
const MOST_NODES: usize = 2_000_000;

/// Partial choices that are opened at most in one step: 24 bytes for each of them and option.
const MOST_STATES: usize = 1 << 16;

/// One position for each group.
pub(super) struct Found {
    /// Positions among each group's points.
    pub(super) positions: Vec<usize>,
    /// Whether no other is better; otherwise the search was too large to finish.
    pub(super) is_proven: bool,
}

/// A deviation from the base in some groups.
#[derive(Clone, Copy)]
struct State {
    weight: f64,
    cost: f64,
    /// What it was reached from.
    node: u32,
    /// The position of the group at hand, or [`BASE`].
    position: u32,
}

/// How a state was reached.
#[derive(Clone, Copy)]
struct Node {
    before: u32,
    group: u32,
    position: u32,
}

/// No deviation.
const ROOT: u32 = u32::MAX;

/// The position of the base.
const BASE: u32 = u32::MAX;

/// What groups not yet looked at can do at best: cost saved for each weight added, cost added for each taken away.
#[derive(Clone, Copy)]
struct Prices {
    up: f64,
    down: f64,
}

/// The search around a base.
struct Search<'a> {
    groups: &'a [Points],
    base: Vec<usize>,
    /// Weight that the base leaves.
    room: f64,
    /// Cost saved by the next unit of weight in the relaxation.
    price: f64,
    /// Costs differ by multiples of this; 0 where nothing is known.
    grain: f64,
    nodes: Vec<Node>,
    /// The best so far: its cost against the base's, and how it was reached from the base, or else `filled`.
    best: f64,
    best_node: Option<u32>,
    filled: Vec<usize>,
}

/// Positions of least Σ cost with Σ weight ≤ `capacity`; `None` where nothing is light enough.
///
/// The relaxation's solution is the base. Groups are opened one after another, those whose slopes are nearest to the
/// price of the next unit of weight first. States of opened groups (dominated ones left out) are kept while their
/// bound is below the best cost found; the bound takes what is over or under the capacity at the best price of the
/// groups still closed. Costs are known to differ by multiples of `grain`, or 0. Where slopes are many, few groups
/// are opened before no state is left; states are limited in any case.
/// Source: Pisinger, A minimal algorithm for the multiple-choice knapsack problem, EJOR 83 (1995).
pub(super) fn least_cost(
    groups: &[Points],
    capacity: f64,
    grain: f64,
    observer: &dyn Observer,
) -> Result<Option<Found>> {
    let mut base = vec![0; groups.len()];
    let weight = |base: &[usize]| -> f64 { base.iter().zip(groups).map(|(&p, g)| g[p].0).sum() };
    let mut room = capacity - weight(&base);
    if room < 0.0 {
        return Ok(None);
    }
    let steps = hull::steps(groups);
    let mut taken = 0;
    for step in &steps {
        if step.weight > room {
            break;
        }
        (base[step.group], room, taken) = (step.to, room - step.weight, taken + 1);
    }
    let Some(next) = steps.get(taken) else {
        return Ok(Some(Found { positions: base, is_proven: true }));
    };
    let filled = filled(&base, room, &steps[taken..]);
    let price = next.slope();
    let nodes = Vec::new();
    let mut search =
        Search { groups, base, room, price, grain, nodes, best: 0.0, best_node: None, filled };
    search.best = search.cost_of_filled();
    let is_proven = search.run(observer)?;
    Ok(Some(Found { positions: search.positions(), is_proven }))
}

/// The base with every further step that still fits.
fn filled(base: &[usize], mut room: f64, steps: &[HullStep]) -> Vec<usize> {
    let mut filled = base.to_vec();
    for step in steps {
        if filled[step.group] == step.from && step.weight <= room {
            filled[step.group] = step.to;
            room -= step.weight;
        }
    }
    filled
}

impl Search<'_> {
    fn cost_of_filled(&self) -> f64 {
        let changes = self.groups.iter().zip(self.base.iter().zip(&self.filled));
        changes.map(|(points, (&base, &filled))| points[filled].1 - points[base].1).sum()
    }

    /// Weight and cost of a point against the base's.
    fn change(&self, group: usize, position: usize) -> (f64, f64) {
        let (base, point) = (self.groups[group][self.base[group]], self.groups[group][position]);
        (point.0 - base.0, point.1 - base.1)
    }

    /// Positions of a group other than the base's.
    fn others(&self, group: usize) -> impl Iterator<Item = usize> {
        let base = self.base[group];
        (0..self.groups[group].len()).filter(move |&position| position != base)
    }

    /// Whether a choice whose cost is `bound` or more cannot be better than the best.
    fn is_hopeless(&self, bound: f64) -> bool {
        bound >= self.best - 0.999 * self.grain
    }

    /// Cost of the relaxation where one group is at this point, against the base's.
    fn relaxed(&self, group: usize, position: usize) -> f64 {
        let (weight, cost) = self.change(group, position);
        cost + self.price * (weight - self.room)
    }

    /// Groups that may deviate, those of slopes nearest to the price first.
    fn order(&self) -> Vec<usize> {
        let nearness = |group: usize| {
            let slope = |position| {
                let (weight, cost) = self.change(group, position);
                (-cost / weight - self.price).abs()
            };
            self.others(group).map(slope).fold(f64::INFINITY, f64::min)
        };
        let may = |group: &usize| {
            self.others(*group).any(|position| !self.is_hopeless(self.relaxed(*group, position)))
        };
        let mut order: Vec<(f64, usize)> =
            (0..self.groups.len()).filter(may).map(|group| (nearness(group), group)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|(_, group)| group).collect()
    }

    /// For each place in `order` the prices of the groups behind it.
    fn prices(&self, order: &[usize]) -> Vec<Prices> {
        let mut prices = Prices { up: 0.0, down: f64::INFINITY };
        let mut all = vec![prices; order.len()];
        for (at, &group) in order.iter().enumerate().rev() {
            all[at] = prices;
            for position in self.others(group) {
                let (weight, cost) = self.change(group, position);
                let slope = -cost / weight;
                if weight > 0.0 {
                    prices.up = prices.up.max(slope);
                } else {
                    prices.down = prices.down.min(slope);
                }
            }
        }
        all
    }

    /// Opens groups until nothing better can come; whether that was proven.
    fn run(&mut self, observer: &dyn Observer) -> Result<bool> {
        let order = self.order();
        let prices = self.prices(&order);
        let mut states = vec![State { weight: 0.0, cost: 0.0, node: ROOT, position: BASE }];
        for (&group, &prices) in order.iter().zip(&prices) {
            observer.go_on()?;
            states = self.opened(&states, group);
            self.remember(&states, group);
            states.retain(|state| !self.is_hopeless(self.bound(state, prices)));
            if states.is_empty() {
                return Ok(true);
            }
            if states.len() > MOST_STATES || self.nodes.len() + states.len() > MOST_NODES {
                return Ok(false);
            }
            for state in &mut states {
                let node = self.node(*state, group);
                *state = State { node, position: BASE, ..*state };
            }
        }
        Ok(true)
    }

    /// Every state with every point of a group that may still help, dominated ones left out.
    fn opened(&self, states: &[State], group: usize) -> Vec<State> {
        let mut opened = states.to_vec();
        for position in self.others(group) {
            if self.is_hopeless(self.relaxed(group, position)) {
                continue;
            }
            let (weight, cost) = self.change(group, position);
            opened.extend(states.iter().map(|state| State {
                weight: state.weight + weight,
                cost: state.cost + cost,
                node: state.node,
                position: position as u32,
            }));
        }
        // Runs that are already in order: a stable sort merges them.
        opened.sort_by(|a, b| a.weight.total_cmp(&b.weight).then(a.cost.total_cmp(&b.cost)));
        let mut least = f64::INFINITY;
        opened.retain(|state| {
            let is_better = state.cost < least;
            least = least.min(state.cost);
            is_better
        });
        opened
    }

    /// What a state can cost at best once the groups behind it are opened, against the base.
    fn bound(&self, state: &State, prices: Prices) -> f64 {
        let over = state.weight - self.room;
        let price = if over > 0.0 { prices.down } else { prices.up };
        if over == 0.0 { state.cost } else { state.cost + price * over }
    }

    /// Takes the best state that is light enough for the best so far, if it is.
    fn remember(&mut self, states: &[State], group: usize) {
        // Costs fall as weights rise.
        let light = states.partition_point(|state| state.weight <= self.room);
        if let Some(state) = states[..light].last()
            && state.cost < self.best
        {
            self.best = state.cost;
            self.best_node = Some(self.node(*state, group));
        }
    }

    /// The node of a state after this group was opened.
    fn node(&mut self, state: State, group: usize) -> u32 {
        if state.position == BASE {
            return state.node;
        }
        self.nodes.push(Node { before: state.node, group: group as u32, position: state.position });
        (self.nodes.len() - 1) as u32
    }

    /// The best choice found.
    fn positions(self) -> Vec<usize> {
        let Some(mut at) = self.best_node else {
            return self.filled;
        };
        let mut positions = self.base;
        while let Some(node) = self.nodes.get(at as usize) {
            positions[node.group as usize] = node.position as usize;
            at = node.before;
        }
        positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;
    use crate::observer::Silent;

    fn solved(groups: &[Points], capacity: f64) -> Found {
        least_cost(groups, capacity, 0.0, &Silent).unwrap().expect("something light enough")
    }

    fn total(groups: &[Points], positions: &[usize]) -> (f64, f64) {
        let chosen = || groups.iter().zip(positions).map(|(points, &at)| points[at]);
        (chosen().map(|point| point.0).sum(), chosen().map(|point| point.1).sum())
    }

    #[test]
    fn a_choice_between_vertices_is_found() {
        // The relaxation takes 6 for 10; two of 4 are better than it and one of 2.
        let groups = vec![
            vec![(0.0, 10.0), (6.0, 0.0)],
            vec![(0.0, 7.0), (4.0, 1.0)],
            vec![(0.0, 7.0), (4.0, 1.0)],
        ];
        let found = solved(&groups, 8.0);
        assert!(found.is_proven);
        assert_eq!(found.positions, [0, 1, 1]);
        assert_eq!(total(&groups, &found.positions), (8.0, 12.0));
        assert!(least_cost(&groups, -1.0, 0.0, &Silent).unwrap().is_none());
    }

    #[test]
    fn a_search_too_large_says_so_and_keeps_the_capacity() {
        // Every step saves its weight and the same again for all: no slope tells one from another.
        let mut random = Random::new(5);
        let mut group = || {
            let weight = 1e12 + (random.uniform() * 1e12).floor();
            vec![(0.0, weight + 1e11), (weight, 0.0)]
        };
        let groups: Vec<Points> = (0..300).map(|_| group()).collect();
        let capacity = 1.7e14;
        let found = solved(&groups, capacity);
        assert!(!found.is_proven);
        let (weight, cost) = total(&groups, &found.positions);
        let relaxed = hull::Relaxation::of(&groups).least_weight(cost);
        assert!(weight <= capacity && relaxed <= capacity && relaxed > 0.99 * capacity);
    }
}
