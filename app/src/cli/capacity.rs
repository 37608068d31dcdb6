//! `lapidary capacity`: what every form can hold, on values whose bounds are known or on a layer.

use std::path::PathBuf;

use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::job::{Held, Sample, Source, capacity, entropy_coded, forms};
use serde::Serialize;

use crate::cli::output::{self, Table, Terminal};
use crate::theme::text;

/// Arguments of `capacity`.
#[derive(Debug, Args)]
pub(super) struct Capacity {
    /// A Hugging Face folder or a .safetensors file, of which `--layer` names a tensor; without it, normal and Laplace
    /// values are held.
    #[arg(requires = "layer")]
    model: Option<PathBuf>,
    /// The layer to hold: some 2^18 of its weights.
    #[arg(long, requires = "model")]
    layer: Option<String>,
    /// List every form, not only those of least distortion for their bits.
    #[arg(long)]
    all: bool,
    /// Print one JSON array, an object for each kind of values.
    #[arg(long)]
    json: bool,
}

/// What was found of one kind of values, as `--json` prints it.
#[derive(Serialize)]
struct Found {
    values: String,
    forms: Vec<Form>,
    /// Bits a value and distortion of uniform quantisers with an ideal entropy coder.
    entropy_coded: Vec<[f64; 2]>,
}

#[derive(Serialize)]
struct Form {
    #[serde(rename = "form")]
    name: String,
    bits: f64,
    distortion: f64,
    /// What no code of so many bits can be below; null where that is not known.
    bound: Option<f64>,
    is_best: bool,
}

impl Capacity {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let found = self.find(&terminal);
        terminal.finish();
        let found = found?;
        if self.json {
            return output::print(&(serde_json::to_string_pretty(&found)? + "\n"));
        }
        for found in &found {
            output::print(&format!("{}\n", found.values))?;
            output::print(&table(found))?;
        }
        output::print(NOTE)
    }

    /// Every form on every kind of values.
    fn find(&self, terminal: &Terminal) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        for (values, source, sample) in self.samples(terminal)? {
            let held = capacity(&sample, &forms(), terminal)?;
            let form = |held: Held| Form {
                bound: source.map(|source| source.bound(held.bits)),
                name: held.label,
                bits: held.bits,
                distortion: held.distortion,
                is_best: held.is_best,
            };
            let forms =
                held.into_iter().filter(|held| self.all || held.is_best).map(form).collect();
            found.push(Found { values, forms, entropy_coded: entropy_coded(sample.weights()) });
        }
        Ok(found)
    }

    fn samples(
        &self,
        terminal: &Terminal,
    ) -> anyhow::Result<Vec<(String, Option<Source>, Sample)>> {
        let (Some(model), Some(layer)) = (&self.model, &self.layer) else {
            let of = |source: Source| (source.title().to_owned(), Some(source), source.sample());
            return Ok(Source::ALL.map(of).into());
        };
        let checkpoint = Checkpoint::open(model)?;
        let index = checkpoint.tensors().iter().position(|tensor| tensor.name == *layer);
        let index = index.ok_or_else(|| {
            let what = format!("{} has no tensor {layer:?}", model.display());
            Error::plan(what, "name one that `lapidary inspect` lists")
        })?;
        Ok(vec![(layer.clone(), None, Sample::new(&checkpoint, index, terminal)?)])
    }
}

const NOTE: &str = "\
Bits are those of everything stored; distortion is the sum of squared errors over that of the values; the bound is Shannon's. Entropy coded: a uniform
quantiser whose codes an ideal coder stores. Listed are the forms that need no data, those of least distortion for their bits unless --all is given.\n";

fn table(found: &Found) -> String {
    let mut table = Table::new(&["form", "bits/weight", "distortion", "bound", "times bound"]);
    let dash = || "-".to_owned();
    for form in &found.forms {
        table.row(vec![
            form.name.clone(),
            format!("{:.3}", form.bits),
            text::value(form.distortion),
            form.bound.map_or_else(dash, text::value),
            form.bound.map_or_else(dash, |bound| format!("{:.2}", form.distortion / bound)),
        ]);
    }
    for [bits, distortion] in &found.entropy_coded {
        table.row(vec![
            "(entropy coded)".to_owned(),
            format!("{bits:.3}"),
            text::value(*distortion),
            dash(),
            dash(),
        ]);
    }
    table.render()
}
