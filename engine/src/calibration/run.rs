//! Text run through a model, block by block, with everything its layers receive summed up and kept.

use std::path::Path;

use blake3::Hasher;
use ndarray::{Array2, ArrayView2};

use crate::calibration::{Calibration, Folder, Part, Record, Settings, States};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::network::{Batch, Input, Network, NoTaps, Site, Taps};
use crate::numeric::channels::Channels;
use crate::numeric::digits::count;
use crate::numeric::gram::Gram;
use crate::observer::{Observer, Progress, Unit};
use crate::statistics::{Cache, Key};

/// Tokens that pass through a block at once.
const BATCH_TOKENS: usize = 2048;
/// Gram matrices of one block are kept if they take no more than this; those of experts are left out first.
const GRAM_BYTES: u64 = 4 << 30;

/// What is run on what.
pub struct Run<'a> {
    /// The network whose inputs are measured.
    pub network: &'a Network<'a>,
    /// The same network compressed: with it, what a block receives comes through the compressed blocks before it.
    pub compressed: Option<&'a Network<'a>>,
    /// Makes the blocks of `compressed` as the run comes to them, if they are not there from the start.
    pub in_turn: Option<&'a dyn InTurn>,
    /// Token ids of each sequence.
    pub sequences: Vec<&'a [u32]>,
    /// What it is kept under.
    pub settings: Settings,
}

/// Compresses the blocks of a network one after the other, each when the run has measured it.
pub trait InTurn: Sync {
    /// Compresses a block of which `folder` holds what its layers receive behind the compressed blocks before it.
    /// Called again for finished blocks when a run goes on, with the same records.
    ///
    /// # Errors
    /// Whatever compressing says; the run ends with it, and what was measured is kept.
    fn compress(&self, folder: &Folder, block: u32, observer: &dyn Observer) -> Result<()>;

    /// Whether [`InTurn::compress`] asks the folder for what enters a block, token by token.
    fn needs_stream(&self, _block: u32) -> bool {
        false
    }
}

impl std::fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A hash of the content of every tensor and of config.json: the same for a copy elsewhere.
///
/// Cost: reading the model once, unless `cache` remembers its keys, and then a few kilobytes.
///
/// # Errors
/// [`Error::Io`]; [`Error::Cancelled`].
pub fn model_key(
    checkpoint: &Checkpoint,
    cache: Option<&Cache>,
    observer: &dyn Observer,
) -> Result<String> {
    let mut known: Vec<Option<Key>> =
        cache.map_or_else(|| vec![None; checkpoint.tensors().len()], |c| c.known_keys(checkpoint));
    let total = checkpoint.tensor_bytes();
    let mut done = 0;
    let mut hasher = Hasher::new();
    hasher.update(b"lapidary model 1\0");
    for (index, tensor) in checkpoint.tensors().iter().enumerate() {
        observer.progress(Progress {
            stage: "Recognising",
            item: tensor.name.clone(),
            done,
            total,
            unit: Unit::Bytes,
        });
        let key = match known[index] {
            Some(key) => key,
            None => Cache::key(checkpoint, index, observer)?,
        };
        known[index] = Some(key);
        done += tensor.bytes();
        hasher.update(&(tensor.name.len() as u64).to_le_bytes()).update(tensor.name.as_bytes());
        hasher.update(key.to_string().as_bytes());
    }
    if let Some(cache) = cache {
        // Only the next run is slower where this cannot be written.
        cache.remember(checkpoint, &known).ok();
    }
    let config = checkpoint.config().map(|config| config.value().to_string()).unwrap_or_default();
    hasher.update(config.as_bytes());
    Ok(hasher.finalize().to_hex().as_str()[..32].to_owned())
}

/// Measures what every linear layer receives, and keeps it in a folder of `root` by block.
///
/// Goes on behind the last block that is kept; a run that is kept whole is only read. A block is loaded once for all
/// sequences. Where blocks are made in turn, all of the text passes the original block, which is measured, then the
/// block is compressed with that and all of the text passes it compressed: twice the time and no more memory. Memory: a block in f32 (768 MiB at most, then matrix by matrix), its Gram matrices, and 2,048 tokens.
///
/// # Errors
/// [`Error::Plan`] naming the block from which on values are NaN or infinite: what was measured before is kept;
/// [`Error::Io`]; [`Error::Cancelled`] with the finished blocks kept; what running says.
pub fn calibrate(run: &Run<'_>, root: &Path, observer: &dyn Observer) -> Result<Calibration> {
    let folder = Folder::create(root, run.settings.clone())?;
    if folder.is_finished() {
        return Ok(folder.load());
    }
    folder.write_tokens(&run.sequences)?;
    run.tell_streams(observer);
    let work = Work { run, folder: &folder, batches: run.batches(), observer };
    let kept = folder.load_states().filter(|(_, of)| of.batches() == work.batches.len());
    let first = kept.as_ref().map_or(0, |(after, _)| *after as usize + 1);
    let mut states = kept.map(|(_, states)| states);
    if let Some(in_turn) = run.in_turn {
        (0..first as u32).try_for_each(|block| in_turn.compress(&folder, block, observer))?;
    }
    for index in first..run.network.design().blocks.len() {
        states = Some(work.block(index, states.as_ref())?);
    }
    work.head(states.as_ref())?;
    folder.finish()?;
    Ok(folder.load())
}

impl<'a> Run<'a> {
    /// Says what room the streams will take that are kept.
    fn tell_streams(&self, observer: &dyn Observer) {
        let design = self.network.design();
        let needs = |block: &u32| self.in_turn.is_some_and(|by| by.needs_stream(*block));
        let blocks = (0..design.blocks.len() as u32).filter(needs).count() as u64;
        let tokens: u64 = self.sequences.iter().map(|ids| ids.len() as u64).sum();
        if blocks > 0 {
            let bytes = count(4 * blocks * tokens * design.hidden as u64);
            observer.warn(format!(
                "what enters {blocks} blocks that are refined is kept with the calibration: {bytes} bytes"
            ));
        }
    }

    /// Runs of sequences of about [`BATCH_TOKENS`].
    fn batches(&self) -> Vec<Vec<&'a [u32]>> {
        let mut batches: Vec<Vec<&[u32]>> = Vec::new();
        let mut tokens = usize::MAX;
        for &ids in &self.sequences {
            match batches.last_mut() {
                Some(batch) if tokens.saturating_add(ids.len()) <= BATCH_TOKENS => {
                    batch.push(ids);
                    tokens += ids.len();
                }
                _ => {
                    batches.push(vec![ids]);
                    tokens = ids.len();
                }
            }
        }
        batches
    }
}

struct Work<'a> {
    run: &'a Run<'a>,
    folder: &'a Folder,
    batches: Vec<Vec<&'a [u32]>>,
    observer: &'a dyn Observer,
}

impl Work<'_> {
    /// Runs all batches through a block, and keeps what its layers received and what it gave.
    fn block(&self, index: usize, before: Option<&States>) -> Result<States> {
        if let (Some(in_turn), Some(compressed)) = (self.run.in_turn, self.run.compressed) {
            self.measure(index, before)?;
            if in_turn.needs_stream(index as u32) {
                let lengths: Vec<Vec<usize>> =
                    (0..self.batches.len()).map(|batch| self.lengths(batch)).collect();
                let of = (lengths.as_slice(), self.run.network.design().hidden);
                let mut make = |batch: usize| self.input(before, batch);
                self.folder.save_stream(index as u32, of, &mut make)?;
            }
            in_turn.compress(self.folder, index as u32, self.observer)?;
            return self.pass(compressed, index, before);
        }
        let network = self.run.network;
        let loaded = network.load(index, self.observer)?;
        let compressed = self.run.compressed.map(|c| Ok((c, c.load(index, self.observer)?)));
        let compressed = compressed.transpose()?;
        let mut seen = Seen::new(network, Some(index), self.run.settings.has_grams, self.observer);
        let shapes = self.shapes();
        let mut make = |batch: usize| {
            self.report(&format!("block {index}"), index, batch);
            let mut x = self.input(before, batch)?;
            let lengths = self.lengths(batch);
            let onwards = compressed.as_ref().map(|_| x.clone());
            network.run(&loaded, Batch::new(&mut x, &lengths), &mut seen, self.observer)?;
            if let (Some((other, block)), Some(onwards)) = (&compressed, onwards) {
                x = onwards;
                other.run(block, Batch::new(&mut x, &lengths), &mut NoTaps, self.observer)?;
            }
            if batch + 1 == shapes.len() {
                // Before the states are in place: a run that stops between the two measures the block once more.
                self.folder.write_part(Part::Block(index as u32), &seen.records())?;
            }
            Ok(x)
        };
        self.folder.save_states(index as u32, &shapes, &mut make)
    }

    /// Runs all batches through an original block, and keeps what its layers received.
    fn measure(&self, index: usize, before: Option<&States>) -> Result<()> {
        let network = self.run.network;
        let loaded = network.load(index, self.observer)?;
        let mut seen = Seen::new(network, Some(index), self.run.settings.has_grams, self.observer);
        for batch in 0..self.batches.len() {
            self.report(&format!("block {index}"), index, batch);
            let mut x = self.input(before, batch)?;
            let lengths = self.lengths(batch);
            network.run(&loaded, Batch::new(&mut x, &lengths), &mut seen, self.observer)?;
        }
        self.folder.write_part(Part::Block(index as u32), &seen.records())
    }

    /// Runs all batches through a block as another network has it, and keeps what it gave.
    fn pass(&self, network: &Network<'_>, index: usize, before: Option<&States>) -> Result<States> {
        let loaded = network.load(index, self.observer)?;
        let mut make = |batch: usize| {
            let mut x = self.input(before, batch)?;
            let lengths = self.lengths(batch);
            network.run(&loaded, Batch::new(&mut x, &lengths), &mut NoTaps, self.observer)?;
            Ok(x)
        };
        self.folder.save_states(index as u32, &self.shapes(), &mut make)
    }

    /// Tokens of each sequence of a batch.
    fn lengths(&self, batch: usize) -> Vec<usize> {
        self.batches[batch].iter().map(|ids| ids.len()).collect()
    }

    /// `[tokens, hidden]` of each batch.
    fn shapes(&self) -> Vec<[usize; 2]> {
        let hidden = self.run.network.design().hidden;
        (0..self.batches.len()).map(|batch| [self.lengths(batch).iter().sum(), hidden]).collect()
    }

    /// What enters the scores.
    fn head(&self, before: Option<&States>) -> Result<()> {
        let network = self.run.network;
        if network.design().head.is_none() {
            return Ok(());
        }
        let head = network.load_head(self.observer)?;
        let mut seen = Seen::new(network, None, self.run.settings.has_grams, self.observer);
        for batch in 0..self.batches.len() {
            self.report("head", network.design().blocks.len(), batch);
            network.tap_head(&head, self.input(before, batch)?.view(), &mut seen, self.observer)?;
        }
        self.folder.write_part(Part::Outside, &seen.records())
    }

    /// The residual stream of a batch as it enters the next block.
    fn input(&self, before: Option<&States>, batch: usize) -> Result<Array2<f32>> {
        match before {
            None => {
                let network = self.run.compressed.unwrap_or(self.run.network);
                network.embed(&self.batches[batch], 0, self.observer)
            }
            Some(states) => states.get(batch).ok_or_else(|| {
                let what = "the kept states of the run were changed while they were read";
                Error::plan(what, "start the calibration again; finished blocks are kept")
            }),
        }
    }

    fn report(&self, item: &str, block: usize, batch: usize) {
        let blocks = self.run.network.design().blocks.len() + 1;
        let tokens = |batches: &[Vec<&[u32]>]| -> u64 {
            batches.iter().flatten().map(|ids| ids.len() as u64).sum()
        };
        let total = tokens(&self.batches);
        let done = (block as u64 * total + tokens(&self.batches[..batch])) / blocks as u64;
        let item = item.to_owned();
        let unit = Unit::Tokens;
        self.observer.progress(Progress { stage: "Calibrating", item, done, total, unit });
    }
}

/// Which of the inputs of a block have a Gram matrix, where any are kept: those of experts are left out first.
pub(super) fn kept_grams(sites: &[Input]) -> impl Fn(&Input) -> bool + use<> {
    let bytes = |of_experts: bool| -> u64 {
        let counted = sites.iter().filter(|site| of_experts || site.expert.is_none());
        counted.map(|site| Gram::bytes_for(site.channels)).sum()
    };
    let (any, experts_too) = (bytes(false) <= GRAM_BYTES, bytes(true) <= GRAM_BYTES);
    move |site| any && (experts_too || site.expert.is_none())
}

/// What one site has received so far.
struct Sums {
    layers: Vec<String>,
    expert: Option<usize>,
    channels: Channels,
    gram: Option<Gram>,
}

/// Sums up what the layers of a block receive.
struct Seen<'a> {
    sites: Vec<Sums>,
    /// Tokens that routers saw.
    routed_of: u64,
    observer: &'a dyn Observer,
}

impl<'a> Seen<'a> {
    /// Every site of a block, or the head, so that an expert no token went to has a record too.
    fn new(
        network: &Network<'_>,
        block: Option<usize>,
        has_grams: bool,
        observer: &'a dyn Observer,
    ) -> Self {
        let sites = network.inputs(block);
        let is_kept = kept_grams(&sites);
        let is_kept: Vec<bool> = sites.iter().map(|site| has_grams && is_kept(site)).collect();
        let sums = |(site, is_kept): (Input, bool)| Sums {
            channels: Channels::new(site.channels),
            gram: is_kept.then(|| Gram::new(site.channels)),
            layers: site.layers,
            expert: site.expert,
        };
        Self { sites: sites.into_iter().zip(is_kept).map(sums).collect(), routed_of: 0, observer }
    }

    /// The records of all sites, whose Gram matrices are given away.
    fn records(&mut self) -> Vec<Record> {
        let record = |sums: &mut Sums| Record {
            layers: sums.layers.clone(),
            routed_of: sums.expert.map(|_| self.routed_of),
            inputs: sums.channels.statistics(),
            gram: sums.gram.take(),
        };
        self.sites.iter_mut().map(record).collect()
    }
}

impl Taps for Seen<'_> {
    fn input(&mut self, site: &Site<'_>, x: ArrayView2<'_, f32>) -> Result<()> {
        self.observer.go_on()?;
        // The first site of a block is the attention's, which every token enters.
        let first = site.layers.first().copied().unwrap_or_default();
        if self.sites.first().is_some_and(|sums| sums.layers[0] == first) {
            self.routed_of += x.nrows() as u64;
        }
        if let Some(sums) = self.sites.iter_mut().find(|sums| sums.layers[0] == first) {
            sums.channels.add(x);
            if let Some(gram) = &mut sums.gram {
                gram.add(x);
            }
        }
        self.observer.go_on()
    }
}
