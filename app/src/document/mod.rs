//! What is open and what the person wants of it. Knows the engine, never egui.

pub mod project;
