//! `lapidary search`: whole choices tried on the model itself, by the evolution of `EvoPress`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use lapidary_engine::allocator::{
    Choice as Chosen, Generation, Problem, Search as Searched, Settings, Stage, find,
};
use lapidary_engine::plan::Plan as Layers;
use lapidary_engine::scores::{Budget, UnitScores, groups, plan_of};
use lapidary_engine::search::Wish;
use lapidary_engine::{Error, Result, disk};
use serde_json::{Value, json};

use crate::allocating::{self, Searching};
use crate::cli::allocation::{Allocation, Opened, Solved};
use crate::cli::output::{self, Table, Terminal};
use crate::document::project::Project;
use crate::running::checkpoint_path;
use crate::theme::text;

/// What a person should know before it runs.
const COSTS: &str = "\
What it costs: a generation passes offspring × tokens of the first stage through the model, survivors × tokens of each \
next, the parent and the original once more in the last; by default some 33,000 tokens, which suits models of some \
million weights. EvoPress itself takes 128 offspring, 150 generations and stages of 2048:16,16384:4,131072:1. Every level \
of a layer that is tried is compressed once and kept on disk, with the search, which goes on where it was stopped.";

/// Arguments of `search`.
#[derive(Debug, Args)]
#[command(after_help = COSTS)]
pub(super) struct Search {
    #[command(flatten)]
    allocation: Allocation,
    /// Generations in all; a search that was kept with fewer goes on.
    #[arg(long, value_name = "N", default_value_t = 40)]
    generations: u64,
    /// Offspring of each generation.
    #[arg(long, value_name = "N", default_value_t = 16)]
    offspring: usize,
    /// Rounds of selection, as TOKENS:SURVIVORS; the last leaves one.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "TOKENS:SURVIVORS",
        default_value = "512:4,4096:1"
    )]
    stages: Vec<String>,
    /// Decides every draw of offspring and minibatches.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// A project to begin with, instead of the knapsack's choice by the scores.
    #[arg(long, value_name = "PLAN.ron")]
    start: Option<PathBuf>,
    /// Where the search and the levels it compressed are kept; a folder of the program's own if not given.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

/// What was found.
struct Found {
    opened: Opened,
    solved: Solved,
    search: Searched,
    /// The choice it began with.
    start: Chosen,
    time: Duration,
}

impl Search {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let found = self.find(&terminal);
        terminal.finish();
        let found = match found {
            Err(Error::Cancelled) => {
                output::tell(&[
                    "finished generations are kept; the same command goes on there".to_owned()
                ]);
                return Err(Error::Cancelled.into());
            }
            found => found?,
        };
        self.allocation.write(&found.opened, &found.solved.plan)?;
        self.print(&found)
    }

    fn find(&self, terminal: &Terminal) -> Result<Found> {
        let (settings, begun) = (self.settings()?, Instant::now());
        self.allocation.budget()?;
        if self.allocation.is_ranked() {
            return Err(Error::plan("a ranking is not searched", "use --rank with plan"));
        }
        let source = self
            .allocation
            .source()
            .ok_or_else(|| Error::plan("choices are measured on a text", "give one with --text"))?;
        let opened = self.allocation.open(terminal)?;
        let (start, problem) = self.start(&opened, terminal)?;
        let wish = Wish { settings, start: Some(start.choice.options.clone()) };
        let searching = Searching {
            question: &opened.question(),
            scores: &start.scores,
            problem: &problem,
            source: &source,
            wish: &wish,
            folder: self.state.as_deref(),
        };
        let mut each = |search: &Searched| {
            let best = search.generations().last().and_then(Generation::fitness);
            terminal.note(best.map_or_else(String::new, |kl| format!("KL {}", text::value(kl))));
        };
        let search = allocating::search(&searching, &mut each, terminal)?;
        let (first, scores) = (start.choice, start.scores);
        let (choice, plan) = self.best(&opened, &scores, (&problem, &search))?;
        let solved = Solved { scores, choice, plan };
        Ok(Found { opened, solved, search, start: first, time: begun.elapsed() })
    }

    fn settings(&self) -> Result<Settings> {
        let stages = self.stages.iter().map(|text| stage(text)).collect::<Result<Vec<Stage>>>()?;
        let (offspring, generations, seed) = (self.offspring, self.generations, self.seed);
        Ok(Settings { offspring, generations, stages, seed, ..Settings::default() })
    }

    /// The choice to begin with, and the problem with the bytes that the units may have.
    fn start(&self, opened: &Opened, terminal: &Terminal) -> Result<(Solved, Problem)> {
        let scores = if self.start.is_some() {
            let mut scores = opened.question().unscored()?;
            self.allocation.narrow(&mut scores);
            scores
        } else {
            self.allocation.score(opened, terminal)?
        };
        let budget = std::cell::Cell::new(0);
        let solve = |problem: &Problem| {
            budget.set(problem.budget());
            Ok(find("knapsack")?.solve(problem, terminal)?.choice)
        };
        let mut solved = self.allocation.solve(opened, scores, &solve)?;
        let groups = groups(&opened.checkpoint, &solved.scores, &self.allocation.bounds()?);
        let problem = Problem::new(groups, budget.get())?;
        if let Some(path) = &self.start {
            if disk::absolute(&checkpoint_path(path)?) != disk::absolute(opened.checkpoint.path()) {
                return Err(Error::plan(
                    format!("{} is a project of another model", path.display()),
                    "give one of this model",
                ));
            }
            let plan = opened.plan_of(&Project::read(path)?)?;
            solved.choice = problem.choice(options_of(opened, &solved.scores, &plan)?);
        }
        Ok((solved, problem))
    }

    /// The best choice of the search; of files, whose headers differ in length, the latest parent that fits.
    fn best(
        &self,
        opened: &Opened,
        scores: &[UnitScores],
        (problem, search): (&Problem, &Searched),
    ) -> Result<(Chosen, Layers)> {
        let last = search.best(problem);
        let parents = search.generations().iter().rev();
        let parents = parents.filter_map(|generation| generation.finalists.first());
        let earlier = parents.map(|parent| problem.choice(parent.options.clone()));
        for choice in std::iter::once(last).chain(earlier) {
            let plan = plan_of(&opened.checkpoint, scores, &choice, &opened.plan);
            let Budget::FileBytes(bytes) = self.allocation.budget()? else {
                return Ok((choice, plan));
            };
            let manifest = opened.laid_out(&plan)?;
            if manifest.weight_file_bytes() <= bytes {
                return Ok((choice, plan));
            }
        }
        Err(Error::plan("no choice of the search fits the files", "allow a few bytes more"))
    }

    fn print(&self, found: &Found) -> anyhow::Result<()> {
        let Found { opened, solved, search, start, time } = found;
        let tokens: u64 = search.generations().iter().map(|generation| generation.tokens).sum();
        if self.allocation.json {
            let mut object = self.allocation.json(opened, solved)?;
            object["seed"] = self.seed.into();
            object["tokens"] = tokens.into();
            object["seconds"] = time.as_secs_f64().into();
            object["start_bytes"] = start.bytes.into();
            object["generations"] = search.generations().iter().map(told).collect();
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        let mut table = Table::new(&["generation", "KL of the parent", "KL of the best", "tokens"]);
        for (at, generation) in search.generations().iter().enumerate() {
            let kl = |kl: Option<f64>| kl.map_or_else(|| "–".to_owned(), text::value);
            let parent = generation.finalists.first().and_then(|parent| parent.fitness);
            let tokens = text::count(generation.tokens);
            table.row(vec![(at + 1).to_string(), kl(parent), kl(generation.fitness()), tokens]);
        }
        output::print(&table.render())?;
        let bits = solved.bits(&opened.checkpoint, solved.choice.bytes);
        output::print(&format!(
            "{} bytes of units, {bits:.3} bits; {} tokens in {:.0} s\n",
            text::count(solved.choice.bytes),
            text::count(tokens),
            time.as_secs_f64()
        ))?;
        output::print(&self.allocation.told(opened, solved)?)
    }
}

/// A generation, as `--json` prints it: the parent is the first of the finalists.
fn told(generation: &Generation) -> Value {
    let fitness: Vec<Option<f64>> =
        generation.finalists.iter().map(|finalist| finalist.fitness).collect();
    json!({
        "parent": fitness.first().copied().flatten(),
        "best": generation.fitness(),
        "finalists": fitness,
        "winner": generation.winner,
        "population": generation.population.iter().map(|of| json!({
            "stages": of.stages,
            "fitness": of.fitness,
        })).collect::<Vec<_>>(),
        "tokens": generation.tokens,
    })
}

/// The option of each unit that is what a plan gives it.
fn options_of(opened: &Opened, scores: &[UnitScores], plan: &Layers) -> Result<Vec<usize>> {
    let of = |of: &UnitScores| {
        let name = |layer: usize| &opened.checkpoint.tensors()[layer].name;
        let is_it = |option: &lapidary_engine::scores::Scored| {
            let pairs = of.unit.layers.iter().zip(&option.assignments);
            let mut same = pairs.map(|(&l, found)| plan.assignment(name(l)).steps == found.steps);
            same.all(|same| same)
        };
        of.options.iter().position(is_it).ok_or_else(|| {
            let layer = name(of.unit.layers[0]);
            let label = plan.assignment(layer).label();
            Error::plan(
                format!("the start gives {layer} {label}, which is none of the candidates"),
                "give the --method and --candidates that the start was made with",
            )
        })
    };
    scores.iter().map(of).collect()
}

/// A stage, as `4096:1`.
fn stage(text: &str) -> Result<Stage> {
    let malformed = || {
        Error::plan(
            format!("{text:?} is no round of selection"),
            "write it as 4096:1, tokens and how many survive",
        )
    };
    let (tokens, survivors) = text.split_once(':').unwrap_or((text, "1"));
    let tokens = tokens.trim().parse().map_err(|_not_a_number| malformed())?;
    let survivors = survivors.trim().parse().map_err(|_not_a_number| malformed())?;
    if tokens < 2 { Err(malformed()) } else { Ok(Stage { survivors, tokens }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_selection_are_tokens_and_survivors() {
        assert_eq!(stage("512:4").ok(), Some(Stage { survivors: 4, tokens: 512 }));
        assert_eq!(stage("4096").ok(), Some(Stage { survivors: 1, tokens: 4096 }));
        for wrong in ["", "a:1", "512:b", "1:1", "-5:2"] {
            assert!(stage(wrong).is_err(), "{wrong}");
        }
    }
}
