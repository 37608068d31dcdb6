//! Searching whole choices on the model itself: how, from where, and how far it came.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::allocator::{Problem, Search, Settings, Stage};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::plan::Plan;
use lapidary_engine::{Result, search};

use crate::document::allocation::Ready;
use crate::document::evaluation::Work;

/// Of the offspring, one in so many is in the last stage.
const SURVIVORS: usize = 4;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Generations in all.
    pub generations: u64,
    /// Offspring of each.
    pub offspring: usize,
    /// Tokens on which all offspring are told apart, and on which the best quarter of them are.
    pub tokens: [u64; 2],
    /// Decides every draw.
    pub seed: u64,
}

impl Default for Wish {
    fn default() -> Self {
        Self { generations: 40, offspring: 16, tokens: [512, 4096], seed: 0 }
    }
}

impl Wish {
    /// The settings of the search.
    pub fn settings(&self) -> Settings {
        let survivors = self.offspring.div_ceil(SURVIVORS);
        let [first, last] = self.tokens;
        let stages = vec![
            Stage { survivors, tokens: first },
            Stage { survivors: 1, tokens: last.max(first) },
        ];
        Settings {
            offspring: self.offspring,
            generations: self.generations,
            stages,
            seed: self.seed,
            ..Settings::default()
        }
    }
}

/// A search: everything it follows from, and how far it came.
#[derive(Clone, Debug)]
pub struct Run {
    /// The units and their levels.
    pub ready: Ready,
    /// The units under the budget.
    pub problem: Problem,
    /// Bytes of all tensors that may be spent.
    pub budget: u64,
    /// The choice it began with.
    pub start: Vec<usize>,
    /// How it searches.
    pub wish: Wish,
    /// What minibatches are drawn from.
    pub text: PathBuf,
    /// The search after its last generation.
    pub search: Option<Box<Search>>,
}

impl Run {
    /// A search under a budget, from the plan where it is within it, or else from the best choice by the scores.
    ///
    /// # Errors
    /// What looking up the best choice says.
    pub fn new(
        (ready, budget): (&Ready, u64),
        (wish, text): (Wish, PathBuf),
        (checkpoint, plan): (&Checkpoint, &Plan),
    ) -> Result<Self> {
        let problem = ready.solved.problem(budget);
        let of_plan = ready.solved.choice_of(checkpoint, plan).filter(|choice| {
            choice.bytes <= problem.budget() && problem.is_allowed(&choice.options)
        });
        let start = of_plan.map_or_else(|| ready.solved.at(budget), Ok)?.options;
        Ok(Self { ready: ready.clone(), problem, budget, start, wish, text, search: None })
    }

    /// Whether a search that was asked for like this is the same, but for how many generations it has.
    pub fn is_same(&self, (ready, budget): (&Ready, u64), (wish, text): (&Wish, &PathBuf)) -> bool {
        let as_long = Wish { generations: self.wish.generations, ..*wish };
        Arc::ptr_eq(&self.ready.solved, &ready.solved)
            && self.budget == budget
            && self.wish == as_long
            && self.text == *text
    }

    /// What the engine is asked.
    pub fn engine_wish(&self) -> search::Wish {
        search::Wish { settings: self.wish.settings(), start: Some(self.start.clone()) }
    }
}

/// Everything about searching on the open model.
#[derive(Debug, Default)]
pub struct Evolving {
    /// How to search.
    pub wish: Wish,
    /// What runs.
    pub work: Option<Work>,
    /// Why the last search failed.
    pub failed: Option<String>,
    /// The last search.
    pub run: Option<Run>,
}
