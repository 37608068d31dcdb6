//! `lapidary squeeze`: weight files in fewer bytes that give every bit back; `lapidary unpack` makes them again.

use std::path::{Path, PathBuf};

use clap::Args;
use lapidary_engine::export::{self, Destination, Squeezed};
use lapidary_engine::job::Limits;

use crate::cli::output::{self, Terminal};
use crate::converting::named;
use crate::theme::text;

/// Arguments of `squeeze`.
#[derive(Debug, Args)]
pub(super) struct Squeeze {
    /// A folder with safetensors files, whatever they hold, or one such file.
    model: PathBuf,
    /// Hold tensors against those of this checkpoint where that takes less; needed again to restore them.
    #[arg(long, value_name = "CHECKPOINT")]
    base: Option<PathBuf>,
    /// The folder to write; by default the name with `-squeezed`, in the current folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace an earlier output in that folder.
    #[arg(long)]
    force: bool,
    /// Only estimate the size, from one chunk in 32.
    #[arg(long)]
    dry_run: bool,
}

impl Squeeze {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let base = self.base.as_deref();
        if self.dry_run {
            let done = export::estimate_squeezed(&self.model, base, &terminal);
            terminal.finish();
            let (before, after) = done?;
            return output::print(&format!(
                "about {} of {}, {}\n",
                text::bytes(after),
                text::bytes(before),
                text::percent(after as f64 / before.max(1) as f64)
            ));
        }
        let out = self.out.clone().unwrap_or_else(|| named(&self.model, "squeezed"));
        let destination =
            Destination { folder: &out, replace: self.force, limits: Limits::default() };
        let done = export::squeeze(&self.model, base, destination, &terminal);
        terminal.finish();
        output::print(&said(&done?, &out))
    }
}

/// Makes a squeezed folder as it was.
pub(super) fn restore(
    folder: &Path,
    base: Option<&Path>,
    (out, force): (Option<&Path>, bool),
) -> anyhow::Result<()> {
    let out = out.map_or_else(|| named(folder, "restored"), Path::to_path_buf);
    let destination = Destination { folder: &out, replace: force, limits: Limits::default() };
    let terminal = Terminal::new();
    let done = export::unsqueeze(folder, base, destination, &terminal);
    terminal.finish();
    let files = done?.files.len();
    let told = match files {
        1 => "1 weight file, to the bit as it was".to_owned(),
        n => format!("{n} weight files, to the bit as they were"),
    };
    output::print(&format!("{told}, in {}\n", out.display()))
}

fn said(done: &Squeezed, out: &Path) -> String {
    let sum = |of: fn(&export::SqueezedFile) -> u64| done.files.iter().map(of).sum::<u64>();
    let (before, after) = (sum(|file| file.bytes), sum(|file| file.squeezed_bytes));
    let against = match &done.base {
        Some(base) => format!(", against {base}"),
        None => String::new(),
    };
    format!(
        "{} of {}, {}{against}; read back and the same to the bit\n{}\n",
        text::bytes(after),
        text::bytes(before),
        text::percent(after as f64 / before.max(1) as f64),
        out.display()
    )
}
