//! `lapidary recipe`: plans in the words of other tools, from and to projects.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::{Error, disk, target};

use crate::cli::output;
use crate::document::draft::Draft;
use crate::document::project::{Project, View, relative_checkpoint};
use crate::document::recipe::{self, Taken};

/// Read and write plans as other tools write them.
#[derive(Debug, Args)]
pub(super) struct Recipe {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the kinds of recipes.
    List,
    /// Write a project's plan as a recipe; what it cannot say goes to stderr.
    Write {
        /// The project (.ron).
        project: PathBuf,
        /// The kind of recipe; `lapidary recipe list` names them.
        #[arg(long = "as", value_name = "KIND")]
        kind: String,
        /// The file to write instead of stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a project of a recipe and a model; what cannot be taken over goes to stderr.
    Read {
        /// The recipe.
        recipe: PathBuf,
        /// The kind of recipe.
        #[arg(long = "as", value_name = "KIND")]
        kind: String,
        #[command(flatten)]
        onto: Onto,
    },
    /// Make a project of a model and the plan of a finished checkpoint: the very plan where the report of an export lies
    /// beside it, else what its files say.
    Recover {
        /// The finished checkpoint: an export of this program, a folder with a `quantization_config`, or a .gguf file.
        finished: PathBuf,
        #[command(flatten)]
        onto: Onto,
    },
}

#[derive(Debug, Args)]
struct Onto {
    /// The model the plan is for.
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// The project to write (.ron).
    #[arg(long, value_name = "PROJECT.ron")]
    out: PathBuf,
    /// The target of the project; if left out, the one whose files the recipe is for, or the model's usual one.
    #[arg(long, value_name = "ID")]
    target: Option<String>,
}

impl Recipe {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::List => output::print(&list()),
            What::Write { project, kind, out } => write(&project, &kind, out.as_deref()),
            What::Read { recipe, kind, onto } => {
                let checkpoint = Checkpoint::open(&onto.model)?;
                let taken = recipe::read(&kind, &recipe, &checkpoint)?;
                onto.save(&checkpoint, taken)
            }
            What::Recover { finished, onto } => {
                let checkpoint = Checkpoint::open(&onto.model)?;
                let taken = recipe::recover(&finished, &checkpoint)?;
                onto.save(&checkpoint, taken)
            }
        }
    }
}

fn list() -> String {
    let mut table = output::Table::new(&["<kind", "<file", "<what it is"]);
    for kind in recipe::kinds() {
        table.row(vec![kind.id.to_owned(), kind.file_name.to_owned(), kind.summary.to_owned()]);
    }
    table.render()
}

fn write(path: &Path, kind: &str, out: Option<&Path>) -> anyhow::Result<()> {
    let project = Project::read(path)?;
    let checkpoint = Checkpoint::open(&project.checkpoint_path(path))?;
    let plan = project.resolve(&checkpoint)?;
    let (text, unsaid) = recipe::write(kind, &checkpoint, &plan)?;
    output::tell(&unsaid);
    match out {
        Some(out) => Ok(disk::write_named_file(out, text.as_bytes())?),
        None => output::print(&text),
    }
}

impl Onto {
    fn save(&self, checkpoint: &Checkpoint, taken: Taken) -> anyhow::Result<()> {
        if taken.plan.is_empty() && taken.plan.removal().is_empty() {
            output::tell(&taken.unsaid);
            bail!(Error::plan(
                format!("the recipe compresses no layer of {}", checkpoint.path().display()),
                "check that it is for this model",
            ));
        }
        let target = match self.target.as_deref().or(taken.target) {
            Some(id) => target::find(id)?,
            None => target::default_for(checkpoint),
        };
        let removed = match taken.plan.removal() {
            removal if removal.is_empty() => String::new(),
            removal => format!("{} taken out, ", removal.told()),
        };
        let named = relative_checkpoint(checkpoint.path(), &self.out);
        let n = taken.plan.len();
        let draft = Draft::new(taken.plan, target);
        Project::of(named, &draft, View::default()).write(&self.out)?;
        output::tell(&taken.unsaid);
        output::print(&format!(
            "{removed}{n} layers compressed, for {}; written to {}\n",
            target.about().id,
            self.out.display()
        ))
    }
}
