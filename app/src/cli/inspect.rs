//! `lapidary inspect`: every tensor of a checkpoint, as a table or as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::{Checkpoint, Matrix, MatrixKind, Tensor};
use lapidary_engine::compare::held;
use lapidary_engine::observer::{Observer as _, Progress, Unit};
use lapidary_engine::statistics::{self, Bits, GROUP_WIDTHS, Spectrum, Statistics, Structure};
use lapidary_engine::tensor::DType;
use serde::Serialize;

use crate::cli::output::{self, Table, Terminal};
use crate::theme::text;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A Hugging Face folder, a .safetensors file or a GGUF file.
    ///
    /// Without --headers: `kurtosis` is excess kurtosis, 0 for a normal distribution; `beyond 6σ` (`outlier_fraction`) is the
    /// share of values more than 6 standard deviations from the mean.
    model: PathBuf,
    /// Read headers only, no weights.
    #[arg(long)]
    headers: bool,
    /// Compute singular values of every weight matrix too.
    #[arg(long, conflicts_with = "headers")]
    spectrum: bool,
    /// Look how the weights of every matrix are arranged too: group peaks, where outliers sit, the largest weights.
    ///
    /// `tails × normal` (`tails_against_normal`) is Σz² over |z| > 4, with z = (w − mean)/std, over what as many normal
    /// weights have there, n·0.001134: 1 for a normal distribution. Where these tails beyond 4 standard deviations sit, `tails in
    /// columns`, `in rows` and `scattered` (`outliers_in_columns`, …), is given in shares of their Σz²; the column `beyond 6σ`
    /// counts values.
    ///
    /// Rows and columns (`largest`, `hot_rows`, `hot_columns`) are those of `matrix`, [out, in]. Layers of the GPT-2
    /// family are stored [in, out]; `transposed` says where the rows of the matrix are the columns of the file.
    #[arg(long, conflicts_with = "headers")]
    structure: bool,
    /// Print one JSON array, an object per tensor.
    #[arg(long)]
    json: bool,
}

/// One tensor, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    shape: &'a [usize],
    /// Element type, or what the tensor is stored in: `Q4_K`.
    dtype: &'a str,
    block: Option<u32>,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expert: Option<u32>,
    parameters: u64,
    bytes: u64,
    /// Bits that a value takes on disk, scales included, where it is stored in codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<f64>,
    #[serde(flatten)]
    values: Option<Values>,
    #[serde(flatten)]
    structure: Option<StructureRow>,
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
    /// Excess kurtosis: 0 for a normal distribution.
    kurtosis: f64,
    /// Share of values more than 6 standard deviations from the mean.
    outlier_fraction: f64,
    zeros: f64,
    mean_abs_deviation: f64,
    super_weights: u64,
    /// Null for integers, and where there are too few weights to tell.
    lossless_floor_bits: Option<f64>,
    narrowest_type: Option<&'static str>,
    nan: u64,
    positive_infinity: u64,
    negative_infinity: u64,
}

/// How a tensor is seen as a matrix [out, in], to which rows and columns refer.
#[derive(Serialize)]
struct MatrixRow {
    rows: usize,
    cols: usize,
    /// Whether the file has rows and columns the other way round.
    transposed: bool,
}

impl MatrixRow {
    fn new(matrix: Matrix) -> Self {
        let Matrix { shape, kind } = matrix;
        Self { rows: shape.rows, cols: shape.cols, transposed: kind == MatrixKind::Conv1d }
    }
}

/// How the weights of a matrix are arranged; null for other tensors.
#[derive(Serialize)]
struct StructureRow {
    matrix: Option<MatrixRow>,
    group_peaks: Option<BTreeMap<String, f64>>,
    tails_against_normal: Option<f64>,
    outliers_in_columns: Option<f64>,
    outliers_in_rows: Option<f64>,
    outliers_scattered: Option<f64>,
    hot_columns: Option<Vec<usize>>,
    hot_rows: Option<Vec<usize>>,
    hidden_grid_levels: Option<usize>,
    largest: Option<Vec<(usize, usize, f64)>>,
}

impl StructureRow {
    fn new(matrix: Option<Matrix>, structure: Option<Structure>) -> Self {
        let peaks = |structure: &Structure| {
            let widths = GROUP_WIDTHS.iter().map(ToString::to_string).chain(["row".to_owned()]);
            widths.zip(structure.group_peaks.iter().copied()).collect()
        };
        let of = structure.as_ref().map(|structure| &structure.concentration);
        Self {
            matrix: matrix.map(MatrixRow::new),
            group_peaks: structure.as_ref().map(peaks),
            tails_against_normal: of.map(|found| found.against_normal),
            outliers_in_columns: of.map(|found| found.in_columns),
            outliers_in_rows: of.map(|found| found.in_rows),
            outliers_scattered: of.map(|found| found.scattered),
            hot_columns: of.map(|found| found.hot_columns.clone()),
            hot_rows: of.map(|found| found.hot_rows.clone()),
            hidden_grid_levels: structure
                .as_ref()
                .and_then(|structure| Some(structure.hidden_grid.as_ref()?.levels)),
            largest: structure.as_ref().map(|structure| {
                structure
                    .largest
                    .iter()
                    .map(|place| (place.row, place.col, f64::from(place.value)))
                    .collect()
            }),
        }
    }
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
            mean_abs_deviation: measured.mean_abs_deviation,
            super_weights: measured.super_weight_count,
            lossless_floor_bits: measured.bits.as_ref().and_then(Bits::floor_bits),
            narrowest_type: measured.bits.as_ref().and_then(|bits| bits.narrowest).map(DType::name),
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
        let checkpoint = held(Checkpoint::open(&self.model)?)?;
        let terminal = Terminal::new();
        let mut rows = Vec::with_capacity(checkpoint.tensors().len());
        let (mut done_bytes, total_bytes) = (0, checkpoint.tensor_bytes());
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            terminal.progress(Progress {
                stage: "Measuring",
                item: tensor.name.clone(),
                done: done_bytes,
                total: total_bytes,
                unit: Unit::Bytes,
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
        let is_measured = !self.headers && tensor.is_readable();
        let values =
            is_measured.then(|| statistics::measure(checkpoint, index, terminal)).transpose()?;
        let spectrum = if self.spectrum {
            Some(SpectrumRow::new(spectrum(checkpoint, index, tensor, terminal)?))
        } else {
            None
        };
        let structure = match &values {
            Some(values) if self.structure && tensor.matrix.is_some() => {
                let spread = (values.mean, values.std);
                Some(statistics::measure_structure(checkpoint, index, spread, terminal)?)
            }
            _ => None,
        };
        Ok(Row {
            structure: self.structure.then(|| StructureRow::new(tensor.matrix, structure)),
            name: &tensor.name,
            shape: &tensor.shape.0,
            dtype: tensor.type_name(),
            block: tensor.place.block,
            role: tensor.place.role.name(),
            expert: tensor.place.expert,
            parameters: tensor.parameters(),
            bytes: tensor.bytes(),
            bits: tensor.coded.as_ref().map(|_| tensor.stored_bits()),
            values: values.as_ref().map(Values::new),
            spectrum,
        })
    }

    fn table(&self, rows: &[Row<'_>]) -> String {
        let has_codes = rows.iter().any(|row| row.bits.is_some());
        let mut heads = vec!["tensor", "<shape", "<dtype", "block", "<role", "parameters", "bytes"];
        if has_codes {
            heads.push("bits");
        }
        if !self.headers {
            heads.extend(["std", "abs max", "excess kurtosis", "beyond 6σ", "zeros", "nan, inf"]);
        }
        if self.structure {
            heads.extend([
                "peak g128",
                "tails × normal",
                "tails in columns",
                "in rows",
                "scattered",
            ]);
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
            if has_codes {
                cells.push(row.bits.map_or_else(|| "–".to_owned(), text::value));
            }
            if !self.headers {
                cells.extend(value_cells(row.values.as_ref()));
            }
            if let Some(structure) = &row.structure {
                cells.extend(structure_cells(structure));
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

fn structure_cells(structure: &StructureRow) -> [String; 5] {
    let none = || "–".to_owned();
    let peak = structure.group_peaks.as_ref().and_then(|peaks| peaks.get("128"));
    let share = |share: Option<f64>| share.map_or_else(none, text::percent);
    [
        peak.copied().map_or_else(none, text::value),
        structure.tails_against_normal.map_or_else(none, text::value),
        share(structure.outliers_in_columns),
        share(structure.outliers_in_rows),
        share(structure.outliers_scattered),
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
