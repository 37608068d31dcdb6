//! What compression really costs: a text scored by a network, against the original or alone; two networks continuing
//! one prompt; questions with options. In: networks, token ids. Out: plain numbers. Never knows plans or files.

mod generate;
mod layers;
mod probe;
mod round;
mod score;

pub use generate::{Continuation, Sampling};
pub use layers::{OutputError, output_errors};
pub use probe::{Answered, Probe, probe};
pub use round::evaluate;
pub use score::{Against, Evaluation, Figure, Window};
