//! From a person's texts and wishes to a calibration that is kept: what the window and the command line both call.

use std::path::Path;

use blake3::Hasher;

use crate::calibration::run::kept_grams;
use crate::calibration::{
    Calibration, Folder, Imatrix, Imported, InTurn, Part, Prefix, Record, Run, Settings, Text,
    calibrate, model_key,
};
use crate::checkpoint::{Checkpoint, GgufTensors};
use crate::disk;
use crate::error::{Error, Result};
use crate::network::{CheckpointWeights, Network, Weights};
use crate::observer::Observer;
use crate::statistics::Cache;
use crate::text::{Cut, Source, Specials, Tokenizer, cut};

/// Tokens of a sequence unless told otherwise, where the model takes so many.
pub const USUAL_SEQUENCE_TOKENS: usize = 2048;
/// Tokens in all unless told otherwise: sixteen sequences of the usual length.
pub const USUAL_TOKENS: usize = 32_768;
/// The largest importance matrix that is read: the hash of its bytes is part of the key.
const MAX_IMATRIX_BYTES: u64 = 4 << 30;

/// What a person wants to calibrate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// The texts, in order.
    pub sources: Vec<Source>,
    /// Tokens of a sequence; [`Ability::usual_sequence_tokens`] if `None`.
    pub sequence_tokens: Option<usize>,
    /// Tokens in all, at least; all there are where the text has fewer.
    pub tokens: usize,
    /// Seed by which sequences are drawn.
    pub seed: u64,
    /// Whether Gram matrices are kept.
    pub has_grams: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        let sources = Vec::new();
        Self { sources, sequence_tokens: None, tokens: USUAL_TOKENS, seed: 0, has_grams: true }
    }
}

/// That a model can be run on text, and what that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// Tokens it may be given at once.
    pub context: usize,
    /// Blocks.
    pub blocks: usize,
    /// Inputs that are measured.
    pub sites: usize,
    /// Bytes on disk of all Gram matrices, 2·channels·(channels + 1) each.
    pub gram_bytes: u64,
}

impl Ability {
    /// min(context, 2,048).
    pub fn usual_sequence_tokens(&self) -> usize {
        self.context.min(USUAL_SEQUENCE_TOKENS)
    }

    fn of(network: &Network<'_>) -> Self {
        let design = network.design();
        let blocks = design.blocks.len();
        let (mut sites, mut gram_bytes) = (0, 0);
        for block in (0..blocks).map(Some).chain([None]) {
            let inputs = network.inputs(block);
            sites += inputs.len();
            let is_kept = kept_grams(&inputs);
            for input in inputs.iter().filter(|input| is_kept(input)) {
                let n = input.channels as u64;
                gram_bytes += 2 * n * (n + 1);
            }
        }
        Self { context: design.context, blocks, sites, gram_bytes }
    }
}

/// Whether text can be run through a checkpoint: its architecture is one that is run, its tensors are there, and so is
/// its tokenizer.
///
/// # Errors
/// Those of [`Network::open`] and [`Tokenizer::open`]; [`Error::Plan`] without config.json.
pub fn ability(checkpoint: &Checkpoint) -> Result<Ability> {
    let weights = CheckpointWeights::new(checkpoint);
    let ability = Ability::of(&open(checkpoint, &weights)?);
    Tokenizer::open(checkpoint)?;
    Ok(ability)
}

fn open<'a>(checkpoint: &Checkpoint, weights: &'a dyn Weights) -> Result<Network<'a>> {
    checkpoint.gguf().map_or(Ok(()), GgufTensors::check_runs)?;
    let config = checkpoint.config().ok_or_else(|| {
        Error::plan(
            format!("{} has no config.json, so it cannot be run", checkpoint.path().display()),
            "put the config.json of the model beside its weights",
        )
    })?;
    Network::open(config, weights)
}

/// Sequences to calibrate with, and what they are kept under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// What the calibration is kept under.
    pub settings: Settings,
    /// Token ids of each sequence.
    pub sequences: Vec<Vec<u32>>,
}

/// Reads the texts, turns them into tokens and draws sequences. Cost: [`model_key`], and some MB/s of text.
///
/// # Errors
/// Those of [`ability`], of [`Source::read`], of [`Tokenizer::encode_documents`] and of [`cut`]; [`Error::Plan`] for
/// no text, for no tokens and for sequences longer than the model takes.
pub fn prepare(
    checkpoint: &Checkpoint,
    wishes: &Wishes,
    cache: Option<&Cache>,
    observer: &dyn Observer,
) -> Result<Prepared> {
    let weights = CheckpointWeights::new(checkpoint);
    let ability = Ability::of(&open(checkpoint, &weights)?);
    let tokenizer = Tokenizer::open(checkpoint)?;
    let length = length(wishes, &ability)?;
    let (mut texts, mut documents) = (Vec::new(), Vec::new());
    for source in &wishes.sources {
        let read = source.read(observer)?;
        // The same text is other tokens to another tokenizer.
        let mut hasher = Hasher::new();
        hasher.update(tokenizer.fingerprint().bytes()).update(read.fingerprint().bytes());
        texts.push(Text { name: name_of(source), hash: hasher.finalize().to_hex().to_string() });
        documents.extend_from_slice(read.documents());
    }
    let tokens = tokenizer.encode_documents(&documents, Specials::Added, observer)?;
    let sequences = cut(&tokens, &Cut::calibration(length, wishes.tokens, wishes.seed))?;
    let settings = Settings {
        model: checkpoint.title(),
        model_key: model_key(checkpoint, cache, observer)?,
        texts,
        sequence_tokens: length as u64,
        tokens: sequences.tokens() as u64,
        seed: wishes.seed,
        prefix: Prefix::Original,
        has_grams: wishes.has_grams,
    };
    let sequences = sequences.list.into_iter().map(|sequence| sequence.ids).collect();
    Ok(Prepared { settings, sequences })
}

/// Tokens of a sequence.
fn length(wishes: &Wishes, ability: &Ability) -> Result<usize> {
    if wishes.sources.is_empty() {
        return Err(Error::plan("there is no text to calibrate with", "give a text file"));
    }
    if wishes.tokens == 0 {
        return Err(Error::plan("0 tokens measure nothing", "choose a larger number of tokens"));
    }
    let length = wishes.sequence_tokens.unwrap_or(ability.usual_sequence_tokens());
    if length > ability.context {
        return Err(Error::plan(
            format!(
                "a sequence of {length} tokens is longer than the model's context of {}",
                ability.context
            ),
            "choose shorter sequences",
        ));
    }
    Ok(length)
}

fn name_of(source: &Source) -> String {
    match source {
        Source::Path { path, .. } => {
            path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        }
        Source::Pasted { name, .. } => name.clone(),
    }
}

/// What stands in front of a layer while its inputs are measured, in place of the original blocks.
#[derive(Clone)]
pub struct Behind<'a> {
    /// The weights of the same network compressed.
    pub weights: &'a dyn Weights,
    /// A hash of the plan that made them.
    pub plan: String,
    /// Makes them block by block on the way; they are all there if `None`.
    pub in_turn: Option<&'a dyn InTurn>,
}

impl std::fmt::Debug for Behind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behind").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Calibrates a checkpoint with texts, in a folder of `root`; goes on where a run of the same wishes stopped. With
/// `behind`, what a block receives has passed through the compressed blocks before it.
///
/// # Errors
/// Those of [`prepare`] and of [`calibrate`].
pub fn calibrate_with_texts(
    checkpoint: &Checkpoint,
    wishes: &Wishes,
    behind: Option<Behind<'_>>,
    (root, cache): (&Path, Option<&Cache>),
    observer: &dyn Observer,
) -> Result<(Folder, Calibration)> {
    let prepared = prepare(checkpoint, wishes, cache, observer)?;
    let weights = CheckpointWeights::new(checkpoint);
    let network = open(checkpoint, &weights)?;
    let sequences = prepared.sequences.iter().map(Vec::as_slice).collect();
    let mut settings = prepared.settings;
    let compressed = behind.as_ref().map(|behind| open(checkpoint, behind.weights)).transpose()?;
    let in_turn = behind.as_ref().and_then(|behind| behind.in_turn);
    if let Some(Behind { plan, .. }) = behind {
        settings.prefix = match in_turn {
            Some(_) => Prefix::InTurn { plan },
            None => Prefix::Compressed { plan },
        };
    }
    let compressed = compressed.as_ref();
    let run = Run { network: &network, compressed, in_turn, sequences, settings };
    let calibration = calibrate(&run, root, observer)?;
    Ok((Folder::create(root, run.settings)?, calibration))
}

/// Keeps an importance matrix of llama.cpp as a calibration in a folder of `root`, and says what could not be taken.
///
/// # Errors
/// Those of [`Imatrix::read`] and [`model_key`]; [`Error::Plan`] where no entry belongs to a layer of the model.
pub fn import_imatrix(
    checkpoint: &Checkpoint,
    path: &Path,
    (root, cache): (&Path, Option<&Cache>),
    observer: &dyn Observer,
) -> Result<(Folder, Calibration, Vec<String>)> {
    let matrix = Imatrix::read(path)?;
    let (records, unsaid) = matrix.records(checkpoint);
    if records.is_empty() {
        return Err(Error::plan(
            format!("no entry of {} belongs to a layer of {}", path.display(), checkpoint.title()),
            "give the importance matrix of this model",
        ));
    }
    let bytes = disk::read_bytes(path, MAX_IMATRIX_BYTES)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let settings = Settings {
        model: checkpoint.title(),
        model_key: model_key(checkpoint, cache, observer)?,
        texts: vec![Text { name: name.clone(), hash: blake3::hash(&bytes).to_hex().to_string() }],
        sequence_tokens: 0,
        tokens: records.iter().map(|record| record.inputs.tokens).max().unwrap_or(0),
        seed: 0,
        prefix: Prefix::Original,
        has_grams: false,
    };
    let imported = Imported {
        file: name,
        entries: u32::try_from(matrix.entries.len()).unwrap_or(u32::MAX),
        chunks: matrix.chunk_count,
        datasets: matrix.datasets,
    };
    let folder = Folder::create_imported(root, settings, imported)?;
    for (part, records) in by_part(checkpoint, records) {
        observer.go_on()?;
        folder.write_part(part, &records)?;
    }
    folder.finish()?;
    let calibration = folder.load();
    Ok((folder, calibration, unsaid))
}

/// Records by the block of their first layer.
fn by_part(checkpoint: &Checkpoint, records: Vec<Record>) -> Vec<(Part, Vec<Record>)> {
    let mut parts: std::collections::BTreeMap<Part, Vec<Record>> =
        std::collections::BTreeMap::new();
    for record in records {
        let layer = record.layers.first().and_then(|layer| checkpoint.find(layer));
        let block = layer.and_then(|layer| checkpoint.tensors()[layer].place.block);
        parts.entry(block.map_or(Part::Outside, Part::Block)).or_default().push(record);
    }
    parts.into_iter().collect()
}
