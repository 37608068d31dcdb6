//! The budget as memory while the model runs: weights beside keys and values of a context.

use egui::{CollapsingHeader, DragValue, Ui};
use lapidary_engine::network::architectures;
use lapidary_engine::scores::{active_bytes, cache_bytes};

use super::{MEGABYTE, send};
use crate::commands::allocate::Allocate;
use crate::document::allocation::Ready;
use crate::document::model::Model;
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let header = CollapsingHeader::new("Memory while it runs").id_salt("memory");
    let header = header.show(ui, |ui| {
        let design = model.checkpoint.config().map(architectures::design);
        let Some(Ok(design)) = design else {
            ui.weak("The cache of this network is not known.");
            return;
        };
        let state = &context.document.allocation;
        let [least, most] = ready.solved.range();
        let budget = state.budget.unwrap_or(most);
        let cache = cache_bytes(&design, state.context());
        ui.horizontal_wrapped(|ui| {
            let mut tokens = state.context();
            let label = ui.label("Context");
            let drag = DragValue::new(&mut tokens).range(1..=100_000_000_u64).speed(64.0);
            let drag = ui.add(drag.suffix(" tokens")).labelled_by(label.id);
            let drag = drag.on_hover_text("Tokens of the sequence whose keys and values are held, in half floats.");
            if drag.changed() {
                send(context, Allocate::Context(tokens));
            }
            let mut memory = (budget + cache) as f64 / MEGABYTE;
            let range = [least, most].map(|bytes| (bytes + cache) as f64 / MEGABYTE);
            let label = ui.label("memory");
            let drag = DragValue::new(&mut memory).range(range[0]..=range[1]);
            let drag = drag.fixed_decimals(3).suffix(" MB").speed((range[1] - range[0]) / 300.0);
            let drag = ui.add(drag).labelled_by(label.id);
            let tip = "The budget as memory: all weights, and the keys and values. What a runtime needs for itself and for activations is not counted.";
            if drag.on_hover_text(tip).changed() {
                let bytes = ((memory * MEGABYTE).round() as u64).saturating_sub(cache);
                send(context, Allocate::Spend(bytes.clamp(least, most)));
            }
        });
        let mut line = format!("weights {}, keys and values {}", text::bytes(budget), text::bytes(cache));
        if let Ok(manifest) = &model.outcome.laid_out.manifest {
            let active = active_bytes(&model.checkpoint, manifest, &design);
            line.extend([
                "; the plan reads ".to_owned(),
                text::bytes(active),
                " of weights for each token".to_owned(),
            ]);
        }
        ui.label(line).on_hover_text("Of a mixture of experts a token reads only those that are chosen; of the embedding one row.");
    });
    header.header_response.on_hover_text("A budget of memory instead of bytes of weights: what is left for the weights beside the cache of a context.");
}
