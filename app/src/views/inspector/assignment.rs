//! The assignment of the selected layers: a form made from the methods' own schemas, and what it does.

use egui::{Align, ComboBox, DragValue, Layout, Response, RichText, Slider, Ui, vec2};
use lapidary_engine::job::Weighting;
use lapidary_engine::method::{
    About, Kind, METHODS, Needs, Parameter, Resolved, Stage, Step, Value,
};
use lapidary_engine::plan::{Assignment, Origin};
use lapidary_engine::target;

use crate::commands::Command;
use crate::document::Sheet;
use crate::document::model::{Model, Side};
use crate::theme::text;
use crate::views::ViewContext;
use crate::views::inspector::weights::current_preview;
use crate::widgets::busy::busy;

/// Room for every method and the way to a calibration, in points.
const POPUP_HEIGHT: f32 = 360.0;

/// The stages a form offers, with their titles.
const STAGES: [(Stage, &str, &str); 6] = [
    (
        Stage::Quantise,
        "Quantiser",
        "How the weights that stay are rounded; none leaves them as they are.",
    ),
    (
        Stage::Prune,
        "Sparsity",
        "Which weights become zero before the quantiser; no current loader saves bytes for it.",
    ),
    (
        Stage::Polish,
        "Polish",
        "Moves the codes, scales and codebooks that the quantiser chose to where the outputs are nearest.",
    ),
    (
        Stage::Compensate,
        "Correction",
        "What is added to whatever came out; costs bytes of its own.",
    ),
    (
        Stage::Outliers,
        "Single weights",
        "The few weights that are still far off, each added back by itself.",
    ),
    (
        Stage::Refine,
        "Refinement",
        "Moves codes and codebooks together with those of the block's other layers. Calibrate block by block for it (Sequential compression); previews show the layer before it.",
    ),
];

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let tensor = &model.checkpoint.tensors()[layer];
    if tensor.matrix.is_none() {
        ui.weak(format!("Kept as it is: {}.", tensor.why_no_matrix()));
        return;
    }
    let assignment = model.assignment(layer);
    ui.horizontal(|ui| {
        ui.strong("Assignment");
        let mut locked = assignment.locked;
        if ui
            .checkbox(&mut locked, "locked")
            .on_hover_text("Edits of several layers and solvers leave a locked layer alone.")
            .changed()
        {
            context.send(Command::ToggleLock);
        }
        if !assignment.is_keep()
            && ui.small_button("Keep").on_hover_text("Leave the layer as it is on disk.").clicked()
        {
            context.send(Command::Keep);
        }
    });
    if assignment.locked {
        ui.weak("Locked: unlock to change it.");
    }
    origin(context, ui, model, layer);
    ui.add_enabled_ui(!assignment.locked, |ui| {
        let form = Form { model, layer, assignment: &assignment };
        for (stage, title, help) in STAGES {
            stage_form(context, ui, &form, (stage, title, help));
        }
    });
    effect(context, ui, model, layer, &assignment);
}

/// What a form is for.
struct Form<'a> {
    model: &'a Model,
    layer: usize,
    assignment: &'a Assignment,
}

impl Form<'_> {
    /// Why the target could not hold another assignment; nothing is refused that is there already.
    fn refusal(&self, other: &Assignment) -> Option<String> {
        let tensor = &self.model.checkpoint.tensors()[self.layer];
        let why_not = target::refusal(tensor, other, self.model.target)?;
        (other.steps != self.assignment.steps).then_some(why_not)
    }

    /// Why a method could not be run on the layer for want of a calibration, and how to mend it.
    fn lack(&self, other: &Assignment) -> Option<String> {
        let why_not = self.model.why_uncalibrated(self.layer, &other.steps)?;
        (other.steps != self.assignment.steps).then_some(why_not)
    }

    /// The assignment, or the nearest of the same method the target holds: a method is no reason to refuse its usual group
    /// size.
    fn nearest(&self, other: &Assignment) -> Assignment {
        let tensor = &self.model.checkpoint.tensors()[self.layer];
        let nearest = target::held_by_same_method(tensor, other, self.model.target);
        nearest.unwrap_or_else(|| other.clone())
    }

    fn at_same_bits(&self, wanted: &Assignment) -> Option<Assignment> {
        let tensor = &self.model.checkpoint.tensors()[self.layer];
        target::held_at_same_bits(tensor, wanted, self.model.target)
    }

    /// The assignment with what else the target asks for; nothing where that changes the choice itself.
    fn fitted(&self, wanted: &Assignment, (parameter, chosen): (&str, &str)) -> Option<Assignment> {
        let has_it = |step: &Step| step.parameters.0.get(parameter) == Some(&Value::from(chosen));
        self.at_same_bits(wanted).filter(|held| held.steps.iter().any(has_it))
    }

    /// A choice that sets something, grey with the reason where the target could not hold it.
    fn choice(
        &self,
        ui: &mut Ui,
        (is_chosen, title, tip): (bool, &str, &str),
        other: &Assignment,
    ) -> bool {
        let name = self.model.target.about().title;
        let why_not = self.refusal(other).map(|why_not| format!("Not for {name}: {why_not}."));
        let why_not = why_not.or_else(|| self.lack(other));
        let label = egui::Button::selectable(is_chosen, title);
        let response = ui.add_enabled(why_not.is_none(), label).on_hover_text(tip);
        let clicked = response.clicked();
        if let Some(why_not) = why_not {
            response.on_disabled_hover_text(why_not);
        }
        clicked
    }
}

/// Where the assignment comes from: a rule, or a hand.
fn origin(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let rules = model.plan().rules();
    match model.plan().origin(&model.checkpoint.tensors()[layer].name) {
        Origin::Nothing => {}
        Origin::Rule(at) => {
            let text = format!("from rule {}: {}", at + 1, rules[at].pattern);
            let link = egui::Button::new(RichText::new(text).small()).frame(false);
            if ui.add(link).on_hover_text("Show the rules.").clicked() {
                context.send(Command::SetSide(Side::Rules));
            }
        }
        Origin::ByHand if rules.is_empty() => {}
        Origin::ByHand => {
            ui.horizontal(|ui| {
                ui.weak("set by hand");
                let tip = "Take back what was set by hand, so that the rules decide.";
                if ui.small_button("Leave to the rules").on_hover_text(tip).clicked() {
                    context.send(Command::Forget);
                }
            });
        }
    }
}

fn stage_form(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    form: &Form<'_>,
    (stage, title, help): (Stage, &str, &str),
) {
    let assignment = form.assignment;
    let step = assignment.step_at(stage);
    let chosen = step.and_then(|step| about(&step.method));
    ui.horizontal(|ui| {
        let label = form_label(ui, title, help);
        let choice = ComboBox::from_id_salt(title)
            .width(180.0)
            .height(POPUP_HEIGHT)
            .selected_text(chosen.map_or("None", |about| about.title))
            .show_ui(ui, |ui| {
                let mut lacks = false;
                if ui.selectable_label(chosen.is_none(), "None").clicked() {
                    context.send(Command::Assign(assignment.with_step_at(stage, None)));
                }
                for about in
                    METHODS.iter().map(|method| method.about()).filter(|about| about.stage == stage)
                {
                    let is_chosen = chosen.is_some_and(|chosen| chosen.id == about.id);
                    let tip =
                        format!("{}\n{}\n{}", about.summary, needs(about.needs), about.citation);
                    let other =
                        form.nearest(&assignment.with_step_at(stage, Some(Step::new(about.id))));
                    lacks |= form.lack(&other).is_some();
                    if form.choice(ui, (is_chosen, about.title, &tip), &other) && !is_chosen {
                        context.send(Command::Assign(other));
                    }
                }
                if lacks {
                    calibrate(context, ui, form);
                }
            });
        choice.response.labelled_by(label.id);
    });
    let (Some(step), Some(about)) = (step, chosen) else {
        return;
    };
    let Ok(resolved) = about.resolve(&step.parameters) else {
        return;
    };
    for parameter in about.parameters.iter().filter(|parameter| resolved.uses(parameter)) {
        let other = |value: Value| {
            let step = step.clone().with(parameter.name, value);
            assignment.with_step_at(stage, Some(step))
        };
        if let Some(value) = field(ui, form, &other, (parameter, &resolved)) {
            context.send(Command::Assign(other(value)));
        }
    }
}

/// The way to the methods that are grey for want of data.
fn calibrate(context: &ViewContext<'_>, ui: &mut Ui, form: &Form<'_>) {
    ui.separator();
    let is_there = form.model.record(form.layer).is_some();
    let what = if is_there { "Others need Gram matrices." } else { "Others need a calibration." };
    ui.weak(what);
    let tip = "Run text through the model and measure what its layers receive (Ctrl+T).";
    if ui.small_button("Calibrate…").on_hover_text(tip).clicked() {
        context.send(Command::ToggleSheet(Sheet::Calibrate));
    }
}

/// What a method must be given, in a sentence.
fn needs(needs: Needs) -> &'static str {
    match needs {
        Needs::Weights => "Needs the weights alone.",
        Needs::Tokens => "Needs to know how often each token occurs, from a calibration.",
        Needs::Moments => {
            "Needs the mean squares of the layer's inputs (E[x²]), from a calibration."
        }
        Needs::Gram => "Needs the Gram matrix of the layer's inputs (Σ x·x^T), from a calibration.",
    }
}

/// A label of the form's first column.
fn form_label(ui: &mut Ui, title: &str, help: &str) -> Response {
    ui.allocate_ui_with_layout(vec2(112.0, 18.0), Layout::left_to_right(Align::Center), |ui| {
        ui.set_min_width(112.0);
        ui.label(title).on_hover_text(help)
    })
    .inner
}

fn about(id: &str) -> Option<&'static About> {
    METHODS.iter().map(|method| method.about()).find(|about| about.id == id)
}

/// One parameter; gives the value it was changed to.
fn field(
    ui: &mut Ui,
    form: &Form<'_>,
    other: &dyn Fn(Value) -> Assignment,
    (parameter, resolved): (&Parameter, &Resolved),
) -> Option<Value> {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        form_label(ui, &format!("    {}", parameter.title), parameter.help);
        match (&parameter.kind, resolved.get(parameter.name)?) {
            (Kind::Integer { min, max, usual, .. }, Value::Integer(value)) => {
                let offered = (*min..=*max, *usual);
                integer(ui, (form, other), (parameter, offered), *value)
            }
            (Kind::Fraction { min, max, .. }, Value::Fraction(value)) => {
                let mut share = *value;
                let slider = Slider::new(&mut share, *min..=*max).fixed_decimals(2);
                ui.add(slider)
                    .on_hover_text(parameter.help)
                    .changed()
                    .then(|| Value::Fraction((share * 1000.0).round() / 1000.0))
            }
            (Kind::Choice(options), Value::Text(value)) => {
                let clicked = options.iter().filter(|option| {
                    let shown = (option.id == value, option.title, option.help);
                    let wanted = other(Value::from(option.id));
                    let held = form.fitted(&wanted, (parameter.name, option.id));
                    form.choice(ui, shown, held.as_ref().unwrap_or(&wanted))
                });
                clicked
                    .last()
                    .filter(|option| option.id != value)
                    .map(|option| Value::from(option.id))
            }
            _ => None,
        }
    })
    .inner
}

fn integer(
    ui: &mut Ui,
    (form, other): (&Form<'_>, &dyn Fn(Value) -> Assignment),
    (parameter, (range, usual)): (&Parameter, (std::ops::RangeInclusive<i64>, &[i64])),
    value: i64,
) -> Option<Value> {
    let mut chosen = value;
    for &offered in usual {
        let shown = (offered == value, offered.to_string());
        let shown = (shown.0, shown.1.as_str(), parameter.help);
        let wanted = other(Value::Integer(offered));
        // Where the bits are held, grouping and grid are fitted.
        let held = if parameter.name == "bits" { form.at_same_bits(&wanted) } else { None };
        if form.choice(ui, shown, held.as_ref().unwrap_or(&wanted)) {
            chosen = offered;
        }
    }
    // Where every value is offered there is nothing else to type.
    if (usual.len() as i64) <= range.end() - range.start() {
        ui.add(DragValue::new(&mut chosen).range(range)).on_hover_text("Drag, or click to type.");
    }
    (chosen != value).then_some(Value::Integer(chosen))
}

/// What the assignment costs and does: bytes exact, error measured.
fn effect(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    layer: usize,
    assignment: &Assignment,
) {
    ui.add_space(4.0);
    let tensor = &model.checkpoint.tensors()[layer];
    let bits = model.effective_bits(layer).map_or_else(|| "–".to_owned(), text::bits);
    ui.horizontal_wrapped(|ui| {
        ui.monospace(format!(
            "{} → {} bytes",
            text::count(tensor.bytes()),
            text::count(model.bytes(layer))
        ))
        .on_hover_text("Bytes of this layer in the source and in the exported file, exact.");
        ui.monospace(format!("{bits} bits/weight"))
            .on_hover_text("Effective: codes, scales, zero points and everything else on disk.");
    });
    if assignment.is_keep() {
        return;
    }
    if let Some(preview) = current_preview(model, layer) {
        ui.monospace(format!(
            "relative error {} (measured)",
            text::percent(preview.relative_error)
        ))
        .on_hover_text(
            "‖W−Ŵ‖/‖W‖ of this layer, exact. Rounding to 4 bits in groups of 128 gives some 10 %.",
        );
        weighted(ui, model, layer);
    } else if let Some((tried, _, Err(sentence))) =
        model.preview.as_ref().filter(|(tried, ..)| *tried == layer)
    {
        debug_assert_eq!(*tried, layer, "filtered above");
        ui.colored_label(context.tokens.error, sentence);
    } else {
        ui.horizontal_wrapped(|ui| {
            if let Some(damage) = model.damage(layer) {
                let error = text::percent(damage.relative_error);
                let kind = if damage.is_exact() {
                    "measured".to_owned()
                } else {
                    format!("estimate from {} of {} rows", damage.rows, damage.of)
                };
                ui.monospace(format!("relative error {error} ({kind})"));
            }
            busy(ui);
            ui.weak("measuring the error…");
        });
    }
    if let Some(because) = model.why_dense(layer) {
        ui.label(
            RichText::new(format!("⚠ stored in full: {because}")).color(context.tokens.warning),
        );
    }
}

/// The error as the inputs of the calibration see it, beside the plain one.
fn weighted(ui: &mut Ui, model: &Model, layer: usize) {
    let Some(damage) = model.damage(layer) else { return };
    let (formula, help) = match damage.weighting {
        Weighting::None => return,
        Weighting::Gram => (
            "Gram",
            "‖(W−Ŵ)x‖/‖Wx‖ over the tokens of the calibration: the relative error of what the layer gives. With the whole Gram matrix of its inputs.",
        ),
        Weighting::Diagonal => (
            "diagonal",
            "√(Σ(w−ŵ)²·E[x²]/Σw²·E[x²]) with the mean squares of the inputs in the calibration: the relative error of what the layer gives, where channels are uncorrelated.",
        ),
    };
    let sign = if damage.is_exact() { "" } else { "~" };
    let error = text::percent(damage.relative_error);
    ui.monospace(format!("activation-weighted {sign}{error} ({formula})")).on_hover_text(help);
}
