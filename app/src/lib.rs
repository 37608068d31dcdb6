//! Lapidary: a workbench for compressing neural networks. This crate is the window and the command line;
//! everything they compute is a function of `lapidary_engine`.

pub mod allocating;
pub mod app;
pub mod builtin;
pub mod calibrated;
pub mod cli;
pub mod commands;
pub mod converting;
pub mod document;
pub mod figure;
pub mod jobs;
pub mod running;
pub mod size;
pub mod theme;
pub mod views;
pub mod widgets;
