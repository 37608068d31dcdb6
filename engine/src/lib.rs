//! The engine of Lapidary, a workbench for compressing neural networks.
//!
//! Data flows in one direction:
//!
//! ```text
//! checkpoint ──► statistics
//!      │
//!      └──► plan ──► target ──► job ──► store ──► export ──► proof
//! ```
//!
//! Conventions: matrices are row-major `[rows, cols]` = `[out, in]`; names carry their unit (`_bytes`, `_bits`);
//! bits per weight are effective, counting everything on disk; weights are f32 in memory, sums are f64.
//! Everything is deterministic: same input, same bytes, at any number of threads. The engine never prints.
//!
//! Reading order: [`tensor`] and [`encoding`] say what values and weight matrices are, [`checkpoint`] opens a
//! model, [`statistics`] looks at it, [`compare`] at two of them, [`network`] runs it on what [`text`] makes of a
//! person's texts, [`calibration`] keeps what its layers receive, [`evaluation`] says what compression costs, [`method`] compresses one matrix, [`plan`] says what a person wants, [`fold`] which norms take the scales it asks for,
//! [`recipe`] reads and writes plans of other tools, [`target`] what a runtime can load,
//! [`allocator`] spends a budget of bytes, [`job`] does the work, [`scores`] what every candidate costs, [`search`] tries whole choices, [`export`] writes and proves it.

pub mod error;
pub mod observer;

pub mod disk;
pub mod numeric;
pub mod tensor;

pub mod encoding;
pub mod format;

pub mod checkpoint;

pub mod calibration;
pub mod compare;
pub mod network;
pub mod statistics;
pub mod text;

pub mod method;
pub mod plan;

pub mod fold;

pub mod recipe;
pub mod target;

pub mod allocator;

pub mod evaluation;

pub mod job;
pub mod scores;
pub mod search;

pub mod export;

pub use error::{Error, Result};
pub use observer::{Observer, Progress, Silent, Unit};
