//! Plans written the way other tools write them, read and written. In: a tool's text and a checkpoint, or a plan.
//! Out: steps for each layer, or a text; with it, in sentences, whatever one side says and the other cannot.
//! Never opens weights; what is unsaid is listed and never dropped.
//!
//! Adding a dialect: one file that ends in its `ENTRY`, and its name in [`DIALECTS`].

mod auto_round;
mod block_types;
mod compact;
mod compressed_tensors;
mod evopress;
mod form;
mod gptq;
mod llm_compressor;
mod mlx;
mod patterns;
mod recover;
mod rules;
mod sentences;
mod tensor_types;

use serde_json::Value;

pub use recover::{Recovered, recover};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::method::Step;
use crate::plan::Plan;

/// The largest recipe that is read; callers hand it to [`crate::disk::read_text`].
pub const MAX_BYTES: u64 = 64 << 20;

/// What menus know of a dialect.
#[derive(Debug)]
pub struct About {
    /// Name on the command line, as `tensor-types`.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// What such a file is, in one sentence.
    pub summary: &'static str,
    /// The name such a file usually has.
    pub file_name: &'static str,
    /// Where the syntax was read, and when.
    pub source: &'static str,
}

/// A plan read from another tool's file, resolved on a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// Steps by index of the tensor; layers of which nothing is said are absent.
    pub layers: Vec<(usize, Vec<Step>)>,
    /// The id of the target whose files the tool makes, where it makes one kind.
    pub target: Option<&'static str>,
    /// Sentences: what could not be taken over, rules that decide nothing, values read as the nearest.
    pub unsaid: Vec<String>,
}

/// A plan in another tool's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The file.
    pub text: String,
    /// Sentences that name layers and what the other tool cannot say of them.
    pub unsaid: Vec<String>,
}

/// The way a tool writes plans.
pub trait Dialect: Sync {
    /// Title, usual file name, source of the syntax.
    fn about(&self) -> &'static About;

    /// What `text` says of the layers of `checkpoint`.
    ///
    /// # Errors
    /// [`Error::Plan`] for a text that is not of this dialect, naming the place and what to do.
    fn read(&self, text: &str, checkpoint: &Checkpoint) -> Result<Imported>;

    /// `plan` in the words of the tool.
    fn write(&self, checkpoint: &Checkpoint, plan: &Plan) -> Exported;
}

/// Every dialect, in the order menus show them.
pub static DIALECTS: &[&dyn Dialect] = &[
    &tensor_types::ENTRY,
    &compressed_tensors::ENTRY,
    &llm_compressor::ENTRY,
    &gptq::ENTRY,
    &auto_round::ENTRY,
    &mlx::ENTRY,
    &evopress::ENTRY,
];

/// The dialect called `id`.
pub fn find(id: &str) -> Result<&'static dyn Dialect> {
    DIALECTS.iter().copied().find(|dialect| dialect.about().id == id).ok_or_else(|| {
        let known: Vec<&str> = DIALECTS.iter().map(|dialect| dialect.about().id).collect();
        Error::plan(
            format!("there is no recipe dialect {id:?}"),
            format!("choose one of {}", known.join(", ")),
        )
    })
}

/// Refuses a text that is too long to be a recipe.
fn check_length(text: &str) -> Result<()> {
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::plan(
            format!("a recipe of {} bytes is not read", text.len()),
            format!("give one of at most {MAX_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// A text as JSON; `what` names what it should be.
fn json(text: &str, what: &str) -> Result<Value> {
    check_length(text)?;
    serde_json::from_str(text).map_err(|error| {
        Error::plan(format!("this is not {what}: it is not JSON ({error})"), "correct the JSON")
    })
}

/// The text of a JSON document.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// An error of a recipe: what it is not understood as, and why. What the file says may hold anything, and a message
/// is one line.
fn not_understood(what: &str, why: impl std::fmt::Display) -> Error {
    let why = why.to_string().replace(char::is_control, " ");
    Error::plan(
        format!("this is not understood as {what}: {why}"),
        "correct the file, or choose another dialect",
    )
}
