//! The columns of the layer list: titles, values, order.

use std::cmp::Ordering;

use crate::document::metrics::metric;
use crate::document::model::Model;
use crate::theme::text;

/// A column of the layer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Short name.
    Layer,
    /// What is done, as `4-bit g128`.
    Assignment,
    /// Effective bits per weight.
    Bits,
    /// Bytes in the export.
    Bytes,
    /// Excess kurtosis.
    Kurtosis,
    /// Effective rank as a share of the full rank.
    Rank,
}

impl Column {
    /// Every column, from left to right.
    pub const ALL: [Self; 6] =
        [Self::Layer, Self::Assignment, Self::Bits, Self::Bytes, Self::Kurtosis, Self::Rank];

    /// Its head.
    pub fn title(self) -> &'static str {
        match self {
            Self::Layer => "Layer",
            Self::Assignment => "Assignment",
            Self::Bits => "Bits",
            Self::Bytes => "Size",
            Self::Kurtosis => "Kurtosis",
            Self::Rank => "Eff. rank",
        }
    }

    /// What it means.
    pub fn help(self) -> &'static str {
        match self {
            Self::Layer => {
                "Block and role, read off the tensor's name. Hover a row for the full name."
            }
            Self::Assignment => {
                "What the plan does to the layer. Select rows and use the form on the right, or press 2 to 8 and 0."
            }
            Self::Bits => metric("bits").help,
            Self::Bytes => {
                "Bytes of the layer in the exported file; the inspector has the exact number."
            }
            Self::Kurtosis => metric("kurtosis").help,
            Self::Rank => metric("rank").help,
        }
    }

    /// Whether it holds numbers, which align right.
    pub fn is_number(self) -> bool {
        !matches!(self, Self::Layer | Self::Assignment)
    }

    /// Its cell for a layer; `–` where there is no value.
    pub fn cell(self, model: &Model, layer: usize) -> String {
        let of = |id: &str| {
            let metric = metric(id);
            (metric.value)(model, layer).map_or_else(|| "–".to_owned(), metric.format)
        };
        match self {
            Self::Layer => model.short_name(layer),
            Self::Assignment => model.assignment(layer).label(),
            Self::Bits => of("bits"),
            Self::Bytes => text::bytes(model.bytes(layer)),
            Self::Kurtosis => of("kurtosis"),
            Self::Rank => of("rank"),
        }
    }

    fn compare(self, model: &Model, a: usize, b: usize) -> Ordering {
        let of = |id: &str, layer: usize| (metric(id).value)(model, layer);
        match self {
            Self::Layer => a.cmp(&b),
            Self::Assignment => model.assignment(a).label().cmp(&model.assignment(b).label()),
            Self::Bytes => model.bytes(a).cmp(&model.bytes(b)),
            Self::Bits => numbers(of("bits", a), of("bits", b)),
            Self::Kurtosis => numbers(of("kurtosis", a), of("kurtosis", b)),
            Self::Rank => numbers(of("rank", a), of("rank", b)),
        }
    }
}

/// Unknown values come before all others, and so last when the largest come first.
fn numbers(a: Option<f64>, b: Option<f64>) -> Ordering {
    let known = |value: Option<f64>| value.unwrap_or(f64::NEG_INFINITY);
    known(a).total_cmp(&known(b))
}

/// The order of the layer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// By which column.
    pub column: Column,
    /// Whether the largest come first.
    pub descending: bool,
}

impl Default for Sort {
    fn default() -> Self {
        Self { column: Column::Layer, descending: false }
    }
}

impl Sort {
    /// A click on the head of `column`: numbers begin with the largest, a second click turns the order round.
    pub fn clicked(self, column: Column) -> Self {
        if self.column == column {
            Self { descending: !self.descending, ..self }
        } else {
            Self { column, descending: column.is_number() }
        }
    }

    /// Sorts layers; equal ones stay in the checkpoint's order.
    pub fn apply(self, model: &Model, rows: &mut [usize]) {
        rows.sort_by(|&a, &b| {
            let order = self.column.compare(model, a, b);
            let order = if self.descending { order.reverse() } else { order };
            order.then(a.cmp(&b))
        });
    }
}
