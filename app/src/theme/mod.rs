//! How things look: colours, spacing, numbers as text.

pub mod text;
