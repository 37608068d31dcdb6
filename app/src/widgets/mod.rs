//! Drawing without meaning: parts that know neither the document nor the engine.

pub mod busy;
pub mod plot;
pub mod strip;
pub mod zoom;
