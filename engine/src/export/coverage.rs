//! In a sentence, what part of a model is compressed: `312 of 315 linear layers at 4 bits; 3 kept: …`.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::{Checkpoint, MatrixKind, told_numbers};
use crate::target::{Entry, Manifest, Storage};

/// Layers that are named; more are counted.
const MOST_NAMED: usize = 4;

/// The sentence, without a full stop. Linear layers are those multiplied with what they receive; bits are nominal.
pub(super) fn coverage(checkpoint: &Checkpoint, manifest: &Manifest) -> String {
    let is_linear = |entry: &&Entry| {
        let matrix = checkpoint.tensors()[entry.tensor].matrix;
        matrix.is_some_and(|m| matches!(m.kind, MatrixKind::Linear | MatrixKind::Conv1d))
    };
    let (linear, others): (Vec<&Entry>, Vec<&Entry>) = manifest.entries.iter().partition(is_linear);
    let mut parts = removed(checkpoint);
    parts.push(at_bits(&linear));
    let named = |kind: fn(&Storage) -> bool| -> Vec<&str> {
        let of_kind = linear.iter().filter(|entry| kind(&entry.storage));
        of_kind.map(|entry| checkpoint.tensors()[entry.tensor].module()).collect()
    };
    let full = named(|storage| matches!(storage, Storage::Dense { .. }));
    if !full.is_empty() {
        parts.push(format!("{} compressed but stored in full: {}", full.len(), list(&full)));
    }
    let kept = named(|storage| matches!(storage, Storage::Copied | Storage::Changed { .. }));
    if !kept.is_empty() {
        parts.push(format!("{} kept: {}", kept.len(), list(&kept)));
    }
    let beside = others.iter().filter(|entry| entry.storage == Storage::Native).count();
    if beside > 0 {
        let tensors = if beside == 1 { "tensor" } else { "tensors" };
        parts.push(format!("{beside} other {tensors} compressed"));
    }
    parts.join("; ")
}

/// `2 of 6 blocks taken out: 1 and 4`, and how many experts of the blocks that stay.
fn removed(checkpoint: &Checkpoint) -> Vec<String> {
    let (removal, mut parts) = (checkpoint.removal(), Vec::new());
    let Some(before) = checkpoint.before() else { return parts };
    if !removal.blocks.is_empty() {
        let (gone, numbers) = (removal.blocks.len(), told_numbers(&removal.blocks));
        parts.push(format!("{gone} of {} blocks taken out: {numbers}", before.blocks));
    }
    let gone: usize = removal.experts.values().map(BTreeSet::len).sum();
    if gone > 0 {
        parts.push(format!("{gone} of {} experts taken out", before.experts));
    }
    parts
}

/// `300 of 315 linear layers at 4 bits, 12 at 8 bits`, the most frequent first.
fn at_bits(linear: &[&Entry]) -> String {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for entry in linear.iter().filter(|entry| entry.storage == Storage::Native) {
        if let Some(layout) = &entry.layout {
            *counts.entry(layout.nominal_bits()).or_default() += 1;
        }
    }
    let all = linear.len();
    let layers = if all == 1 { "layer" } else { "layers" };
    let mut counts: Vec<(u32, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(bits, count)| (std::cmp::Reverse(count), bits));
    let many = |&bits: &u32| if bits == 1 { "1 bit".to_owned() } else { format!("{bits} bits") };
    let said: Vec<String> = counts
        .iter()
        .enumerate()
        .map(|(at, (bits, count))| match at {
            0 => format!("{count} of {all} linear {layers} at {}", many(bits)),
            _ => format!("{count} at {}", many(bits)),
        })
        .collect();
    if said.is_empty() {
        return format!("0 of {all} linear {layers} stored compressed");
    }
    said.join(", ")
}

fn list(names: &[&str]) -> String {
    let shown = names[..names.len().min(MOST_NAMED)].join(", ");
    match names.len().saturating_sub(MOST_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
