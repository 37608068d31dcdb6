//! The scales that an export moved from layers into what makes their inputs, as its report and the output itself say, so
//! that each tensor can be held against that of the source. In: source, output, report. Out: factors by tensor.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::disk;
use crate::error::{Error, Result};
use crate::export::{REPORT, Report, TensorReport};
use crate::fold::{self, Divides, Producer};
use crate::tensor::Factors;

/// The largest report that is read.
const MAX_REPORT_BYTES: u64 = 256 << 20;

/// By what each tensor of `source` is multiplied to be compared with that of `output`, by index: where the report of an
/// export from that source lies beside the output, the scales that it folded; otherwise nothing. With these
/// [`crate::compare::compare_scaled`] measures what a layer comes to and not where its scales went, as the report and
/// [`crate::export::verify()`] do. Where that export took parts out, `source` is what [`as_exported`] gives. Cost: config.json, and the vectors that were divided.
///
/// # Errors
/// [`Error::Malformed`] for a report that is not understood; [`Error::Io`].
pub fn folded_scales(source: &Checkpoint, output: &Checkpoint) -> Result<BTreeMap<usize, Factors>> {
    let Some(report) = report_beside(source, output)? else { return Ok(BTreeMap::new()) };
    if *source.removal() != report.removed {
        return Ok(BTreeMap::new());
    }
    let reported = report.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    Ok(undone(source, output, &reported)?.0)
}

/// The source as it was exported to `output`: without the blocks and experts that the report beside it says were taken out;
/// `None` where it says of none, or there is no report of an export from this source. Cost: names of all tensors.
///
/// # Errors
/// [`Error::Malformed`] for a report that is not understood; [`Error::Plan`] where what it says was taken out is not there.
pub fn as_exported(source: &Checkpoint, output: &Checkpoint) -> Result<Option<Checkpoint>> {
    match report_beside(source, output)? {
        Some(report) if !report.removed.is_empty() && source.removal().is_empty() => {
            source.without(&report.removed).map(Some)
        }
        _ => Ok(None),
    }
}

/// The report of an export from `source` in the folder of an output, if there is one.
fn report_beside(source: &Checkpoint, output: &Checkpoint) -> Result<Option<Report>> {
    let path = output.path();
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    Ok(read_report(folder)?.filter(|report| report.source == source.title()))
}

/// The report in the folder of an output, if there is one.
pub(super) fn read_report(folder: &Path) -> Result<Option<Report>> {
    let path = folder.join(REPORT);
    if !path.is_file() {
        return Ok(None);
    }
    let text = disk::read_text(&path, MAX_REPORT_BYTES)?;
    let report = serde_json::from_str(&text);
    report.map(Some).map_err(|error| Error::malformed("report", &path, error.to_string()))
}

/// The same from a report by name of tensor, with what is not as the report says, a sentence each.
pub(super) fn undone(
    source: &Checkpoint,
    output: &Checkpoint,
    reported: &BTreeMap<&str, &TensorReport>,
) -> Result<(BTreeMap<usize, Factors>, Vec<String>)> {
    let (mut factors, mut faults) = (BTreeMap::<usize, Factors>::new(), Vec::new());
    if !reported.values().any(|tensor| tensor.scaled_with.is_some()) {
        return Ok((factors, faults));
    }
    let producers = fold::producers(source).unwrap_or_default();
    for (index, tensor) in source.tensors().iter().enumerate() {
        let Some(report) = reported.get(tensor.name.as_str()) else { continue };
        if report.rows_divided.is_some() {
            match report.row_divisors() {
                Some(by) if tensor.matrix.is_some_and(|of| of.shape.rows == by.len()) => {
                    factors.entry(index).or_default().outputs =
                        by.iter().map(|by| by.recip()).collect();
                }
                _ => faults.push(format!(
                    "the report does not say by what each row of {} was divided",
                    tensor.name
                )),
            }
        }
        let Some(said) = report.scaled_with.as_deref() else { continue };
        let found = producers
            .iter()
            .find(|found| found.layers.contains(&index) && found.name(source) == said);
        let by = match found {
            Some(producer) => divided(source, output, (producer, reported.get(said).copied()))?,
            None => None,
        };
        match found.zip(by) {
            Some((producer, by)) => {
                factors.entry(index).or_default().inputs = producer.of_inputs(&by);
            }
            None => {
                faults.push(format!("{said}, which {} makes up for, is not there", tensor.name));
            }
        }
    }
    Ok((factors, faults))
}

/// By what the outputs of a producer were divided: of a norm the output says that, of rows the report.
fn divided(
    source: &Checkpoint,
    output: &Checkpoint,
    (producer, report): (&Producer, Option<&TensorReport>),
) -> Result<Option<Vec<f32>>> {
    let norm = match &producer.divides {
        Divides::Rows(rows) => {
            let by = report.and_then(TensorReport::row_divisors);
            return Ok(by.filter(|by| by.len() == rows.rows));
        }
        Divides::Norm(norm) => norm,
    };
    let name = producer.name(source);
    let Some(after) = output.find(name) else { return Ok(None) };
    let before = source.values(norm.weight)?;
    let after = if output.gguf().is_some() {
        let mut values = vec![0.0; before.len()];
        output.read_gguf(name, 0, &mut values)?;
        values
    } else {
        output.values(after)?
    };
    Ok((before.len() == after.len()).then(|| norm.divisors(&before, &after)))
}
