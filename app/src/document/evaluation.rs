//! Running the model: what is asked for, what runs, and the runs that are kept.

use std::path::{Path, PathBuf};
use std::time::Instant;

use lapidary_engine::Progress;
use lapidary_engine::evaluation::{Evaluation, Figure, Kept, Probe};
use lapidary_engine::text::Source;

/// What is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// The plan as it is now, against the original.
    #[default]
    Plan,
    /// The original alone.
    Original,
    /// Another checkpoint, against the original.
    Other(PathBuf),
}

/// A part of the evaluation window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// A text scored, and the runs.
    #[default]
    Text,
    /// A prompt continued.
    Prompt,
    /// Questions answered.
    Questions,
}

/// What runs are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// When they were made.
    #[default]
    Time,
    /// What was run.
    Label,
    /// Bytes.
    Size,
    /// Perplexity.
    Perplexity,
    /// Mean KL divergence.
    Kl,
    /// Flips of the top token.
    Flips,
}

/// What the person asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// What is run.
    pub what: What,
    /// Text typed or pasted, scored in place of the file that was chosen; `None` while there is no field for it.
    pub pasted: Option<String>,
    /// The field of JSON lines that holds the text.
    pub field: String,
    /// The most tokens of the text.
    pub tokens: usize,
    /// Tokens of a window; what the model takes, 2,048 at most, if `None`.
    pub length: Option<usize>,
    /// Whether layers are measured one by one.
    pub layers: bool,
    /// Whether blocks are.
    pub blocks: bool,
    /// The prompt.
    pub prompt: String,
    /// Tokens it is continued by.
    pub generate: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Of the drawing.
    pub seed: u64,
    /// The file of questions.
    pub questions: Option<PathBuf>,
}

impl Wish {
    /// The text to score: what was pasted, or else the file that was chosen; `None` without any.
    pub fn source(&self, chosen: Option<&Path>) -> Option<Source> {
        if let Some(pasted) = &self.pasted {
            return (!pasted.trim().is_empty()).then(|| Source::pasted(pasted));
        }
        let field = Some(self.field.trim().to_owned()).filter(|field| !field.is_empty());
        chosen.map(|path| Source::Path { path: path.to_owned(), field })
    }
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            what: What::default(),
            pasted: None,
            field: "text".to_owned(),
            tokens: 20_000,
            length: None,
            layers: false,
            blocks: false,
            prompt: String::new(),
            generate: 60,
            temperature: 0.0,
            seed: 0,
            questions: None,
        }
    }
}

/// Something at work.
#[derive(Clone, Debug)]
pub struct Work {
    /// How far, once known.
    pub progress: Option<Progress>,
    /// When the present stage began.
    pub since: Instant,
}

impl Work {
    /// Begins now.
    pub fn begin() -> Self {
        Self { progress: None, since: Instant::now() }
    }

    /// Takes in how far it is.
    pub fn take(&mut self, progress: Progress) {
        if self.progress.as_ref().is_none_or(|now| now.stage != progress.stage) {
            self.since = Instant::now();
        }
        self.progress = Some(progress);
    }

    /// Seconds left of the present stage, once they can be told.
    pub fn seconds_left(&self) -> Option<f64> {
        let progress = self.progress.as_ref().filter(|progress| progress.done > 0)?;
        let left = progress.total.saturating_sub(progress.done) as f64;
        Some(self.since.elapsed().as_secs_f64() * left / progress.done as f64)
    }
}

/// Everything about running the open model.
#[derive(Debug, Default)]
pub struct Evaluating {
    /// The part on show.
    pub page: Page,
    /// What is asked for.
    pub wish: Wish,
    /// What runs.
    pub work: Option<Work>,
    /// Figures of the run so far.
    pub partial: Option<Evaluation>,
    /// Why the last one failed.
    pub failed: Option<String>,
    /// The runs of this model, the first first.
    pub runs: Vec<Kept>,
    /// How they are ordered, and whether from the end.
    pub order: (Order, bool),
    /// Id of the run others are held against.
    pub chosen: Option<String>,
    /// The run deleted last, to bring back.
    pub deleted: Option<Kept>,
    /// Tokens of the continuations: of what is run, and of the original.
    pub continued: [Vec<String>; 2],
    /// Answers: of what is run, and of the original.
    pub answers: Option<[Probe; 2]>,
}

impl Evaluating {
    /// The run others are held against.
    pub fn chosen(&self) -> Option<&Kept> {
        self.runs.iter().find(|kept| Some(&kept.id) == self.chosen.as_ref())
    }

    /// The runs in the order of the table.
    pub fn ordered(&self) -> Vec<&Kept> {
        let mut runs: Vec<&Kept> = self.runs.iter().collect();
        let value = |figure: Option<Figure>| figure.map_or(f64::INFINITY, |figure| figure.value);
        let (order, is_reversed) = self.order;
        runs.sort_by(|a, b| {
            let (of_a, of_b) = (&a.record.evaluation, &b.record.evaluation);
            match order {
                Order::Time => a.id.cmp(&b.id),
                Order::Label => a.record.label.cmp(&b.record.label),
                Order::Size => a.record.bytes.cmp(&b.record.bytes),
                Order::Perplexity => of_a.perplexity().value.total_cmp(&of_b.perplexity().value),
                Order::Kl => value(of_a.mean_kl()).total_cmp(&value(of_b.mean_kl())),
                Order::Flips => value(of_a.flip_rate()).total_cmp(&value(of_b.flip_rate())),
            }
        });
        if is_reversed {
            runs.reverse();
        }
        runs
    }
}
