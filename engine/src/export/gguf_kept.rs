//! The proof that a GGUF file which was written again is the source but for what was wanted: every key with its value, and
//! every tensor that no assignment changed, byte for byte, in the order of the source.

use std::path::Path;

use crate::disk::Source;
use crate::error::Result;
use crate::export::gguf_reader::{Opened, read};
use crate::export::proof::failed;
use crate::export::{Work, gguf};
use crate::format::{gguf_importance, gguf_split};
use crate::observer::{Progress, Unit};
use crate::target::{Content, WeightFile};

/// Keys that say how tensors are stored.
const OF_TYPES: [&str; 2] = ["general.file_type", "general.quantization_version"];

/// Holds all parts against the source.
pub(super) fn check(work: &Work<'_>, parts: &[(&Path, Opened<'_>)]) -> Result<()> {
    let files = work.checkpoint.files();
    let open_part = |path: &Path| Source::open_among(path, files.len());
    let sources: Vec<Source> =
        files.iter().map(|file| open_part(file.path())).collect::<Result<_>>()?;
    let mut before = Vec::with_capacity(sources.len());
    for source in &sources {
        let bytes = source.bytes(0..source.len_bytes())?;
        let (opened, _) = read(bytes, 2..=3).map_err(|what| failed(source.path(), what))?;
        before.push(opened);
    }
    let Some((path, _)) = parts.first() else { return Ok(()) };
    check_pairs(path, &before, parts)?;
    let total = work.manifest.weight_file_bytes();
    let mut done = 0;
    for (file, (path, opened)) in work.manifest.files.iter().zip(parts) {
        let WeightFile::Gguf(file) = &file.plan else { continue };
        for ((new, bytes), content) in file.plan.tensors().iter().zip(&file.contents) {
            if !matches!(content, Content::Carried { .. }) {
                continue;
            }
            let (stage, item, unit) = ("Proving", new.name.clone(), Unit::Bytes);
            work.observer.progress(Progress { stage, item, done, total, unit });
            done += bytes;
            let name = new.name.as_str();
            let found = opened.tensors.get(name);
            let wanted = before.iter().find_map(|part| part.tensors.get(name));
            let is_same = found.zip(wanted).is_some_and(|(found, wanted)| {
                found.extents == wanted.extents
                    && found.kind == wanted.kind
                    && found.data.len() == wanted.data.len()
            });
            let differs = || failed(path, format!("{name} is not a faithful copy"));
            let (Some(found), Some(wanted), true) = (found, wanted, is_same) else {
                return Err(differs());
            };
            for piece in gguf::pieces(&(0..found.data.len() as u64)) {
                work.observer.go_on()?;
                let piece = piece.start as usize..piece.end as usize;
                if found.data[piece.clone()] != wanted.data[piece] {
                    return Err(differs());
                }
            }
        }
    }
    Ok(())
}

/// Every key of the source but those about types, parts and importance stands there with its value, and no other does.
fn check_pairs(path: &Path, before: &[Opened<'_>], parts: &[(&Path, Opened<'_>)]) -> Result<()> {
    let is_kept = |key: &str| {
        let of_parts = [gguf_split::NUMBER, gguf_split::COUNT, gguf_split::TENSORS];
        !OF_TYPES.contains(&key)
            && !of_parts.contains(&key)
            && !key.starts_with(gguf_importance::KEYS)
    };
    let wanted = distinct(before.iter(), &is_kept);
    let found = distinct(parts.iter().map(|(_, part)| part), &is_kept);
    let different = wanted.iter().zip(&found).find(|(wanted, found)| wanted != found);
    let missing = wanted.get(found.len()).or_else(|| found.get(wanted.len()));
    match different.map(|(wanted, _)| wanted).or(missing) {
        Some((key, _)) => Err(failed(path, format!("its key {key} is not as in the source"))),
        None => Ok(()),
    }
}

/// Pairs of all parts in order, each key once.
fn distinct<'p, 'a: 'p>(
    parts: impl Iterator<Item = &'p Opened<'a>>,
    is_kept: &dyn Fn(&str) -> bool,
) -> Vec<(&'a str, &'a [u8])> {
    let mut known = std::collections::BTreeSet::new();
    let all = parts.flat_map(|part| part.pairs.iter().copied());
    all.filter(|(key, _)| is_kept(key) && known.insert(*key)).collect()
}
