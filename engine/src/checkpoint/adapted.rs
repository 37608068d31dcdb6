//! The adapter beside a checkpoint that an export put there: corrections of low rank, which are part of the layers they
//! correct. In: the folder. Out: its file, held against its settings, and which tensors are the factors of which layer.
//!
//! Only an adapter that says so in its header belongs to the checkpoint; anybody's fine-tuning in a folder of that name does not.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, File, Tensor};
use crate::disk::{self, Source};
use crate::error::{Error, Result};
use crate::format::adapter::{self, CONFIG, FOLDER, KEY, VERSION, WEIGHTS};
use crate::format::safetensors::{self, Header};

/// The largest `adapter_config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 64 << 20;

const MEND: &str =
    "export the model again, or move the folder adapter away to open the base without it";

/// Names that the tensor of a layer has in one format or another, behind that of its module.
const HELD: [&str; 3] = ["weight", "weight_packed", "qweight"];

/// Which tensors are factors.
#[derive(Debug, Default)]
pub(super) struct Adapted {
    /// The right factor and the left one, by the name of the layer.
    factors: BTreeMap<String, [usize; 2]>,
    /// The layer of each factor, by the names of both.
    layer_of: HashMap<String, String>,
}

/// The name of an adapter's file within that of the checkpoint.
fn file_name() -> String {
    format!("{FOLDER}/{WEIGHTS}")
}

impl File {
    /// Whether it holds corrections, and not the checkpoint proper.
    pub fn is_adapter(&self) -> bool {
        self.name == file_name()
    }
}

/// The adapter that belongs to the checkpoint in a folder, where there is one. Reads header and settings.
///
/// # Errors
/// [`Error::Malformed`] for one whose factors or settings are not as an export writes them.
pub(super) fn find(folder: &Path) -> Result<Option<Source>> {
    let path = folder.join(FOLDER).join(WEIGHTS);
    if !path.is_file() {
        return Ok(None);
    }
    let source = Source::open(&path)?;
    let header = safetensors::read_header(&source);
    let beside = folder.join(FOLDER).join(CONFIG);
    let bad = |path: &Path, what: String| Error::malformed("adapter", path, what).mended_by(MEND);
    let config = disk::read_bytes(&beside, MAX_CONFIG_BYTES).and_then(|bytes| {
        serde_json::from_slice(&bytes).map_err(|error| bad(&beside, error.to_string()))
    });
    let version = header.as_ref().ok().and_then(|header| header.metadata.get(KEY));
    // Either half shows whose it is, so that damage to the other is told.
    let is_ours = version.is_some() || config.as_ref().is_ok_and(adapter::is_of_folder);
    if !is_ours {
        return Ok(None);
    }
    if let Some(version) = version.filter(|version| *version != VERSION) {
        return Err(bad(&path, format!("it has version {version}, which is not known here")));
    }
    let (header, config) = (header?, config?);
    adapter::check_config(&config).map_err(|what| bad(&beside, what))?;
    check(&header, &config).map_err(|what| bad(&path, what))?;
    Ok(Some(source))
}

/// Holds every factor against the other of its layer and the settings.
fn check(header: &Header, config: &Value) -> std::result::Result<(), String> {
    let extents: BTreeMap<&str, &[usize]> =
        header.entries.iter().map(|entry| (entry.name.as_str(), &entry.shape.0[..])).collect();
    for entry in &header.entries {
        let name = &entry.name;
        let (module, _) =
            adapter::module_of(name).ok_or_else(|| format!("tensor {name} is no factor"))?;
        let rank = adapter::rank_of(config, module)?;
        let factors = adapter::names(module).map(|name| extents.get(name.as_str()).copied());
        match factors {
            [Some([right, _]), Some([_, left])] if *right == rank && *left == rank => {}
            [Some([_, _]), Some([_, _])] => {
                return Err(format!("the factors of {module} do not have the rank {rank}"));
            }
            _ => return Err(format!("{module} has not two factors")),
        }
    }
    Ok(())
}

impl Adapted {
    /// Which tensors of an adapter belong to which layer.
    ///
    /// # Errors
    /// [`Error::Malformed`] for factors of a layer that is not there.
    pub(super) fn read(
        files: &[File],
        tensors: &[Tensor],
        by_name: &HashMap<String, usize>,
    ) -> Result<Self> {
        let mut all = Self::default();
        for tensor in tensors.iter().filter(|tensor| files[tensor.file].is_adapter()) {
            let Some((module, _)) = adapter::module_of(&tensor.name) else { continue };
            let is_there =
                HELD.iter().any(|held| by_name.contains_key(&format!("{module}.{held}")));
            if !is_there {
                let what = format!("it corrects {module}, which the checkpoint does not have");
                let path = files[tensor.file].path();
                return Err(Error::malformed("adapter", path, what).mended_by(MEND));
            }
            let layer = format!("{module}.weight");
            let [right, left] = adapter::names(module).map(|name| by_name.get(&name).copied());
            if let (Some(right), Some(left)) = (right, left) {
                all.factors.insert(layer.clone(), [right, left]);
            }
            all.layer_of.insert(tensor.name.clone(), layer);
        }
        Ok(all)
    }
}

impl Checkpoint {
    /// Whether corrections of its layers lie in an adapter beside it.
    pub fn has_adapter(&self) -> bool {
        !self.adapted.factors.is_empty()
    }

    /// The tensors that an adapter adds the product of to the layer of this name: the right factor and the left one.
    pub fn factors(&self, layer: &str) -> Option<[usize; 2]> {
        self.adapted.factors.get(layer).copied()
    }

    /// The name of the layer of which an adapter's tensor of this name is a factor.
    pub fn corrected_by(&self, factor: &str) -> Option<&str> {
        self.adapted.layer_of.get(factor).map(String::as_str)
    }
}
