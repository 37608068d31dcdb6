//! The model map through the window: blocks, experts, areas by bytes, selecting by dragging.

mod window;

use std::path::Path;

use egui::{Key, Modifiers};
use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::document::model::{MapMode, Pane};
use lapidary::document::selection::How;
use lapidary::document::treemap::Treemap;
use lapidary_engine::checkpoint::Role;
use lapidary_tests::Weights;
use window::{open, open_sample, wait_until};

/// A mixture of experts with the names of Mixtral or of Qwen3-MoE and 16 × 8 matrices.
fn mixture(folder: &Path, blocks: usize, experts: usize, is_mixtral: bool) -> std::path::PathBuf {
    let mut weights = Weights::new().normal("model.embed_tokens.weight", &[32, 16]);
    for block in 0..blocks {
        let layer = format!("model.layers.{block}");
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            weights = weights.normal(&format!("{layer}.self_attn.{name}.weight"), &[16, 16]);
        }
        weights = weights.normal(&format!("{layer}.input_layernorm.weight"), &[16]);
        let mlp = if is_mixtral { "block_sparse_moe" } else { "mlp" };
        weights = weights.normal(&format!("{layer}.{mlp}.gate.weight"), &[experts, 16]);
        let names: [&str; 3] =
            if is_mixtral { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
        for expert in 0..experts {
            for (name, shape) in names.into_iter().zip([[8, 16], [8, 16], [16, 8]]) {
                let name = format!("{layer}.{mlp}.experts.{expert}.{name}.weight");
                weights = weights.normal(&name, &shape);
            }
        }
    }
    let path = folder.join("mixture.safetensors");
    weights.write(&path);
    path
}

#[test]
fn three_thousand_tensors_of_experts_have_their_places() {
    for (is_mixtral, blocks, experts) in [(true, 32, 30), (false, 8, 128)] {
        let folder = tempfile::tempdir().unwrap();
        let path = mixture(folder.path(), blocks, experts, is_mixtral);
        let mut screen = open(folder.path(), &path);
        let model = screen.state().model();
        assert!(model.checkpoint.tensors().len() > 3000);
        assert_eq!((model.map.blocks.len(), model.map.most_in_a_cell), (blocks, experts));
        let map = model.map.clone();
        let role = |role| map.roles.iter().position(|r| *r == role).expect("a column");
        for expert_role in [Role::Gate, Role::Up, Role::Down] {
            assert_eq!(map.cell(blocks - 1, role(expert_role)).len(), experts);
        }
        assert_eq!(map.cell(0, role(Role::Router)).len(), 1);
        // Walking to the right goes through the experts of a cell one by one.
        let cell = map.cell(2, role(Role::Up));
        screen.state().send(Command::Click(cell[0], How::Replace, Pane::Map));
        screen.run_steps(2);
        for _ in 0..3 {
            screen.key_press(Key::ArrowRight);
            screen.run_steps(2);
        }
        assert_eq!(screen.state().model().selection.cursor(), Some(cell[3]));
        screen.key_press(Key::ArrowDown);
        screen.run_steps(2);
        let below = map.cell(3, role(Role::Up))[3];
        let cursor = screen.state().model().selection.cursor();
        assert_eq!(cursor, Some(below), "the same expert of the next block");
        screen.state().send(Command::SetMapMode(MapMode::Bytes));
        screen.run_steps(3);
        wait_until(&mut screen, "what is on screen is measured", |document| {
            let model = document.model.as_ref().expect("open");
            model.visible.iter().flatten().all(|&layer| model.statistics(layer).is_some())
        });
    }
}

#[test]
fn areas_of_the_treemap_are_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let screen = open_sample(folder.path());
    let model = screen.state().model();
    let treemap = Treemap::new(&model.map, |layer| model.bytes(layer), (1000.0, 700.0));
    assert_eq!(treemap.tiles.len(), 57);
    let area = |layer: usize| {
        let tile = treemap.tiles.iter().find(|tile| tile.tensor == layer).unwrap();
        f64::from(tile.area.width * tile.area.height)
    };
    let find = |name: &str| model.checkpoint.find(name).unwrap();
    let (large, small) = (
        find("model.layers.0.mlp.down_proj.weight"),
        find("model.layers.0.self_attn.q_proj.weight"),
    );
    let wanted = model.bytes(large) as f64 / model.bytes(small) as f64;
    let found = area(large) / area(small);
    assert!((found / wanted - 1.0).abs() < 0.01, "{found} {wanted}: both are in one block");
    let tile = treemap.tiles[20];
    let centre = (tile.area.left + tile.area.width / 2.0, tile.area.top + tile.area.height / 2.0);
    assert_eq!(treemap.at(centre.0, centre.1), Some(tile.tensor));
}

#[test]
fn a_drag_over_the_map_selects_the_cells_it_touches() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let from = screen.get_by_label("map 1 · q").rect().center();
    let to = screen.get_by_label("map 3 · v").rect().center();
    let button = |pos, pressed| egui::Event::PointerButton {
        pos,
        button: egui::PointerButton::Primary,
        pressed,
        modifiers: Modifiers::NONE,
    };
    screen.event(egui::Event::PointerMoved(from));
    screen.step();
    screen.event(button(from, true));
    screen.step();
    for i in 1..=4 {
        screen.event(egui::Event::PointerMoved(from.lerp(to, i as f32 / 4.0)));
        screen.step();
    }
    screen.event(button(to, false));
    screen.run_steps(4);
    let model = screen.state().model();
    let names: Vec<String> =
        model.selection.layers().map(|layer| model.short_name(layer)).collect();
    let wanted: Vec<String> =
        (1..=3).flat_map(|b| ["q", "k", "v"].map(|role| format!("{b} · {role}"))).collect();
    assert_eq!(names, wanted);
    screen.get_by_label("map 4 · up").click_modifiers(Modifiers::SHIFT);
    screen.run_steps(3);
    assert!(screen.state().model().selection.len() > 9, "shift-click takes the range");
}
