//! The values of a tensor as a weighted sample: each distinct pattern with its count where elements have 8 or 16
//! bits, the stream itself where they are wider.

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::tensor::{CHUNK_ELEMENTS, DType, for_each_f64};

/// Up to this many elements patterns are sorted; above, they are counted in tables of 65,536.
const SORTED_ELEMENTS: u64 = 1 << 15;
/// Patterns of 16 bits.
const PATTERNS: usize = 1 << 16;

/// A value with the bits it is stored in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) pattern: u64,
    pub(super) number: f64,
}

/// A tensor as a weighted sample.
pub(super) enum Sample<'a> {
    Counted(Vec<(Value, u64)>),
    Streamed { checkpoint: &'a Checkpoint, tensor: &'a Tensor, observer: &'a dyn Observer },
}

impl<'a> Sample<'a> {
    /// Counts patterns, or holds the tensor ready to be streamed.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        tensor: &'a Tensor,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        if !tensor.is_readable() {
            return Err(Error::Unsupported {
                what: format!(
                    "reading the {} values of tensor {}",
                    tensor.type_name(),
                    tensor.name
                ),
            });
        }
        if tensor.dtype.bits() > 16 {
            return Ok(Self::Streamed { checkpoint, tensor, observer });
        }
        let counts = if tensor.parameters() <= SORTED_ELEMENTS {
            sorted_patterns(checkpoint, tensor)?
        } else {
            counted_patterns(checkpoint, tensor, observer)?
        };
        Ok(Self::Counted(counts))
    }

    /// Folds the values in a fixed order of chunks, so that sums do not depend on the threads.
    pub(super) fn fold<T: Send>(
        &self,
        empty: impl Fn() -> T + Sync,
        add: impl Fn(&mut T, Value, u64) + Sync,
        merge: impl Fn(T, T) -> T,
    ) -> Result<T> {
        match self {
            Self::Counted(values) => {
                let mut all = empty();
                for &(value, count) in values {
                    add(&mut all, value, count);
                }
                Ok(all)
            }
            Self::Streamed { checkpoint, tensor, observer } => {
                let parts = chunks(tensor).into_par_iter().map(|(first, n)| {
                    observer.go_on()?;
                    let bytes = checkpoint.element_bytes(tensor, first, n)?;
                    let mut part = empty();
                    for_each_f64(tensor.dtype, &bytes, |number| {
                        let pattern = wide_pattern(tensor.dtype, number);
                        add(&mut part, Value { pattern, number }, 1);
                    });
                    Ok(part)
                });
                let parts: Vec<T> = parts.collect::<Result<_>>()?;
                Ok(parts.into_iter().fold(empty(), merge))
            }
        }
    }
}

/// The bits of an element of more than 16 bits; those of a NaN may differ from the file's.
fn wide_pattern(dtype: DType, number: f64) -> u64 {
    match dtype {
        DType::F32 => u64::from((number as f32).to_bits()),
        DType::F64 => number.to_bits(),
        _ => 0,
    }
}

/// First element and number of elements of each chunk.
pub(super) fn chunks(tensor: &Tensor) -> Vec<(u64, u64)> {
    let n = tensor.parameters();
    let size = CHUNK_ELEMENTS as u64;
    (0..n.div_ceil(size)).map(|chunk| (chunk * size, size.min(n - chunk * size))).collect()
}

/// The number a pattern of an 8- or 16-bit type stands for, with its count.
fn valued(dtype: DType, pattern: u16, count: u64) -> (Value, u64) {
    let bytes = pattern.to_le_bytes();
    let mut number = f64::NAN;
    let used = if dtype.bits() == 16 { &bytes[..] } else { &bytes[..1] };
    for_each_f64(dtype, used, |value| number = value);
    (Value { pattern: u64::from(pattern), number }, count)
}

fn sorted_patterns(checkpoint: &Checkpoint, tensor: &Tensor) -> Result<Vec<(Value, u64)>> {
    let bytes = checkpoint.element_bytes(tensor, 0, tensor.parameters())?;
    let mut patterns: Vec<u16> = if tensor.dtype.bits() == 16 {
        bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
    } else {
        bytes.iter().map(|&byte| u16::from(byte)).collect()
    };
    patterns.sort_unstable();
    let runs = patterns.chunk_by(|a, b| a == b);
    Ok(runs.map(|run| valued(tensor.dtype, run[0], run.len() as u64)).collect())
}

/// Counts every pattern and returns those that occur, in the order of their bits.
fn counted_patterns(
    checkpoint: &Checkpoint,
    tensor: &Tensor,
    observer: &dyn Observer,
) -> Result<Vec<(Value, u64)>> {
    let chunks = chunks(tensor);
    // Chunks are shared out in runs, so that few tables are made.
    let run = chunks.len().div_ceil(2 * rayon::current_num_threads()).max(1);
    let tables: Vec<Vec<u64>> = chunks
        .chunks(run)
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|run| {
            let mut table = vec![0_u64; PATTERNS];
            for &(first, n) in run {
                observer.go_on()?;
                count(tensor.dtype, &checkpoint.element_bytes(tensor, first, n)?, &mut table);
            }
            Ok(table)
        })
        .collect::<Result<_>>()?;
    let mut totals = vec![0_u64; PATTERNS];
    for table in tables {
        for (total, count) in totals.iter_mut().zip(table) {
            *total += count;
        }
    }
    let counts = totals.into_iter().enumerate().filter(|(_, count)| *count > 0);
    Ok(counts.map(|(pattern, count)| valued(tensor.dtype, pattern as u16, count)).collect())
}

/// Counts the patterns of a chunk. One table: weights of a layer have some 2,000 patterns in all, so that neighbours
/// are seldom equal, and several tables would only fill the nearest cache.
fn count(dtype: DType, bytes: &[u8], table: &mut [u64]) {
    // An array of known length needs no test of each index.
    let Some(table) = table.first_chunk_mut::<PATTERNS>() else { return };
    if dtype.bits() == 16 {
        let (fours, rest) = bytes.as_chunks::<8>();
        for four in fours {
            let four = u64::from_le_bytes(*four);
            table[usize::from(four as u16)] += 1;
            table[usize::from((four >> 16) as u16)] += 1;
            table[usize::from((four >> 32) as u16)] += 1;
            table[usize::from((four >> 48) as u16)] += 1;
        }
        for pair in rest.as_chunks::<2>().0 {
            table[usize::from(u16::from_le_bytes(*pair))] += 1;
        }
    } else {
        for &byte in bytes {
            table[usize::from(byte)] += 1;
        }
    }
}
