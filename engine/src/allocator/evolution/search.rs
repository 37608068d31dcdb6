//! The search: generations, stages on one shared minibatch, a state that can be kept and taken up again.

use serde::{Deserialize, Serialize};

use crate::allocator::evolution::offspring::Levels;
use crate::allocator::{Choice, Problem};
use crate::error::{Error, Result};
use crate::numeric::seeds::Random;
use crate::observer::{Observer, Progress, Unit};

/// A round of selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// How many go on to the next.
    pub survivors: usize,
    /// Tokens that each candidate is scored on.
    pub tokens: u64,
}

/// How to search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Offspring of each generation.
    pub offspring: usize,
    /// Generations in all.
    pub generations: u64,
    /// Rounds of selection; the last leaves one whatever it says.
    pub stages: Vec<Stage>,
    /// The most exchanges of an offspring.
    pub most_exchanges: usize,
    /// Decides every draw.
    pub seed: u64,
}

impl Default for Settings {
    /// The stages of `EvoPress` for quantisation, with half its offspring: 64 → 8 → 2 → 1, on 2,048, 16,384 and 131,072 tokens.
    fn default() -> Self {
        let stage = |survivors, tokens| Stage { survivors, tokens };
        let stages = vec![stage(8, 2048), stage(2, 16_384), stage(1, 131_072)];
        Self { offspring: 64, generations: 150, stages, most_exchanges: 3, seed: 0 }
    }
}

impl Settings {
    /// Tokens that one generation passes through the model, the parent's in the last stage among them.
    pub fn tokens_of_a_generation(&self) -> u64 {
        let entering =
            std::iter::once(self.offspring).chain(self.stages.iter().map(|s| s.survivors));
        let of = |(entering, stage): (usize, &Stage)| entering as u64 * stage.tokens;
        let last = self.stages.last().map_or(0, |stage| stage.tokens);
        entering.zip(&self.stages).map(of).sum::<u64>() + last
    }

    fn check(&self) -> Result<()> {
        let falls = self.stages.windows(2).all(|pair| pair[0].survivors >= pair[1].survivors);
        let first = self.stages.first().map_or(0, |stage| stage.survivors);
        let is_sane = (1..=1 << 16).contains(&self.offspring)
            && falls
            && (1..=self.offspring).contains(&first)
            && self.stages.iter().all(|stage| stage.survivors > 0)
            && self.most_exchanges > 0;
        if is_sane {
            return Ok(());
        }
        Err(Error::plan(
            format!(
                "a search of {} offspring, {} stages and {} exchanges makes no sense",
                self.offspring,
                self.stages.len(),
                self.most_exchanges
            ),
            "give 1 to 65536 offspring, stages with ever fewer survivors, at least one, and at least one exchange",
        ))
    }
}

/// What a fitness is asked.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Each group's option.
    pub options: &'a [usize],
    /// The generation, which all its candidates share: the minibatch is drawn from it.
    pub generation: u64,
    /// How many tokens of the minibatch count.
    pub tokens: u64,
}

/// A choice that was scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Each group's option.
    pub options: Vec<usize>,
    /// Its fitness; smaller is better. `None` where it was no number.
    pub fitness: Option<f64>,
}

/// What became of an offspring.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Stages that it was scored in; 1 at least.
    pub stages: usize,
    /// Its fitness in the last of them; `None` where it was no number.
    pub fitness: Option<f64>,
}

/// What a generation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Every offspring, in the order they were drawn.
    pub population: Vec<Judged>,
    /// Who was in the last stage, the parent first, each with its fitness there.
    pub finalists: Vec<Candidate>,
    /// Which of them is the next parent; 0 is the old one.
    pub winner: usize,
    /// Tokens that went through the model.
    pub tokens: u64,
}

impl Generation {
    /// The fitness of the winner on this generation's minibatch; others' minibatches differ.
    pub fn fitness(&self) -> Option<f64> {
        self.finalists.get(self.winner)?.fitness
    }
}

/// A search that can be kept and taken up again between generations: all draws of a generation follow from the seed
/// and its number, so one that was cancelled in its middle begins again with the same offspring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    settings: Settings,
    budget: u64,
    parent: Vec<usize>,
    generations: Vec<Generation>,
}

impl Search {
    /// A search from `start`, or else from the largest uniform choice in the budget with random steps up while one fits.
    pub fn new(problem: &Problem, settings: Settings, start: Option<&[usize]>) -> Result<Self> {
        settings.check()?;
        problem.refuse_below_least(problem.budget())?;
        let parent = match start {
            Some(start) => start.to_vec(),
            None => first(problem, settings.seed),
        };
        let budget = problem.budget();
        let search = Self { settings, budget, parent, generations: Vec::new() };
        search.check(problem)?;
        Ok(search)
    }

    /// How it searches.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The generations so far.
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Whether every generation was.
    pub fn is_done(&self) -> bool {
        self.generations.len() as u64 >= self.settings.generations
    }

    /// The best choice so far: the parent of the next generation.
    ///
    /// # Panics
    /// If the search belongs to another problem.
    pub fn best(&self, problem: &Problem) -> Choice {
        problem.choice(self.parent.clone())
    }

    /// Sets how many generations there are to be. Of one that has more the first so many are left, as if it had
    /// stopped there.
    pub fn set_generations(&mut self, generations: u64) {
        self.settings.generations = generations;
        if self.generations.len() as u64 <= generations {
            return;
        }
        // The parent of a generation stands first among its finalists.
        let parent = self.generations[generations as usize].finalists.first();
        if let Some(parent) = parent {
            self.parent.clone_from(&parent.options);
        }
        self.generations.truncate(generations as usize);
    }

    /// Refuses a search that was kept of another problem or budget.
    pub fn check(&self, problem: &Problem) -> Result<()> {
        self.settings.check()?;
        let is_allowed = problem.is_allowed(&self.parent);
        if is_allowed && self.budget == problem.budget() && self.best(problem).bytes <= self.budget
        {
            return Ok(());
        }
        Err(Error::plan(
            if is_allowed {
                format!(
                    "the search has a budget of {} bytes and a choice of {}, here the budget is {} bytes",
                    self.budget,
                    self.best(problem).bytes,
                    problem.budget()
                )
            } else {
                "the search holds options that these groups do not have or may not take".to_owned()
            },
            "start the search again, or open what it was started with",
        ))
    }

    /// Runs every generation left. After [`Error::Cancelled`] it goes on where it was.
    pub fn run(
        &mut self,
        problem: &Problem,
        fitness: &mut dyn FnMut(Trial<'_>) -> Result<f64>,
        observer: &dyn Observer,
    ) -> Result<()> {
        while !self.is_done() {
            self.step(problem, fitness, observer)?;
        }
        Ok(())
    }

    /// Runs one generation; after an error the search is as it was before.
    pub fn step(
        &mut self,
        problem: &Problem,
        fitness: &mut dyn FnMut(Trial<'_>) -> Result<f64>,
        observer: &dyn Observer,
    ) -> Result<&Generation> {
        self.check(problem)?;
        let generation = self.generations.len() as u64;
        let mut jury = Jury { search: self, generation, tokens: 0, fitness, observer };
        let (population, finalists) = jury.judge(jury.search.offspring(problem, generation))?;
        let tokens = jury.tokens;
        // Of equal ones the first: the parent stays unless something is better.
        let winner = ranked(&finalists)[0];
        if finalists[winner].fitness.is_none() {
            return Err(Error::plan(
                format!(
                    "every candidate of generation {generation} had a fitness that is no number"
                ),
                "search from another start, or with options that do less damage",
            ));
        }
        self.parent.clone_from(&finalists[winner].options);
        self.generations.push(Generation { population, finalists, winner, tokens });
        Ok(&self.generations[self.generations.len() - 1])
    }

    /// The offspring of a generation: different from each other and from the parent, as far as there are as many.
    pub fn offspring(&self, problem: &Problem, generation: u64) -> Vec<Vec<usize>> {
        let mut random = stream(self.settings.seed, generation + 1);
        let parent = Levels::of(problem, &self.parent);
        let mut offspring: Vec<Vec<usize>> = Vec::new();
        for _ in 0..2 * self.settings.offspring {
            if offspring.len() == self.settings.offspring {
                break;
            }
            let child = parent.mutated(self.settings.most_exchanges, &mut random).options();
            if child != self.parent && !offspring.contains(&child) {
                offspring.push(child);
            }
        }
        offspring
    }
}

/// Random numbers of one generation.
fn stream(seed: u64, generation: u64) -> Random {
    let mixed = Random::new(seed).bits();
    Random::new(mixed ^ Random::new(generation).bits())
}

/// The start where none is given.
fn first(problem: &Problem, seed: u64) -> Vec<usize> {
    let mut uniforms = problem.uniforms().into_iter().map(|(_, choice)| choice);
    let fitting = uniforms.rfind(|choice| choice.bytes <= problem.budget());
    let start = fitting.unwrap_or_else(|| problem.smallest());
    Levels::of(problem, &start.options).filled(&mut stream(seed, 0)).options()
}

/// Indices of candidates, the fittest first, of equal ones the first; those without a fitness last.
fn ranked(candidates: &[Candidate]) -> Vec<usize> {
    let fitness = |index: &usize| candidates[*index].fitness.unwrap_or(f64::INFINITY);
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| fitness(a).total_cmp(&fitness(b)));
    order
}

/// Scores the candidates of a generation.
struct Jury<'a> {
    search: &'a Search,
    generation: u64,
    tokens: u64,
    fitness: &'a mut dyn FnMut(Trial<'_>) -> Result<f64>,
    observer: &'a dyn Observer,
}

impl Jury<'_> {
    /// What became of every offspring, and who reached the last stage, scored in it, the parent first.
    fn judge(&mut self, offspring: Vec<Vec<usize>>) -> Result<(Vec<Judged>, Vec<Candidate>)> {
        let stages = &self.search.settings.stages;
        let mut population = vec![Judged { stages: 0, fitness: None }; offspring.len()];
        // Each with its place in the population.
        let mut left: Vec<(usize, Vec<usize>)> = offspring.into_iter().enumerate().collect();
        for (at, stage) in stages.iter().enumerate() {
            let (places, mut all): (Vec<usize>, Vec<Vec<usize>>) = left.into_iter().unzip();
            let is_last = at + 1 == stages.len();
            if is_last {
                all.insert(0, self.search.parent.clone());
            }
            let mut scored = self.scored(all, stage.tokens)?;
            let of_offspring = scored.iter().skip(usize::from(is_last));
            for (&place, candidate) in places.iter().zip(of_offspring) {
                population[place] = Judged { stages: at + 1, fitness: candidate.fitness };
            }
            if is_last {
                return Ok((population, scored));
            }
            let best = ranked(&scored).into_iter().take(stage.survivors);
            left = best
                .map(|index| (places[index], std::mem::take(&mut scored[index].options)))
                .collect();
        }
        Ok((population, Vec::new()))
    }

    fn scored(&mut self, all: Vec<Vec<usize>>, tokens: u64) -> Result<Vec<Candidate>> {
        let mut scored = Vec::with_capacity(all.len());
        for options in all {
            self.observer.go_on()?;
            let trial = Trial { options: &options, generation: self.generation, tokens };
            let fitness = (self.fitness)(trial)?;
            self.tokens += tokens;
            scored.push(Candidate { options, fitness: fitness.is_finite().then_some(fitness) });
            self.report();
        }
        Ok(scored)
    }

    fn report(&self) {
        let settings = &self.search.settings;
        let before: u64 = self.search.generations.iter().map(|generation| generation.tokens).sum();
        self.observer.progress(Progress {
            stage: "searching",
            item: format!("generation {} of {}", self.generation + 1, settings.generations),
            done: before + self.tokens,
            total: settings.tokens_of_a_generation().saturating_mul(settings.generations),
            unit: Unit::Tokens,
        });
    }
}
