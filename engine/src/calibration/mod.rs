//! What the layers of a model receive when text runs through it: sums by channel, Gram matrices, on disk by block.
//! In: statistics of inputs, importance matrices of llama.cpp. Out: records by layer. Runs networks it is given.
//!
//! A *site* is where one input feeds one or more layers, as the queries, keys and values of a block share theirs. It
//! has one [`Record`]. A [`Calibration`] is all of them with what was run; [`Folder`] keeps it on disk.

mod folder;
mod imatrix;
mod part;
mod prepare;
mod record;
mod run;
mod states;
mod through;

pub use folder::{Folder, Imported, Part};
pub use imatrix::{Entry, Imatrix, LEGACY_CHUNK_TOKENS};
pub use prepare::{
    Ability, Behind, Prepared, USUAL_SEQUENCE_TOKENS, USUAL_TOKENS, Wishes, ability,
    calibrate_with_texts, import_imatrix, prepare,
};
pub use record::{Calibration, Demands, Prefix, Problem, Record, Settings, Text};
pub use run::{InTurn, Run, calibrate, model_key};
pub use states::{States, Stream};
pub use through::Through;
