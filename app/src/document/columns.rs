//! The columns of the layer list: titles, values, order of rows.

use std::cmp::Ordering;

use crate::document::metrics::{METRICS, Metric, Needs};
use crate::document::model::Model;
use crate::theme::text;

/// A column of the layer list.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Short name.
    Layer,
    /// What is done, as `4-bit g128`.
    Assignment,
    /// Extents on disk.
    Shape,
    /// Element type on disk.
    Type,
    /// Number of weights.
    Parameters,
    /// The histogram, small.
    Histogram,
    /// The singular values, small.
    Spectrum,
    /// A number.
    Metric(&'static Metric),
}

impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

/// The columns of a list nobody has changed.
const USUAL: [&str; 7] = ["layer", "assignment", "bits", "bytes", "kurtosis", "rank", "histogram"];

/// Characters that a column of numbers has room for.
const MOST_CHARACTERS: usize = 7;

impl Column {
    /// Every column there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let first = [Self::Layer, Self::Assignment, Self::Shape, Self::Type, Self::Parameters];
        let numbers = METRICS.iter().map(Self::Metric);
        first.into_iter().chain(numbers).chain([Self::Histogram, Self::Spectrum])
    }

    /// The columns to begin with.
    pub fn usual() -> Vec<Self> {
        USUAL.iter().filter_map(|id| Self::find(id)).collect()
    }

    /// The column of that id.
    pub fn find(id: &str) -> Option<Self> {
        Self::all().find(|column| column.id() == id)
    }

    /// Its name in project files.
    pub fn id(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Assignment => "assignment",
            Self::Shape => "shape",
            Self::Type => "type",
            Self::Parameters => "parameters",
            Self::Histogram => "histogram",
            Self::Spectrum => "spectrum",
            Self::Metric(metric) => metric.id,
        }
    }

    /// Its head.
    pub fn title(self) -> &'static str {
        match self {
            Self::Layer => "Layer",
            Self::Assignment => "Assignment",
            Self::Shape => "Shape",
            Self::Type => "Type",
            Self::Parameters => "Weights",
            Self::Histogram => "Histogram",
            Self::Spectrum => "Spectrum",
            Self::Metric(metric) => metric.short,
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
            Self::Shape => "Extents on disk, outermost first; [out, in] for a linear layer.",
            Self::Type => "Element type on disk.",
            Self::Parameters => "Number of weights in the tensor.",
            Self::Histogram => {
                "The weights within 8 standard deviations of their mean, heights by the square root so that tails show. A tall needle on a wide foot means outliers."
            }
            Self::Spectrum => {
                "Singular values from the largest to the smallest, logarithmic. A steep fall means that low rank keeps much; a flat line that it does not."
            }
            Self::Metric(metric) => metric.help,
        }
    }

    /// Whether it holds numbers, which align right.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Parameters | Self::Metric(_))
    }

    /// Whether it holds a small picture.
    pub fn is_picture(self) -> bool {
        matches!(self, Self::Histogram | Self::Spectrum)
    }

    /// Characters that its widest number has, which are never cut; `None` for a column of text or pictures.
    pub fn digits(self) -> Option<usize> {
        match self {
            Self::Parameters => Some(11),
            Self::Metric(metric) => {
                // An estimate has a sign before it.
                let sign = usize::from(!matches!(metric.needs, Needs::Plan | Needs::Measuring));
                Some(metric.digits() + sign)
            }
            _ => None,
        }
    }

    /// The least width of a column without numbers, and its share of the room that is left.
    pub fn stretch(self) -> (f32, f32) {
        match self {
            Self::Layer => (78.0, 5.0),
            Self::Assignment => (74.0, 4.0),
            Self::Shape => (90.0, 0.0),
            Self::Type => (44.0, 1.0),
            Self::Histogram | Self::Spectrum => (44.0, 2.0),
            Self::Parameters | Self::Metric(_) => (0.0, 0.0),
        }
    }

    /// Its cell for a layer; `–` where there is no value, empty for a picture.
    pub fn cell(self, model: &Model, layer: usize) -> String {
        let tensor = &model.checkpoint.tensors()[layer];
        match self {
            Self::Layer => model.short_name(layer),
            Self::Assignment if model.is_removed(layer) => "taken out".to_owned(),
            Self::Assignment if tensor.matrix.is_none() => "–".to_owned(),
            Self::Assignment => model.assignment(layer).label(),
            Self::Shape => tensor.shape.to_string(),
            Self::Type => tensor.type_name().to_owned(),
            Self::Parameters => text::count(tensor.parameters()),
            Self::Histogram | Self::Spectrum => String::new(),
            Self::Metric(metric) => {
                let value = (metric.value)(model, layer).map(metric.format);
                let sign = if model.is_estimate(layer, metric) { "~" } else { "" };
                let room = MOST_CHARACTERS - sign.len();
                let narrow = |value| format!("{sign}{}", text::narrow(value, room));
                value.map_or_else(|| "–".to_owned(), narrow)
            }
        }
    }

    /// Its cell for the layers of a fused group: sums of sizes, of other numbers the one that tells most.
    pub fn group_cell(self, model: &Model, group: usize) -> String {
        let members = &model.checkpoint.fused_groups()[group].members;
        let weights = || -> u64 {
            members.iter().map(|&layer| model.checkpoint.tensors()[layer].parameters()).sum()
        };
        let bytes = || members.iter().map(|&layer| model.bytes(layer)).sum::<u64>();
        match self {
            Self::Layer => model.group_name(group),
            Self::Assignment => {
                let label = self.cell(model, members[0]);
                let is_common = members.iter().all(|&layer| self.cell(model, layer) == label);
                if is_common { label } else { "mixed".to_owned() }
            }
            Self::Type => self.cell(model, members[0]),
            Self::Shape | Self::Histogram | Self::Spectrum => String::new(),
            Self::Parameters => text::count(weights()),
            Self::Metric(metric) if metric.id == "bytes" => text::bytes(bytes()),
            Self::Metric(metric) if metric.id == "bits" => {
                text::bits(bytes() as f64 * 8.0 / weights().max(1) as f64)
            }
            Self::Metric(metric) => {
                let telling = metric.telling(model, members);
                telling.map_or_else(|| "–".to_owned(), |layer| self.cell(model, layer))
            }
        }
    }

    /// What the number of a fused group is, with those of its layers: `Kurtosis: the largest of 0.52 (0 · q), …`; `None` for
    /// sums and for what is no number.
    pub fn group_help(self, model: &Model, group: usize) -> Option<String> {
        let Self::Metric(metric) = self else { return None };
        let members = &model.checkpoint.fused_groups()[group].members;
        if matches!(metric.id, "bits" | "bytes") || metric.telling(model, members).is_none() {
            return None;
        }
        let which = if metric.is_least_telling() { "the least (min)" } else { "the largest (max)" };
        let of = |&layer: &usize| {
            let name = model.short_name(layer);
            format!("{} ({})", self.cell(model, layer), name.rsplit(" · ").next().unwrap_or(&name))
        };
        let all = members.iter().map(of).collect::<Vec<_>>().join(", ");
        Some(format!("{}: {which} of {all}", metric.title))
    }

    /// Its cell in a table for other programs: full names, plain numbers, nothing where there is no value.
    fn csv_cell(self, model: &Model, layer: usize) -> String {
        let tensor = &model.checkpoint.tensors()[layer];
        match self {
            Self::Layer => tensor.name.clone(),
            Self::Parameters => tensor.parameters().to_string(),
            Self::Metric(metric) => {
                (metric.value)(model, layer).map_or_else(String::new, |value| value.to_string())
            }
            other => other.cell(model, layer),
        }
    }

    fn compare(self, model: &Model, a: usize, b: usize) -> Ordering {
        let tensors = model.checkpoint.tensors();
        match self {
            Self::Layer | Self::Histogram | Self::Spectrum => a.cmp(&b),
            Self::Assignment => self.cell(model, a).cmp(&self.cell(model, b)),
            Self::Shape => tensors[a].shape.0.cmp(&tensors[b].shape.0),
            Self::Type => tensors[a].type_name().cmp(tensors[b].type_name()),
            Self::Parameters => tensors[a].parameters().cmp(&tensors[b].parameters()),
            Self::Metric(metric) => numbers((metric.value)(model, a), (metric.value)(model, b)),
        }
    }
}

/// Unknown values come before all others, and so last when the largest come first.
fn numbers(a: Option<f64>, b: Option<f64>) -> Ordering {
    let known = |value: Option<f64>| value.unwrap_or(f64::NEG_INFINITY);
    known(a).total_cmp(&known(b))
}

/// Rows as comma-separated values with a head, quoted after RFC 4180.
pub fn csv(model: &Model, columns: &[Column], layers: &[usize]) -> String {
    let quoted = |cell: String| {
        if cell.contains([',', '"', '\n']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    };
    let columns: Vec<Column> = columns.iter().copied().filter(|c| !c.is_picture()).collect();
    let head = columns.iter().map(|column| column.id().to_owned()).collect::<Vec<_>>().join(",");
    let line = |&layer: &usize| {
        let cells = columns.iter().map(|column| quoted(column.csv_cell(model, layer)));
        cells.collect::<Vec<_>>().join(",")
    };
    std::iter::once(head).chain(layers.iter().map(line)).map(|line| line + "\n").collect()
}

/// The order of the layer list.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        if self == Self::default() {
            rows.sort_unstable();
            return;
        }
        rows.sort_by(|&a, &b| {
            let order = self.column.compare(model, a, b);
            let order = if self.descending { order.reverse() } else { order };
            order.then(a.cmp(&b))
        });
    }

    /// Whether the order may change when something is measured.
    pub fn is_by_metric(self) -> bool {
        matches!(self.column, Column::Metric(_) | Column::Assignment)
    }
}
