//! The layers of an archive among the tensors of a checkpoint: what the headers of its files say, held against what they
//! list, so that whoever reads a layer finds all of it.

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::{Checkpoint, File, Tensor};
use crate::error::{Error, Result};
use crate::format::archive::{self, Index, Layer};

/// What a checkpoint holds of archives.
#[derive(Debug, Default)]
pub(super) struct Archived {
    layers: BTreeMap<String, Layer>,
    /// The layer of each part, by the names of both.
    layer_of: HashMap<String, String>,
}

impl Archived {
    /// Reads the indices of all files. Opens no tensor.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an index that is not understood, and for layers and parts that do not belong together.
    pub(super) fn read(
        files: &[File],
        tensors: &[Tensor],
        by_name: &HashMap<String, usize>,
    ) -> Result<Self> {
        let mut all = Self::default();
        for (at, file) in files.iter().enumerate() {
            let bad = |what: String| Error::malformed("archive", file.path(), what);
            let index = Index::read(&file.metadata).map_err(bad)?;
            for (name, layer) in index.map(|index| index.layers).unwrap_or_default() {
                if by_name.contains_key(&name) || all.layers.contains_key(&name) {
                    return Err(bad(format!("layer {name:?} is there twice")));
                }
                let find = |name: &str| {
                    let found = by_name.get(name).map(|&index| &tensors[index]);
                    found.filter(|tensor| tensor.file == at)
                };
                all.add_parts(&name, &layer, &find).map_err(bad)?;
                all.layers.insert(name, layer);
            }
        }
        Ok(all)
    }

    /// Notes the parts of a layer, which `find` gives by name.
    fn add_parts<'t>(
        &mut self,
        name: &str,
        layer: &Layer,
        find: &dyn Fn(&str) -> Option<&'t Tensor>,
    ) -> std::result::Result<(), String> {
        for spec in archive::specs(name, &layer.layout, layer.matrix) {
            let part = find(&spec.name);
            let part =
                part.ok_or_else(|| format!("layer {name:?} has no tensor {:?}", spec.name))?;
            if part.dtype != spec.dtype || part.shape != spec.shape {
                return Err(format!(
                    "tensor {:?} is {} of shape {}, and the layout says {} of shape {}",
                    spec.name, part.dtype, part.shape, spec.dtype, spec.shape
                ));
            }
            if self.layer_of.insert(spec.name.clone(), name.to_owned()).is_some() {
                return Err(format!("tensor {:?} belongs to two layers", spec.name));
            }
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Whether it holds layers as archives do.
    pub fn is_archive(&self) -> bool {
        !self.archived.layers.is_empty()
    }

    /// The layer that an archive holds under the name of a tensor.
    pub fn archived(&self, name: &str) -> Option<&Layer> {
        self.archived.layers.get(name)
    }

    /// The name of the layer of which an archive's tensor of this name is a part.
    pub fn archived_in(&self, part: &str) -> Option<&str> {
        self.archived.layer_of.get(part).map(String::as_str)
    }
}
