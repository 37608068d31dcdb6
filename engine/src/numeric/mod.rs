//! Functions of slices and matrix views: bit packing, bit planes, grouping, small floats, palettes, moments,
//! histograms, pooling, spectra, random numbers.
//! In: numbers. Out: numbers. Never knows tensors, models or files.

pub mod bit_planes;
pub mod distance;
pub mod distributions;
pub mod grouping;
pub mod histogram;
pub mod levels;
pub mod minifloat;
pub mod moments;
pub mod packing;
pub mod palette;
pub mod peaks;
pub mod pooling;
pub mod seeds;
pub mod spectrum;
pub mod vector;
