//! `lapidary plan`: candidates scored, and a budget spent on them.

use clap::Args;
use lapidary_engine::Result;
use lapidary_engine::allocator::{self, Choice as Chosen, Problem};
use lapidary_engine::scores::uniform;

use crate::cli::allocation::{Allocation, Opened, Solved};
use crate::cli::output::{self, Table, Terminal};
use crate::theme::text;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    allocation: Allocation,
    /// Who solves: see --help of `targets`; knapsack is exact.
    #[arg(long, default_value = "knapsack")]
    solver: String,
}

impl Plan {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let found = self.solve(&terminal);
        terminal.finish();
        let (opened, solved, within_bytes) = found?;
        self.allocation.write(&opened, &solved)?;
        self.print(&opened, &solved, within_bytes)
    }

    /// The plan, and how far it is from the best.
    fn solve(&self, terminal: &Terminal) -> Result<(Opened, Solved, u64)> {
        let solver = allocator::find(&self.solver)?;
        let (allocation, within) = (&self.allocation, std::cell::Cell::new(0));
        allocation.budget()?;
        let opened = allocation.open(terminal)?;
        let scores = allocation.score(&opened, terminal)?;
        let solve = |problem: &Problem| {
            let solution = solver.solve(problem, terminal)?;
            within.set(solution.within_bytes);
            Ok(solution.choice)
        };
        let solved = allocation.solve(&opened, scores, &solve)?;
        Ok((opened, solved, within.get()))
    }

    fn print(&self, opened: &Opened, solved: &Solved, within_bytes: u64) -> anyhow::Result<()> {
        if self.allocation.json {
            let mut object = self.allocation.json(opened, solved)?;
            object["solver"] = self.solver.as_str().into();
            object["within_bytes"] = within_bytes.into();
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        let mut table = Table::new(&["<plan", "bytes of units", "bits", "predicted damage"]);
        let mut row = |name: String, choice: &Chosen| {
            let (bytes, damage) = (text::count(choice.bytes), text::value(choice.damage));
            let bits = solved.bits(&opened.checkpoint, choice.bytes);
            table.row(vec![name, bytes, format!("{bits:.3}"), damage]);
        };
        row(format!("{} (this plan)", self.solver), &solved.choice);
        for (place, bits) in self.allocation.candidates.iter().enumerate() {
            if let Some(choice) = uniform(&solved.scores, place) {
                row(format!("{bits} bits everywhere"), &choice);
            }
        }
        output::print(&table.render())?;
        output::print(&self.allocation.told(opened, solved)?)
    }
}
