//! Functions of slices and matrix views: bit packing, grouping, moments, histograms, spectra, random numbers.
//! In: numbers. Out: numbers. Never knows tensors, models or files.

pub mod distance;
pub mod grouping;
pub mod histogram;
pub mod moments;
pub mod packing;
pub mod seeds;
pub mod spectrum;
