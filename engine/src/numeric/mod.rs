//! Functions of slices and matrix views: bit packing, bit planes, grouping, small floats, palettes, clusters, additive codes, moments,
//! products, activations and their derivatives, range coding, sums by channel, Gram matrices, histograms, pooling, spectra, lines through points, random
//! numbers.
//! In: numbers. Out: numbers. Never knows tensors, models or files.

pub mod activation;
pub mod additive;
pub mod bit_planes;
pub mod byte_codes;
pub mod channels;
mod cholesky;
pub mod clusters;
pub mod codebook;
pub mod descent;
pub mod digits;
pub mod distance;
pub mod distributions;
pub mod feedback;
pub mod gram;
pub mod grid_codes;
pub mod grouping;
pub mod histogram;
pub mod inverse;
mod lattice;
pub mod leading;
pub mod levels;
pub mod likelihood;
pub mod linearity;
pub mod minifloat;
pub mod moments;
pub mod packing;
pub mod palette;
pub mod peaks;
pub mod planes;
pub mod pooling;
pub mod product;
pub mod pursuit;
pub mod quasi_newton;
pub mod range_coder;
pub mod regression;
pub mod rotation;
pub mod seeded;
pub mod seeds;
pub mod slopes;
pub mod spectrum;
pub mod sweep;
pub mod vector;
pub mod weighted;
pub mod windows;
