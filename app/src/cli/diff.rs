//! `lapidary diff`: how far the tensors of two checkpoints of one model are apart.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{self, Comparison, Counterpart};
use lapidary_engine::export;
use lapidary_engine::observer::{Observer as _, Progress, Unit};
use serde::Serialize;

use crate::cli::output::{self, Table, Terminal};
use crate::theme::text;

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The original: a Hugging Face folder or a .safetensors file; of one that is compressed, what it decodes to.
    a: PathBuf,
    /// The other: fine-tuned, converted, or compressed. Beside the report of an export from A, scales that it folded are
    /// undone, so that errors are those of what layers do.
    b: PathBuf,
    /// Print one JSON array, an object per tensor. It has `cosine` where the table has 1 − cosine, in which small
    /// differences show.
    #[arg(long)]
    json: bool,
}

/// One tensor, as `--json` prints it.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Pair(Pair<'a>),
    Only { name: &'a str, only_in: &'static str },
}

/// A tensor that both have; null where it cannot be compared, or where a number is undefined.
#[derive(Serialize)]
struct Pair<'a> {
    name: &'a str,
    /// Its name in A, where blocks or experts before it were taken out.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    shape: &'a [usize],
    relative_error: Option<f64>,
    cosine: Option<f64>,
    max_abs_difference: Option<f64>,
    changed: Option<f64>,
    bit_distance: Option<f64>,
    identical: Option<bool>,
    /// Whether scales that the export folded are taken out of the comparison.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    scales_undone: bool,
    /// Why it cannot be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

/// The last line of the table.
#[derive(Default)]
struct Summary {
    identical: usize,
    differ: usize,
    not_comparable: usize,
    only_in_a: usize,
    only_in_b: usize,
    scales_undone: usize,
    /// Σ‖A − B‖² and Σ‖A‖² over tensors of floats: an index is no weight.
    squares: (f64, f64),
}

impl Diff {
    pub(super) fn run(self) -> anyhow::Result<()> {
        // What A stores in codes is compared as what it decodes to, as is what B stores so.
        let (a, b) = (compare::held(Checkpoint::open(&self.a)?)?, Checkpoint::open(&self.b)?);
        let terminal = Terminal::new();
        // What the export of A took out is no difference; the rest is paired as its report says.
        let left = export::as_exported(&a, &b)?;
        let removed = left.as_ref().map(|left| left.removal().clone());
        let a = left.unwrap_or(a);
        let counterparts = compare::pairs(&a, &b);
        let scales = export::folded_scales(&a, &b)?;
        let (mut rows, mut summary) = (Vec::new(), Summary::default());
        let (mut done_bytes, total_bytes) = (0, a.tensor_bytes());
        for (index, (tensor, counterpart)) in a.tensors().iter().zip(&counterparts).enumerate() {
            let item = tensor.name.clone();
            terminal.progress(Progress {
                stage: "Comparing",
                item,
                done: done_bytes,
                total: total_bytes,
                unit: Unit::Bytes,
            });
            done_bytes += tensor.bytes();
            let Some(counterpart) = counterpart else {
                summary.only_in_a += 1;
                rows.push(Row::Only { name: &tensor.name, only_in: "a" });
                continue;
            };
            let of = (&a, index, scales.get(&index));
            let found = match compare::compare_scaled(of, &b, counterpart, &terminal) {
                Ok(found) => Ok(found),
                Err(error) => Err(because(error, counterpart)?),
            };
            summary.add(found.as_ref().ok(), tensor.dtype.is_compressible());
            let scales_undone = found.is_ok() && scales.contains_key(&index);
            summary.scales_undone += usize::from(scales_undone);
            let pair = Pair::new(&tensor.name, &tensor.shape.0, found);
            let from = Some(tensor.source_name()).filter(|from| *from != tensor.name);
            rows.push(Row::Pair(Pair { from, scales_undone, ..pair }));
        }
        let used: HashSet<usize> =
            counterparts.iter().flatten().flat_map(Counterpart::tensors).copied().collect();
        for (index, tensor) in b.tensors().iter().enumerate() {
            if !used.contains(&index) {
                summary.only_in_b += 1;
                rows.push(Row::Only { name: &tensor.name, only_in: "b" });
            }
        }
        terminal.finish();
        if summary.identical + summary.differ == 0 {
            return Err(summary.nothing_in_common((&a, &b), &rows).into());
        }
        if self.json {
            return output::print(&(serde_json::to_string_pretty(&rows)? + "\n"));
        }
        output::print(&table(&rows))?;
        if let Some(removed) = removed {
            output::print(&format!(
                "B is without {} of A, and names its layers by the numbers they have without\n",
                removed.told()
            ))?;
        }
        output::print(&summary.line())
    }
}

/// Why one tensor cannot be compared, so that it does not hide the others; any other failure ends the command.
fn because(error: Error, counterpart: &Counterpart) -> Result<String, Error> {
    match (error, counterpart) {
        (Error::Unsupported { .. }, Counterpart::Unreadable { because, .. }) => Ok(because.clone()),
        (error @ (Error::Shape { .. } | Error::Numeric { .. } | Error::Unsupported { .. }), _) => {
            Ok(error.to_string())
        }
        (error, _) => Err(error),
    }
}

impl<'a> Pair<'a> {
    fn new(name: &'a str, shape: &'a [usize], found: Result<Comparison, String>) -> Self {
        let (found, because) = match found {
            Ok(found) => (Some(found), None),
            Err(because) => (None, Some(because)),
        };
        Self {
            name,
            from: None,
            shape,
            relative_error: found.map(|found| found.relative_error),
            cosine: found.map(|found| found.cosine),
            max_abs_difference: found.map(|found| found.max_abs_difference),
            changed: found.map(|found| found.changed),
            bit_distance: found.and_then(|found| found.bit_distance),
            identical: found.map(|found| found.identical),
            scales_undone: false,
            because,
        }
    }

    fn cells(&self) -> [String; 7] {
        let or_dash = |value: Option<f64>, format: fn(f64) -> String| {
            value.map_or_else(|| "–".to_owned(), format)
        };
        let shape: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        let identical = match (self.identical, &self.because) {
            (Some(true), _) => "yes",
            (Some(false), _) if self.scales_undone => "no, scales undone",
            (Some(false), _) => "no",
            (None, because) => because.as_deref().unwrap_or("–"),
        };
        [
            shape.join(" × "),
            or_dash(self.relative_error, text::value),
            or_dash(self.cosine.map(|cosine| 1.0 - cosine), text::value),
            or_dash(self.max_abs_difference, text::value),
            or_dash(self.changed, text::percent),
            or_dash(self.bit_distance, text::bits),
            identical.to_owned(),
        ]
    }
}

impl Summary {
    fn add(&mut self, found: Option<&Comparison>, is_float: bool) {
        match found {
            None => self.not_comparable += 1,
            Some(found) if found.identical => self.identical += 1,
            Some(_) => self.differ += 1,
        }
        if let Some(found) = found.filter(|_| is_float) {
            self.squares.0 += found.distance * found.distance;
            self.squares.1 += found.norm * found.norm;
        }
    }

    /// Two checkpoints of which nothing can be compared are hardly those that were meant.
    fn nothing_in_common(&self, (a, b): (&Checkpoint, &Checkpoint), rows: &[Row<'_>]) -> Error {
        let reason = |row: &Row<'_>| match row {
            Row::Pair(Pair { name, because: Some(because), .. }) => {
                Some(format!(" ({name}: {because})"))
            }
            _ => None,
        };
        let what = format!(
            "no tensor of {} can be compared with one of {}: {} have none of their name, {} have one that does not fit{}",
            a.title(),
            b.title(),
            self.only_in_a,
            self.not_comparable,
            rows.iter().find_map(reason).unwrap_or_default()
        );
        Error::plan(what, "give two checkpoints of one model")
    }

    fn line(&self) -> String {
        let (error, norm) = self.squares;
        let total = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
        let not_comparable = match self.not_comparable {
            0 => String::new(),
            n => {
                let all = n + self.identical + self.differ;
                format!("{n} of {all} tensors that both have cannot be compared; of the others ")
            }
        };
        let scales_undone = match self.scales_undone {
            0 => String::new(),
            n => format!("scales that the export folded undone in {n}, "),
        };
        format!(
            "{not_comparable}{} identical, {} differ, {scales_undone}{} only in A, {} only in B, total relative error{} {}\n",
            self.identical,
            self.differ,
            self.only_in_a,
            self.only_in_b,
            if self.not_comparable > 0 { " of those compared alone" } else { "" },
            text::value(total)
        )
    }
}

fn table(rows: &[Row<'_>]) -> String {
    let mut table = Table::new(&[
        "tensor",
        "<shape",
        "relative error",
        "1 − cosine",
        "max difference",
        "changed",
        "bit distance",
        "<identical",
    ]);
    for row in rows {
        let (name, cells) = match row {
            Row::Pair(pair) => (pair.name, pair.cells()),
            Row::Only { name, only_in } => {
                let mut cells = std::array::from_fn(|_| "–".to_owned());
                cells[6] = format!("only in {}", only_in.to_uppercase());
                (*name, cells)
            }
        };
        table.row([&[name.to_owned()], &cells[..]].concat());
    }
    table.render()
}
