//! A budget of 1,000 groups of 10 options solved again, as while a slider moves: time and memory, beside the Lagrangian.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;

use lapidary_benches::memory::{anonymous_bytes, watch};
use lapidary_benches::{Table, fastest};
use lapidary_engine::Silent;
use lapidary_engine::allocator::{Frontier, Group, Hull, Level, Problem, find, smallest_within};
use lapidary_engine::numeric::seeds::Random;

const GROUPS: usize = 1000;
const OPTIONS: u32 = 10;
const BUDGETS: u32 = 100;
/// Runs of each budget, of which the shortest counts.
const RUNS: usize = 3;
/// What must suffice for one budget.
const LIMIT_MS: f64 = 20.0;
const LIMIT_MB: f64 = 100.0;

fn main() -> Result<(), Box<dyn Error>> {
    let heading = [
        "groups",
        "what",
        "median",
        "slowest budget",
        "of 20 ms",
        "× Lagrangian",
        "peak",
        "of 100 MB",
    ];
    let mut table = Table::new(&heading);
    let before = anonymous_bytes();
    let layers = |random: &mut Random| [1 << 22, 1 << 24, 45 << 20][(random.bits() % 3) as usize];
    let odd = |random: &mut Random| 1_000_003 + random.bits() % 50_000_017;
    measure("of three sizes", &problem(&layers, false)?, before, &mut table)?;
    measure("of odd sizes", &problem(&odd, false)?, before, &mut table)?;
    measure("of random bytes and damages", &problem(&odd, true)?, before, &mut table)?;
    table.print();
    Ok(())
}

/// Groups whose damage falls to about a quarter with each of 1 … 10 bits, or whose options have nothing in common.
fn problem(
    weights: &dyn Fn(&mut Random) -> u64,
    is_random: bool,
) -> lapidary_engine::Result<Problem> {
    let mut random = Random::new(7);
    let mut group = |index: usize| {
        let weights = weights(&mut random);
        let sensitivity = (2.0 * random.normal()).exp();
        let mut option = |label: u32| {
            let bits = f64::from(label + 1);
            let (bytes, damage) = if is_random {
                (random.bits() % weights, random.uniform())
            } else {
                let noise = (0.1 * random.normal()).exp();
                (weights * u64::from(label + 1) / 8, sensitivity * noise * 4.0_f64.powf(-bits))
            };
            Level { label: label as usize, bits, bytes, damage }
        };
        Group::new(format!("layer {index}"), weights, (0..OPTIONS).map(&mut option).collect())
    };
    Problem::new((0..GROUPS).map(&mut group).collect(), 0)
}

/// Times every budget with each solver.
fn measure(
    name: &str,
    problem: &Problem,
    before: u64,
    table: &mut Table,
) -> Result<(), Box<dyn Error>> {
    let (least, most) = (problem.smallest().bytes, problem.best().bytes);
    let budget = |at: u32| least + (most - least) / u64::from(BUDGETS) * u64::from(at);
    let (mut hull, mut frontier) = (None, None);
    let (made_hull, _) = watch(&mut || hull = Some(Hull::of(problem)));
    let (made, peak) = watch(&mut || frontier = Frontier::of(problem, &Silent).ok());
    let (hull, frontier) = (hull.ok_or("a hull")?, frontier.ok_or("a frontier")?);
    let megabytes = |peak: u64| peak.saturating_sub(before) as f64 / 1e6;
    println!(
        "{name}: frontier of {} points made in {:.0} ms with {:.0} MB, {} bytes ({:.3} %) from exact; hull of {} points in {:.1} ms",
        frontier.points().len(),
        made.as_secs_f64() * 1e3,
        megabytes(peak),
        frontier.slack_bytes(),
        100.0 * frontier.slack_bytes() as f64 / most as f64,
        hull.points().len(),
        made_hull.as_secs_f64() * 1e3,
    );
    let mut lagrangian = 0.0;
    let mut row = |what: &str, solve: &mut dyn FnMut(u64) -> lapidary_engine::Result<bool>| {
        let (mut times, mut exact) = (Vec::new(), 0);
        let (_, peak) = watch(&mut || {
            for at in 0..BUDGETS {
                let (time, is_exact) = fastest(RUNS, || solve(budget(at)).unwrap_or(false));
                exact += u32::from(is_exact);
                times.push(time.as_secs_f64() * 1e3);
            }
        });
        times.sort_by(f64::total_cmp);
        let (median, largest) = (times[times.len() / 2], times[times.len() - 1]);
        if lagrangian == 0.0 {
            lagrangian = median;
        }
        table.row(&[
            name.to_owned(),
            format!("{what}, {exact} of {BUDGETS} exact"),
            format!("{median:.3} ms"),
            format!("{largest:.3} ms"),
            format!("{:.0} %", 100.0 * largest / LIMIT_MS),
            format!("{:.1}", median / lagrangian),
            format!("{:.0} MB", megabytes(peak)),
            format!("{:.0} %", 100.0 * megabytes(peak) / LIMIT_MB),
        ]);
    };
    row("Lagrangian, again", &mut |budget| hull.at(problem, budget).map(|_| false));
    row("frontier looked up", &mut |budget| Ok(frontier.looked_up(budget)?.within_bytes == 0));
    row("frontier, again", &mut |budget| Ok(frontier.at(budget, &Silent)?.within_bytes == 0));
    let mut problem = problem.clone();
    for id in ["knapsack", "water-filling", "ratio", "dual"] {
        let solver = find(id)?;
        row(&format!("{id}, anew"), &mut |budget| {
            problem.set_budget(budget);
            Ok(solver.solve(&problem, &Silent)?.within_bytes == 0)
        });
    }
    row("as little damage, anew", &mut |budget| {
        let damage = hull.at(&problem, budget)?.damage;
        Ok(smallest_within(&problem, damage, &Silent)?.within_bytes == 0)
    });
    Ok(())
}
