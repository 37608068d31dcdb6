//! Importance matrices to records of a checkpoint's layers, and back.

use std::collections::BTreeMap;

use crate::calibration::imatrix::{Entry, Imatrix};
use crate::calibration::{Calibration, Record};
use crate::checkpoint::{Checkpoint, Tensor, to_gguf};
use crate::numeric::channels::Inputs;

impl Imatrix {
    /// The records of the layers of `checkpoint`, one a layer, with mean squares alone; and what could not be taken,
    /// a sentence each. A layer whose name has no counterpart in GGUF, or that has no entry, is passed over in
    /// silence: [`Calibration::problems`] names it.
    pub fn records(&self, checkpoint: &Checkpoint) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut unsaid, mut used) = (Vec::new(), Vec::new(), Vec::new());
        for tensor in checkpoint.tensors() {
            let Some((name, at, channels)) = source_of(checkpoint, tensor) else { continue };
            let Some((key, entry)) = self.entries.get_key_value(&name) else { continue };
            used.push(key.as_str());
            match entry.mean_square(at, channels) {
                Some((tokens, mean_square)) => records.push(record(tensor, tokens, mean_square)),
                None => unsaid.push(format!(
                    "{} has {channels} channels, which do not divide the {} sums of {name}.",
                    tensor.name,
                    entry.sums.len()
                )),
            }
        }
        used.sort_unstable();
        let unused = self.entries.keys().filter(|name| used.binary_search(&name.as_str()).is_err());
        unsaid.extend(unused.map(|name| format!("{name} belongs to no layer of this model.")));
        (records, unsaid)
    }

    /// The mean squares of a calibration in the names of GGUF, and what could not be said in them. Experts go into
    /// one entry; those without a record are there with a count of zero.
    pub fn from_calibration(calibration: &Calibration) -> (Self, Vec<String>) {
        let (mut experts, mut entries, mut unsaid) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for record in calibration.records() {
            for layer in &record.layers {
                let module = layer.strip_suffix(".weight").unwrap_or(layer);
                let Some(name) = to_gguf(module) else {
                    unsaid.push(format!("{layer} has no name in GGUF."));
                    continue;
                };
                let tensor = format!("{}.weight", name.tensor);
                match name.expert {
                    None => {
                        entries.insert(tensor, entry([Some(record)].into_iter()));
                    }
                    Some(expert) => {
                        let all: &mut BTreeMap<u32, &Record> = experts.entry(tensor).or_default();
                        all.insert(expert, record);
                    }
                }
            }
        }
        for (tensor, records) in experts {
            let last = records.keys().next_back().copied().unwrap_or(0);
            // A number that no model has would ask for that much memory.
            if last as usize >= 16 * records.len() + 1024 {
                unsaid.push(format!("{tensor} has an expert {last} among {}.", records.len()));
                continue;
            }
            entries.insert(tensor, entry((0..=last).map(|expert| records.get(&expert).copied())));
        }
        let settings = &calibration.settings;
        let chunk_size = u32::try_from(settings.sequence_tokens).unwrap_or(u32::MAX);
        let chunks = settings.tokens / settings.sequence_tokens.max(1);
        let matrix = Self {
            datasets: settings.texts.iter().map(|text| text.name.clone()).collect(),
            chunk_count: u32::try_from(chunks).unwrap_or(u32::MAX),
            chunk_size,
            entries,
        };
        (matrix, unsaid)
    }
}

/// Name of the entry, which of its matrices, and channels of a layer.
fn source_of(checkpoint: &Checkpoint, tensor: &Tensor) -> Option<(String, usize, usize)> {
    // Experts in one tensor have entries of their own, and no record holds several.
    let matrix = tensor.matrix.filter(|_| tensor.shape.0.len() == 2)?;
    let name = checkpoint.gguf_name(tensor)?;
    Some((format!("{}.weight", name.tensor), name.expert.unwrap_or(0) as usize, matrix.shape.cols))
}

fn record(tensor: &Tensor, tokens: f64, mean_square: Vec<f32>) -> Record {
    let inputs = Inputs::of_mean_squares(tokens.round() as u64, mean_square);
    Record { layers: vec![tensor.name.clone()], routed_of: None, inputs, gram: None }
}

/// Sums and counts of matrices, one after the other; zeros where there is no record.
fn entry<'a>(records: impl Iterator<Item = Option<&'a Record>> + Clone) -> Entry {
    let channels =
        records.clone().flatten().map(|record| record.inputs.channels()).max().unwrap_or(0);
    let mut entry = Entry::default();
    for record in records {
        let tokens = record.map_or(0, |record| record.inputs.tokens);
        let squares = record.map_or(&[][..], |record| &record.inputs.mean_square);
        let sum = |at: usize| {
            let square = squares.get(at).copied().unwrap_or(0.0);
            (f64::from(square) * tokens as f64) as f32
        };
        entry.sums.extend((0..channels).map(sum));
        entry.counts.push(tokens as f32);
    }
    entry
}
