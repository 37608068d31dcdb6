//! How soon a person sees what an assignment does to a layer of 4096 × 4096: from a sample of rows, exactly, and the whole
//! curve of error against bits.

use std::error::Error;
use std::time::Instant;

use lapidary_benches::{Table, model};
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::job::{Sample, curves, preview};
use lapidary_engine::plan::{Assignment, Plan};

const LIMIT_MS: f64 = 100.0;
const RUNS: usize = 9;

fn median(mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        run()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let name = "model.layers.0.mlp.down_proj.weight";
    model::write(&path, &vec![(name.to_owned(), [4096, 4096])])?;
    let checkpoint = Checkpoint::open(&path)?;
    let plain = Assignment::keep().with_bits(4);
    let searched = Assignment::of(vec![plain.steps[0].clone().with("clipping", "mse")]);
    let mut table = Table::new(&["4096 × 4096 in BF16", "median", "of 100 ms", "relative error"]);
    for (title, assignment) in [("4 bits, min-max", plain), ("4 bits, clipping searched", searched)]
    {
        let mut estimate = 0.0;
        let sampled = median(|| {
            let sample = Sample::new(&checkpoint, 0, &Silent)?;
            estimate = sample.damage(&assignment.steps, &Silent)?.relative_error;
            Ok(())
        })?;
        let curve = median(|| {
            let sample = Sample::new(&checkpoint, 0, &Silent)?;
            for assignment in curves(&assignment).iter().flat_map(|curve| &curve.assignments) {
                sample.damage(&assignment.steps, &Silent)?;
            }
            Ok(())
        })?;
        let mut plan = Plan::default();
        plan.set(name, assignment);
        let begun = Instant::now();
        let exact = preview(&checkpoint, &plan, 0, None, &Silent)?.relative_error;
        let whole = begun.elapsed().as_secs_f64() * 1e3;
        for (what, time, error) in [
            ("a sample of rows", sampled, format!("{:.3} %", 100.0 * estimate)),
            ("28 points of the curves", curve, "–".to_owned()),
            ("every row, exact", whole, format!("{:.3} %", 100.0 * exact)),
        ] {
            let share = format!("{:.0} %", 100.0 * time / LIMIT_MS);
            table.row(&[format!("{title}: {what}"), format!("{time:.1} ms"), share, error]);
        }
    }
    table.print();
    Ok(())
}
