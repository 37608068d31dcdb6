//! Pictures of a report as SVG within the page: the map of the layers by bits, and their errors as bars. Every mark has its
//! numbers in a title.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{count, escape, percent};
use crate::export::report::TensorReport;

/// Colours of bits: hot for few, cool for many, grey for what is in full; after Harrower & Brewer's red, yellow, blue, which
/// colour-blind people can tell apart. Largest effective bits, label, ground, ink.
const COLOURS: [(f64, &str, &str, &str); 8] = [
    (2.6, "2", "#d73027", "#ffffff"),
    (3.6, "3", "#f46d43", "#000000"),
    (4.75, "4", "#fdae61", "#000000"),
    (5.75, "5", "#fee090", "#000000"),
    (6.75, "6", "#abd9e9", "#000000"),
    (7.75, "7", "#74add1", "#000000"),
    (9.5, "8", "#4575b4", "#ffffff"),
    (f64::INFINITY, "full", "#8d949e", "#000000"),
];

/// Width and height of a cell of the map.
const CELL: (usize, usize) = (26, 20);

/// Cells up to which each has its bits written in it.
const MOST_WRITTEN: usize = 4000;

/// Bars of the chart; more layers are the largest of several to a bar.
const MOST_BARS: usize = 1000;

/// Whether a tensor is drawn: what was compressed, and matrices.
pub(super) fn is_layer(tensor: &TensorReport) -> bool {
    tensor.is_compressed() || tensor.shape.len() >= 2
}

fn colour(bits: f64) -> (&'static str, &'static str, &'static str) {
    let (_, label, ground, ink) =
        COLOURS.iter().find(|(most, ..)| bits <= *most).unwrap_or(&COLOURS[COLOURS.len() - 1]);
    (label, ground, ink)
}

/// A cell of the map: layers of one role in one block.
#[derive(Default)]
struct Cell<'a> {
    layers: Vec<&'a TensorReport>,
}

impl Cell<'_> {
    /// Effective bits over all weights.
    fn bits(&self) -> f64 {
        let bytes: u64 = self.layers.iter().map(|layer| layer.bytes).sum();
        let weights: u64 = self.layers.iter().map(|layer| elements(layer)).sum();
        bytes as f64 * 8.0 / weights.max(1) as f64
    }

    fn title(&self) -> String {
        match self.layers.as_slice() {
            [one] => format!(
                "{}: {}, {:.3} bits per weight, error {}",
                one.name,
                one.method,
                one.effective_bits,
                percent(one.relative_error)
            ),
            many => format!("{} layers, {:.3} bits per weight", many.len(), self.bits()),
        }
    }
}

fn elements(layer: &TensorReport) -> u64 {
    layer.shape.iter().map(|&extent| extent as u64).fold(1, u64::saturating_mul)
}

/// Blocks from left to right with what lies outside them first, roles from top to bottom, coloured by effective bits.
pub(super) fn map(tensors: &[TensorReport]) -> String {
    let mut roles: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(usize, u64), Cell<'_>> = BTreeMap::new();
    for layer in tensors.iter().filter(|tensor| is_layer(tensor)) {
        let at = roles.iter().position(|role| *role == layer.role).unwrap_or_else(|| {
            roles.push(&layer.role);
            roles.len() - 1
        });
        let column = layer.block.map_or(0, |block| u64::from(block) + 1);
        cells.entry((at, column)).or_default().layers.push(layer);
    }
    if cells.is_empty() {
        return String::new();
    }
    // Only columns that hold something, so that a file which names block 4,000,000,000 has no such width.
    let mut columns: Vec<u64> = cells.keys().map(|&(_, column)| column).collect();
    columns.sort_unstable();
    columns.dedup();
    let margin = 16 + 8 * roles.iter().map(|role| role.chars().count()).max().unwrap_or(0);
    let (width, height) = (margin + columns.len() * CELL.0 + 8, 24 + roles.len() * CELL.1);
    let mut svg = open(width, height, "Effective bits of every layer");
    for (x, column) in columns.iter().enumerate() {
        let label = column.checked_sub(1).map_or_else(|| "out".to_owned(), |b| b.to_string());
        if x % 2 == 0 || columns.len() <= 40 {
            text(&mut svg, (margin + x * CELL.0 + CELL.0 / 2, 14), "middle", &label);
        }
    }
    for (y, role) in roles.iter().enumerate() {
        text(&mut svg, (margin - 8, 24 + y * CELL.1 + 14), "end", role);
    }
    let is_written = cells.len() <= MOST_WRITTEN;
    for (&(y, column), cell) in &cells {
        let x = columns.binary_search(&column).unwrap_or(0);
        draw(&mut svg, (margin + x * CELL.0, 24 + y * CELL.1), cell, is_written);
    }
    svg.push_str("</svg>\n");
    let caption =
        "Columns are blocks (“out”: outside them), rows roles, numbers effective bits per weight.";
    format!("<figure>\n{svg}{}<figcaption>{caption}</figcaption>\n</figure>\n", legend())
}

fn draw(svg: &mut String, (x, y): (usize, usize), cell: &Cell<'_>, is_written: bool) {
    let bits = cell.bits();
    let (_, ground, ink) = colour(bits);
    // Writing to a text does not fail.
    write!(
        svg,
        "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"2\" fill=\"{ground}\"/>",
        escape(&cell.title()),
        CELL.0 - 2,
        CELL.1 - 2
    )
    .ok();
    if is_written {
        let (x, y) = (x + CELL.0 / 2 - 1, y + 13);
        let bits = if bits < 9.95 { format!("{bits:.1}") } else { format!("{bits:.0}") };
        write!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" fill=\"{ink}\">{bits}</text>"
        )
        .ok();
    }
    svg.push_str("</g>\n");
}

fn legend() -> String {
    let mut svg = open(COLOURS.len() * 60, 28, "Colours of the map");
    for (at, (_, label, ground, _)) in COLOURS.iter().enumerate() {
        let x = at * 60;
        // Writing to a text does not fail.
        write!(
            svg,
            "<rect x=\"{x}\" y=\"8\" width=\"14\" height=\"14\" rx=\"2\" fill=\"{ground}\"/>"
        )
        .ok();
        text(&mut svg, (x + 20, 19), "start", label);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A bar for the error of each compressed layer, in the order of the model, with the largest written out.
pub(super) fn errors(tensors: &[TensorReport]) -> String {
    let layers: Vec<&TensorReport> = tensors.iter().filter(|t| t.is_compressed()).collect();
    let error = |layer: &&TensorReport| layer.relative_error;
    let Some(worst) = layers.iter().copied().max_by(|a, b| error(a).total_cmp(&error(b))) else {
        return String::new();
    };
    let most = worst.relative_error.max(f64::MIN_POSITIVE);
    let at_once = layers.len().div_ceil(MOST_BARS).max(1);
    let bars = layers.len().div_ceil(at_once);
    let step = (1000 / bars.max(1)).clamp(1, 24);
    let (left, height) = (64, 160.0);
    let mut svg = open(left + bars * step + 8, 184, "Relative error of every compressed layer");
    for share in [0.0, 0.5, 1.0] {
        let y = 12.0 + height * (1.0 - share);
        let end = left + bars * step;
        // Writing to a text does not fail.
        write!(svg, "<line class=\"axis\" x1=\"{left}\" x2=\"{end}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#8d949e\"/>").ok();
        text(
            &mut svg,
            (left - 6, y as usize + 4),
            "end",
            &format!("{:.2} %", 100.0 * share * most),
        );
    }
    for (at, some) in layers.chunks(at_once).enumerate() {
        let Some(layer) = some.iter().copied().max_by(|a, b| error(a).total_cmp(&error(b))) else {
            continue;
        };
        let tall = height * (layer.relative_error / most).clamp(0.0, 1.0);
        let (x, width) = (left + at * step, step.saturating_sub(1 + usize::from(step > 8)).max(1));
        let title = format!("{}: {}", layer.name, percent(layer.relative_error));
        writeln!(
            svg,
            "<g><title>{}</title><rect class=\"bar\" x=\"{x}\" y=\"{:.2}\" width=\"{width}\" height=\"{tall:.2}\" fill=\"#3b6ea5\"/></g>",
            escape(&title),
            12.0 + height - tall
        )
        .ok();
    }
    svg.push_str("</svg>\n");
    let several = match at_once {
        1 => String::new(),
        n => format!(" Each bar is the largest of {}.", count(n as u64)),
    };
    let worst = format!("{} at {}", percent(worst.relative_error), worst.name);
    format!(
        "<figure>\n{svg}<figcaption>‖W−Ŵ‖/‖W‖ of what the file holds, in the order of the model; the largest is {}.{several}</figcaption>\n</figure>\n",
        escape(&worst)
    )
}

fn open(width: usize, height: usize, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n"
    )
}

fn text(svg: &mut String, (x, y): (usize, usize), anchor: &str, text: &str) {
    // Writing to a text does not fail.
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{}</text>",
        escape(text)
    )
    .ok();
}
