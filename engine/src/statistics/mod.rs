//! What a tensor is made of: moments, histogram, bit planes, outliers, profiles, pictures, spectrum. In: tensors of
//! a checkpoint, in chunks. Out: plain numbers. Never knows methods or formats.
//!
//! Tensors of 8- and 16-bit elements are summed by pattern: one pass counts each of at most 65,536 values, and
//! every moment, quantile and histogram follows exactly. Wider ones take passes in parallel chunks: mean,
//! central moments, histogram, bits.
//!
//! What was measured can be kept on disk by content ([`Cache`]), so that a tensor is measured once in its life.

mod bits;
mod cache;
mod heat;
mod profile;
mod sample;
mod spectrum;
mod structure;
mod summary;

pub use crate::numeric::pooling::Pooled;
pub use bits::{Bits, WEIGHTS_FOR_EACH_PATTERN};
pub use cache::{CACHE_LIMIT_BYTES, Cache, Cached, Key, MAX_RECORD_BYTES};
pub use heat::{Field, HeatMap, measure_heat, window};
pub use profile::{Line, Profile, measure_profile};
pub use spectrum::{
    ESTIMATED_SINGULAR_VALUES, SPECTRUM_MEMORY_BYTES, Spectrum, SpectrumEstimate, SpectrumMethod,
    estimate_spectrum, measure_error_spectrum, measure_spectrum, noise_edge,
};
pub use structure::{
    Concentration, GROUP_WIDTHS, HiddenGrid, LARGEST, Place, Structure, TAIL_STDS, Verdict,
    measure_structure,
};
pub use summary::{
    HISTOGRAM_BINS, HISTOGRAM_STDS, MAX_SUPER_WEIGHTS, OUTLIER_STDS, SUPER_WEIGHT_STDS, Statistics,
    Weight, measure,
};
