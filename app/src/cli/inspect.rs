//! `lapidary inspect`: every tensor of a checkpoint, as a table or as JSON.

use std::path::PathBuf;

use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::{Checkpoint, Tensor};
use lapidary_engine::observer::{Observer as _, Progress};
use lapidary_engine::statistics::{self, Spectrum, Statistics};
use serde::Serialize;

use crate::cli::output::{self, Table, Terminal};
use crate::theme::text;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A Hugging Face folder or a .safetensors file.
    model: PathBuf,
    /// Read headers only, no weights.
    #[arg(long)]
    headers: bool,
    /// Compute singular values of every weight matrix too.
    #[arg(long, conflicts_with = "headers")]
    spectrum: bool,
    /// Print one JSON array, an object per tensor.
    #[arg(long)]
    json: bool,
}

/// One tensor, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    shape: &'a [usize],
    dtype: &'static str,
    block: Option<u32>,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expert: Option<u32>,
    parameters: u64,
    bytes: u64,
    #[serde(flatten)]
    values: Option<Values>,
    #[serde(flatten)]
    spectrum: Option<SpectrumRow>,
}

/// Statistics of the finite values; null where there is none to speak of.
#[derive(Serialize)]
struct Values {
    mean: f64,
    std: f64,
    min: f64,
    max: f64,
    abs_max: f64,
    kurtosis: f64,
    outlier_fraction: f64,
    zeros: f64,
    nan: u64,
    positive_infinity: u64,
    negative_infinity: u64,
}

#[derive(Serialize)]
struct SpectrumRow {
    singular_values: Option<Vec<f64>>,
    stable_rank: Option<f64>,
    effective_rank: Option<f64>,
}

impl Values {
    fn new(measured: &Statistics) -> Self {
        Self {
            mean: measured.mean,
            std: measured.std,
            min: measured.min,
            max: measured.max,
            abs_max: measured.abs_max,
            kurtosis: measured.kurtosis,
            outlier_fraction: measured.outlier_fraction,
            zeros: measured.zeros,
            nan: measured.nan,
            positive_infinity: measured.positive_infinity,
            negative_infinity: measured.negative_infinity,
        }
    }
}

impl SpectrumRow {
    fn new(spectrum: Option<Spectrum>) -> Self {
        let Some(spectrum) = spectrum else {
            return Self { singular_values: None, stable_rank: None, effective_rank: None };
        };
        Self {
            stable_rank: Some(spectrum.stable_rank),
            effective_rank: Some(spectrum.effective_rank),
            singular_values: Some(spectrum.singular_values),
        }
    }
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let checkpoint = Checkpoint::open(&self.model)?;
        let terminal = Terminal::new();
        let mut rows = Vec::with_capacity(checkpoint.tensors().len());
        let (mut done_bytes, total_bytes) = (0, checkpoint.tensor_bytes());
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            terminal.progress(Progress {
                stage: "Measuring",
                item: tensor.name.clone(),
                done_bytes,
                total_bytes,
            });
            rows.push(self.row(&checkpoint, index, tensor, &terminal)?);
            done_bytes += tensor.bytes();
        }
        terminal.finish();
        if self.json {
            return output::print(&(serde_json::to_string_pretty(&rows)? + "\n"));
        }
        output::print(&self.table(&rows))?;
        output::print(&summary(&checkpoint))
    }

    fn row<'a>(
        &self,
        checkpoint: &Checkpoint,
        index: usize,
        tensor: &'a Tensor,
        terminal: &Terminal,
    ) -> anyhow::Result<Row<'a>> {
        let is_measured = !self.headers && tensor.dtype.is_readable();
        let values =
            is_measured.then(|| statistics::measure(checkpoint, index, terminal)).transpose()?;
        let spectrum = if self.spectrum {
            Some(SpectrumRow::new(spectrum(checkpoint, index, tensor, terminal)?))
        } else {
            None
        };
        Ok(Row {
            name: &tensor.name,
            shape: &tensor.shape.0,
            dtype: tensor.dtype.name(),
            block: tensor.place.block,
            role: tensor.place.role.name(),
            expert: tensor.place.expert,
            parameters: tensor.parameters(),
            bytes: tensor.bytes(),
            values: values.as_ref().map(Values::new),
            spectrum,
        })
    }

    fn table(&self, rows: &[Row<'_>]) -> String {
        let mut heads = vec!["tensor", "<shape", "<dtype", "block", "<role", "parameters", "bytes"];
        if !self.headers {
            heads.extend(["std", "abs max", "kurtosis", "outliers", "zeros", "nan, inf"]);
        }
        if self.spectrum {
            heads.extend(["σ₁", "stable rank", "effective rank"]);
        }
        let mut table = Table::new(&heads);
        for row in rows {
            let shape: Vec<String> = row.shape.iter().map(ToString::to_string).collect();
            let mut cells = vec![
                row.name.to_owned(),
                shape.join(" × "),
                row.dtype.to_owned(),
                row.block.map_or_else(|| "–".to_owned(), |block| block.to_string()),
                row.role.to_owned(),
                text::count(row.parameters),
                text::count(row.bytes),
            ];
            if !self.headers {
                cells.extend(value_cells(row.values.as_ref()));
            }
            if let Some(spectrum) = &row.spectrum {
                cells.extend(spectrum_cells(spectrum));
            }
            table.row(cells);
        }
        table.render()
    }
}

fn value_cells(values: Option<&Values>) -> [String; 6] {
    let Some(values) = values else { return std::array::from_fn(|_| "–".to_owned()) };
    let non_finite = values.nan + values.positive_infinity + values.negative_infinity;
    [
        text::value(values.std),
        text::value(values.abs_max),
        text::value(values.kurtosis),
        text::percent(values.outlier_fraction),
        text::percent(values.zeros),
        text::count(non_finite),
    ]
}

fn spectrum_cells(spectrum: &SpectrumRow) -> [String; 3] {
    let largest = spectrum.singular_values.as_ref().and_then(|values| values.first().copied());
    [largest, spectrum.stable_rank, spectrum.effective_rank]
        .map(|value| value.map_or_else(|| "–".to_owned(), text::value))
}

/// The spectrum of a matrix; `None` with a warning where its weights are not finite, so that one bad layer does
/// not hide the others.
fn spectrum(
    checkpoint: &Checkpoint,
    index: usize,
    tensor: &Tensor,
    terminal: &Terminal,
) -> anyhow::Result<Option<Spectrum>> {
    if tensor.matrix.is_none() {
        return Ok(None);
    }
    match statistics::measure_spectrum(checkpoint, index, terminal) {
        Ok(spectrum) => Ok(Some(spectrum)),
        Err(error @ Error::Numeric { .. }) => {
            terminal.warn(error.sentence());
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn summary(checkpoint: &Checkpoint) -> String {
    let (n, files) = (checkpoint.tensors().len(), checkpoint.files().len());
    let of = if files == 1 { String::new() } else { format!(" in {files} files") };
    let parameters = text::parameters(checkpoint.parameters());
    format!(
        "{n} tensors{of}, {parameters} parameters, {}\n",
        text::bytes(checkpoint.tensor_bytes())
    )
}
