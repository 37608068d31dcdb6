//! Blocks of llama.cpp: runs of 32 or 256 inputs with scales of one or two levels, as GGUF files hold them.

mod feedback;
mod moves;
mod offset;
mod plain;
mod search;
mod super_blocks;

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelExtend as _,
    ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{BlockType, Blocks, Dense, Encoding, Layout, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::gptq::DAMPING;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
    refuse_non_finite,
};
use crate::numeric::vector::{Loops, all_finite, vectorised};
use crate::observer::Observer;
use crate::tensor::{DType, MatrixShape, round_f32};

use search::{PIECE, SUPER};

pub(super) use moves::Moving;

/// Quantisation of a `[rows, cols]` matrix to blocks of llama.cpp along its inputs.
///
/// *Plain* blocks of 32: `Q4_0`, `Q5_0`, `Q8_0` x = d·q; `Q4_1`, `Q5_1` x = d·q + m; d and m in F16, found as
/// llama.cpp's reference finds them, to the bit. *Super-blocks* of 256 have sub-blocks of 16 or 32 whose scales, and
/// minimums in `Q2_K`, `Q4_K`, `Q5_K`, are multiples of one F16 each. *IQ4* codes go to a fixed table of 16 uneven
/// levels. Scales of super-blocks and IQ4 are searched for the least Σ h(x − x̂)², where h is the importance of an
/// input (the mean square of what comes in), or 1: never a larger error than llama.cpp's own search on weights that
/// count alike. The last block of a row that is no whole number of blocks is filled up with zeros.
/// *By outputs*, those scales stay and the codes are found again input by input, largest E\[x²\] first, each one's error
/// made good by the inputs to come, as in GPTQ (Frantar et al. 2023, algorithm 1); as GPTQ costs.
/// The types of llama.cpp without blocks, F16, BF16 and F32, hold every weight rounded to them.
/// Cost: one pass for plain blocks, some 30 over each sub-block for the others.
pub(super) struct Gguf;

/// The registry's entry.
pub(super) static ENTRY: Gguf = Gguf;

static ABOUT: About = About {
    id: "gguf-blocks",
    title: "GGUF blocks",
    summary: "Weights go into the block types of llama.cpp: small groups with their own scales, which in K-quants are themselves rounded to a few bits.",
    citation: "Gerganov, Kawrakow et al., llama.cpp, ggml-quants.c, pull requests 1684 (K-quants) and 5590, 5747 (IQ4), 2023 and 2024",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[
        TYPE,
        IMPORTANCE,
        Parameter { only_when: Some(("importance", "outputs")), ..DAMPING },
    ],
};

const TYPE: Parameter = Parameter {
    name: "type",
    title: "Type",
    help: "The block type; its number is the bits of a code, the rest goes to scales. K types need 256 inputs or a multiple, the others 32.",
    kind: Kind::Choice(&[
        Option_ {
            id: "Q4_K",
            title: "Q4_K",
            help: "4.5 bits a weight: 4-bit codes, a scale and a minimum for 32. The usual choice.",
        },
        Option_ {
            id: "Q2_K",
            title: "Q2_K",
            help: "2.625 bits a weight: 2-bit codes, a scale and a minimum for 16. Damages most models visibly.",
        },
        Option_ {
            id: "Q3_K",
            title: "Q3_K",
            help: "3.4375 bits a weight: 3-bit codes, a scale for 16.",
        },
        Option_ {
            id: "Q5_K",
            title: "Q5_K",
            help: "5.5 bits a weight: 5-bit codes, a scale and a minimum for 32.",
        },
        Option_ {
            id: "Q6_K",
            title: "Q6_K",
            help: "6.5625 bits a weight: 6-bit codes, a scale for 16. Nearly lossless.",
        },
        Option_ {
            id: "IQ4_XS",
            title: "IQ4_XS",
            help: "4.25 bits a weight: a table of 16 uneven levels, a scale for 32, rounded to 6 bits.",
        },
        Option_ {
            id: "IQ4_NL",
            title: "IQ4_NL",
            help: "4.5 bits a weight: the same table, a scale for 32 in 16 bits; for inputs that 256 does not divide.",
        },
        Option_ {
            id: "Q4_0",
            title: "Q4_0",
            help: "4.5 bits a weight: 4-bit codes around zero, a scale for 32. The fastest on many processors.",
        },
        Option_ {
            id: "Q4_1",
            title: "Q4_1",
            help: "5 bits a weight: 4-bit codes, a scale and a minimum for 32.",
        },
        Option_ {
            id: "Q5_0",
            title: "Q5_0",
            help: "5.5 bits a weight: 5-bit codes around zero, a scale for 32.",
        },
        Option_ {
            id: "Q5_1",
            title: "Q5_1",
            help: "6 bits a weight: 5-bit codes, a scale and a minimum for 32.",
        },
        Option_ {
            id: "Q8_0",
            title: "Q8_0",
            help: "8.5 bits a weight: 8-bit codes, a scale for 32. Practically lossless.",
        },
        Option_ {
            id: "F16",
            title: "F16",
            help: "16 bits a weight: numbers of half precision, no block. Up to 65,504.",
        },
        Option_ {
            id: "BF16",
            title: "BF16",
            help: "16 bits a weight: the upper half of an F32, no block.",
        },
        Option_ {
            id: "F32",
            title: "F32",
            help: "32 bits a weight: what a file in blocks decodes to, to the bit.",
        },
    ]),
    only_when: None,
};

const IMPORTANCE: Parameter = Parameter {
    name: "importance",
    title: "Importance",
    help: "What an error counts: every weight alike, or by the mean square of the input it meets, as llama.cpp does with an importance matrix.",
    kind: Kind::Choice(&[
        Option_ { id: "none", title: "None", help: "Every weight counts alike; needs no data." },
        Option_ {
            id: "inputs",
            title: "By inputs",
            help: "By E[x²] of the input on the calibration's text; needs a calibration.",
        },
        Option_ {
            id: "outputs",
            title: "By outputs",
            help: "Scales by inputs; codes as GPTQ finds them, the error of one input made good by those to come. Usually the least damage in the same file; needs a calibration with Gram matrices.",
        },
    ]),
    only_when: None,
};

/// What is to be known of the inputs.
fn needs(parameters: &Resolved) -> Needs {
    match parameters.choice("importance") {
        _ if plain(parameters).is_some() => Needs::Weights,
        "outputs" => Needs::Gram,
        "inputs" => Needs::Moments,
        _ => Needs::Weights,
    }
}

fn kind(parameters: &Resolved) -> BlockType {
    BlockType::named(parameters.choice("type")).unwrap_or(BlockType::Q4_K)
}

/// The element type of a type without blocks.
fn plain(parameters: &Resolved) -> Option<DType> {
    DType::from_name(parameters.choice("type"))
}

/// Weights that are encoded without asking whether to go on, and those of a row by one thread.
const AT_ONCE: usize = 1 << 22;
const OF_ROW: usize = 1 << 13;

/// What is asked while blocks are made: whether to go on, and where a value is not finite, for the refusal.
type Watch<'w> = (&'w dyn Observer, &'w dyn Fn() -> Result<()>);

/// The blocks of all rows of row-major `values`; `importance` of the inputs, one for each column.
fn encode(
    kind: BlockType,
    (values, shape): (&[f32], MatrixShape),
    importance: Option<&[f32]>,
    watch: Watch<'_>,
) -> Result<Vec<u8>> {
    let given = (values, shape);
    if !shape.cols.is_multiple_of(SUPER) || shape.cols == 0 {
        return encode_rows(kind, given, importance, watch);
    }
    match PIECE / kind.weights() * kind.bytes() {
        168 => encode_pieces::<168>(kind, given, importance, watch),
        220 => encode_pieces::<220>(kind, given, importance, watch),
        272 => encode_pieces::<272>(kind, given, importance, watch),
        288 => encode_pieces::<288>(kind, given, importance, watch),
        320 => encode_pieces::<320>(kind, given, importance, watch),
        352 => encode_pieces::<352>(kind, given, importance, watch),
        384 => encode_pieces::<384>(kind, given, importance, watch),
        420 => encode_pieces::<420>(kind, given, importance, watch),
        544 => encode_pieces::<544>(kind, given, importance, watch),
        _ => encode_rows(kind, given, importance, watch),
    }
}

/// Of rows that are whole super-blocks, of which a piece of `BYTES` holds two. Arrays are collected, as memory to be written to
/// would be filled with zeros first, by one thread.
fn encode_pieces<const BYTES: usize>(
    kind: BlockType,
    (values, shape): (&[f32], MatrixShape),
    importance: Option<&[f32]>,
    (observer, refuse): Watch<'_>,
) -> Result<Vec<u8>> {
    let is_finite = AtomicBool::new(true);
    let look = || if is_finite.load(Ordering::Relaxed) { Ok(()) } else { refuse() };
    let piece = |at: usize, values: &[f32], out: &mut [u8]| {
        let first = at % shape.cols;
        if !vectorised(Piece { kind, values, importance, first, out }) {
            is_finite.store(false, Ordering::Relaxed);
        }
    };
    let (pieces, last) = values.as_chunks::<PIECE>();
    let mut made: Vec<[u8; BYTES]> = Vec::with_capacity(pieces.len() + 1);
    for (at, some) in pieces.chunks(AT_ONCE / PIECE).enumerate() {
        observer.go_on()?;
        made.par_extend(some.par_iter().enumerate().with_min_len(8).map(|(i, values)| {
            let mut out = [0; BYTES];
            piece(at * AT_ONCE + i * PIECE, values, &mut out);
            out
        }));
        look()?;
    }
    let mut made = made.into_flattened();
    if !last.is_empty() {
        let begun = made.len();
        made.resize(begun + BYTES / 2, 0);
        piece(values.len() - last.len(), last, &mut made[begun..]);
        look()?;
    }
    Ok(made)
}

/// Of rows of any length.
fn encode_rows(
    kind: BlockType,
    (values, shape): (&[f32], MatrixShape),
    importance: Option<&[f32]>,
    (observer, refuse): Watch<'_>,
) -> Result<Vec<u8>> {
    let row_bytes = kind.row_bytes(shape.cols);
    let mut bytes = vec![0; shape.rows * row_bytes];
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let is_finite = AtomicBool::new(true);
    let rows = bytes.par_chunks_mut(row_bytes).zip(values.par_chunks(shape.cols));
    rows.with_min_len((OF_ROW / shape.cols).max(1)).try_for_each(|(bytes, values)| {
        let pieces = bytes.chunks_mut(OF_ROW / kind.weights() * kind.bytes());
        for (at, (out, values)) in pieces.zip(values.chunks(OF_ROW)).enumerate() {
            observer.go_on()?;
            if !vectorised(Piece { kind, values, importance, first: at * OF_ROW, out }) {
                is_finite.store(false, Ordering::Relaxed);
            }
        }
        Ok::<(), Error>(())
    })?;
    if !is_finite.load(Ordering::Relaxed) {
        refuse()?;
    }
    Ok(bytes)
}

/// Blocks of a piece of a row, or of the end of one and the beginning of the next; finds whether its values are finite.
struct Piece<'a> {
    kind: BlockType,
    values: &'a [f32],
    /// Of all inputs.
    importance: Option<&'a [f32]>,
    /// The input of the first value.
    first: usize,
    out: &'a mut [u8],
}

impl Loops for Piece<'_> {
    type Found = bool;

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) -> bool {
        let Self { kind, values, importance, first, out } = self;
        let at_once = PIECE / kind.weights() * kind.bytes();
        for (at, (values, out)) in values.chunks(PIECE).zip(out.chunks_mut(at_once)).enumerate() {
            let mut padded;
            let x = if let Some(x) = values.first_chunk::<PIECE>() {
                x
            } else {
                padded = [0.0; PIECE];
                padded[..values.len()].copy_from_slice(values);
                &padded
            };
            let Some(importance) = importance else {
                blocks(kind, x, None, out);
                continue;
            };
            let mut weights = [1.0; PIECE];
            let own = weights.chunks_mut(kind.weights()).zip(values.chunks(kind.weights()));
            for (block, (weights, values)) in own.enumerate() {
                let from = (first + at * PIECE + block * kind.weights()) % importance.len();
                fill_weights(&importance[from..][..values.len()], weights);
            }
            blocks(kind, x, Some(&weights), out);
        }
        all_finite(values)
    }
}

/// As many blocks as `out` has room for.
#[expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]
#[inline(always)]
fn blocks(kind: BlockType, x: &[f32; PIECE], w: Option<&[f32; PIECE]>, out: &mut [u8]) {
    if kind.weights() == SUPER {
        super_blocks::encode(kind, x, w, out);
    } else {
        plain::encode_all(kind, x, w, out);
    }
}

/// Values that `dtype` holds; one that it does not would become infinite.
///
/// # Errors
/// [`Error::Numeric`] for such a value.
fn held(dtype: DType, values: &[f32], task: &Task<'_>) -> Result<Vec<f32>> {
    let held: Vec<f32> = values.iter().map(|&value| round_f32(dtype, value)).collect();
    let is_lost = |(value, held): &(&f32, &f32)| value.is_finite() && !held.is_finite();
    let lost = values.iter().zip(&held).filter(is_lost).count();
    if lost == 0 {
        return Ok(held);
    }
    Err(Error::Numeric {
        tensor: task.tensor.to_owned(),
        why: format!("{lost} of its weights are beyond what {dtype} holds; choose BF16"),
    })
}

/// The importance of the inputs of a block as weights; where nothing counts, all count alike.
fn fill_weights(importance: &[f32], weights: &mut [f32]) {
    let (used, rest) = weights.split_at_mut(importance.len());
    let total: f32 = importance.iter().sum();
    if total > 0.0 && total.is_finite() {
        used.copy_from_slice(importance);
        rest.fill(0.0);
    } else {
        weights.fill(1.0);
    }
}

impl Method for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        needs(parameters)
    }

    fn label(&self, parameters: &Resolved) -> String {
        if let Some(dtype) = plain(parameters) {
            return dtype.name().to_owned();
        }
        let importance = match needs(parameters) {
            Needs::Gram => " gptq",
            Needs::Moments => " weighted",
            _ => "",
        };
        format!("{}{importance}", kind(parameters).name())
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let layout = plain(parameters).map_or(Layout::Blocks(kind(parameters)), Layout::Dense);
        Ok(SparseLayout::over(input.previous, layout))
    }

    fn refuses_non_finite(&self) -> bool {
        true
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (kind, shape) = (kind(parameters), task.shape());
        let (values, mask) = masked(&task);
        if let Some(dtype) = plain(parameters) {
            refuse_non_finite(&task)?;
            let values = held(dtype, &values, &task)?;
            return Ok(Sparse::over(mask, Encoding::Dense(Dense::new(shape, dtype, &values))));
        }
        let needs = needs(parameters);
        let importance = if needs == Needs::Weights { None } else { Some(task.mean_squares()?) };
        let refuse = || refuse_non_finite(&task);
        let watch: Watch<'_> = (task.observer, &refuse);
        let bytes = encode(kind, (&values, shape), importance.as_deref(), watch)?;
        let mut blocks = Blocks::new(shape, kind, bytes);
        if needs == Needs::Gram {
            let damping = parameters.fraction("damping");
            blocks = feedback::along_inputs(&task, (&blocks, mask), damping)?;
        }
        Ok(Sparse::over(mask, Encoding::Blocks(blocks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;
    use crate::observer::Silent;

    #[test]
    fn importance_lowers_the_weighted_error_of_every_type() {
        let shape = MatrixShape { rows: 4, cols: 320 };
        let mut random = Random::new(23);
        let values: Vec<f32> = (0..shape.elements()).map(|_| random.normal() as f32).collect();
        let importance: Vec<f32> =
            (0..shape.cols).map(|i| if i % 9 == 0 { 100.0 } else { 0.1 }).collect();
        for kind in BlockType::ALL {
            let error = |importance_given: Option<&[f32]>| -> f64 {
                let bytes = encode(kind, (&values, shape), importance_given, (&Silent, &|| Ok(())))
                    .unwrap();
                let decoded = Encoding::Blocks(Blocks::new(shape, kind, bytes)).decode();
                let away = |(i, (&x, &y)): (usize, (&f32, &f32))| {
                    f64::from(importance[i % shape.cols]) * f64::from(x - y).powi(2)
                };
                values.iter().zip(&decoded).enumerate().map(away).sum()
            };
            let (plain, weighted) = (error(None), error(Some(&importance)));
            let may = if kind == BlockType::Q8_0 { 1.02 } else { 0.9 };
            assert!(weighted < may * plain, "{kind}: {weighted} {plain}");
        }
    }

    #[test]
    fn importance_of_nothing_counts_all_alike() {
        let shape = MatrixShape { rows: 1, cols: 256 };
        let mut random = Random::new(24);
        let values: Vec<f32> = (0..256).map(|_| random.normal() as f32).collect();
        let of = |importance: Option<&[f32]>| {
            encode(BlockType::Q4_K, (&values, shape), importance, (&Silent, &|| Ok(()))).unwrap()
        };
        assert_eq!(of(Some(&[0.0; 256])), of(None));
    }

    /// Of each type, with and without importance; pieces lie in two rows, and half a one is left.
    #[test]
    fn rows_of_whole_super_blocks_are_encoded_as_others() {
        let shape = MatrixShape { rows: 3, cols: 768 };
        let mut random = Random::new(25);
        let values: Vec<f32> = (0..shape.elements()).map(|_| random.normal() as f32).collect();
        let importance: Vec<f32> = (0..shape.cols).map(|i| 1.0 + (i % 41) as f32).collect();
        let watch: Watch<'_> = (&Silent, &|| Ok(()));
        for kind in BlockType::ALL {
            for importance in [None, Some(importance.as_slice())] {
                let given = (values.as_slice(), shape);
                let pieces = encode(kind, given, importance, watch).unwrap();
                let rows = encode_rows(kind, given, importance, watch).unwrap();
                assert!(pieces == rows, "{kind}");
            }
        }
    }
}
