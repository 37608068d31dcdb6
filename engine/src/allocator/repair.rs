//! Steps that bring a choice within its budget, and spend what is left of it.

use std::cmp::Ordering;

use crate::allocator::Problem;

/// A change of one group, for the better of two of which its price is compared.
struct Change {
    group: usize,
    position: usize,
    bytes: u64,
    price: f64,
}

/// Positions among each group's useful options within the budget: while over it, the change that adds least damage for each byte saved;
/// then, while one fits, the change that saves most damage for each byte added. Needs a budget that something fits.
///
/// Cost: groups × options for each change.
pub(super) fn repaired(problem: &Problem, mut positions: Vec<usize>) -> Vec<usize> {
    let mut bytes = problem.choice_of_useful(&positions).bytes;
    while bytes > problem.budget() {
        let lighter = changes(problem, &positions).filter(|(_, is_heavier)| !is_heavier);
        let cheapest = lighter.map(|(change, _)| change).min_by(by_price);
        let Some(change) = cheapest else { break };
        positions[change.group] = change.position;
        bytes -= change.bytes;
    }
    loop {
        let left = problem.budget().saturating_sub(bytes);
        let heavier = changes(problem, &positions).filter(|(_, is_heavier)| *is_heavier);
        let fitting = heavier.map(|(change, _)| change).filter(|change| change.bytes <= left);
        // Of equal ones the first, as above.
        let Some(change) = fitting.min_by(|a, b| by_price(b, a)) else { break };
        positions[change.group] = change.position;
        bytes += change.bytes;
    }
    positions
}

fn by_price(a: &Change, b: &Change) -> Ordering {
    a.price.total_cmp(&b.price)
}

/// Every change of one group, and whether it adds bytes.
fn changes(problem: &Problem, positions: &[usize]) -> impl Iterator<Item = (Change, bool)> {
    positions.iter().enumerate().flat_map(move |(group, &now)| {
        let useful = problem.useful(group);
        let (bytes, damage) = problem.at(group, useful[now]);
        let change = move |position: usize| {
            let other = problem.at(group, useful[position]);
            let bytes = bytes.abs_diff(other.0);
            let price = (damage - other.1).abs() / bytes as f64;
            (Change { group, position, bytes, price }, position > now)
        };
        (0..useful.len()).filter(move |&position| position != now).map(change)
    })
}
