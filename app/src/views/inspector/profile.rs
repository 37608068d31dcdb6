//! Profiles: the range, spread and tails of each output row or input column.

use egui::{Id, Ui};
use lapidary_engine::statistics::{Line, Profile};

use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::views::ViewContext;
use crate::views::inspector::parts::{self, known};

const HEIGHT: f32 = 150.0;

/// What the profile shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    of_columns: bool,
    number: Number,
    is_sorted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    AbsMax,
    Std,
    Kurtosis,
}

impl Number {
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::AbsMax, "abs max", "Largest |w|: what a scale for each row or column must span."),
        (Self::Std, "std", "Standard deviation."),
        (
            Self::Kurtosis,
            "kurtosis",
            "Excess kurtosis: 0 normal, 3 Laplace. High where single weights stand out.",
        ),
    ];

    fn of(self, line: &Line) -> &[f32] {
        match self {
            Self::AbsMax => &line.abs_max,
            Self::Std => &line.std,
            Self::Kurtosis => &line.kurtosis,
        }
    }
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    if model.checkpoint.tensors()[layers[0]].matrix.is_none() {
        return;
    }
    ui.separator();
    let id = Id::unique("profile choice");
    let kept = ui.data(|data| data.get_temp::<Choice>(id));
    let mut choice =
        kept.unwrap_or(Choice { of_columns: true, number: Number::AbsMax, is_sorted: false });
    choose(ui, &mut choice);
    ui.data_mut(|data| data.insert_temp(id, choice));
    let state = model.look.profiles.get(&layers[0]).and_then(Option::as_ref);
    if known(context, ui, state, "Measuring rows and columns…").is_none() {
        return;
    }
    let figure = figure(model, layers, choice);
    parts::plot_of_layers(context, ui, "profile", &figure, HEIGHT);
}

fn choose(ui: &mut Ui, choice: &mut Choice) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 3.0;
        ui.strong("Profile").on_hover_text("One number for each output row or input column. Few columns far above the rest are outlier inputs: scale them (AWQ), or give them more bits.");
        for (of_columns, title) in [(true, "inputs"), (false, "outputs")] {
            ui.selectable_value(&mut choice.of_columns, of_columns, title)
                .on_hover_text("Columns of the matrix are inputs, rows are outputs.");
        }
        ui.label("·");
        for (number, title, help) in Number::ALL {
            ui.selectable_value(&mut choice.number, number, title).on_hover_text(help);
        }
        ui.label("·");
        ui.checkbox(&mut choice.is_sorted, "sorted")
            .on_hover_text("From the largest to the smallest, rather than in order.");
    });
}

fn figure(model: &Model, layers: &[usize], choice: Choice) -> Figure {
    let curve = |(i, &layer): (usize, &usize)| {
        let profile: &Profile = model.look.profiles.get(&layer)?.as_ref()?.as_ref().ok()?;
        let line = if choice.of_columns { &profile.cols } else { &profile.rows };
        let mut values: Vec<f32> = choice.number.of(line).to_vec();
        if choice.is_sorted {
            values.sort_by(|a, b| b.total_cmp(a));
        }
        let points = values.iter().enumerate().filter(|(_, value)| value.is_finite());
        let points = points.map(|(i, &value)| [i as f64, f64::from(value)]).collect();
        Some(Series::new(&model.short_name(layer), Ink::Data(i), Kind::Line, points))
    };
    let what = if choice.of_columns { "input column" } else { "output row" };
    let (_, number, _) = Number::ALL[choice.number as usize];
    Figure {
        title: format!("{number} by {what}: {}", model.short_name(layers[0])),
        x: Axis::new(&format!("{what}{}", if choice.is_sorted { ", sorted" } else { "" })),
        y: Axis::new(number).or_log(Scale::Linear),
        series: layers.iter().enumerate().filter_map(curve).collect(),
    }
}
