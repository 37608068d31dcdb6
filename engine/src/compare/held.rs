//! A compressed checkpoint, be it an archive or one of another format, opened as the layers it holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::{Checkpoint, Coded, Decodes, Restored, Tensor};
use crate::compare::stored::Parts;
use crate::compare::{CompressedLayer, Counterpart, layers, turned};
use crate::error::{Error, Result};
use crate::format::safetensors::Spec;
use crate::observer::Silent;
use crate::tensor::DType;

/// The layers of a checkpoint as it lies on disk.
#[derive(Debug)]
struct Layers {
    stored: Checkpoint,
    compressed: BTreeMap<String, (CompressedLayer, Vec<usize>)>,
    /// What the layer that was read last is stored in.
    last: Mutex<Option<Last>>,
}

/// A layer that was read.
#[derive(Clone, Debug)]
struct Last {
    name: String,
    parts: Arc<Parts>,
    /// All its values in their row-major order, where a few of them cost as much.
    whole: Option<Arc<Vec<f32>>>,
}

/// The checkpoint as what it holds: each layer that is stored compressed in one tensor, of its own extents, whose values are
/// those it decodes to and whose bytes those of its parts. One without such a layer, or with one that is not read here, is
/// given back as it is.
///
/// Cost: opening it once more; reading holds the parts of one layer, and its values where outputs are turned in them.
///
/// # Errors
/// What opening says.
pub fn held(checkpoint: Checkpoint) -> Result<Checkpoint> {
    let mut found = BTreeMap::new();
    for (name, layer) in layers(&checkpoint) {
        match layer {
            Counterpart::Plain { .. } => {}
            Counterpart::Unreadable { .. } => return Ok(checkpoint),
            Counterpart::Compressed { layer, tensors } => {
                found.insert(name, (layer, tensors));
            }
        }
    }
    if found.is_empty() {
        return Ok(checkpoint);
    }
    let restored = |(name, (layer, parts)): (&String, &(CompressedLayer, Vec<usize>))| Restored {
        name: name.clone(),
        // Whatever it decodes to fits.
        dtype: DType::F32,
        shape: layer.tensor_shape(),
        parts: parts.clone(),
    };
    let seen = checkpoint.restored(&found.iter().map(restored).collect::<Vec<_>>())?;
    let stored = |(name, (layer, parts)): (&String, &(CompressedLayer, Vec<usize>))| {
        let bytes = parts.iter().map(|&part| checkpoint.tensors()[part].bytes()).sum();
        let (format, bits) = layer.form.told();
        let named = format!("{format}, {bits}-bit");
        let coded = Coded { name: named, bits, is_readable: true, scales: Arc::default() };
        (name.clone(), (coded, bytes))
    };
    let codes: HashMap<String, (Coded, u64)> = found.iter().map(stored).collect();
    let by = Layers { stored: checkpoint, compressed: found, last: Mutex::default() };
    Ok(seen.decoded_by(Arc::new(by), codes))
}

impl Layers {
    fn layer(&self, name: &str) -> Result<&(CompressedLayer, Vec<usize>)> {
        self.compressed.get(name).ok_or_else(|| damaged(name))
    }

    /// What a layer is stored in. Nothing is decoded while others wait.
    fn last(&self, name: &str) -> Result<Last> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.name == name) {
            return Ok(last.clone());
        }
        let (layer, _) = self.layer(name)?;
        let parts = layer.read_parts(&self.stored, 0..layer.shape.elements(), &Silent)?;
        let new = Last { name: name.to_owned(), parts: Arc::new(parts), whole: None };
        *last = Some(new.clone());
        Ok(new)
    }

    /// All values of a layer, decoded once for as long as no other is read.
    fn whole(&self, layer: &CompressedLayer, name: &str) -> Result<Arc<Vec<f32>>> {
        let last = self.last(name)?;
        if let Some(whole) = last.whole {
            return Ok(whole);
        }
        let reader = last.parts.reader().ok_or_else(|| damaged(name))?;
        let whole = if layer.is_transposed() {
            turned(layer.shape, &reader).ok_or_else(|| damaged(name))?
        } else {
            let mut whole = vec![0.0; layer.shape.elements()];
            reader.read(0, &mut whole).ok_or_else(|| damaged(name))?;
            whole
        };
        let whole = Arc::new(whole);
        let mut kept = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_mut().filter(|kept| kept.name == name) {
            kept.whole = Some(Arc::clone(&whole));
        }
        Ok(whole)
    }
}

impl Decodes for Layers {
    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let (layer, _) = self.layer(name)?;
        if layer.is_transposed() || layer.form.is_read_whole() {
            let all = self.whole(layer, name)?;
            let wanted = all.get(first..first.saturating_add(out.len()));
            out.copy_from_slice(wanted.ok_or_else(|| damaged(name))?);
            return Ok(());
        }
        let parts = self.last(name)?.parts;
        let reader = parts.reader().ok_or_else(|| damaged(name))?;
        reader.read(first, out).ok_or_else(|| damaged(name))
    }

    fn stored(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (layer, parts) = self.layer(name)?;
        visit(format!("{:?}", layer.form).as_bytes())?;
        let mut tensors = parts.iter().map(|&part| &self.stored.tensors()[part]);
        tensors.try_for_each(|part| self.stored.for_each_chunk(part, &mut *visit))
    }

    fn parts(&self, name: &str) -> Vec<Spec> {
        let parts = self.compressed.get(name).map_or(&[][..], |(_, parts)| parts);
        let part = |&part: &usize| {
            let Tensor { name, dtype, shape, .. } = &self.stored.tensors()[part];
            Spec { name: name.clone(), dtype: *dtype, shape: shape.clone() }
        };
        parts.iter().map(part).collect()
    }

    fn shift(&self, name: &str) -> Result<Option<Vec<f32>>> {
        match self.compressed.get(name) {
            Some((layer, _)) => layer.shift(&self.stored, &Silent),
            None => Ok(None),
        }
    }
}

fn damaged(name: &str) -> Error {
    Error::Unsupported { what: format!("reading the parts of {name}, which do not fit together,") }
}
