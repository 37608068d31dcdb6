//! Why a group has the option it has: the prices of its next steps beside that of the budget.

use crate::allocator::{Choice, Hull, Problem};

/// Another option of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The option.
    pub option: usize,
    /// Bytes between it and the chosen one.
    pub bytes: u64,
    /// Damage between them: saved by a step up, added by a step down.
    pub damage: f64,
    /// Damage for each byte.
    pub price: f64,
}

/// The prices around a group's option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Explanation {
    /// Damage that a byte saves elsewhere: the Lagrange multiplier at the budget, 0 where everything is as good as it gets.
    pub multiplier: f64,
    /// Of the larger options the one that saves most for each byte; not taken where that is less than the multiplier.
    pub up: Option<Step>,
    /// Of the smaller options the one that adds least for each byte; not taken where that is more than the multiplier.
    pub down: Option<Step>,
    /// Whether the group is locked.
    pub is_locked: bool,
    /// Whether the floor keeps it from an option that is smaller.
    pub is_at_floor: bool,
    /// Whether the ceiling keeps it from an option that is larger.
    pub is_at_ceiling: bool,
}

/// Why `choice` gives `group` the option it has. Cost: that of the Lagrangian frontier.
///
/// # Panics
/// If the problem has no such group or the group not the option.
pub fn explain(problem: &Problem, choice: &Choice, group: usize) -> Explanation {
    explain_at(Hull::of(problem).multiplier(problem.budget()), problem, choice, group)
}

/// The same where [`Hull::multiplier`] at the budget is known. Cost: the options of the group.
///
/// # Panics
/// If the problem has no such group or the group not the option.
pub fn explain_at(
    multiplier: f64,
    problem: &Problem,
    choice: &Choice,
    group: usize,
) -> Explanation {
    let held = &problem.groups()[group];
    let now = held.options[choice.options[group]];
    let step = |&option: &usize| {
        let other = held.options[option];
        let is_up = other.bytes > now.bytes;
        let bytes = other.bytes.abs_diff(now.bytes);
        let damage = if is_up { now.damage - other.damage } else { other.damage - now.damage };
        (bytes > 0).then(|| (is_up, Step { option, bytes, damage, price: damage / bytes as f64 }))
    };
    let steps = || problem.allowed(group).iter().filter_map(step);
    let up = steps().filter(|(is_up, step)| *is_up && step.damage > 0.0).map(|(_, step)| step);
    let down = steps().filter(|(is_up, _)| !is_up).map(|(_, step)| step);
    let beyond = |is_beyond: &dyn Fn(f64) -> bool, is_larger: bool| {
        let differs = |bytes: u64| if is_larger { bytes > now.bytes } else { bytes < now.bytes };
        held.locked.is_none()
            && held.options.iter().any(|other| is_beyond(other.bits) && differs(other.bytes))
    };
    Explanation {
        multiplier,
        up: up.max_by(|a, b| a.price.total_cmp(&b.price).then(b.bytes.cmp(&a.bytes))),
        down: down.min_by(|a, b| a.price.total_cmp(&b.price).then(a.bytes.cmp(&b.bytes))),
        is_locked: held.locked.is_some(),
        is_at_floor: beyond(&|bits| held.floor_bits.is_some_and(|floor| bits < floor), false)
            && steps().all(|(is_up, _)| is_up),
        is_at_ceiling: beyond(&|bits| held.ceiling_bits.is_some_and(|most| bits > most), true)
            && steps().all(|(is_up, _)| !is_up),
    }
}
