//! `lapidary remove`: blocks and experts taken out of a plan's model, those that are named or those that do least on a text.
//! And the options by which other commands take them out.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_engine::evaluation::Influences;
use lapidary_engine::plan::Plan;
use lapidary_engine::target;
use lapidary_engine::text::Source;
use lapidary_engine::{Error, Result};
use serde_json::json;

use crate::cli::output::{self, Table, Terminal};
use crate::document::draft::Draft;
use crate::document::project::{Project, View, relative_checkpoint};
use crate::running::{self, checkpoint_path};
use crate::theme::text;

/// What to take out, beside what a project takes out.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Removing {
    /// Take these blocks out, as 3,4 or 3-5, counted from 0.
    #[arg(long, value_name = "BLOCKS")]
    pub(super) remove_blocks: Option<String>,
    /// Take these experts out, as 2:0,5-7 for those of block 2, or *:0 for those of every block that has experts; may be
    /// given several times.
    #[arg(long, value_name = "BLOCK:EXPERTS")]
    pub(super) remove_experts: Vec<String>,
}

impl Removing {
    /// What is asked for, of this model.
    ///
    /// # Errors
    /// [`Error::Plan`] for what is no list of numbers.
    pub(super) fn wanted(&self, checkpoint: &Checkpoint) -> Result<Removal> {
        let mut removal = Removal::default();
        if let Some(blocks) = &self.remove_blocks {
            removal.blocks.extend(numbers(blocks)?);
        }
        for said in &self.remove_experts {
            let (of, experts) = said.split_once(':').ok_or_else(|| malformed(said))?;
            let experts = numbers(experts)?;
            let blocks = match of.trim() {
                "*" => blocks_with_experts(checkpoint),
                of => numbers(of)?,
            };
            for block in blocks {
                removal.experts.entry(block).or_default().extend(&experts);
            }
        }
        Ok(removal)
    }

    /// Adds it to what a plan takes out.
    ///
    /// # Errors
    /// Those of [`Removing::wanted`], and of [`Checkpoint::check_removal`].
    pub(super) fn add_to(&self, plan: &mut Plan, checkpoint: &Checkpoint) -> Result<()> {
        let wanted = self.wanted(checkpoint)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let all = plan.removal().with(&wanted);
        checkpoint.check_removal(&all)?;
        plan.set_removal(all);
        Ok(())
    }

    /// Adds it to what a project takes out, whose checkpoint is opened where anything is asked for.
    ///
    /// # Errors
    /// Those of [`Removing::add_to`]; what opening says.
    pub(super) fn add_to_project(
        &self,
        project: &mut Project,
        path: &std::path::Path,
    ) -> Result<()> {
        if self.remove_blocks.is_none() && self.remove_experts.is_empty() {
            return Ok(());
        }
        let checkpoint = Checkpoint::open(&project.checkpoint_path(path))?;
        let mut plan = project.resolve(&checkpoint)?;
        self.add_to(&mut plan, &checkpoint)?;
        project.removed = plan.removal().clone();
        Ok(())
    }
}

fn malformed(said: &str) -> Error {
    Error::plan(
        format!("{said:?} does not say what to take out"),
        "write blocks as 3,4 or 3-5, and experts as 2:0,5 with their block before the colon",
    )
}

/// `3,4` or `3-5`.
fn numbers(said: &str) -> Result<Vec<u32>> {
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_no_number| malformed(said));
    let mut all = Vec::new();
    for part in said.split(',') {
        match part.split_once(['-', '–']) {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first || last - first > 1 << 16 {
                    return Err(malformed(said));
                }
                all.extend(first..=last);
            }
            None => all.push(number(part)?),
        }
    }
    Ok(all)
}

fn blocks_with_experts(checkpoint: &Checkpoint) -> Vec<u32> {
    let of_expert = checkpoint
        .tensors()
        .iter()
        .filter(|tensor| tensor.place.expert.is_some() || tensor.name.contains(".experts."));
    let mut blocks: Vec<u32> = of_expert.filter_map(|tensor| tensor.place.block).collect();
    blocks.dedup();
    blocks
}

/// Take blocks and experts out of a model: name them, or have those named that do least on a text.
#[derive(Debug, Args)]
pub(super) struct Remove {
    /// A Hugging Face folder, or a project, whose plan goes on.
    model: PathBuf,
    #[command(flatten)]
    removing: Removing,
    /// Put back everything that the project takes out, before anything else.
    #[arg(long)]
    put_back: bool,
    /// A text to run: what every block and expert does to it is listed.
    #[arg(long)]
    text: Option<PathBuf>,
    /// The most tokens of it.
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    tokens: usize,
    /// Take out so many more of the blocks, those that do least on --text.
    #[arg(long, default_value_t = 0, value_name = "COUNT", requires = "text")]
    least_blocks: usize,
    /// Take out so many more of each block's experts, those that do least on --text.
    #[arg(long, default_value_t = 0, value_name = "COUNT", requires = "text")]
    least_experts: usize,
    /// The target; that of the project, or the model's usual one, if left out.
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// The project to write (.ron).
    #[arg(long, value_name = "PROJECT.ron")]
    out: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Remove {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let path = checkpoint_path(&self.model)?;
        let checkpoint = Arc::new(Checkpoint::open(&path)?);
        let (mut draft, view) = self.draft(&checkpoint, path != self.model)?;
        let influences = match &self.text {
            Some(text) => Some(self.measure(&checkpoint, text)?),
            None => None,
        };
        let before =
            if self.put_back { Removal::default() } else { draft.plan().removal().clone() };
        let mut removal = before.with(&self.removing.wanted(&checkpoint)?);
        if let Some(found) = &influences {
            let blocks = found.least_blocks(self.least_blocks, &|block| removal.has_block(block));
            removal.blocks.extend(blocks);
            let is_out = |block, expert| removal.has_expert(block, expert);
            let experts = found.least_experts(self.least_experts, &is_out);
            for (block, expert) in experts {
                removal.experts.entry(block).or_default().insert(expert);
            }
        }
        let removal = removal.plain();
        checkpoint.check_removal(&removal)?;
        draft.plan_mut().set_removal(removal);
        if let Some(out) = &self.out {
            Project::of(relative_checkpoint(checkpoint.path(), out), &draft, view).write(out)?;
        }
        self.print(&checkpoint, &draft, influences.as_ref())
    }

    fn draft(&self, checkpoint: &Checkpoint, is_project: bool) -> Result<(Draft, View)> {
        let (mut draft, view) = if is_project {
            let project = Project::read(&self.model)?;
            (project.draft(checkpoint)?, project.view)
        } else {
            (Draft::new(Plan::default(), target::default_for(checkpoint)), View::default())
        };
        if let Some(id) = &self.target {
            draft.choose(target::find(id)?);
        }
        Ok((draft, view))
    }

    fn measure(&self, checkpoint: &Arc<Checkpoint>, path: &std::path::Path) -> Result<Influences> {
        let terminal = Terminal::new();
        let text = Source::Path { path: path.to_path_buf(), field: Some("text".to_owned()) };
        let subject = running::Subject::plain(checkpoint.clone(), "the model");
        let found = running::influences(&subject, (&text, self.tokens), &terminal);
        terminal.finish();
        found
    }

    fn print(
        &self,
        checkpoint: &Checkpoint,
        draft: &Draft,
        influences: Option<&Influences>,
    ) -> anyhow::Result<()> {
        let (plan, target) = (draft.plan(), draft.target());
        let bytes = |plan: &Plan| -> Result<u64> {
            let entries = target::entries_of_whole(checkpoint, plan, target)?;
            Ok(entries.iter().map(|entry| entry.bytes).sum())
        };
        let mut whole = Plan::clone(plan);
        whole.set_removal(Removal::default());
        let (before, after) = (bytes(&whole)?, bytes(plan)?);
        if self.json {
            let object = json!({
                "removed": plan.removal(),
                "tensor_bytes_before": before,
                "tensor_bytes": after,
                "influences": influences,
            });
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        if let Some(found) = influences {
            output::print(&tables(found, plan.removal()))?;
        }
        let said = if plan.removal().is_empty() {
            "nothing is taken out".to_owned()
        } else {
            format!("{} taken out", plan.removal().told())
        };
        output::print(&format!(
            "{said}\ntensors for {}: {} → {} bytes\n",
            target.about().id,
            text::count(before),
            text::count(after)
        ))?;
        let hint =
            "run: lapidary evaluate PROJECT --text FILE, to see what the model loses by it\n";
        if self.out.is_some() && !plan.removal().is_empty() {
            output::print(hint)?;
        }
        Ok(())
    }
}

/// What each block and expert does, and whether it is taken out.
fn tables(found: &Influences, removal: &Removal) -> String {
    let mark = |is_gone: bool| if is_gone { "taken out" } else { "" }.to_owned();
    let mut table = Table::new(&["block", "influence", "<"]);
    for (block, influence) in (0..).zip(&found.blocks) {
        let gone = mark(removal.has_block(block));
        table.row(vec![block.to_string(), text::value(*influence), gone]);
    }
    let mut said = table.render()
        + "influence is 1 − the mean cosine between what enters a block and what leaves it\n";
    if found.experts.is_empty() {
        return said;
    }
    let mut table = Table::new(&["block", "expert", "tokens", "saliency", "<"]);
    for of in &found.experts {
        let gone = mark(removal.has_expert(of.block, of.expert));
        let [block, expert] = [of.block, of.expert].map(|number| number.to_string());
        table.row(vec![block, expert, text::count(of.tokens), text::value(of.saliency), gone]);
    }
    said.push('\n');
    said += &table.render();
    said + "saliency is the mean of share · ‖answer‖ over the tokens that were sent to the expert\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read() {
        let read = |said: &str| numbers(said).ok();
        assert_eq!(read("3,4"), Some(vec![3, 4]));
        assert_eq!(read("0, 3-5"), Some(vec![0, 3, 4, 5]));
        assert_eq!(
            [read(""), read("a"), read("5-3"), read("-1"), read("1-9999999")],
            [const { None }; 5]
        );
    }
}
