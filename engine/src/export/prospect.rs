//! What writing a finished checkpoint anew comes to, for any target, before anything is written.
//! In: a compressed checkpoint, each layer of which was read once; or a plan. Out: bytes to the byte, and what is stored in full.

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::Checkpoint;
use crate::encoding::Layout;
use crate::error::Result;
use crate::export::convert::{Layouts, Opened};
use crate::export::cut::with_heights;
use crate::export::forecast::laid_out;
use crate::job::{Limits, Subject};
use crate::observer::{Observer, Silent};
use crate::plan::Plan;
use crate::target::{Aim, Manifest, Storage};

/// How the layers of a compressed checkpoint are stored.
#[derive(Clone, Debug)]
pub struct Contents {
    layouts: Layouts,
    limits: Limits,
}

impl Contents {
    /// Reads every layer of `source` once: forms, extents and levels, not what they decode to.
    ///
    /// # Errors
    /// Those of [`crate::export::convert()`] that are no target's; [`crate::Error::Cancelled`].
    pub fn read(source: &Checkpoint, limits: Limits, observer: &dyn Observer) -> Result<Self> {
        let opened = Opened::new(source, limits.memory_bytes, observer)?;
        let layouts = opened.layouts(&mut |_, _| Ok(()))?;
        Ok(Self { layouts, limits })
    }

    /// Layers that are stacks of levels, whose archive can be cut to a size.
    fn stacks(&self) -> HashMap<usize, usize> {
        let is_stack = |layout: &Option<Layout>| {
            layout.as_ref().is_some_and(|layout| layout.first_levels(1).is_some())
        };
        let stacks = self.layouts.iter().filter(|(_, layout)| is_stack(layout));
        stacks.map(|(&index, _)| (index, 1)).collect()
    }
}

/// What a conversion makes of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// Layers that are compressed in the output too.
    pub compressed: usize,
    /// Layers that are decoded and stored in full: each reason with how many.
    pub dense: Vec<(String, usize)>,
    /// Tensors that are copied as they are.
    pub copied: usize,
    /// Weight files.
    pub weight_files: usize,
    /// Their bytes, exactly.
    pub weight_bytes: u64,
    /// Bytes of all files of the output, the reports apart, exactly.
    pub output_bytes: u64,
    /// Bytes of the weight files with one level of every stack, where there are stacks and the target holds them: no
    /// size that the output is cut to may be less.
    pub least_bytes: Option<u64>,
}

impl Prospect {
    fn of(manifest: &Manifest) -> Self {
        let mut dense: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &manifest.entries {
            if let Storage::Dense { because } = &entry.storage {
                *dense.entry(because).or_default() += 1;
            }
        }
        let mut dense: Vec<(String, usize)> =
            dense.into_iter().map(|(because, layers)| (because.to_owned(), layers)).collect();
        dense.sort_by_key(|(_, layers)| std::cmp::Reverse(*layers));
        let count = |storage: &Storage| {
            manifest.entries.iter().filter(|entry| entry.storage == *storage).count()
        };
        Self {
            compressed: count(&Storage::Native),
            dense,
            copied: count(&Storage::Copied),
            weight_files: manifest.files.len(),
            weight_bytes: manifest.weight_file_bytes(),
            output_bytes: manifest.total_bytes(),
            least_bytes: None,
        }
    }

    /// How many layers are stored in full.
    pub fn dense_layers(&self) -> usize {
        self.dense.iter().map(|(_, layers)| layers).sum()
    }
}

/// What [`crate::export::convert()`] will write of `source`, which has these contents. Reads no weight.
///
/// # Errors
/// What the conversion says before it writes anything: for a target that cannot load the result.
pub fn prospect(source: &Checkpoint, contents: &Contents, aim: impl Into<Aim>) -> Result<Prospect> {
    let aim = aim.into();
    let opened = Opened::new(source, contents.limits.memory_bytes, &Silent)?;
    let manifest = opened.manifest(&contents.layouts, aim)?;
    let stacks = contents.stacks();
    let is_held = |index: &usize| {
        manifest.entries.get(*index).is_some_and(|entry| entry.storage == Storage::Native)
    };
    let least_bytes = if stacks.keys().any(is_held) {
        let least = opened.manifest(&with_heights(&contents.layouts, &stacks), aim)?;
        Some(least.weight_file_bytes())
    } else {
        None
    };
    Ok(Prospect { least_bytes, ..Prospect::of(&manifest) })
}

/// The same of a plan, as of one that gives the tensors of a GGUF file other types.
///
/// # Errors
/// What [`crate::export::export`] says before it computes anything, but for what concerns the place of the output.
pub fn prospect_of_plan<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    aim: impl Into<Aim>,
) -> Result<Prospect> {
    let manifest = laid_out(subject.into(), plan, aim.into())?;
    Ok(Prospect::of(&manifest))
}
