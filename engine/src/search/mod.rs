//! Choices of levels searched on the model itself, as `EvoPress` does (Sieberling et al. 2025): the fitness of a choice is
//! KL(original ‖ model with every unit at its level). In: scores as a problem, a network, sequences. Out: a search that
//! is kept on disk after every generation. Never knows who wrote the text, nor what becomes of the choice.

mod fitness;
mod kept;

pub use fitness::Fitness;
pub use kept::Kept;

use std::path::Path;

use crate::allocator::{Problem, Search, Settings};
use crate::error::Result;
use crate::job::Subject;
use crate::network::Network;
use crate::observer::Observer;
use crate::scores::UnitScores;

/// Bytes of encodings that are held in memory beside those on disk.
const HELD_BYTES: u64 = 512 << 20;
/// Bytes of levels that are left on disk where a search begins, but for those used of late.
const DISK_BYTES: u64 = 16 << 30;

/// What is searched.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The checkpoint, and what is known of the inputs of its layers.
    pub subject: Subject<'a>,
    /// A hash of the model's content and of the calibration, if there is one.
    pub identity: &'a str,
    /// Every level of every unit; damages play no part.
    pub scores: &'a [UnitScores],
    /// The same as groups, under a budget.
    pub problem: &'a Problem,
    /// The original.
    pub network: &'a Network<'a>,
    /// What minibatches are drawn from, as sequences of token ids.
    pub sequences: &'a [Vec<u32>],
}

impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// How to search, and from where.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Offspring, generations, stages, seed.
    pub settings: Settings,
    /// Each group's option to begin with; [`Search::new`] says from where without it.
    pub start: Option<Vec<usize>>,
}

/// Searches, or goes on with the same search where it was: it and every level that was compressed are kept in `folder`.
/// `each` sees it after every generation. What is found does not depend on how often it stopped, nor on the threads.
///
/// Cost: a pass of [`Settings::tokens_of_a_generation`] tokens a generation, and of the original over those of the last
/// stage; each level is compressed when it is first tried. Memory: a block in f32, 512 MiB of encodings, and the
/// residual stream of the minibatch twice.
///
/// # Errors
/// [`crate::Error::Plan`] for a budget below the least, for a folder in which the same search runs, and for text of less
/// than a sequence; [`crate::Error::Cancelled`], with the finished generations kept; what compressing and running say.
pub fn run(
    task: &Task<'_>,
    wish: &Wish,
    folder: &Path,
    each: &mut dyn FnMut(&Search),
    observer: &dyn Observer,
) -> Result<Search> {
    let kept = Kept::open(task, wish, folder)?;
    let mut search = kept.search(task.problem, wish)?;
    each(&search);
    let mut fitness = Fitness::new(task, &wish.settings, &folder.join("levels"))?;
    while !search.is_done() {
        search.step(task.problem, &mut |trial| fitness.of(&trial, observer), observer)?;
        kept.keep(&search)?;
        each(&search);
    }
    Ok(search)
}
