//! Frames of the window with 10,000 tensors in list and map, without a display: layout and tessellation on one core,
//! while the pointer moves, the list scrolls and keys walk. Then how often an idle window asks to be drawn.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::time::{Duration, Instant};

use egui::{Context, Event, Key, Modifiers, RawInput, Rect, Vec2, pos2, vec2};
use lapidary::app::App;
use lapidary::commands::Command;
use lapidary::document::brush::Brush;
use lapidary::document::model::MapMode;
use lapidary_benches::{Table, model};

const LIMIT_MS: f64 = 4.0;
const FRAMES: usize = 600;

fn main() -> Result<(), Box<dyn Error>> {
    println!("10,000 tensors, all of them measured:");
    frames(26, true)?;
    println!("\n126 blocks of 128 experts, measuring stopped:");
    frames(126, false)
}

/// Frames of a mixture of experts of that many blocks.
fn frames(blocks: usize, measured: bool) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let tensors = model::mixture(blocks);
    let n = tensors.len();
    model::write(&path, &tensors)?;
    let context = Context::default();
    let mut app = App::new(&context, folder.path().join("home"), Some(path))?;
    let mut window = Window { context, app: &mut app, events: Vec::new(), time: 0.0 };
    let begun = Instant::now();
    while window.app.document().model.is_none() || (measured && !window.is_measured()) {
        window.frame();
        std::thread::sleep(Duration::from_millis(2));
    }
    if !measured {
        window.app.send(Command::ToggleMeasuring);
    }
    println!("{n} tensors, ready in {:.1} s", begun.elapsed().as_secs_f64());
    let mut table = Table::new(&["frames of", "median", "99 %", "of 4 ms", "largest"]);
    for (what, mode, act) in [
        ("pointer over the map", MapMode::Blocks, over_map as fn(&mut Window<'_>, usize)),
        ("pointer over the treemap", MapMode::Bytes, over_map),
        ("scrolling the list", MapMode::Blocks, scroll_list),
        ("keys walking", MapMode::Blocks, walk),
        ("painting the map", MapMode::Blocks, paint),
    ] {
        let brush = (what == "painting the map").then_some(Brush::Bits(4));
        window.app.send(Command::SetTarget("dense"));
        window.app.send(Command::SetBrush(brush));
        window.app.send(Command::SetMapMode(mode));
        for _ in 0..5 {
            window.frame();
        }
        table.row(&timed(&mut window, what, act));
    }
    table.print();
    println!("frames an idle window asks for in 3 s: {}", window.idle(Duration::from_secs(3)));
    Ok(())
}

fn timed(window: &mut Window<'_>, what: &str, act: fn(&mut Window<'_>, usize)) -> Vec<String> {
    let mut times: Vec<f64> = (0..FRAMES)
        .map(|i| {
            act(window, i);
            window.frame().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let late = times[FRAMES * 99 / 100];
    vec![
        what.to_owned(),
        format!("{:.2} ms", times[FRAMES / 2]),
        format!("{late:.2} ms"),
        format!("{:.0} %", 100.0 * late / LIMIT_MS),
        format!("{:.2} ms", times[FRAMES - 1]),
    ]
}

/// A stroke back and forth over the map, so that every frame changes the plan.
fn paint(window: &mut Window<'_>, i: usize) {
    let at = pos2(560.0 + (i * 7 % 360) as f32, 250.0 + (i * 11 % 380) as f32);
    window.events.push(Event::PointerMoved(at));
    if i == 0 || i + 1 == FRAMES {
        window.events.push(Event::PointerButton {
            pos: at,
            button: egui::PointerButton::Primary,
            pressed: i == 0,
            modifiers: Modifiers::NONE,
        });
    }
}

struct Window<'a> {
    context: Context,
    app: &'a mut App,
    events: Vec<Event>,
    time: f64,
}

impl Window<'_> {
    fn is_measured(&self) -> bool {
        self.app.document().model.as_ref().is_some_and(|model| {
            let (done, all) = model.progress();
            done == all
        })
    }

    /// One frame: logic, layout and tessellation.
    fn frame(&mut self) -> Duration {
        self.time += 1.0 / 60.0;
        let input = RawInput {
            screen_rect: Some(Rect::from_min_size(pos2(0.0, 0.0), vec2(1440.0, 860.0))),
            time: Some(self.time),
            events: std::mem::take(&mut self.events),
            ..RawInput::default()
        };
        let begun = Instant::now();
        let app = &mut *self.app;
        let output = self.context.run_ui(input, |ui| {
            app.logic(ui.ctx());
            app.ui(ui);
        });
        let shapes = self.context.tessellate(output.shapes, output.pixels_per_point);
        let time = begun.elapsed();
        assert!(!shapes.is_empty(), "something is drawn");
        time
    }

    /// Frames asked for while nothing happens.
    fn idle(&mut self, during: Duration) -> usize {
        for _ in 0..100 {
            self.frame();
        }
        let begun = Instant::now();
        let mut frames = 0;
        while begun.elapsed() < during {
            if self.context.has_requested_repaint() {
                self.frame();
                frames += 1;
            }
            std::thread::sleep(Duration::from_millis(16));
        }
        frames
    }
}

fn over_map(window: &mut Window<'_>, i: usize) {
    let at = pos2(560.0 + (i * 7 % 420) as f32, 140.0 + (i * 11 % 500) as f32);
    window.events.push(Event::PointerMoved(at));
}

fn scroll_list(window: &mut Window<'_>, i: usize) {
    window.events.push(Event::PointerMoved(pos2(200.0, 400.0)));
    let delta = Vec2::new(0.0, if i % 200 < 100 { -90.0 } else { 90.0 });
    window.events.push(Event::MouseWheel {
        unit: egui::MouseWheelUnit::Point,
        delta,
        phase: egui::TouchPhase::Move,
        modifiers: Modifiers::NONE,
        source: egui::MouseWheelSource::Wheel,
    });
}

fn walk(window: &mut Window<'_>, i: usize) {
    let key = Key::ArrowDown;
    let pressed = i.is_multiple_of(2);
    let modifiers = Modifiers::NONE;
    window.events.push(Event::Key { key, physical_key: None, pressed, repeat: false, modifiers });
}
