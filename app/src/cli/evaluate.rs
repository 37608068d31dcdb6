//! `lapidary evaluate`: what a compressed model has lost, by running it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::{Answered, Figure, Probe, Sampling};
use lapidary_engine::plan::Plan;
use lapidary_engine::target;
use lapidary_engine::text::{Source, read_questions};
use serde_json::{Map, Value, json};

use crate::builtin;
use crate::calibrated::Choice;
use crate::cli::output::{self, Table, Terminal};
use crate::cli::removal::Removing;
use crate::document::project::Project;
use crate::running::{self, Found, Subject, Wanted};
use crate::theme::text;

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub(super) struct Evaluate {
    /// A Hugging Face folder, an export in compressed-tensors integers, or a project, whose plan is carried out.
    model: PathBuf,
    /// The text to score: a file, a folder, or JSON lines.
    #[arg(long, required_unless_present_any = ["prompt", "questions"])]
    text: Option<PathBuf>,
    /// The original to compare with; that of a project unless told otherwise.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// A folder that `calibrate` wrote, for a project whose methods need data; the latest of the model if not given.
    #[arg(long, value_name = "FOLDER")]
    calibration: Option<PathBuf>,
    /// Tokens of a window; by default what the model takes, 2,048 at most.
    #[arg(long, value_name = "TOKENS")]
    sequence_length: Option<usize>,
    /// The most tokens to take from the beginning of the text.
    #[arg(long, value_name = "TOKENS")]
    tokens: Option<usize>,
    /// The field of JSON lines that holds the text.
    #[arg(long, default_value = "text")]
    field: String,
    /// Measure the output error of every layer; needs a reference.
    #[arg(long)]
    layers: bool,
    /// Measure how linear each block is.
    #[arg(long)]
    blocks: bool,
    /// Continue this text, side by side with the reference.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Tokens to continue it by.
    #[arg(long, default_value_t = 40, value_name = "TOKENS")]
    generate: usize,
    /// Draw tokens at random, the more so the higher; greedy without.
    #[arg(long)]
    temperature: Option<f32>,
    /// Of the drawing.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Multiple-choice questions, one JSON object a line, answered by the likelihood of the options.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    #[command(flatten)]
    removing: Removing,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The pieces of two continuations, the second that of the reference.
type Continued = (Vec<String>, Option<Vec<String>>);
/// Answers, and those of the reference.
type Answers = (Probe, Option<Probe>);

/// What was asked for: a text scored, a prompt continued, questions answered.
type AllFound = (Option<Found>, Option<Continued>, Option<Answers>);

impl Evaluate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let result = self.found(&terminal);
        terminal.finish();
        let (found, continued, answers) = result?;
        if self.json {
            let object = self.object(found.as_ref(), continued.as_ref(), answers.as_ref());
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        if let Some(found) = &found {
            output::print(&describe(found))?;
        }
        if let Some((mine, other)) = &continued {
            output::print(&side_by_side(mine, other.as_deref()))?;
        }
        if let Some((mine, other)) = &answers {
            output::print(&accuracies(mine, other.as_ref()))?;
        }
        Ok(())
    }

    /// What is run, and its original where there is one.
    fn open(
        &self,
        choice: &Choice,
        terminal: &Terminal,
    ) -> Result<(Subject, Option<Subject>), Error> {
        let path = running::checkpoint_path(&self.model)?;
        let checkpoint = Arc::new(Checkpoint::open(&path)?);
        if self.removing.wanted(&checkpoint)?.is_empty() {
            return Subject::open(&self.model, choice, terminal);
        }
        let (mut plan, target) = if path == self.model {
            (Plan::default(), target::default_for(&checkpoint))
        } else {
            let project = Project::read(&self.model)?;
            (project.resolve(&checkpoint)?, target::find(&project.target)?)
        };
        self.removing.add_to(&mut plan, &checkpoint)?;
        let original = Subject::plain(checkpoint.clone(), "the original");
        let planned = Subject::prepared((checkpoint, plan), choice, target, terminal)?;
        Ok((planned, Some(original)))
    }

    fn found(&self, terminal: &Terminal) -> Result<AllFound, Error> {
        let questions =
            self.questions.as_ref().map(|path| read_questions(path, terminal)).transpose()?;
        let choice = Choice { home: builtin::home(), named: self.calibration.clone() };
        let (subject, original) = self.open(&choice, terminal)?;
        let reference = match &self.reference {
            Some(path) => Some(Subject::open(path, &choice, terminal)?.0),
            None => original,
        };
        if self.layers && reference.is_none() {
            return Err(Error::plan(
                "the output error of layers is measured against a reference, and there is none",
                "name one with --reference",
            ));
        }
        let found = match &self.text {
            Some(path) => {
                let wanted = Wanted {
                    text: Source::Path { path: path.clone(), field: Some(self.field.clone()) },
                    length: self.sequence_length,
                    limit: self.tokens,
                    layers: self.layers,
                    blocks: self.blocks,
                };
                let both = (&subject, reference.as_ref());
                Some(running::evaluate(both, &wanted, &mut |_| {}, terminal)?)
            }
            None => None,
        };
        let continued = match &self.prompt {
            Some(prompt) => {
                let how = (prompt.as_str(), self.generate, self.sampling());
                let run = |of: &Subject| running::continue_prompt(of, how, &mut |_| {}, terminal);
                Some((run(&subject)?, reference.as_ref().map(run).transpose()?))
            }
            None => None,
        };
        let answers = match &questions {
            Some(questions) => {
                let run = |of: &Subject| running::answer(of, questions, terminal);
                Some((run(&subject)?, reference.as_ref().map(run).transpose()?))
            }
            None => None,
        };
        Ok((found, continued, answers))
    }

    fn sampling(&self) -> Sampling {
        let random = |temperature| Sampling::Random { temperature, seed: self.seed };
        self.temperature.map_or(Sampling::Greedy, random)
    }

    fn object(
        &self,
        found: Option<&Found>,
        continued: Option<&Continued>,
        answers: Option<&Answers>,
    ) -> Value {
        let mut object = Map::new();
        if let Some(found) = found {
            figures(found, &mut object);
        }
        if let (Some((mine, other)), Some(prompt)) = (continued, &self.prompt) {
            let first = other.as_ref().and_then(|other| {
                let n = mine.iter().zip(other).take_while(|(a, b)| a == b).count();
                (n < mine.len().max(other.len())).then_some(n)
            });
            let continuation = json!({
                "prompt": prompt,
                "text": mine.concat(),
                "reference_text": other.as_ref().map(|other| other.concat()),
                "first_difference": first,
            });
            object.insert("continuation".to_owned(), continuation);
        }
        if let Some((mine, other)) = answers {
            let of = |probe: &Probe| {
                json!({
                    "questions": probe.answered.len(),
                    "accuracy": finite(probe.accuracy()[0]),
                    "accuracy_error": finite(probe.accuracy()[1]),
                    "accuracy_by_byte": finite(probe.accuracy_by_byte()[0]),
                    "choices": probe.answered.iter().map(Answered::choice).collect::<Vec<_>>(),
                })
            };
            object.insert("probe".to_owned(), of(mine));
            object.insert("reference_probe".to_owned(), json!(other.as_ref().map(of)));
        }
        Value::Object(object)
    }
}

/// A number, or null where there is none.
fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

fn figures(found: &Found, object: &mut Map<String, Value>) {
    let evaluation = &found.evaluation;
    let value = |figure: Option<Figure>| json!(figure.and_then(|figure| finite(figure.value)));
    let error = |figure: Option<Figure>| json!(figure.and_then(|figure| finite(figure.error)));
    let entries = [
        ("perplexity", value(Some(evaluation.perplexity()))),
        ("perplexity_error", error(Some(evaluation.perplexity()))),
        ("nats_per_token", value(Some(evaluation.nats_per_token()))),
        ("nats_per_token_error", error(Some(evaluation.nats_per_token()))),
        ("bits_per_character", json!(finite(evaluation.bits_per_character()))),
        ("tokens", json!(evaluation.tokens())),
        ("planned_tokens", json!(evaluation.planned_tokens)),
        ("is_complete", json!(evaluation.is_complete())),
        ("windows", json!(evaluation.windows.len())),
        ("sequence_length", json!(found.text.length)),
        ("reference_perplexity", value(evaluation.original_perplexity())),
        ("excess_nats", value(evaluation.excess_nats())),
        ("excess_nats_error", error(evaluation.excess_nats())),
        ("is_tie", json!(evaluation.excess_nats().map(|figure| figure.is_tie()))),
        ("mean_kl", value(evaluation.mean_kl())),
        ("mean_kl_error", error(evaluation.mean_kl())),
        ("kl_p99", json!(evaluation.kl_p99.and_then(finite))),
        ("flip_rate", value(evaluation.flip_rate())),
        ("flip_rate_error", error(evaluation.flip_rate())),
        ("top5_overlap", value(evaluation.top_overlap())),
        ("overlap", value(evaluation.overlap())),
    ];
    object.extend(entries.map(|(name, value)| (name.to_owned(), value)));
    if !found.layers.is_empty() {
        let layer = |(name, error): (&String, &lapidary_engine::evaluation::OutputError)| json!({"name": name, "output_error": finite(error.relative())});
        object.insert("layers".to_owned(), found.layers.iter().map(layer).collect());
    }
    if !found.blocks.is_empty() {
        object.insert("blocks".to_owned(), json!(found.blocks));
    }
}

/// The table of figures, and what they mean.
fn describe(found: &Found) -> String {
    let evaluation = &found.evaluation;
    let mut table = Table::new(&["figure", "value", "± 95 %"]);
    let margin = |figure: Figure| {
        if figure.error.is_nan() { "–".to_owned() } else { text::value(figure.margin()) }
    };
    let mut row = |name: &str, figure: Option<Figure>| {
        if let Some(figure) = figure {
            table.row(vec![name.to_owned(), text::value(figure.value), margin(figure)]);
        }
    };
    row("perplexity", Some(evaluation.perplexity()));
    row("nats per token", Some(evaluation.nats_per_token()));
    let exact = |value: f64| Some(Figure::exact(value));
    row("bits per character", exact(evaluation.bits_per_character()));
    row("perplexity of the reference", evaluation.original_perplexity());
    row("nats per token beyond it", evaluation.excess_nats());
    row("mean KL", evaluation.mean_kl());
    row("99th percentile of KL", evaluation.kl_p99.and_then(exact));
    row("flips of the top token", evaluation.flip_rate());
    row("overlap of the top five", evaluation.top_overlap());
    row("Σ min(p, q)", evaluation.overlap());
    let mut said = table.render();
    let (tokens, length) = (evaluation.tokens(), found.text.length as u64);
    said.extend([
        format!("\n{} tokens scored in ", text::count(tokens)),
        match evaluation.windows.len() {
            1 => "1 window of ".to_owned(),
            n => format!("{n} windows of "),
        },
        format!("{} of {}\n", text::count(length), found.text.name),
    ]);
    if let Some(excess) = evaluation.excess_nats() {
        said += tie(excess);
    }
    if !evaluation.is_complete() {
        said += "stopped before the end: the figures are of what was scored\n";
    }
    said += &layers(found);
    said + &blocks(found)
}

fn tie(excess: Figure) -> &'static str {
    if excess.is_tie() {
        "a tie with the reference: the difference, window by window, is within its interval\n"
    } else if excess.value > 0.0 {
        "worse than the reference by more than chance\n"
    } else {
        "better than the reference on this text by more than chance\n"
    }
}

fn layers(found: &Found) -> String {
    if found.layers.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["layer", "output error"]);
    for (name, error) in &found.layers {
        table.row(vec![name.clone(), text::percent(error.relative())]);
    }
    format!(
        "\n{}output error is √(Σ‖(W − Ŵ)x‖²/Σ‖Wx‖²) on the inputs of the reference\n",
        table.render()
    )
}

fn blocks(found: &Found) -> String {
    if found.blocks.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "block",
        "linear",
        "held out",
        "without residual",
        "cosine",
        "influence",
        "change",
        "coding rate",
    ]);
    for (index, block) in found.blocks.iter().enumerate() {
        let linearity = &block.linearity;
        table.row(vec![
            index.to_string(),
            text::value(linearity.linear),
            linearity.linear_held_out.map_or_else(|| "–".to_owned(), text::value),
            text::value(linearity.linear_without_residual),
            text::value(linearity.cosine),
            text::value(1.0 - linearity.cosine),
            text::value(linearity.relative_change),
            text::value(block.rate_after),
        ]);
    }
    format!(
        "\n{}influence is 1 − cosine: blocks with the least are missed least (see lapidary remove)\n",
        table.render()
    )
}

/// Two continuations, tokens that differ in brackets.
fn side_by_side(mine: &[String], other: Option<&[String]>) -> String {
    let Some(other) = other else {
        return format!("\n{}\n", mine.concat());
    };
    let (of_mine, of_other) = running::differing(mine, other);
    let line = |pieces: &[String], marks: &[bool]| -> String {
        let pieces = pieces.iter().zip(marks);
        pieces
            .map(|(piece, &mark)| if mark { format!("[{piece}]") } else { piece.clone() })
            .collect()
    };
    format!(
        "\nthe model:\n{}\n\nthe reference:\n{}\n\ntokens that differ are in brackets\n",
        line(mine, &of_mine),
        line(other, &of_other)
    )
}

fn accuracies(mine: &Probe, other: Option<&Probe>) -> String {
    let mut table = Table::new(&["questions", "answered", "right", "±", "right by byte"]);
    for (name, probe) in [("the model", Some(mine)), ("the reference", other)] {
        if let Some(probe) = probe {
            table.row(vec![
                name.to_owned(),
                probe.answered.len().to_string(),
                text::percent(probe.accuracy()[0]),
                text::percent(probe.accuracy()[1]),
                text::percent(probe.accuracy_by_byte()[0]),
            ]);
        }
    }
    format!("\n{}", table.render())
}
