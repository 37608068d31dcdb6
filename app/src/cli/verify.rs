//! `lapidary verify`: an output that is there already, proved against the checkpoint it was made from.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Verified};

use crate::cli::output::{self, Table, Terminal};
use crate::converting::verdict;
use crate::theme::text;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The output: a folder or file in any format that is read here.
    output: PathBuf,
    /// The checkpoint it was made from.
    #[arg(long, value_name = "CHECKPOINT")]
    source: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let source = Checkpoint::open(&self.source)?;
        let terminal = Terminal::new();
        let done = export::verify(&self.output, &source, &terminal);
        terminal.finish();
        let found = done?;
        if self.json {
            output::print(&(serde_json::to_string_pretty(&found)? + "\n"))?;
        } else {
            output::print(&table(&found))?;
        }
        let Some(first) = found.faults.first() else { return Ok(()) };
        let what = match found.faults.len() - 1 {
            0 => first.clone(),
            others => format!("{first}, and {others} more"),
        };
        bail!(Error::Unproved { path: self.output, what })
    }
}

fn table(found: &Verified) -> String {
    let mut table = Table::new(&["tensor", "<stored", "error", "as reported"]);
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), text::percent);
    let shown = |tensor: &&export::VerifiedTensor| tensor.stored != "identical";
    for tensor in found.tensors.iter().filter(shown) {
        let errors = [tensor.relative_error, tensor.reported].map(or_dash);
        table.row([vec![tensor.name.clone(), tensor.stored.to_owned()], errors.to_vec()].concat());
    }
    let faults: Vec<String> =
        found.faults.iter().map(|fault| format!("fault: {fault}\n")).collect();
    let faults = faults.concat();
    format!("{}{faults}{}\n", table.render(), verdict(found))
}
