//! A calibration on disk: `<root>/<key>/manifest.json`, and for each finished block its statistics
//! (`block-00003.safetensors`, `outside.safetensors` for what lies outside the blocks) and Gram matrices
//! (`block-00003.gram.safetensors`); of blocks that are refined, what entered them (`block-00003.inputs.safetensors`).
//!
//! Files appear whole or not at all, the statistics of a block last: where they are, the block is finished. What is
//! truncated, damaged or another's reads as absent.

use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::calibration::states::{self, States, Stream};
use crate::calibration::{Calibration, Record, Settings, part};
use crate::disk;
use crate::error::{Error, Result};
use crate::numeric::channels::Inputs;
use crate::numeric::gram::Gram;

const MANIFEST: &str = "manifest.json";
const STATES: &str = "states.safetensors";
const ENDING: &str = ".safetensors";
const GRAM_ENDING: &str = ".gram.safetensors";
const STREAM_ENDING: &str = ".inputs.safetensors";
const FORMAT: &str = "lapidary calibration 1";
/// The largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// A part of a model that is finished at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The block of this number.
    Block(u32),
    /// What lies outside the blocks.
    Outside,
    /// How often each token occurs.
    Tokens,
}

/// Tokens that are counted, at most: no vocabulary has as many.
const MOST_TOKENS: usize = 1 << 24;
/// What the record of tokens is of.
const TOKENS: &str = "tokens";

impl Part {
    /// The name of its files without their endings.
    fn stem(self) -> String {
        match self {
            Self::Block(block) => format!("block-{block:05}"),
            Self::Outside => "outside".to_owned(),
            Self::Tokens => TOKENS.to_owned(),
        }
    }

    /// The part whose statistics are in the file of this name.
    fn of_file(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(ENDING)?;
        let part = match stem.strip_prefix("block-") {
            Some(block) => Self::Block(block.parse().ok()?),
            None if stem == TOKENS => Self::Tokens,
            None => Self::Outside,
        };
        (part.stem() == stem).then_some(part)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: String,
    key: String,
    is_finished: bool,
    settings: Settings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    imported: Option<Imported>,
}

/// What an importance matrix says of itself, for whoever is told where importances come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The name of its file.
    pub file: String,
    /// The texts, as paths.
    pub datasets: Vec<String>,
    /// Tensors it has sums for.
    pub entries: u32,
    /// Chunks of text; 0 where it does not say.
    pub chunks: u32,
}

/// A calibration on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Folder {
    path: PathBuf,
    key: String,
    settings: Settings,
    imported: Option<Imported>,
}

impl Folder {
    /// The folder in `root` for what is to be run: the one that is there, or a new one.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn create(root: &Path, settings: Settings) -> Result<Self> {
        let key = settings.key();
        let path = root.join(&key);
        if let Some(folder) = Self::open(&path) {
            return Ok(folder);
        }
        let folder = Self { path, key, settings, imported: None };
        folder.write_manifest(false)?;
        Ok(folder)
    }

    /// The same for what is taken from an importance matrix.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn create_imported(root: &Path, settings: Settings, imported: Imported) -> Result<Self> {
        let mut folder = Self::create(root, settings)?;
        folder.imported = Some(imported);
        folder.write_manifest(false)?;
        Ok(folder)
    }

    /// The importance matrix it was taken from, where it was, and where that was noted.
    pub fn imported(&self) -> Option<&Imported> {
        self.imported.as_ref()
    }

    /// Opens a folder; `None` where it is none of ours, or its manifest is damaged.
    pub fn open(path: &Path) -> Option<Self> {
        let manifest = read_manifest(path)?;
        let Manifest { key, settings, imported, .. } = manifest;
        Some(Self { path: path.to_path_buf(), key, settings, imported })
    }

    /// Every calibration in `root`, by key.
    pub fn list(root: &Path) -> Vec<Self> {
        let manifests = disk::list_tree(root).into_iter().filter(|found| {
            let folder = found.path.parent();
            found.path.ends_with(MANIFEST) && folder.and_then(Path::parent) == Some(root)
        });
        let mut folders: Vec<Self> =
            manifests.filter_map(|found| Self::open(found.path.parent()?)).collect();
        folders.sort_by(|a, b| a.key.cmp(&b.key));
        folders
    }

    /// Every calibration in `root` of the model with this key.
    pub fn list_of_model(root: &Path, model_key: &str) -> Vec<Self> {
        let mut folders = Self::list(root);
        folders.retain(|folder| folder.settings.model_key == model_key);
        folders
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is run.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        disk::list_tree(&self.path).iter().map(|found| found.bytes).sum()
    }

    /// Whether the run ended.
    pub fn is_finished(&self) -> bool {
        read_manifest(&self.path).is_some_and(|manifest| manifest.is_finished)
    }

    /// The parts whose statistics are there, in order; whether they are whole is not looked at.
    pub fn parts(&self) -> Vec<Part> {
        let files = disk::list_files(&self.path).unwrap_or_default();
        let mut parts: Vec<Part> =
            files.iter().filter_map(|(name, _)| Part::of_file(name)).collect();
        // Tokens are no layer: nobody looks for a record of theirs.
        parts.retain(|&part| part != Part::Tokens && self.file(part, ENDING).is_file());
        parts.sort();
        parts
    }

    /// Writes the records of a part, which is finished by that.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsupported`] for a record without a layer, or two of one layer.
    pub fn write_part(&self, part: Part, records: &[Record]) -> Result<()> {
        let gram_path = self.file(part, GRAM_ENDING);
        if records.iter().any(|record| record.gram.is_some()) {
            part::write_grams(&gram_path, &self.key, records)?;
        } else {
            disk::remove_file(&gram_path)?;
        }
        part::write_statistics(&self.file(part, ENDING), &self.key, records)
    }

    /// The records of a part without their Gram matrices; `None` where it is not finished, or not whole.
    pub fn read_part(&self, part: Part) -> Option<Vec<Record>> {
        part::read_statistics(&self.file(part, ENDING), &self.key)
    }

    /// Keeps how often each token occurs in what is run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_tokens(&self, sequences: &[&[u32]]) -> Result<()> {
        let ids = || sequences.iter().flat_map(|ids| ids.iter()).map(|&id| id as usize);
        let ids = || ids().filter(|&id| id < MOST_TOKENS);
        let mut counts = vec![0_u64; ids().max().map_or(0, |most| most + 1)];
        for id in ids() {
            counts[id] += 1;
        }
        let all: u64 = counts.iter().sum();
        let share = |&count: &u64| (count as f64 / all.max(1) as f64) as f32;
        let inputs = Inputs::of_mean_squares(all, counts.iter().map(share).collect());
        let layers = vec![TOKENS.to_owned()];
        let record = Record { layers, routed_of: None, inputs, gram: None };
        self.write_part(Part::Tokens, &[record])
    }

    /// Tokens that were run, and the share of each; those beyond the last never occur. `None` where nobody counted them.
    pub fn tokens(&self) -> Option<(u64, Vec<f32>)> {
        let inputs = self.read_part(Part::Tokens)?.into_iter().next()?.inputs;
        Some((inputs.tokens, inputs.mean_square))
    }

    /// Whether tokens were counted.
    pub fn has_tokens(&self) -> bool {
        self.file(Part::Tokens, ENDING).is_file()
    }

    /// Everything measured so far, without Gram matrices.
    pub fn load(&self) -> Calibration {
        let records = self.parts().into_iter().filter_map(|part| self.read_part(part)).flatten();
        Calibration::new(self.settings.clone(), records.collect(), self.is_finished())
    }

    /// The Gram matrix of a record of this calibration, read now; `None` where there is none, or it is damaged.
    pub fn gram(&self, record: &Record) -> Option<Gram> {
        let layer = record.layers.first()?;
        let channels = record.inputs.channels();
        let find =
            |part| part::read_gram(&self.file(part, GRAM_ENDING), &self.key, layer, channels);
        self.parts().into_iter().find_map(find)
    }

    /// Keeps the hidden states behind block `after` in place of those before, batch by batch as `make` gives them.
    ///
    /// # Errors
    /// [`Error::Io`]; what `make` says.
    pub fn save_states(
        &self,
        after: u32,
        shapes: &[[usize; 2]],
        make: &mut dyn FnMut(usize) -> Result<Array2<f32>>,
    ) -> Result<States> {
        states::write(&self.path.join(STATES), (&self.key, &after.to_string()), shapes, make)
    }

    /// The hidden states from which the run goes on, with the last finished block; `None` where it begins anew.
    pub fn load_states(&self) -> Option<(u32, States)> {
        let states = states::read(&self.path.join(STATES), &self.key)?;
        Some((states.text().parse().ok()?, states))
    }

    /// Keeps what enters a block, sequences of `lengths` batch by batch as `make` gives them: 4 bytes a value.
    ///
    /// # Errors
    /// [`Error::Io`]; what `make` says.
    pub fn save_stream(
        &self,
        block: u32,
        (lengths, hidden): (&[Vec<usize>], usize),
        make: &mut dyn FnMut(usize) -> Result<Array2<f32>>,
    ) -> Result<()> {
        let path = self.file(Part::Block(block), STREAM_ENDING);
        Stream::write(&path, (&self.key, lengths, hidden), make)
    }

    /// What entered a block; `None` where it was not kept, or is not whole.
    pub fn stream(&self, block: u32) -> Option<Stream> {
        Stream::read(&self.file(Part::Block(block), STREAM_ENDING), &self.key)
    }

    /// Whether what entered a block was kept; whether it is whole is not looked at.
    pub fn has_stream(&self, block: u32) -> bool {
        self.file(Part::Block(block), STREAM_ENDING).is_file()
    }

    /// Notes that the run ended, and removes the hidden states.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(&self) -> Result<()> {
        self.write_manifest(true)?;
        disk::remove_file(&self.path.join(STATES))
    }

    /// Removes it: the files of this program, and the folder where nothing else is in it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn delete(self) -> Result<()> {
        // The manifest goes last: what is left when this is interrupted is still found, and can be deleted.
        for (name, _) in disk::list_files(&self.path)? {
            let stem = name.strip_suffix(GRAM_ENDING).or_else(|| name.strip_suffix(STREAM_ENDING));
            let stem = stem.map(|stem| format!("{stem}{ENDING}"));
            if Part::of_file(stem.as_deref().unwrap_or(&name)).is_some() || name == STATES {
                disk::remove_file(&self.path.join(&name))?;
            }
        }
        disk::remove_file(&self.path.join(MANIFEST))?;
        disk::remove_empty_folder(&self.path)
    }

    fn file(&self, part: Part, ending: &str) -> PathBuf {
        self.path.join(format!("{}{ending}", part.stem()))
    }

    fn write_manifest(&self, is_finished: bool) -> Result<()> {
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            key: self.key.clone(),
            is_finished,
            settings: self.settings.clone(),
            imported: self.imported.clone(),
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Unsupported {
            what: format!("keeping a calibration ({error})"),
        })?;
        disk::write_file(&self.path.join(MANIFEST), &text)
    }
}

fn read_manifest(folder: &Path) -> Option<Manifest> {
    let text = disk::read_text(&folder.join(MANIFEST), MAX_MANIFEST_BYTES).ok()?;
    let manifest: Manifest = serde_json::from_str(&text).ok()?;
    let is_ours = manifest.format == FORMAT
        && manifest.key == manifest.settings.key()
        && folder.file_name().is_some_and(|name| name == manifest.key.as_str());
    is_ours.then_some(manifest)
}
