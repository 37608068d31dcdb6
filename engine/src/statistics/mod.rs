//! What a tensor is made of: moments, histogram, outliers, spectrum. In: tensors of a checkpoint, in chunks.
//! Out: plain numbers. Never knows methods or formats.
//!
//! Tensors of 8- and 16-bit elements are summed by pattern: one pass counts each of at most 65,536 values, and
//! every moment, quantile and histogram follows exactly. Wider ones take three passes in parallel chunks: mean,
//! central moments, histogram.

mod spectrum;
mod summary;

pub use spectrum::{SPECTRUM_MEMORY_BYTES, Spectrum, measure_spectrum};
pub use summary::{HISTOGRAM_BINS, HISTOGRAM_STDS, OUTLIER_STDS, Statistics, measure};
