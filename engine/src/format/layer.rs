//! A layer stored compressed, whichever format it is of: what its configuration says, the tensors that hold it, and any
//! run of its weights decoded. In: config.json, mapped bytes. Out: f32 weights. Never writes.

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};
use serde_json::Value;

use crate::encoding::{AffineLayout, Encoding, Layout, Sum};
use crate::format::compressed_tensors::{self, FloatReader, Floats, Packing};
use crate::format::{adapter, aqlm, archive, awq, gptq, mlx, spqr};
use crate::tensor::{DType, MatrixShape};

/// How a layer is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As compressed-tensors stores grouped integers.
    CompressedTensors(Packing, AffineLayout),
    /// As compressed-tensors stores small floats, with the type of their scales.
    CompressedFloats(Floats, DType),
    /// As MLX stores integers and small floats.
    Mlx(mlx::Form),
    /// As GPTQ stores integers.
    Gptq(gptq::Form),
    /// As AWQ stores integers.
    Awq(awq::Form),
    /// As AQLM stores additive codes.
    Aqlm(aqlm::Form),
    /// As `SpQR` stores small groups and single weights.
    Spqr(spqr::Form),
    /// Part by part, in an archive.
    Archive(Layout),
    /// In one of these forms, with factors in an adapter that are added.
    Corrected(Box<Self>, adapter::Factors),
}

impl Form {
    /// How it is stored but for an adapter.
    pub fn base(&self) -> &Self {
        match self {
            Self::Corrected(base, _) => base.base(),
            own => own,
        }
    }

    /// Whether every weight depends on all that is stored, so that a few of them cost as much as all.
    pub fn is_read_whole(&self) -> bool {
        fn is_whole(layout: &Layout) -> bool {
            match layout {
                Layout::Rotated(of) => of.rows.is_some() || is_whole(&of.inner),
                Layout::Sum(of) => is_whole(&of.base) || is_whole(&of.correction),
                Layout::Scaled(of) => is_whole(&of.inner),
                Layout::Shifted(of) => is_whole(&of.inner),
                Layout::Stack(of) => of.levels.iter().any(is_whole),
                _ => false,
            }
        }
        match self {
            Self::Archive(layout) => is_whole(layout),
            Self::Corrected(base, _) => base.is_read_whole(),
            _ => false,
        }
    }

    /// The format's name, and bits of a code.
    pub fn told(&self) -> (&'static str, u32) {
        match self {
            Self::CompressedTensors(_, layout) => ("compressed-tensors", layout.bits),
            Self::CompressedFloats(Floats::Nvfp4 | Floats::Mxfp4, _) => ("compressed-tensors", 4),
            Self::CompressedFloats(..) => ("compressed-tensors", 8),
            Self::Mlx(form) => ("MLX", form.bits),
            Self::Gptq(form) => ("GPTQ", form.bits),
            Self::Awq(_) => ("AWQ", 4),
            Self::Aqlm(form) => ("AQLM", form.bits),
            Self::Spqr(_) => ("SpQR", 3),
            Self::Corrected(base, _) => base.told(),
            Self::Archive(layout) => ("archive", layout.nominal_bits()),
        }
    }

    /// Decodes from `get(suffix)`; `None` if a tensor is missing or does not fit.
    pub fn reader<'a>(
        &self,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Reader<'a>> {
        Some(match self {
            Self::CompressedTensors(packing, layout) => {
                let reader = compressed_tensors::Reader::new(*packing, layout, shape, get)?;
                Reader::CompressedTensors(reader)
            }
            Self::CompressedFloats(floats, dtype) => {
                Reader::CompressedFloats(FloatReader::new(*floats, *dtype, shape, get)?)
            }
            Self::Mlx(form) => Reader::Mlx(mlx::Reader::new(*form, shape, get)?),
            Self::Gptq(form) => Reader::Gptq(gptq::Reader::new(*form, shape, get)?),
            Self::Awq(form) => Reader::Awq(awq::Reader::new(*form, shape, get)?),
            Self::Aqlm(form) => Reader::Aqlm(aqlm::Reader::new(*form, shape, get)?),
            Self::Spqr(form) => Reader::Spqr(spqr::Reader::new(*form, shape, get)?),
            Self::Archive(layout) => Reader::Archive(archive::Reader::new(layout, shape, get)?),
            Self::Corrected(base, factors) => {
                let base = Box::new(base.reader(shape, get)?);
                Reader::Corrected(base, factors.reader(shape, get)?)
            }
        })
    }

    /// The encoding that the stored tensors are, number by number; `None` where none of ours is that (inputs in another
    /// order), or a tensor is missing or too short.
    pub fn encoding<'a>(
        &self,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Encoding> {
        if let Self::Archive(layout) = self {
            let is_valid = layout.is_valid(shape);
            return if is_valid { Encoding::from_parts(layout, shape, get) } else { None };
        }
        if let Self::Corrected(base, factors) = self {
            let correction = Encoding::LowRank(factors.encoding(shape, get)?);
            return Some(Encoding::Sum(Sum::new(base.encoding(shape, get)?, correction)));
        }
        match (self.reader(shape, get)?, self) {
            (Reader::CompressedTensors(reader), Self::CompressedTensors(_, layout)) => {
                reader.encoding(layout)
            }
            (Reader::CompressedFloats(reader), _) => reader.encoding(),
            (Reader::Mlx(reader), _) => reader.encoding(),
            (Reader::Gptq(reader), _) => reader.encoding(),
            (Reader::Awq(reader), _) => reader.encoding(),
            (Reader::Aqlm(reader), _) => reader.encoding(),
            (Reader::Spqr(reader), _) => reader.encoding(),
            _ => None,
        }
    }

    /// Element type of the scales, where those are floats.
    pub fn scale_dtype(&self) -> Option<DType> {
        let dtype = match self {
            Self::CompressedTensors(_, layout) => layout.scale_dtype,
            Self::CompressedFloats(_, dtype) => *dtype,
            Self::Mlx(form) => form.scale_dtype,
            Self::Gptq(form) => form.scale_dtype,
            Self::Awq(form) => form.scale_dtype,
            Self::Aqlm(form) => form.scale_dtype,
            Self::Spqr(_) => DType::F16,
            Self::Archive(_) => return None,
            Self::Corrected(base, _) => return base.scale_dtype(),
        };
        matches!(dtype, DType::F16 | DType::BF16 | DType::F32).then_some(dtype)
    }

    /// All weights `[rows, cols]`, rows decoded in parallel; `None` if a tensor is missing or too short.
    pub fn unpack<'a>(
        &self,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Array2<f32>> {
        let reader = self.reader(shape, get)?;
        let mut out = Array2::zeros((shape.rows, shape.cols));
        if shape.cols > 0 {
            let rows = out.as_slice_mut()?.par_chunks_mut(shape.cols).enumerate();
            rows.try_for_each(|(row, values)| reader.read(row * shape.cols, values))?;
        }
        Some(out)
    }
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub enum Reader<'a> {
    /// Of compressed-tensors.
    CompressedTensors(compressed_tensors::Reader<'a>),
    /// Of compressed-tensors, in small floats.
    CompressedFloats(FloatReader<'a>),
    /// Of MLX.
    Mlx(mlx::Reader<'a>),
    /// Of GPTQ.
    Gptq(gptq::Reader<'a>),
    /// Of AWQ.
    Awq(awq::Reader<'a>),
    /// Of AQLM.
    Aqlm(aqlm::Reader<'a>),
    /// Of `SpQR`.
    Spqr(spqr::Reader<'a>),
    /// Of an archive.
    Archive(archive::Reader<'a>),
    /// Of one of these, with what an adapter adds.
    Corrected(Box<Self>, adapter::Reader<'a>),
}

impl Reader<'_> {
    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        match self {
            Self::CompressedTensors(reader) => reader.read(first, out),
            Self::CompressedFloats(reader) => reader.read(first, out),
            Self::Mlx(reader) => reader.read(first, out),
            Self::Gptq(reader) => reader.read(first, out),
            Self::Awq(reader) => reader.read(first, out),
            Self::Aqlm(reader) => reader.read(first, out),
            Self::Spqr(reader) => reader.read(first, out),
            Self::Archive(reader) => reader.read(first, out),
            Self::Corrected(base, factors) => {
                base.read(first, out)?;
                factors.add(first, out)
            }
        }
    }
}

/// What a config.json says of its quantised layers.
#[derive(Clone, Debug)]
pub enum Config {
    /// In the words of compressed-tensors.
    CompressedTensors(compressed_tensors::Config),
    /// In those of MLX.
    Mlx(mlx::Config),
    /// In those of GPTQ, or of `AutoRound` for the same layout.
    Gptq(gptq::Config),
    /// In those of AWQ.
    Awq(awq::Config),
    /// In those of AQLM.
    Aqlm(aqlm::Config),
    /// In those of `SpQR`.
    Spqr,
}

impl Config {
    /// Reads a whole config.json.
    ///
    /// # Errors
    /// What is missing or not understood, as half a sentence: "it is quantised by hqq".
    pub fn read(config: &Value) -> Result<Self, String> {
        let places = [Some(config), config.get("text_config")];
        let names = ["quantization_config", "compression_config", "quantization"];
        let mut found = places.into_iter().flatten().flat_map(|v| names.map(|name| v.get(name)));
        let found = found.find_map(|value| value.filter(|value| !value.is_null()));
        let found = found.ok_or("its config.json does not say how it is quantised")?;
        // MLX alone names no method.
        match found.get("quant_method").and_then(Value::as_str) {
            Some("gptq") => gptq::Config::read(found).map(Self::Gptq),
            Some("auto-round" | "intel/auto-round") => {
                gptq::Config::read_auto_round(found).map(Self::Gptq)
            }
            Some("awq") => awq::Config::read(found).map(Self::Awq),
            Some("aqlm") => aqlm::Config::read(found).map(Self::Aqlm),
            Some("spqr") => spqr::check_config(found).map(|()| Self::Spqr),
            None if found.get("bits").is_some() => mlx::Config::read(found).map(Self::Mlx),
            _ => compressed_tensors::Config::read(found).map(Self::CompressedTensors),
        }
    }
}
