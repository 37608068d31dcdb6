//! A layer that a checkpoint stores compressed: recognised by its tensors and config.json, checked part by part, read.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::compare::Counterpart;
use crate::encoding::{AffineLayout, Encoding};
use crate::error::Result;
use crate::format::Stored;
use crate::format::compressed_tensors::{self, Floats, Packing, Stated, stored};
use crate::format::layer::{Config, Form, Reader};
use crate::format::mlx::{self, Mode};
use crate::format::{archive, awq, gptq};
use crate::numeric::grouping::Grouping;
use crate::observer::Observer;
use crate::tensor::{DType, MatrixShape, Shape, for_each_f64};

/// A layer as a format stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedLayer {
    /// Name of the module.
    pub module: String,
    /// Of which format, with bits, grouping and the like.
    pub form: Form,
    /// `[rows, cols]` = `[out, in]`.
    pub shape: MatrixShape,
    /// Suffix and index of the tensors that are read.
    pub(super) parts: Vec<(String, usize)>,
    /// Extents of the tensor it stands for, where they are not those of the matrix.
    seen_as: Option<SeenAs>,
}

/// A tensor that is a matrix only as it is seen here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SeenAs {
    dtype: DType,
    shape: Shape,
    is_transposed: bool,
}

impl CompressedLayer {
    /// Whether the part is a single value where decoding wants one for each row.
    fn is_one_for_all(&self, suffix: &str, part: &Tensor) -> bool {
        match self.form.base() {
            Form::CompressedFloats(floats, _) => {
                *floats == Floats::Channels && suffix == "weight_scale" && part.parameters() == 1
            }
            Form::CompressedTensors(_, layout) => is_one_for_all(layout.grouping, suffix),
            _ => false,
        }
    }

    /// Extents of the tensor it stands for.
    pub fn tensor_shape(&self) -> Shape {
        let of_matrix = || Shape(vec![self.shape.rows, self.shape.cols]);
        self.seen_as.as_ref().map_or_else(of_matrix, |seen| seen.shape.clone())
    }

    /// Whether the tensor it stands for is the matrix transposed, as in the GPT-2 family.
    pub fn is_transposed(&self) -> bool {
        self.seen_as.as_ref().is_some_and(|seen| seen.is_transposed)
    }

    /// Element type of the tensor it stands for: as an archive says, or config.json, or the type of its scales.
    pub fn tensor_dtype(&self, of: &Checkpoint) -> DType {
        let config = of.config().map(crate::checkpoint::Config::value);
        let places = [config, config.and_then(|config| config.get("text_config"))];
        let named = places.into_iter().flatten().find_map(|config| {
            let name = config.get("dtype").or_else(|| config.get("torch_dtype"))?.as_str()?;
            [("bfloat16", DType::BF16), ("float16", DType::F16), ("float32", DType::F32)]
                .into_iter()
                .find_map(|(known, dtype)| name.ends_with(known).then_some(dtype))
        });
        let seen = self.seen_as.as_ref().map(|seen| seen.dtype);
        seen.or(named).or_else(|| self.form.scale_dtype()).unwrap_or(DType::BF16)
    }

    /// The encoding it is, number by number; `None` where none of ours is that.
    ///
    /// # Errors
    /// What reading says; [`crate::Error::Cancelled`].
    pub fn encoding(&self, from: &Checkpoint, observer: &dyn Observer) -> Result<Option<Encoding>> {
        let parts = self.read_parts(from, 0..self.shape.elements(), observer)?;
        let get = |suffix: &str| parts.bytes.get(suffix).map(Vec::as_slice);
        Ok(self.form.encoding(self.shape, &get))
    }

    /// What is added to the outputs of the layer beside its bias.
    ///
    /// # Errors
    /// What reading says; [`crate::Error::Cancelled`].
    pub fn shift(&self, from: &Checkpoint, observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        let Form::Archive(layout) = &self.form else { return Ok(None) };
        let part = self.parts.iter().find(|(suffix, _)| suffix == "shift");
        let Some((_, index)) = part.filter(|_| layout.has_shift()) else { return Ok(None) };
        observer.go_on()?;
        from.values(*index).map(Some)
    }

    /// What the weights in `wanted` (places in the row-major matrix) are stored in, copied in pieces, so that no mapped
    /// page is touched while decoding. Where a format keeps rows apart, only those rows are read.
    pub fn read_parts(
        &self,
        from: &Checkpoint,
        wanted: Range<usize>,
        observer: &dyn Observer,
    ) -> Result<Parts> {
        let MatrixShape { rows, cols } = self.shape;
        let held = match &self.form {
            Form::Mlx(_) if cols > 0 => wanted.start / cols..wanted.end.div_ceil(cols).min(rows),
            _ => 0..rows,
        };
        let mut parts = BTreeMap::new();
        for (suffix, index) in &self.parts {
            let part = &from.tensors()[*index];
            let mut bytes = if held.len() == rows {
                read_whole(from, part, observer)?
            } else {
                let width = part.parameters() / (rows as u64).max(1);
                let (first, n) = (held.start as u64 * width, held.len() as u64 * width);
                from.element_bytes(part, first, n)?.into_owned()
            };
            // One scale or zero point of the whole tensor counts for each row.
            if self.is_one_for_all(suffix, part) {
                bytes = bytes.repeat(rows);
            }
            parts.insert(suffix.clone(), bytes);
        }
        let shape = MatrixShape { rows: held.len(), cols };
        Ok(Parts { form: self.form.clone(), shape, first: held.start * cols, bytes: parts })
    }
}

fn read_whole(from: &Checkpoint, part: &Tensor, observer: &dyn Observer) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(part.bytes() as usize);
    from.for_each_chunk(part, |piece| {
        observer.go_on()?;
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// What a compressed layer, or some rows of it, is stored in.
#[derive(Debug)]
pub struct Parts {
    form: Form,
    shape: MatrixShape,
    /// Place of the first weight in the whole layer.
    first: usize,
    /// Bytes by suffix.
    bytes: BTreeMap<String, Vec<u8>>,
}

impl Parts {
    /// Decodes them; `None` where they do not fit together.
    pub fn reader(&self) -> Option<PartsReader<'_>> {
        let get = |suffix: &str| self.bytes.get(suffix).map(Vec::as_slice);
        Some(PartsReader { first: self.first, reader: self.form.reader(self.shape, &get)? })
    }
}

/// Decodes the weights that [`Parts`] hold.
#[derive(Debug)]
pub struct PartsReader<'a> {
    first: usize,
    reader: Reader<'a>,
}

impl PartsReader<'_> {
    /// Decodes the weights `first .. first + out.len()` of the whole layer; `None` where they are not held.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        self.reader.read(first.checked_sub(self.first)?, out)
    }
}

fn is_one_for_all(grouping: Grouping, suffix: &str) -> bool {
    grouping == Grouping::Tensor && matches!(suffix, "weight_scale" | "weight_zero_point")
}

/// What config.json says of quantised layers; half a sentence where that cannot be told.
pub(super) fn config_of(checkpoint: &Checkpoint) -> Result<Config, String> {
    let config = checkpoint.config().ok_or("there is no config.json that says how it is stored")?;
    Config::read(config.value())
}

/// The tensors in which a checkpoint stores `name`.
pub(super) struct Stores<'a> {
    pub(super) b: &'a Checkpoint,
    pub(super) name: &'a str,
    pub(super) tensors: Vec<usize>,
    pub(super) config: &'a Result<Config, String>,
}

impl Stores<'_> {
    pub(super) fn counterpart(self) -> Counterpart {
        if let [tensor] = self.tensors[..]
            && self.b.tensors()[tensor].name == self.name
        {
            return Counterpart::Plain { tensor };
        }
        let layer = match self.b.archived(self.name) {
            Some(layer) => Ok(self.archived(layer)),
            None => self.layer(),
        };
        match layer.and_then(|layer| self.corrected(layer)) {
            Ok(layer) => Counterpart::Compressed { layer, tensors: self.tensors },
            Err(because) => Counterpart::Unreadable { because, tensors: self.tensors },
        }
    }

    /// A layer of an archive, whose parts were held against its layout when it was opened.
    fn archived(&self, layer: &archive::Layer) -> CompressedLayer {
        let part = |&index: &usize| {
            let name = &self.b.tensors()[index].name;
            let part = name.strip_prefix(self.name).and_then(|part| part.strip_prefix('.'));
            (part.unwrap_or_default().to_owned(), index)
        };
        CompressedLayer {
            module: self.module().to_owned(),
            form: Form::Archive(layer.layout.clone()),
            shape: layer.matrix,
            parts: self.tensors.iter().map(part).collect(),
            seen_as: Some(SeenAs {
                dtype: layer.dtype,
                shape: layer.shape.clone(),
                is_transposed: layer.is_transposed,
            }),
        }
    }

    /// A layer in parts of a format that tells tensors from matrices nowhere.
    pub(super) fn compressed(
        &self,
        form: Form,
        shape: MatrixShape,
        parts: Vec<(&'static str, usize)>,
    ) -> CompressedLayer {
        let parts = parts.into_iter().map(|(suffix, index)| (suffix.to_owned(), index)).collect();
        CompressedLayer { module: self.module().to_owned(), form, shape, parts, seen_as: None }
    }

    fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(self.name)
    }

    pub(super) fn part(&self, suffix: &str) -> Option<(usize, &Tensor)> {
        let index = self.b.find(&format!("{}.{suffix}", self.module()))?;
        Some((index, &self.b.tensors()[index]))
    }

    fn layer(&self) -> Result<CompressedLayer, String> {
        let config = self.config.as_ref().map_err(Clone::clone);
        if self.part("qweight").is_some() {
            return match config? {
                Config::Gptq(config) => self.gptq(config),
                Config::Awq(config) => self.awq(config),
                _ => Err("its codes are stored as GPTQ or AWQ store them".to_owned()),
            };
        }
        if let Some(found) = self.vectors(config.clone()) {
            return found;
        }
        let nested = format!("{}.weight.", self.module());
        let names = self.tensors.iter().map(|&index| &self.b.tensors()[index].name);
        if self.part("SCB").is_some() || names.into_iter().any(|name| name.starts_with(&nested)) {
            return Err("its weights are stored as bitsandbytes stores them".to_owned());
        }
        match config? {
            Config::CompressedTensors(config) => self.compressed_tensors(config),
            Config::Mlx(config) => self.mlx(config),
            Config::Gptq(_) | Config::Awq(_) => Err("it has no qweight".to_owned()),
            Config::Aqlm(_) | Config::Spqr => Err("it has no codes".to_owned()),
        }
    }

    /// Inputs and outputs of a layer whose `qweight` holds so many codes down and across, and the type of its scales.
    fn packed(&self, codes: (usize, usize)) -> Result<(MatrixShape, DType), String> {
        let (_, weight) = self.part("qweight").ok_or("it has no qweight")?;
        let (_, scales) = self.part("scales").ok_or("it has no scales")?;
        if !matches!(scales.dtype, DType::F16 | DType::BF16 | DType::F32) {
            return Err(format!("its scales are {}", scales.dtype));
        }
        let shape = match weight.shape.0[..] {
            [down, across] => down.checked_mul(codes.0).zip(across.checked_mul(codes.1)),
            _ => None,
        };
        let (cols, rows) =
            shape.ok_or_else(|| format!("its qweight has the shape {}", weight.shape))?;
        Ok((MatrixShape { rows, cols }, scales.dtype))
    }

    fn gptq(&self, config: &gptq::Config) -> Result<CompressedLayer, String> {
        let (bits, group_size) = config.stated(self.module())?;
        // A word of b bits times 32 is a run of 32 codes.
        let ((mut shape, scale_dtype), b) = (self.packed((32, 1))?, bits as usize);
        if !shape.cols.is_multiple_of(b) {
            return Err(format!("its qweight is not {bits} bits a code"));
        }
        shape.cols /= b;
        let groups = group_size.map_or(1, |size| shape.cols.div_ceil(size));
        let form = gptq::Form { version: config.version(), bits, groups, scale_dtype };
        let mut wanted = form.stored(shape)?;
        if self.part("g_idx").is_none() {
            wanted.retain(|(suffix, ..)| *suffix != "g_idx");
        }
        let parts = self.parts_of(wanted)?;
        Ok(self.compressed(Form::Gptq(form), shape, parts))
    }

    fn awq(&self, config: &awq::Config) -> Result<CompressedLayer, String> {
        let (shape, scale_dtype) = self.packed((1, 8))?;
        let form = awq::Form { group_size: config.group_size(shape.cols)?, scale_dtype };
        let parts = self.parts_of(form.stored(shape)?)?;
        Ok(self.compressed(Form::Awq(form), shape, parts))
    }

    fn mlx(&self, config: &mlx::Config) -> Result<CompressedLayer, String> {
        let (mode, bits, group_size) = config.stated(self.module())?;
        let (_, weight) = self.part("weight").ok_or("it has no weight")?;
        let (_, scales) = self.part("scales").ok_or("it has no scales")?;
        let is_float = matches!(scales.dtype, DType::F16 | DType::BF16 | DType::F32);
        if is_float != (mode == Mode::Affine) || !(is_float || scales.dtype == DType::U8) {
            return Err(format!("its scales are {}", scales.dtype));
        }
        let ([rows, words], [_, groups]) = (&weight.shape.0[..], &scales.shape.0[..]) else {
            return Err(format!("its weight has the shape {}", weight.shape));
        };
        let cols = groups.checked_mul(group_size).ok_or("its scales are too many")?;
        let form = mlx::Form { mode, bits, group_size, scale_dtype: scales.dtype };
        let shape = MatrixShape { rows: *rows, cols };
        if words.checked_mul(32) != cols.checked_mul(bits as usize) {
            return Err(format!("its weight of shape {} is not {bits} bits a code", weight.shape));
        }
        let parts = self.parts_of(form.stored(shape)?)?;
        Ok(self.compressed(Form::Mlx(form), shape, parts))
    }

    /// The tensors to read, each of the type and shape that the format demands.
    pub(super) fn parts_of(
        &self,
        wanted: Vec<Stored>,
    ) -> Result<Vec<(&'static str, usize)>, String> {
        let part = |(suffix, dtype, shape): Stored| {
            let (index, tensor) = self.part(suffix).ok_or_else(|| format!("it has no {suffix}"))?;
            if tensor.dtype == dtype && tensor.shape == shape {
                return Ok((suffix, index));
            }
            let (found, of) = (&tensor.dtype, &tensor.shape);
            Err(format!("its {suffix} is {found} of shape {of}, not {dtype} of shape {shape}"))
        };
        wanted.into_iter().map(part).collect()
    }

    fn compressed_tensors(
        &self,
        config: &compressed_tensors::Config,
    ) -> Result<CompressedLayer, String> {
        if self.part("weight_g_idx").is_some() {
            return Err("its inputs are in another order (weight_g_idx)".to_owned());
        }
        if let Some(floats) = config.floats(self.module()) {
            return self.compressed_floats(floats?);
        }
        let stated = config.stated(self.module())?;
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
        Ok(self.compressed(Form::CompressedTensors(stated.packing, layout), shape, parts))
    }

    /// Small floats, each tensor of the type and length that their form demands; one scale may count for all rows.
    fn compressed_floats(&self, floats: Floats) -> Result<CompressedLayer, String> {
        let (_, scale) = self.part("weight_scale").ok_or("it has no weight_scale")?;
        let codes = self.part("weight_packed").map(|(_, codes)| (codes, 2));
        let codes = codes.or_else(|| self.part("weight").map(|(_, codes)| (codes, 1)));
        let (codes, each) = codes.ok_or("it has no weight")?;
        let shape = match codes.shape.0[..] {
            [rows, bytes] => bytes.checked_mul(each).map(|cols| MatrixShape { rows, cols }),
            _ => None,
        };
        let shape = shape.ok_or_else(|| format!("its weight has the shape {}", codes.shape))?;
        let scale_dtype = scale.dtype;
        let is_free = matches!(floats, Floats::Channels | Floats::Squares);
        if is_free && !matches!(scale_dtype, DType::F16 | DType::BF16 | DType::F32) {
            return Err(format!("its scales are {scale_dtype}"));
        }
        let mut parts = Vec::new();
        for (suffix, dtype, wanted) in floats.stored(scale_dtype, shape) {
            let (index, part) = self.part(suffix).ok_or_else(|| format!("it has no {suffix}"))?;
            let is_single = suffix == "weight_scale" && floats == Floats::Channels;
            let n = Some(part.parameters());
            if part.dtype != dtype || (n != wanted.elements() && !(is_single && n == Some(1))) {
                let (found, of) = (&part.dtype, &part.shape);
                return Err(format!(
                    "its {suffix} is {found} of shape {of}, not {dtype} of {wanted}"
                ));
            }
            parts.push((suffix, index));
        }
        Ok(self.compressed(Form::CompressedFloats(floats, scale_dtype), shape, parts))
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
        let bytes = bytes.ok_or("its weight_shape is no pair")?;
        for_each_f64(tensor.dtype, &bytes, |extent| {
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
