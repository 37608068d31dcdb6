//! What compression really costs: a text scored by a network, against the original or alone; two networks continuing
//! one prompt; questions with options; what each block does. In: networks, token ids. Out: plain numbers, and runs
//! kept on disk. Never knows plans.

mod baseline;
mod blocks;
mod generate;
mod influence;
mod layers;
mod probe;
mod record;
mod round;
mod score;

pub use baseline::{Baseline, From};
pub use blocks::{BlockScore, block_scores};
pub use generate::{Continuation, Sampling};
pub use influence::{ExpertInfluence, Influences, influences};
pub use layers::{OutputError, output_errors};
pub use probe::{Answered, Probe, probe};
pub use record::{Kept, RunRecord, TextRun, delete_run, keep_run, runs, subject_key};
pub use round::{evaluate, evaluate_in_rounds};
pub use score::{Against, Evaluation, Figure, Window};
