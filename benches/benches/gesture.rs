//! What one step of a brush over a model of 10,000 tensors costs: the edit, what changed, the sizes, the lints.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::time::Instant;

use lapidary_benches::{Table, model};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::plan::{Assignment, Plan, Rule};
use lapidary_engine::target::{self, Case, Entry, Manifest, entry, lints};

const STEPS: usize = 50;
/// Layers that one step of a brush touches.
const TOUCHED: usize = 32;
const FRAME_MS: f64 = 1000.0 / 60.0;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let tensors = model::mixture(26);
    model::write(&path, &tensors)?;
    lapidary_engine::disk::write_file(&folder.path().join("config.json"), b"{}")?;
    let checkpoint = Checkpoint::open(folder.path())?;
    let names: Vec<&str> = checkpoint
        .tensors()
        .iter()
        .filter(|tensor| tensor.matrix.is_some())
        .map(|tensor| tensor.name.as_str())
        .collect();
    println!("{} tensors", checkpoint.tensors().len());
    let mut table = Table::new(&["target", "step", "median", "largest", "of a frame"]);
    for id in ["compressed-tensors", "gguf"] {
        let target = target::find(id)?;
        let mut plan = Plan::default();
        plan.set_rules(&checkpoint, vec![Rule::new("default", Assignment::keep().with_bits(8))?]);
        for name in &names {
            plan.set(name, Assignment::keep().with_bits(4));
        }
        let mut entries: Vec<Entry> = (0..checkpoint.tensors().len())
            .map(|index| entry(&checkpoint, &plan, target, index))
            .collect::<Result<_, _>>()?;
        let mut times: [Vec<f64>; 4] = Default::default();
        for step in 0..STEPS {
            let begun = Instant::now();
            let mut next = plan.clone();
            for name in names.iter().cycle().skip(step * TOUCHED).take(TOUCHED) {
                next.set(name, Assignment::keep().with_bits(2 + (step % 2) as i64 * 2));
            }
            times[0].push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            for index in next.changed_from(&plan, &checkpoint) {
                entries[index] = entry(&checkpoint, &next, target, index)?;
            }
            plan = next;
            times[1].push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            let manifest = Manifest::of(&checkpoint, target, entries.clone())?;
            times[2].push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            let case = Case {
                checkpoint: &checkpoint,
                plan: &plan,
                aim: target.into(),
                entries: &manifest.entries,
            };
            std::hint::black_box(lints(&case));
            times[3].push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let steps =
            ["edit of 32 layers", "sizes of what changed", "every file and header", "lints"];
        for (name, mut times) in steps.into_iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let late = times[STEPS - 1];
            table.row(&[
                id.to_owned(),
                name.to_owned(),
                format!("{:.2} ms", times[STEPS / 2]),
                format!("{late:.2} ms"),
                format!("{:.0} %", 100.0 * late / FRAME_MS),
            ]);
        }
    }
    table.print();
    Ok(())
}
