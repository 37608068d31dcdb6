//! Hidden states between two blocks on disk, from which a run that stopped goes on.
//!
//! `states.safetensors`: `states.00000`, … (F32, `[tokens, hidden]`), one a list of tokens; the text of the header is
//! the number of the last finished block.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::Array2;

use crate::calibration::part::{Opened, add_name, begin, metadata};
use crate::disk::NewFile;
use crate::error::Result;
use crate::format::safetensors::{FilePlan, Spec};
use crate::tensor::{DType, Shape};

fn name(at: usize) -> String {
    format!("states.{at:08}")
}

/// Writes the hidden states behind block `after`, whole or not at all.
pub(super) fn write(path: &Path, key: &str, after: u32, states: &[Array2<f32>]) -> Result<()> {
    let spec = |(at, states): (usize, &Array2<f32>)| Spec {
        name: name(at),
        dtype: DType::F32,
        shape: Shape(states.shape().to_vec()),
    };
    let specs: Vec<Spec> = states.iter().enumerate().map(spec).collect();
    let text = after.to_string();
    // Of equal types the plan sorts by name, which is the order of the list.
    let mut checksum = begin(key, &text);
    for (at, states) in states.iter().enumerate() {
        add_name(&mut checksum, &name(at));
        for_each_piece(states, |bytes| {
            checksum.update(bytes);
            Ok(())
        })?;
    }
    let by_name: BTreeMap<String, &Array2<f32>> =
        states.iter().enumerate().map(|(at, states)| (name(at), states)).collect();
    let plan = FilePlan::new(specs, &metadata(key, &text, &checksum))?;
    plan.write(NewFile::replacing(path)?, |spec, write| {
        by_name.get(&spec.name).map_or(Ok(()), |states| for_each_piece(states, &mut *write))
    })
}

/// Passes the bytes of all values on, a row at a time.
fn for_each_piece(states: &Array2<f32>, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut bytes = Vec::new();
    for row in states.rows() {
        bytes.clear();
        bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        visit(&bytes)?;
    }
    Ok(())
}

/// Number of the last finished block and the states behind it; `None` for whatever is not whole, or another's.
pub(super) fn read(path: &Path, key: &str) -> Option<(u32, Vec<Array2<f32>>)> {
    let opened = Opened::checked(path, key)?;
    let after = opened.text()?.parse().ok()?;
    let mut all = Vec::new();
    while let Some((shape, values)) = opened.f32s(&name(all.len())) {
        let &[tokens, hidden] = shape else { return None };
        all.push(Array2::from_shape_vec((tokens, hidden), values).ok()?);
    }
    Some((after, all))
}
