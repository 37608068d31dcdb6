//! Evolutionary search on a real fitness, under an exact budget.

mod offspring;
mod search;

pub use search::{Candidate, Generation, Judged, Search, Settings, Stage, Trial};

use crate::allocator::{About, Needs, Problem, Solution, Solver, bounded};
use crate::error::Result;
use crate::observer::Observer;

/// (1 + λ) search with an elite of one, where damages need not add up: [`Search`] calls a fitness, as the divergence
/// from the original on a few texts.
///
/// As a solver of scores its fitness is their sum.
pub(super) struct Evolution;

/// The registry's entry.
pub(super) static ENTRY: Evolution = Evolution;

static ABOUT: About = About {
    id: "evolution",
    title: "Evolution",
    summary: "Random exchanges of bytes between groups, measured on the model itself; the best of each generation is the parent of the next.",
    citation: "Sieberling et al., EvoPress: accurate dynamic model compression via evolutionary search, ICML 2025, arXiv:2410.14649",
    needs: Needs::Fitness,
};

impl Solver for Evolution {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn solve(&self, problem: &Problem, observer: &dyn Observer) -> Result<Solution> {
        let mut search = Search::new(problem, Settings::default(), None)?;
        let mut sum = |trial: Trial<'_>| Ok(problem.choice(trial.options.to_vec()).damage);
        search.run(problem, &mut sum, observer)?;
        Ok(bounded(problem, search.best(problem), problem.budget()))
    }
}
