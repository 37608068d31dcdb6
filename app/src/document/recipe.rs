//! Plans that travel: our own recipes by pattern, and those of other tools, taken over onto a model.

use std::path::Path;
use std::sync::Arc;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::plan::{Assignment, Plan, Rules};
use lapidary_engine::recipe::{self, DIALECTS, Imported};
use lapidary_engine::{Error, Result, disk, export};

/// The id of our own recipes: rules by pattern, as a project has them.
pub const OWN: &str = "lapidary";

/// A kind of recipe.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Name on the command line.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// What such a file is.
    pub summary: &'static str,
    /// The name such a file usually has.
    pub file_name: &'static str,
}

/// Every kind, our own first.
pub fn kinds() -> impl Iterator<Item = Kind> {
    let own = Kind {
        id: OWN,
        title: "Lapidary recipe",
        summary: "Ordered rules by name, pattern, role and default, without a checkpoint: nothing is lost, and other models can take it.",
        file_name: "recipe.ron",
    };
    let others = DIALECTS.iter().map(|dialect| dialect.about());
    std::iter::once(own).chain(others.map(|about| Kind {
        id: about.id,
        title: about.title,
        summary: about.summary,
        file_name: about.file_name,
    }))
}

/// A plan that was taken over, and what could not be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// The plan.
    pub plan: Plan,
    /// The id of the target whose files the recipe is for, where it says that.
    pub target: Option<&'static str>,
    /// Sentences: what the recipe says and this model or program cannot take.
    pub unsaid: Vec<String>,
}

/// Reads a recipe of kind `id` onto a model.
///
/// # Errors
/// [`Error::Plan`] for a text that is none, or a kind there is not.
pub fn read(id: &str, path: &Path, checkpoint: &Checkpoint) -> Result<Taken> {
    let text = disk::read_text(path, recipe::MAX_BYTES)?;
    if id != OWN {
        return Ok(taken(recipe::find(id)?.read(&text, checkpoint)?, checkpoint));
    }
    let rules: Rules = ron::from_str(&text)
        .map_err(|error| Error::malformed("recipe", path, format!("{error}")))?;
    let (rules, strangers) = rules.without_strangers(checkpoint);
    let plan = rules.resolve(checkpoint)?;
    let mut unsaid = Vec::new();
    if !strangers.is_empty() {
        let named: Vec<&str> = strangers.iter().take(5).map(String::as_str).collect();
        let more = strangers.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        unsaid.push(format!("The model has no matrix called {}{more}.", named.join(", ")));
    }
    Ok(Taken { plan, target: None, unsaid })
}

/// The plan of a finished checkpoint with what it takes out, for the model it was made from.
///
/// # Errors
/// As [`export::recover`].
pub fn recover(path: &Path, checkpoint: &Checkpoint) -> Result<Taken> {
    let found = export::recover(path, checkpoint)?;
    Ok(Taken { plan: found.plan, target: Some(found.target), unsaid: found.unsaid })
}

fn taken(imported: Imported, checkpoint: &Checkpoint) -> Taken {
    let mut plan = Plan::default();
    for (layer, steps) in imported.layers {
        plan.set(&checkpoint.tensors()[layer].name, Assignment::of(steps));
    }
    // Layer by layer it could hardly be read.
    let plan = plan.summed_up(checkpoint);
    Taken { plan, target: imported.target, unsaid: imported.unsaid }
}

/// A plan as a recipe of kind `id`, and what that cannot say.
///
/// # Errors
/// [`Error::Plan`] for a kind there is not.
pub fn write(id: &str, checkpoint: &Checkpoint, plan: &Plan) -> Result<(String, Vec<String>)> {
    let mut unsaid = Vec::new();
    if !plan.removal().is_empty() {
        let told = plan.removal().told();
        unsaid
            .push(format!("a recipe does not say that {told} is taken out: a project (.ron) does"));
    }
    if id != OWN {
        let written = recipe::find(id)?.write(checkpoint, plan);
        unsaid.extend(written.unsaid);
        return Ok((written.text, unsaid));
    }
    let rules = Rules::of(&plan.summed_up(checkpoint));
    let pretty = ron::ser::PrettyConfig::new().depth_limit(2);
    let text = ron::ser::to_string_pretty(&rules, pretty)
        .map_err(|error| Error::Unsupported { what: format!("writing the recipe ({error})") })?;
    Ok((text + "\n", unsaid))
}

/// What a dialog of a recipe shows at the end: what was done, and what could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What was done.
    pub done: String,
    /// What could not be, in sentences.
    pub unsaid: Arc<[String]>,
}
