//! The inspector: one layer's weights and spectrum, and the assignment of everything selected.

mod activations;
mod assignment;
mod bits;
mod capacity;
mod compare;
mod cuts;
mod damage;
mod outliers;
mod parts;
mod picture;
mod profile;
mod spectrum;
mod weights;

use egui::{RichText, ScrollArea, Ui};
use lapidary_engine::checkpoint::{Matrix, MatrixKind};

use crate::commands::Command;
use crate::document::look::Tab;
use crate::document::model::Model;
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    let Some(layer) = model.selection.cursor() else {
        ui.add_space(12.0);
        ui.weak("Select a layer in the list or on the map to see what it is made of.");
        return;
    };
    ScrollArea::vertical().id_salt("inspector").auto_shrink(false).show(ui, |ui| {
        // The bar lies over the contents.
        let bar = ui.spacing().scroll.bar_width + ui.spacing().scroll.bar_inner_margin;
        ui.set_max_width(ui.available_width() - bar);
        head(context, ui, model, layer);
        tabs(context, ui, model);
        let layers = model.inspected();
        match model.tab {
            Tab::Weights => weights::ui(context, ui, model, &layers),
            Tab::Outliers => outliers::ui(context, ui, model, layer),
            Tab::Spectrum => spectrum::ui(context, ui, model, &layers),
            Tab::Bits => bits::ui(context, ui, model, layer),
            Tab::Compare => compare::ui(context, ui, model, &layers),
            Tab::Damage => damage::ui(context, ui, model, layer),
            Tab::Capacity => capacity::ui(context, ui, model, layer),
            Tab::Activations => activations::ui(context, ui, model, layer),
        }
        ui.separator();
        assignment::ui(context, ui, model, layer);
    });
}

fn head(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let tensor = &model.checkpoint.tensors()[layer];
    ui.add_space(4.0);
    ui.horizontal(|ui| {
        ui.label(RichText::new(model.short_name(layer)).heading());
        let others = model.selection.len().saturating_sub(1);
        if others > 0 {
            ui.weak(format!("and {others} more selected"));
        }
    });
    ui.add(
        egui::Label::new(RichText::new(&tensor.name).color(context.tokens.weak).small()).truncate(),
    )
    .on_hover_text(&tensor.name);
    let stored = match &tensor.coded {
        // No break between a number and its unit.
        Some(_) => format!(" · {}\u{a0}bits", text::bits(tensor.stored_bits())),
        None => String::new(),
    };
    let facts = format!(
        "{} · {} · {} · {}\u{a0}weights{stored}",
        tensor.shape,
        tensor.type_name(),
        text::bytes(tensor.bytes()).replace(' ', "\u{a0}"),
        text::count(tensor.parameters())
    );
    ui.label(facts);
    if let Some(matrix) = tensor.matrix {
        seen_as(ui, matrix);
    }
    fused(context, ui, model, layer);
}

/// The matrix that rows and columns refer to, where it is not what the file has.
fn seen_as(ui: &mut Ui, matrix: Matrix) {
    let (how, help) = match matrix.kind {
        MatrixKind::Conv1d => (
            "transposed",
            "The file stores this layer as [in, out], as the GPT-2 family does (Conv1D). Everything below, rows and columns too, is of the matrix [out, in]: row r, column c here is [c, r] in the file.",
        ),
        MatrixKind::Convolution => (
            "flattened",
            "A convolution kernel [out, in, height, width] is seen as a matrix with a row for each output; the other extents follow one another in its columns.",
        ),
        _ => return,
    };
    ui.weak(format!("seen as [out, in] {} ({how})", matrix.shape)).on_hover_text(help);
}

/// What the layer is fused or tied with.
fn fused(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    if let Some(group) = model.checkpoint.fused_group_of(layer) {
        ui.horizontal(|ui| {
            ui.weak(format!("fused group: {}", group.kind.name()))
                .on_hover_text("Runtimes such as vLLM store and run these layers as one matrix, so they must be compressed alike there.");
            if ui.small_button("Select all of it").clicked() {
                context.send(Command::Select(group.members.clone()));
            }
        });
    }
    if model
        .checkpoint
        .tied()
        .is_some_and(|tied| tied.embedding == layer || tied.head == Some(layer))
    {
        ui.weak("tied: this embedding is also the head, so its damage counts twice");
    }
}

fn tabs(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for (tab, title, tip) in Tab::ALL {
            if ui.selectable_label(model.tab == tab, title).on_hover_text(tip).clicked() {
                context.send(Command::SetTab(tab));
            }
        }
    });
}
