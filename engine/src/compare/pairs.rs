//! Which tensor of one checkpoint belongs to which of another: by name, with or without the prefix of a wrapper,
//! and through the parts in which a quantised layer is stored.

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::{Checkpoint, Tensor};
use crate::compare::stored::{CompressedLayer, Stores, config_of};

/// What a checkpoint holds of a tensor of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counterpart {
    /// A tensor of the same kind.
    Plain {
        /// Its index.
        tensor: usize,
    },
    /// A layer in codes.
    Compressed {
        /// How it is stored.
        layer: CompressedLayer,
        /// Indices of the tensors it is stored in.
        tensors: Vec<usize>,
    },
    /// A layer stored in a form that is not read here.
    Unreadable {
        /// Why, as half a sentence: "its format is float-quantized".
        because: String,
        /// Indices of the tensors it is stored in.
        tensors: Vec<usize>,
    },
}

impl Counterpart {
    /// Indices of the tensors it is stored in.
    pub fn tensors(&self) -> &[usize] {
        match self {
            Self::Plain { tensor } => std::slice::from_ref(tensor),
            Self::Compressed { tensors, .. } | Self::Unreadable { tensors, .. } => tensors,
        }
    }
}

/// Prefixes that one way of saving a model has and another has not.
const PREFIXES: [&str; 7] = [
    "model.",
    "transformer.",
    "language_model.",
    "text_model.",
    "base_model.",
    "module.",
    "_orig_mod.",
];

/// Suffixes of the tensors that, beside or instead of `weight`, hold a quantised layer of some format.
const PARTS: [&str; 19] = [
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_global_scale",
    "weight_scale_inv",
    "qweight",
    "qzeros",
    "scales",
    "biases",
    "g_idx",
    "SCB",
    "codes",
    "codebooks",
    "dense_weights",
    "row_offsets",
    "col_vals",
    "in_perm",
];

/// Suffixes by which one knows a layer whose parts these are: where all of one row are there.
const WHOLE: [&[&str]; 5] = [
    &["weight"],
    &["weight_packed"],
    &["qweight"],
    &["codes", "codebooks"],
    &["dense_weights", "row_offsets"],
];

/// For every tensor of `a`: what `b` holds of it; `None` where it holds nothing of that name.
///
/// Names may differ by prefixes such as `model.`, as long as only one tensor of either side remains that can be
/// meant. A layer that `a` itself stores compressed has its parts as counterparts where `b` stores it in the same
/// parts, and is unreadable otherwise. Cost: headers, config.json, and 16 bytes a packed layer.
pub fn pairs(a: &Checkpoint, b: &Checkpoint) -> Vec<Option<Counterpart>> {
    let (layers_a, layers_b) = (Layers::of(a), Layers::of(b));
    let config = config_of(b);
    let counterpart = |index: usize| {
        let tensor = &a.tensors()[index];
        let name = layer_of(a, &tensor.name);
        let found = layers_b.find(&name, &layers_a)?;
        let tensors = layers_b.tensors[&found].clone();
        if layers_a.tensors[&name].len() == 1 && name == tensor.name {
            return Some(Stores { b, name: &found, tensors, config: &config }.counterpart());
        }
        let part = tensors
            .iter()
            .copied()
            .find(|&other| suffix(b, &b.tensors()[other]) == suffix(a, tensor));
        let is_part = tensors.len() > 1 || tensor.name != name;
        let is_same = |other: &usize| is_part && b.tensors()[*other].dtype == tensor.dtype;
        Some(match part.filter(is_same) {
            Some(tensor) => Counterpart::Plain { tensor },
            None => Counterpart::Unreadable {
                because: "the first of the two stores it in parts that the second does not have"
                    .to_owned(),
                tensors,
            },
        })
    };
    (0..a.tensors().len()).map(counterpart).collect()
}

/// Every tensor of a checkpoint under the name it would have uncompressed, with how it is stored.
///
/// Cost: headers, config.json, and 16 bytes a packed layer.
pub fn layers(checkpoint: &Checkpoint) -> BTreeMap<String, Counterpart> {
    let config = config_of(checkpoint);
    let all = Layers::of(checkpoint).tensors.into_iter();
    let stored = |(name, tensors): (String, Vec<usize>)| {
        let stored = Stores { b: checkpoint, name: &name, tensors, config: &config }.counterpart();
        (name, stored)
    };
    all.map(stored).collect()
}

/// The tensor that `name` holds, or holds a part of: `m.weight` for `m.weight_scale`.
fn layer_of(checkpoint: &Checkpoint, name: &str) -> String {
    if let Some(layer) = checkpoint.archived_in(name).or_else(|| checkpoint.corrected_by(name)) {
        return layer.to_owned();
    }
    let has = |name: &str| checkpoint.find(name).is_some();
    if let Some((module, suffix)) = name.rsplit_once('.')
        && PARTS.contains(&suffix)
        && WHOLE.iter().any(|all| all.iter().all(|part| has(&format!("{module}.{part}"))))
    {
        return format!("{module}.weight");
    }
    // As bitsandbytes does: m.weight.absmax.
    if let Some((module, _)) = name.split_once(".weight.")
        && has(&format!("{module}.weight"))
    {
        return format!("{module}.weight");
    }
    name.to_owned()
}

/// What tells a part of a layer from the others: all that follows the name of an archive's layer, which factor of an
/// adapter it is, or the last word.
fn suffix<'t>(checkpoint: &Checkpoint, tensor: &'t Tensor) -> &'t str {
    if checkpoint.corrected_by(&tensor.name).is_some() {
        // As `lora_A.weight`: the last word of both factors is that of a plain layer.
        let at = tensor.name.rfind(".lora_").unwrap_or_default();
        return &tensor.name[at..];
    }
    let last = tensor.name.rsplit('.').next().unwrap_or_default();
    let layer = checkpoint.archived_in(&tensor.name);
    layer.and_then(|layer| tensor.name.strip_prefix(layer)).unwrap_or(last)
}

/// `name` without the prefixes that wrappers add.
fn bare(name: &str) -> &str {
    let stripped = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    stripped.map_or(name, bare)
}

/// The tensors of a checkpoint by what they hold, whichever way it is stored.
struct Layers {
    tensors: BTreeMap<String, Vec<usize>>,
    /// Full names by bare name; `None` where several have it.
    bare: HashMap<String, Option<String>>,
}

impl Layers {
    fn of(checkpoint: &Checkpoint) -> Self {
        let mut tensors: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            tensors.entry(layer_of(checkpoint, &tensor.name)).or_default().push(index);
        }
        let mut by_bare: HashMap<String, Option<String>> = HashMap::new();
        for name in tensors.keys() {
            let only = Some(name.clone());
            by_bare.entry(bare(name).to_owned()).and_modify(|name| *name = None).or_insert(only);
        }
        Self { tensors, bare: by_bare }
    }

    /// The layer called `name` in `other`: under the same name, or the only one of its bare name on both sides.
    fn find(&self, name: &str, other: &Self) -> Option<String> {
        if self.tensors.contains_key(name) {
            return Some(name.to_owned());
        }
        let is_only = other.bare.get(bare(name)).is_some_and(Option::is_some);
        self.bare.get(bare(name)).filter(|_| is_only)?.clone()
    }
}
