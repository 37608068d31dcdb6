//! Which tensor of one checkpoint belongs to which of another: by name, with or without the prefix of a wrapper,
//! and through the parts in which a quantised layer is stored.

use std::collections::{BTreeMap, HashMap};

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::AffineLayout;
use crate::error::Result;
use crate::format::compressed_tensors::{Config, Packing, Reader, Stated, stored};
use crate::numeric::grouping::Grouping;
use crate::observer::Observer;
use crate::tensor::{DType, MatrixShape, for_each_f64};

/// What a checkpoint holds of a tensor of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counterpart {
    /// A tensor of the same kind.
    Plain {
        /// Its index.
        tensor: usize,
    },
    /// A layer in grouped integers.
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

/// A linear layer as compressed-tensors stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedLayer {
    /// Name of the module.
    pub module: String,
    /// Packed, or one byte a code.
    pub packing: Packing,
    /// Bits, grouping, symmetry, type of the scales.
    pub layout: AffineLayout,
    /// `[rows, cols]` = `[out, in]`.
    pub shape: MatrixShape,
    /// Suffix and index of the tensors that are read.
    parts: Vec<(&'static str, usize)>,
}

impl CompressedLayer {
    /// Whether the part is a single value where decoding wants one for each row.
    fn is_one_for_all(&self, suffix: &str) -> bool {
        is_one_for_all(self.layout.grouping, suffix)
    }

    /// The stored parts, copied in pieces, so that no mapped page is touched while decoding.
    pub fn read_parts(&self, from: &Checkpoint, observer: &dyn Observer) -> Result<Parts> {
        let mut parts = BTreeMap::new();
        for &(suffix, index) in &self.parts {
            let part = &from.tensors()[index];
            let mut bytes = Vec::with_capacity(part.bytes() as usize);
            from.for_each_chunk(part, |piece| {
                observer.go_on()?;
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            // One scale or zero point of the whole tensor counts for each row.
            if self.is_one_for_all(suffix) {
                bytes = bytes.repeat(self.shape.rows);
            }
            parts.insert(suffix, bytes);
        }
        Ok(Parts(parts))
    }
}

/// What a compressed layer is stored in, by suffix.
#[derive(Debug)]
pub struct Parts(BTreeMap<&'static str, Vec<u8>>);

impl Parts {
    /// Decodes the layer they are of; `None` where they do not fit together.
    pub fn reader(&self, layer: &CompressedLayer) -> Option<Reader<'_>> {
        let get = |suffix: &str| self.0.get(suffix).map(Vec::as_slice);
        Reader::new(layer.packing, &layer.layout, layer.shape, &get)
    }
}

fn is_one_for_all(grouping: Grouping, suffix: &str) -> bool {
    grouping == Grouping::Tensor && matches!(suffix, "weight_scale" | "weight_zero_point")
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
const PARTS: [&str; 12] = [
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
    "g_idx",
    "SCB",
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
        let part = tensors.iter().copied().find(|&other| {
            let suffix = |tensor: &Tensor| tensor.name.rsplit('.').next().map(str::to_owned);
            suffix(&b.tensors()[other]) == suffix(tensor)
        });
        let is_same =
            |other: &usize| tensors.len() > 1 && b.tensors()[*other].dtype == tensor.dtype;
        Some(match part.filter(is_same) {
            Some(tensor) => Counterpart::Plain { tensor },
            None => Counterpart::Unreadable {
                because: "the first of the two stores it compressed (compare the other way round)"
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
    let has = |name: &str| checkpoint.find(name).is_some();
    if let Some((module, suffix)) = name.rsplit_once('.')
        && PARTS.contains(&suffix)
        && ["weight", "weight_packed", "qweight"].iter().any(|w| has(&format!("{module}.{w}")))
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

/// What config.json says of quantised layers; half a sentence where that cannot be told.
fn config_of(checkpoint: &Checkpoint) -> Result<Config, String> {
    let config = checkpoint.config().ok_or("there is no config.json that says how it is stored")?;
    let value = config.value();
    let places = [Some(value), value.get("text_config")];
    let names = ["quantization_config", "compression_config"];
    let mut found = places.into_iter().flatten().flat_map(|v| names.map(|name| v.get(name)));
    let found = found.find_map(|value| value.filter(|value| !value.is_null()));
    Config::read(found.ok_or("its config.json does not say how it is quantised")?)
}

/// The tensors in which a checkpoint stores `name`.
struct Stores<'a> {
    b: &'a Checkpoint,
    name: &'a str,
    tensors: Vec<usize>,
    config: &'a Result<Config, String>,
}

impl Stores<'_> {
    fn counterpart(self) -> Counterpart {
        if let [tensor] = self.tensors[..]
            && self.b.tensors()[tensor].name == self.name
        {
            return Counterpart::Plain { tensor };
        }
        match self.layer() {
            Ok(layer) => Counterpart::Compressed { layer, tensors: self.tensors },
            Err(because) => Counterpart::Unreadable { because, tensors: self.tensors },
        }
    }

    fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(self.name)
    }

    fn part(&self, suffix: &str) -> Option<(usize, &Tensor)> {
        let index = self.b.find(&format!("{}.{suffix}", self.module()))?;
        Some((index, &self.b.tensors()[index]))
    }

    fn layer(&self) -> Result<CompressedLayer, String> {
        if self.part("qweight").is_some() {
            return Err("its codes are stored as GPTQ or AWQ store them".to_owned());
        }
        let nested = format!("{}.weight.", self.module());
        let names = self.tensors.iter().map(|&index| &self.b.tensors()[index].name);
        if self.part("SCB").is_some() || names.into_iter().any(|name| name.starts_with(&nested)) {
            return Err("its weights are stored as bitsandbytes stores them".to_owned());
        }
        let stated = self.config.as_ref().map_err(Clone::clone)?.stated(self.module())?;
        if self.part("weight_g_idx").is_some() {
            return Err("its inputs are in another order (weight_g_idx)".to_owned());
        }
        let (_, scale) = self.part("weight_scale").ok_or("it has no weight_scale")?;
        if !matches!(scale.dtype, DType::F16 | DType::BF16 | DType::F32) {
            return Err(format!("its scales are {}", scale.dtype));
        }
        let layout = AffineLayout {
            bits: stated.bits,
            grouping: stated.grouping,
            symmetric: stated.symmetric,
            scale_dtype: scale.dtype,
            has_offsets: false,
        };
        let shape = self.shape(&stated)?;
        self.check_packing(&stated, shape)?;
        let parts = self.parts(&stated, &layout, shape)?;
        let module = self.module().to_owned();
        Ok(CompressedLayer { module, packing: stated.packing, layout, shape, parts })
    }

    /// Extents of the decoded matrix.
    fn shape(&self, stated: &Stated) -> Result<MatrixShape, String> {
        if stated.packing == Packing::Int {
            let (_, weight) = self.part("weight").ok_or("it has no weight")?;
            return match weight.shape.0[..] {
                [rows, cols] => Ok(MatrixShape { rows, cols }),
                _ => Err(format!("its weight has the shape {}", weight.shape)),
            };
        }
        let (_, tensor) = self.part("weight_shape").ok_or("it has no weight_shape")?;
        let is_pair = tensor.parameters() == 2 && matches!(tensor.dtype, DType::I64 | DType::I32);
        let bytes = self.b.element_bytes(tensor, 0, 2).ok().filter(|_| is_pair);
        let mut extents = Vec::new();
        for_each_f64(tensor.dtype, bytes.ok_or("its weight_shape is no pair")?, |extent| {
            extents.push(extent);
        });
        // So small that no product overflows; the parts are checked against it.
        let is_extent = |extent: &f64| (0.0..2_f64.powi(31)).contains(extent);
        if !extents.iter().all(is_extent) {
            return Err("its weight_shape is no shape".to_owned());
        }
        Ok(MatrixShape { rows: extents[0] as usize, cols: extents[1] as usize })
    }

    /// Codes of 3, 5, 6 and 7 bits were padded to whole words before June 2026.
    fn check_packing(&self, stated: &Stated, shape: MatrixShape) -> Result<(), String> {
        if stated.packing == Packing::Int || 32_u32.is_multiple_of(stated.bits) {
            return Ok(());
        }
        let words =
            self.part("weight_packed").and_then(|(_, packed)| packed.shape.0.get(1).copied());
        let dense = (shape.cols * stated.bits as usize).div_ceil(32);
        let padded = shape.cols.div_ceil((32 / stated.bits) as usize);
        if words == Some(padded) && (padded != dense || padded > 1) {
            return Err(format!("its {}-bit codes may be padded to whole words", stated.bits));
        }
        Ok(())
    }

    /// The tensors to read, each of the type and length that the scheme demands.
    fn parts(
        &self,
        stated: &Stated,
        layout: &AffineLayout,
        shape: MatrixShape,
    ) -> Result<Vec<(&'static str, usize)>, String> {
        let packs_zeros = stated.packing == Packing::Packed && !stated.symmetric;
        if stated.grouping == Grouping::Tensor && packs_zeros {
            return Err("its one zero point is packed".to_owned());
        }
        let mut parts = Vec::new();
        for (suffix, dtype, wanted) in stored(stated.packing, layout, shape) {
            let part = self.part(suffix);
            let (index, tensor) = part.ok_or_else(|| format!("it has no {suffix}"))?;
            let is_pair = suffix == "weight_shape";
            let is_single = is_one_for_all(stated.grouping, suffix);
            let elements = if is_single { Some(1) } else { wanted.elements() };
            let fits = tensor.dtype == dtype && Some(tensor.parameters()) == elements;
            if !is_pair && !fits {
                return Err(format!(
                    "its {suffix} is {} of shape {}, not {dtype} of shape {wanted}",
                    tensor.dtype, tensor.shape
                ));
            }
            parts.push((suffix, index));
        }
        Ok(parts)
    }
}
