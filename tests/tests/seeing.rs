//! Looking at models through the window: filters, trees, columns, experts, pictures, comparison, what is kept on disk.

mod window;

use std::path::Path;

use egui::{Key, Modifiers};
use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::document::capacity::{Choice, Values};
use lapidary::document::columns::{self, Column};
use lapidary::document::list::Row;
use lapidary::document::look::{Quantity, Seen, Tab};
use lapidary::document::metrics::{METRICS, Needs, find};
use lapidary::document::{Document, FigureToSave, Sheet, Slot};
use lapidary::figure::{Axis, Drawing, Figure, Format, Ink, Kind, Series};
use lapidary::jobs::Purpose;
use lapidary_engine::Silent;
use lapidary_engine::job::{Held, Sample, Source};
use lapidary_tests::{Weights, normals, sample_path};
use ndarray::s;
use window::{Screen, open, open_sample, wait_until};

fn is_measured(document: &lapidary::document::Document) -> bool {
    document.model.as_ref().is_some_and(|model| {
        let (done, all) = model.progress();
        done == all
    })
}

fn measured_sample(home: &Path) -> Screen {
    let mut screen = open_sample(home);
    wait_until(&mut screen, "everything is measured", is_measured);
    screen
}

#[test]
fn conditions_words_and_patterns_filter_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = measured_sample(folder.path());
    let rows = |screen: &mut Screen, filter: &str| {
        screen.state().send(Command::SetFilter(filter.to_owned()));
        screen.run_steps(3);
        screen.state().model().rows().to_vec()
    };
    let heavy = rows(&mut screen, "kurtosis > 1");
    let model = screen.state().model();
    let wanted: Vec<usize> = (0..model.checkpoint.tensors().len())
        .filter(|&layer| model.statistics(layer).is_some_and(|found| found.kurtosis > 1.0))
        .collect();
    assert!(wanted.len() > 3 && heavy == wanted, "{heavy:?} {wanted:?}");
    assert_eq!(rows(&mut screen, "*.down_proj.weight block >= 4").len(), 2);
    assert_eq!(rows(&mut screen, "norm").len(), 13);
    let before = rows(&mut screen, "down size > 1 kB");
    assert_eq!(before.len(), 6);
    assert_eq!(rows(&mut screen, "down curtosis > 1"), before, "a mistake leaves the rows");
    assert!(screen.query_by_label_contains("“curtosis” is no quantity").is_some());
    screen.state().send(Command::SortBy(Column::find("kurtosis").unwrap()));
    screen.run_steps(2);
    let model = screen.state().model();
    let sorted: Vec<f64> =
        model.rows().iter().map(|&layer| model.statistics(layer).unwrap().kurtosis).collect();
    assert!(sorted.is_sorted_by(|a, b| a >= b), "{sorted:?}");
}

#[test]
fn the_list_is_a_tree_whose_blocks_fold() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.key_press(Key::T);
    screen.run_steps(3);
    assert_eq!(
        screen.state().model().list.lines().len(),
        57 + 7 - 18,
        "six blocks and the rest, q k v and gate up in a row each"
    );
    screen.get_by_label_contains("▼ block 0").click();
    screen.run_steps(3);
    let model = screen.state().model();
    assert_eq!(model.list.lines().len(), 57 + 7 - 18 - 6);
    assert!(model.list.lines().contains(&Row::Block(Some(0), 9)));
    assert!(screen.query_by_label_contains("▶ block 0").is_some());
}

#[test]
fn columns_are_chosen_ordered_kept_in_projects_and_copied() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = measured_sample(folder.path());
    let floor = Column::find("floor").unwrap();
    screen.state().send(Command::ToggleColumn(floor));
    screen.state().send(Command::MoveColumn(floor, -1));
    screen.state().send(Command::ToggleColumn(Column::Assignment));
    screen.state().send(Command::ToggleColumn(Column::Layer));
    screen.run_steps(3);
    let ids = |screen: &Screen| -> Vec<&str> {
        screen.state().model().list.columns.iter().map(|column| column.id()).collect()
    };
    let wanted = ["layer", "bits", "bytes", "kurtosis", "rank", "floor", "histogram"];
    assert_eq!(ids(&screen), wanted, "the name stays first");
    let project = folder.path().join("p.ron");
    screen.state().send(Command::SaveAs(project.clone()));
    screen.run_steps(3);
    let csv = columns::csv(screen.state().model(), &screen.state().model().list.columns, &[0, 5]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "layer,bits,bytes,kurtosis,rank,floor");
    let model = screen.state().model();
    let cells: Vec<&str> = lines[2].split(',').collect();
    assert_eq!(cells[0], model.checkpoint.tensors()[5].name);
    assert_eq!(cells[3].parse::<f64>().unwrap(), model.statistics(5).unwrap().kurtosis);
    screen.event(egui::Event::Copy);
    screen.step();
    let copied = |commands: &[egui::OutputCommand]| {
        commands.iter().any(|command| {
            matches!(command, egui::OutputCommand::CopyText(text) if text.lines().count() == 58)
        })
    };
    let was_copied = (0..3).any(|_| {
        let found = copied(&screen.output().platform_output.commands);
        screen.step();
        found
    });
    assert!(was_copied, "all rows with a head");
    drop(screen);
    assert_eq!(ids(&open(folder.path(), &project)), wanted, "the project remembers");
}

#[test]
fn several_layers_are_laid_over_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = measured_sample(folder.path());
    screen.get_by_label("map 2 · gate").click();
    screen.run_steps(3);
    for _ in 0..9 {
        screen.key_press_modifiers(Modifiers::SHIFT, Key::ArrowDown);
        screen.run_steps(2);
    }
    assert_eq!(screen.state().model().selection.len(), 4, "the last block ends the walk");
    screen.key_press_modifiers(Modifiers::SHIFT, Key::ArrowRight);
    screen.run_steps(3);
    let model = screen.state().model();
    assert_eq!(model.inspected().len(), 5);
    for tab in [Tab::Weights, Tab::Spectrum] {
        screen.state().send(Command::SetTab(tab));
        screen.run_steps(3);
        assert!(screen.query_by_label("3 · gate").is_some(), "in the legend alone: {tab:?}");
    }
    screen.state().send(Command::SelectAll);
    screen.run_steps(3);
    assert_eq!(screen.state().model().inspected().len(), 8);
    assert!(screen.query_by_label_contains("49 more are selected").is_some());
}

/// A llama-like layer with one spike, in a file of its own.
fn spiked(folder: &Path) -> std::path::PathBuf {
    let mut values = normals(3, 600 * 900);
    values[123 * 900 + 456] = 200.0;
    let path = folder.join("spiked.safetensors");
    Weights::new()
        .f32("model.layers.0.mlp.down_proj.weight", &[600, 900], &values)
        .normal("model.layers.0.mlp.up_proj.weight", &[90, 60])
        .write(&path);
    path
}

#[test]
fn a_super_weight_is_listed_and_pictured_down_to_its_cell() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open(folder.path(), &spiked(folder.path()));
    wait_until(&mut screen, "everything is measured", is_measured);
    screen.get_by_label("Outliers").click();
    screen.run_steps(2);
    wait_until(&mut screen, "the picture is there", |document| {
        document.model.as_ref().is_some_and(|model| model.look.picture.is_some())
    });
    assert!(screen.query_by_label_contains("Super-weights of the model: 1").is_some());
    assert!(screen.query_by_label_contains("Outliers are scattered").is_some());
    screen.state().send(Command::LookNear(100..150, 430..480));
    screen.run_steps(2);
    wait_until(&mut screen, "the part near by is there", |document| {
        document.model.as_ref().is_some_and(|model| model.look.near.is_some())
    });
    let model = screen.state().model();
    let near = model.look.near.as_ref().unwrap();
    let cells = near.cells.as_ref().unwrap();
    let layer = model.selection.cursor().unwrap();
    let weights = model.checkpoint.weights(layer, &Silent).unwrap();
    assert_eq!(cells.extreme, weights.slice(s![100..150, 430..480]));
    assert_eq!(cells.extreme[[23, 26]], 200.0);
}

#[test]
fn the_error_of_an_assignment_is_pictured_and_has_a_spectrum() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::SetBits(2));
    screen.state().send(Command::SetTab(Tab::Outliers));
    screen.state().send(Command::SetQuantity(Quantity::Error));
    screen.run_steps(2);
    wait_until(&mut screen, "the error is pictured", |document| {
        let picture = document.model.as_ref().and_then(|model| model.look.picture.as_ref());
        picture.is_some_and(|(subject, _)| matches!(subject.1, Seen::Error(_)))
    });
    wait_until(&mut screen, "the error is measured", |document| {
        document.model.as_ref().is_some_and(|model| model.preview.is_some())
    });
    let model = screen.state().model();
    let layer = model.selection.cursor().unwrap();
    let (_, picture) = model.look.picture.as_ref().unwrap();
    let finest = &picture.as_ref().unwrap().map.levels[0];
    assert_eq!(finest.step, 1, "the sample's layers are small");
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt()
    };
    let weights = model.checkpoint.weights(layer, &Silent).unwrap();
    let error = norm(&mut finest.extreme.iter().copied()) / norm(&mut weights.iter().copied());
    let measured = model.relative_error(layer).unwrap();
    assert!((error - measured).abs() < 1e-9, "{error} pictured, {measured} measured");
    screen.state().send(Command::SetTab(Tab::Spectrum));
    screen.state().send(Command::ToggleErrorSpectrum);
    screen.run_steps(2);
    wait_until(&mut screen, "the spectrum of the error is there", |document| {
        document.model.as_ref().is_some_and(|model| model.look.error_spectrum.is_some())
    });
    let model = screen.state().model();
    let (_, spectrum) = model.look.error_spectrum.as_ref().unwrap();
    let values = &spectrum.as_ref().unwrap().singular_values;
    let of_spectrum = values.iter().map(|s| s * s).sum::<f64>().sqrt();
    let of_weights = norm(&mut weights.iter().copied());
    assert!((of_spectrum / of_weights - measured).abs() < 1e-6, "the same norm");
}

#[test]
fn forms_are_tried_while_the_panel_shows_them_and_one_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    Weights::new().normal("model.layers.0.mlp.up_proj.weight", &[32, 64]).write(&path);
    let mut screen = open(&folder.path().join("home"), &path);
    screen.state().send(Command::SetTab(Tab::Capacity));
    screen.state().send(Command::Hold(Choice::Source(Source::Laplace)));
    let laplace = Values::Source(Source::Laplace);
    let found = |document: &Document, values: Values| {
        let capacity = document.model.as_ref().map(|model| &model.look.capacity);
        capacity.and_then(|capacity| capacity.found(values)).cloned()
    };
    wait_until(&mut screen, "a form holds Laplace values", |document| {
        found(document, laplace).is_some_and(|found| !found.held.is_empty())
    });
    screen.run_steps(2);
    assert!(screen.query_by_label_contains("forms tried").is_some());
    let coded = found(screen.state().document(), laplace).unwrap().entropy_coded;
    assert!(coded.iter().all(|&[bits, found]| found > Source::Laplace.bound(bits) * 0.99));

    // What nobody looks at is not gone on with, and nothing of it is tried twice.
    screen.state().send(Command::SetTab(Tab::Weights));
    screen.run_steps(3);
    assert!(screen.state().model().look.capacity.in_flight.is_none());
    let left = found(screen.state().document(), laplace).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    screen.run_steps(3);
    assert_eq!(found(screen.state().document(), laplace), Some(left.clone()));
    screen.state().send(Command::SetTab(Tab::Capacity));
    wait_until(&mut screen, "it goes on", |document| {
        found(document, laplace).is_some_and(|found| found.tried > left.tried + 3)
    });
    let held = found(screen.state().document(), laplace).unwrap().held;
    let is_once = |one: &Held| held.iter().filter(|held| held.steps == one.steps).count() == 1;
    assert!(held.iter().all(is_once));
    screen.state().send(Command::Hold(Choice::Layer));
    let layer = screen.state().model().selection.cursor().unwrap();
    wait_until(&mut screen, "every form is tried", |document| {
        found(document, Values::Layer(layer)).is_some_and(|found| found.is_complete())
    });
    let held = found(screen.state().document(), Values::Layer(layer)).unwrap().held;
    let sample = Sample::new(&screen.state().model().checkpoint, layer, &Silent).unwrap();
    let error = |held: &Held| sample.distortion(&held.steps, &Silent).unwrap();
    assert!(held.len() > 100 && held.iter().step_by(9).all(|held| error(held) == held.distortion));
    // The first row: of those of equal bits as they are written the last.
    let written = |held: &Held| format!("{:.3}", held.bits);
    let first = held.iter().find(|held| held.is_best).map(written).unwrap();
    let best = held.iter().rfind(|held| held.is_best && written(held) == first).unwrap();
    screen.run_steps(2);
    screen.get_by_label(&best.label).click();
    screen.run_steps(3);
    assert_eq!(screen.state().model().assignment(layer).steps, best.steps);
}

#[test]
fn a_second_checkpoint_is_compared_layer_by_layer() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    for (name, bytes) in lapidary_tests::read_folder(&sample_path()) {
        lapidary_tests::write(&base.join(name), &bytes);
    }
    let file = base.join("model.safetensors");
    let mut bytes = lapidary_tests::read(&file);
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    lapidary_tests::write(&file, &bytes);
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::TakePath(Purpose::CompareFolder, base));
    screen.run_steps(2);
    wait_until(&mut screen, "everything is compared", |document| {
        let other = document.model.as_ref().map(|model| &model.other);
        matches!(other, Some(Slot::Ready(other)) if other.tally().waiting == 0)
    });
    let model = screen.state().model();
    let Slot::Ready(other) = &model.other else { panic!("compared above") };
    let tally = other.tally();
    assert_eq!((tally.identical, tally.different, tally.alone, tally.failed), (56, 1, 0, 0));
    let metric = find("bit-distance").unwrap();
    let tensors = model.checkpoint.tensors();
    let changed: Vec<usize> = (0..tensors.len())
        .filter(|&layer| (metric.value)(model, layer).is_some_and(|bits| bits > 0.0))
        .collect();
    assert_eq!(changed.len(), 1);
    let bits = (metric.value)(model, changed[0]).unwrap();
    assert!((bits - 1.0 / tensors[changed[0]].parameters() as f64).abs() < 1e-15, "one bit");
    assert!(screen.query_by_label("different").is_some());
    screen.state().send(Command::StopComparing);
    screen.run_steps(3);
    assert!(screen.query_by_label("Folder…").is_some());
}

#[test]
fn what_was_measured_is_there_at_once_when_a_model_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = measured_sample(folder.path());
    let first = fresh.state().model().measured.clone();
    drop(fresh);
    // Keys are written down when all is measured, by a thread that may outlive the window.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut screen = open_sample(folder.path());
    wait_until(&mut screen, "everything is recalled", is_measured);
    let again = &screen.state().model().measured;
    for layer in 0..first.statistics.len() {
        assert_eq!(first.statistics[layer], again.statistics[layer]);
        assert_eq!(first.structures[layer], again.structures[layer]);
        assert_eq!(first.spectra[layer], again.spectra[layer]);
    }
    let files = lapidary_engine::disk::list_tree(&folder.path().join("measured"));
    let ending = |ending: &str| {
        files.iter().filter(|file| file.path.extension().is_some_and(|e| e == ending)).count()
    };
    assert_eq!((ending("statistics"), ending("structure"), ending("spectrum")), (57, 44, 44));
    assert_eq!(ending("keys"), 1, "the next opening need not read the weights");
}

#[test]
fn figures_are_saved_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let points = (1..50).map(|i| [f64::from(i), f64::from(i * i)]).collect();
    let figure = Figure {
        title: "Squares of 3 · down".to_owned(),
        x: Axis::new("i"),
        y: Axis::new("i²").in_unit("squares"),
        series: vec![Series::new("squares", Ink::Data(0), Kind::Line, points)],
    };
    for format in Format::ALL {
        let drawing = Drawing::Plot(figure.clone());
        let to_save = FigureToSave { drawing, format };
        assert_eq!(to_save.file_name(), format!("squares-of-3-down.{}", format.extension()));
        // Without a desktop no dialog opens: the path is typed.
        screen.state().send(Command::SaveFigure(std::sync::Arc::new(to_save)));
        let path = folder.path().join(format!("figure.{}", format.extension()));
        screen.state().send(Command::TakePath(Purpose::SaveFigure(format), path.clone()));
        screen.run_steps(2);
        wait_until(&mut screen, "the figure is saved", |_| path.exists());
        let bytes = lapidary_tests::read(&path);
        match format {
            Format::Png => assert!(image::load_from_memory(&bytes).is_ok()),
            Format::Svg => assert!(bytes.starts_with(b"<svg") && bytes.ends_with(b"</svg>\n")),
            Format::Csv => {
                assert_eq!(String::from_utf8_lossy(&bytes).lines().count(), 50);
            }
        }
    }
}

#[test]
fn every_metric_has_values_on_a_measured_plan() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = measured_sample(folder.path());
    screen.state().send(Command::SelectAll);
    screen.state().send(Command::SetBits(4));
    screen.state().send(Command::SetMetric("damage"));
    screen.run_steps(2);
    wait_until(&mut screen, "the damage of every layer is measured", |document| {
        let model = document.model.as_ref().expect("open");
        (0..model.checkpoint.tensors().len())
            .filter(|&layer| model.checkpoint.tensors()[layer].matrix.is_some())
            .all(|layer| model.relative_error(layer).is_some())
    });
    let model = screen.state().model();
    let is_there = |needs| {
        !matches!(needs, Needs::Other | Needs::Price | Needs::Sensitivity | Needs::Calibration)
    };
    for metric in METRICS.iter().filter(|metric| is_there(metric.needs)) {
        let values: Vec<f64> = (0..model.checkpoint.tensors().len())
            .filter_map(|layer| (metric.value)(model, layer))
            .collect();
        assert!(values.len() >= 42, "{}: {} values", metric.id, values.len());
        assert!(values.iter().all(|value| value.is_finite()), "{}", metric.id);
    }
    let layer = model.checkpoint.find("model.layers.3.mlp.down_proj.weight").unwrap();
    let error = model.relative_error(layer).unwrap();
    let damage = (find("damage").unwrap().value)(model, layer).unwrap();
    assert!((damage - error * error).abs() < 1e-15 && (0.05..0.2).contains(&error), "{error}");
}

#[test]
fn a_second_checkpoint_that_does_not_open_is_said_in_its_tab() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::Compare(folder.path().join("nothing here")));
    screen.run_steps(2);
    wait_until(&mut screen, "the failure is said", |document| {
        document.model.as_ref().is_some_and(|model| matches!(model.other, Slot::Failed(_)))
    });
    assert!(screen.query_by_label_contains("nothing here").is_some());
}

#[test]
fn a_suggested_path_is_selected_so_that_typing_replaces_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    for _ in 0..2 {
        screen.state().send(Command::TypePath("/suggested/figure.svg".to_owned()));
        screen.state().send(Command::ToggleSheet(Sheet::Path(Purpose::SaveProject)));
        screen.run_steps(4);
        screen.get_by_label("Path").type_text("mine");
        screen.run_steps(2);
        screen.get_by_label("Path").type_text(".ron");
        screen.run_steps(2);
        assert_eq!(screen.state().document().typed_path, "mine.ron");
        screen.key_press(Key::Escape);
        screen.run_steps(3);
        assert!(screen.state().document().sheet.is_none());
    }
}

#[test]
fn nothing_is_saved_into_a_folder_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::SaveAs(folder.path().join("typo").join("plan.ron")));
    screen.run_steps(3);
    assert!(screen.query_by_label_contains("there is no folder").is_some());
    assert!(!folder.path().join("typo").exists());
}

#[test]
fn a_path_typed_where_no_dialog_opens_is_taken_by_enter() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::ToggleSheet(Sheet::Path(Purpose::CompareFolder)));
    screen.run_steps(3);
    screen.get_by_label("Path").type_text(&sample_path().display().to_string());
    screen.run_steps(3);
    screen.key_press(Key::Enter);
    screen.run_steps(3);
    assert!(screen.state().document().sheet.is_none(), "the sheet closes");
    wait_until(&mut screen, "the second checkpoint is open", |document| {
        document.model.as_ref().is_some_and(|model| matches!(model.other, Slot::Ready(_)))
    });
}
