//! `lapidary plan`: candidates scored, and a budget spent on them.

use clap::Args;
use lapidary_engine::Result;
use lapidary_engine::allocator::{self, Choice as Chosen, Problem, SOLVERS};
use lapidary_engine::plan::Plan as Layers;
use lapidary_engine::scores::{Metric, Promoted, Ranked, uniform};
use serde_json::json;

use crate::cli::allocation::{Allocation, Opened, Solved};
use crate::cli::output::{self, Table, Terminal};
use crate::theme::text;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    allocation: Allocation,
    /// Who solves.
    #[arg(long, default_value = "knapsack", long_help = solvers())]
    solver: String,
}

/// Every solver with what it does.
fn solvers() -> String {
    let each = |solver: &&dyn allocator::Solver| {
        let about = solver.about();
        format!("{}: {}", about.id, about.summary)
    };
    let all: Vec<String> = SOLVERS.iter().map(each).collect();
    format!("Who solves:\n{}", all.join("\n"))
}

/// What was found.
struct Found {
    opened: Opened,
    solved: Solved,
    /// The best there is may be so many bytes nearer to the budget.
    within_bytes: u64,
    /// Candidates that were measured to set scores right, and how many there are.
    measured: Option<[usize; 2]>,
}

impl Plan {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        if let Some(share) = self.allocation.promoted() {
            let ranked = self.allocation.open(&terminal).and_then(|opened| {
                let found = opened.question().promote(share, &terminal)?;
                Ok((opened, found))
            });
            terminal.finish();
            let (opened, (found, plan)) = ranked?;
            self.allocation.write(&opened, &plan)?;
            return self.print_promoted(&opened, &found, &plan);
        }
        if self.allocation.is_ranked() {
            let ranked = self.allocation.budget().and_then(|budget| {
                let opened = self.allocation.open(&terminal)?;
                let found = opened.question().rank(budget, &terminal)?;
                Ok((opened, found))
            });
            terminal.finish();
            let (opened, (found, plan)) = ranked?;
            self.allocation.write(&opened, &plan)?;
            return self.print_ranked(&opened, &found, &plan);
        }
        let found = self.solve(&terminal);
        terminal.finish();
        let found = found?;
        self.allocation.write(&found.opened, &found.solved.plan)?;
        self.print(&found)
    }

    /// The plan, and how far it is from the best.
    fn solve(&self, terminal: &Terminal) -> Result<Found> {
        let solver = allocator::find(&self.solver)?;
        let (allocation, within) = (&self.allocation, std::cell::Cell::new(0));
        allocation.budget()?;
        let opened = allocation.open(terminal)?;
        let scores = allocation.score(&opened, terminal)?;
        let (scores, measured) = allocation.refined(&opened, scores, terminal)?;
        let solve = |problem: &Problem| {
            let solution = solver.solve(problem, terminal)?;
            within.set(solution.within_bytes);
            Ok(solution.choice)
        };
        let solved = allocation.solve(&opened, scores, &solve)?;
        Ok(Found { opened, solved, within_bytes: within.get(), measured })
    }

    /// The outputs of each layer that have more bits.
    fn print_promoted(
        &self,
        opened: &Opened,
        found: &[Promoted],
        plan: &Layers,
    ) -> anyhow::Result<()> {
        let name = |of: &Promoted| opened.checkpoint.tensors()[of.layer].name.as_str();
        let manifest = opened.laid_out(plan)?;
        if self.allocation.json {
            let layer = |of: &Promoted| json!({ "layer": name(of), "promoted": of.promoted, "outputs": of.rows });
            let object = json!({
                "target": opened.target.about().id,
                "weight_file_bytes": manifest.weight_file_bytes(),
                "layers": found.iter().map(layer).collect::<Vec<_>>(),
                "problems": opened.problems_json(plan),
            });
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        let mut table = Table::new(&["<layer", "outputs", "of more bits", "%"]);
        for of in found {
            let share = 100.0 * of.promoted as f64 / of.rows.max(1) as f64;
            let [rows, promoted] = [of.rows, of.promoted].map(|n| text::count(n as u64));
            table.row(vec![name(of).to_owned(), rows, promoted, format!("{share:.1}")]);
        }
        output::print(&table.render())?;
        output::print(&self.allocation.files(opened, &manifest))
    }

    /// The rank of each layer.
    fn print_ranked(&self, opened: &Opened, found: &[Ranked], plan: &Layers) -> anyhow::Result<()> {
        let name = |of: &Ranked| opened.checkpoint.tensors()[of.layer].name.as_str();
        let manifest = opened.laid_out(plan)?;
        if self.allocation.json {
            let layer =
                |of: &Ranked| json!({ "layer": name(of), "rank": of.rank, "whole": of.whole });
            let object = json!({
                "target": opened.target.about().id,
                "weight_file_bytes": manifest.weight_file_bytes(),
                "layers": found.iter().map(layer).collect::<Vec<_>>(),
                "problems": opened.problems_json(plan),
            });
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        let mut table = Table::new(&["<layer", "rank", "of"]);
        for of in found {
            let rank = of.rank.map_or_else(|| "kept".to_owned(), |rank| text::count(rank as u64));
            table.row(vec![name(of).to_owned(), rank, text::count(of.whole as u64)]);
        }
        output::print(&table.render())?;
        output::print(&self.allocation.files(opened, &manifest))
    }

    fn print(&self, found: &Found) -> anyhow::Result<()> {
        let Found { opened, solved, within_bytes, measured } = found;
        if self.allocation.json {
            let mut object = self.allocation.json(opened, solved)?;
            object["solver"] = self.solver.as_str().into();
            object["within_bytes"] = (*within_bytes).into();
            if let Some([measured, candidates]) = measured {
                object["measured_candidates"] = (*measured).into();
                object["candidates"] = (*candidates).into();
            }
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        let metric = if measured.is_some() { Metric::Measured } else { opened.metric };
        // What scores add up to, as Allocate and the bottom line of the window name it; all of them are predictions.
        let mut table = Table::new(&["<plan", "bytes of units", "bits", metric.quantity()]);
        let mut row = |name: String, choice: &Chosen| {
            let (bytes, damage) = (text::count(choice.bytes), text::value(choice.damage));
            let bits = solved.bits(&opened.checkpoint, choice.bytes);
            table.row(vec![name, bytes, format!("{bits:.3}"), damage]);
        };
        row(format!("{} (this plan)", self.solver), &solved.choice);
        for (place, candidate) in opened.palette.iter().enumerate() {
            if let Some(choice) = uniform(&solved.scores, place) {
                row(format!("{} everywhere", candidate.label()), &choice);
            }
        }
        output::print(&table.render())?;
        if let Some([measured, all]) = measured {
            output::print(&format!(
                "{measured} of {all} candidates were measured; damages of the others are estimates\n"
            ))?;
        }
        output::print(&self.allocation.told(opened, solved)?)
    }
}
