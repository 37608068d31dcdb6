//! Small pictures in the rows of the list: the histogram and the singular values of a layer.

use egui::{Color32, Mesh, Rect, Sense, Ui, pos2, vec2};

use crate::document::columns::Column;
use crate::document::model::Model;
use crate::theme::ROW_HEIGHT;

/// Singular values below this share of the largest are drawn at the bottom.
const SPECTRUM_FLOOR: f64 = 1e-4;

pub(super) fn picture(
    ui: &mut Ui,
    model: &Model,
    layer: usize,
    (column, colour): (Column, Color32),
) {
    let size = vec2(ui.available_width(), ROW_HEIGHT - 4.0);
    let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
    let n = rect.width().max(1.0) as usize;
    let heights = match column {
        Column::Histogram => histogram(model, layer, n),
        _ => spectrum(model, layer, n),
    };
    if let Some(heights) = heights {
        ui.painter().add(bars(rect, &heights, colour));
    }
}

/// Counts in `n` columns of pixels, by the square root, so that tails show.
fn histogram(model: &Model, layer: usize, n: usize) -> Option<Vec<f32>> {
    let counts = model.statistics(layer)?.histogram.readable().counts;
    let per_column = counts.len().div_ceil(n).max(1);
    let sums: Vec<f32> =
        counts.chunks(per_column).map(|bins| (bins.iter().sum::<u64>() as f32).sqrt()).collect();
    let largest = sums.iter().copied().fold(0.0, f32::max);
    (largest > 0.0).then(|| sums.iter().map(|sum| sum / largest).collect())
}

/// Singular values in `n` columns of pixels, by the logarithm.
fn spectrum(model: &Model, layer: usize, n: usize) -> Option<Vec<f32>> {
    let values = &model.spectrum(layer)?.singular_values;
    let largest = *values.first().filter(|&&largest| largest > 0.0)?;
    let height = |i: usize| {
        let value = (values[i * values.len() / n] / largest).max(SPECTRUM_FLOOR);
        (1.0 - value.ln() / SPECTRUM_FLOOR.ln()) as f32
    };
    Some((0..n).map(height).collect())
}

/// Bars side by side, heights from 0 to 1, as one mesh.
fn bars(rect: Rect, heights: &[f32], colour: Color32) -> Mesh {
    let mut mesh = Mesh::default();
    let width = rect.width() / heights.len().max(1) as f32;
    for (i, height) in heights.iter().enumerate().filter(|(_, height)| **height > 0.0) {
        let left = rect.left() + i as f32 * width;
        let top = rect.bottom() - height.max(0.06) * rect.height();
        let bar = Rect::from_min_max(pos2(left, top), pos2(left + width, rect.bottom()));
        mesh.add_colored_rect(bar, colour);
    }
    mesh
}
