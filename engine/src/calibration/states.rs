//! Hidden states between two blocks on disk: what the next block reads, and where a run that stopped goes on; and what
//! entered a block, for those who refine it.
//!
//! `states.safetensors` and `block-00003.inputs.safetensors`: `states.00000000`, … (F32, `[tokens, hidden]`), one a batch of tokens, then `checksum` (U8,
//! `[32]`); the text of the header is the number of the last finished block, or the tokens of each sequence of each batch as JSON. Written and read batch by batch, so that
//! any number of tokens takes the memory of one batch.

use std::path::Path;

use ndarray::Array2;

use crate::calibration::part::{Opened, add_name, begin, metadata};
use crate::disk::NewFile;
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Spec};
use crate::tensor::{DType, Shape};

const CHECKSUM: &str = "checksum";

fn name(at: usize) -> String {
    format!("states.{at:08}")
}

/// The hidden states behind a block, or what enters one.
pub struct States {
    opened: Opened,
    batches: usize,
}

impl States {
    /// What they were written with: see [`write`].
    pub(super) fn text(&self) -> &str {
        self.opened.text().unwrap_or_default()
    }

    /// Number of batches.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// The states of a batch, `[tokens, hidden]`; `None` where the file has been cut since it was opened.
    pub fn get(&self, batch: usize) -> Option<Array2<f32>> {
        let (shape, values) = self.opened.f32s(&name(batch))?;
        let &[tokens, hidden] = shape else { return None };
        Array2::from_shape_vec((tokens, hidden), values).ok()
    }
}

impl std::fmt::Debug for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("States").field("text", &self.text()).finish_non_exhaustive()
    }
}

/// Writes hidden states with a text, whole or not at all; `make` gives each batch of `shapes` in turn, and may read the
/// file that is replaced.
pub(super) fn write(
    path: &Path,
    (key, text): (&str, &str),
    shapes: &[[usize; 2]],
    make: &mut dyn FnMut(usize) -> Result<Array2<f32>>,
) -> Result<States> {
    let spec = |(at, shape): (usize, &[usize; 2])| Spec {
        name: name(at),
        dtype: DType::F32,
        shape: Shape(shape.to_vec()),
    };
    let mut specs: Vec<Spec> = shapes.iter().enumerate().map(spec).collect();
    // Of a smaller alignment, so the plan puts it last; of equal ones it sorts by name, which is the order of batches.
    specs.push(Spec { name: CHECKSUM.to_owned(), dtype: DType::U8, shape: Shape(vec![32]) });
    let mut checksum = begin(key, text);
    let plan = FilePlan::new(specs, &metadata(key, text, &checksum))?;
    let mut at = 0;
    plan.write(NewFile::replacing(path)?, |spec, write| {
        if spec.name == CHECKSUM {
            return write(checksum.finalize().as_bytes());
        }
        let states = make(at)?;
        if states.shape() != spec.shape.0 {
            return Err(Error::Shape {
                tensor: spec.name.clone(),
                expected: spec.shape.to_string(),
                found: states.shape().to_vec(),
            });
        }
        at += 1;
        add_name(&mut checksum, &spec.name);
        for row in states.rows() {
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            checksum.update(&bytes);
            write(&bytes)?;
        }
        Ok(())
    })?;
    open(path, key)
        .ok_or_else(|| Error::malformed("calibration", path, "it changed while it was written"))
}

/// The states of a file just written.
fn open(path: &Path, key: &str) -> Option<States> {
    let opened = Opened::open(path, key)?;
    opened.text()?;
    let is_there = |at: &usize| opened.tensor(&name(*at), DType::F32).is_some();
    let batches = (0..opened.tensors()).take_while(is_there).count();
    Some(States { opened, batches })
}

/// The states of a file, held against its checksum; `None` for whatever is not whole, or another's.
pub(super) fn read(path: &Path, key: &str) -> Option<States> {
    let states = open(path, key)?;
    let mut checksum = begin(key, states.opened.text()?);
    for batch in 0..states.batches {
        add_name(&mut checksum, &name(batch));
        checksum.update(states.opened.tensor(&name(batch), DType::F32)?.1);
    }
    let (_, written) = states.opened.tensor(CHECKSUM, DType::U8)?;
    (checksum.finalize().as_bytes() == written).then_some(states)
}

/// What entered a block: the residual stream of every token of a calibration, in batches of whole sequences.
#[derive(Debug)]
pub struct Stream {
    states: States,
    lengths: Vec<Vec<usize>>,
}

impl Stream {
    /// Tokens of each sequence, batch by batch.
    pub fn lengths(&self) -> &[Vec<usize>] {
        &self.lengths
    }

    /// The stream of a batch, `[tokens, hidden]`; `None` where the file has been cut since it was opened.
    pub fn get(&self, batch: usize) -> Option<Array2<f32>> {
        self.states.get(batch)
    }

    /// Writes what enters a block, whole or not at all.
    pub(super) fn write(
        path: &Path,
        (key, lengths, hidden): (&str, &[Vec<usize>], usize),
        make: &mut dyn FnMut(usize) -> Result<Array2<f32>>,
    ) -> Result<()> {
        let text = serde_json::to_string(lengths).map_err(|error| Error::Unsupported {
            what: format!("keeping what enters a block ({error})"),
        })?;
        let shape = |lengths: &Vec<usize>| [lengths.iter().sum(), hidden];
        let shapes: Vec<[usize; 2]> = lengths.iter().map(shape).collect();
        write(path, (key, &text), &shapes, make).map(drop)
    }

    /// What a file holds, held against its checksum; `None` for whatever is not whole, or another's.
    pub(super) fn read(path: &Path, key: &str) -> Option<Self> {
        let states = read(path, key)?;
        let lengths: Vec<Vec<usize>> = serde_json::from_str(states.text()).ok()?;
        let fits = |(batch, lengths): (usize, &Vec<usize>)| {
            let shape = states.opened.tensor(&name(batch), DType::F32).map(|(shape, _)| shape);
            shape.is_some_and(|shape| shape.first() == Some(&lengths.iter().sum()))
        };
        let is_whole = lengths.len() == states.batches && lengths.iter().enumerate().all(fits);
        is_whole.then_some(Self { states, lengths })
    }
}
