//! All singular values of large matrices against numpy's LAPACK and faer's SVD; the randomised estimate; and how
//! long it takes until a cancelled decomposition has stopped.
//!
//! Arguments: shapes as `4096x11008`; `--no-numpy` and `--no-faer` leave the references out.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lapidary_benches::{Table, fastest, python, ratio, seconds};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::numeric::spectrum::{
    estimate_leading, singular_values, singular_values_by_gram,
};
use ndarray::{Array2, Zip, s};

const SHAPES: [(usize, usize); 3] = [(2048, 2048), (4096, 4096), (4096, 11_008)];
/// Wishes to cancel, evenly over a whole run.
const WISHES: u32 = 16;

/// Reads a matrix of f32 from its input and prints the seconds that its singular values take in f32 and f64.
const NUMPY: &str = "
import sys, time, numpy
rows, cols = ROWS, COLS
a = numpy.frombuffer(sys.stdin.buffer.read(), numpy.float32).reshape(rows, cols)
for kind in numpy.float32, numpy.float64:
    b = a.astype(kind)
    begun = time.perf_counter()
    values = numpy.linalg.svd(b, compute_uv=False)
    print(time.perf_counter() - begun, values[0], values[-1])
";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let parse = |text: &String| {
        let (rows, cols) = text.split_once('x')?;
        Some((rows.parse().ok()?, cols.parse().ok()?))
    };
    let shapes: Vec<(usize, usize)> = arguments.iter().filter_map(parse).collect();
    let shapes = if shapes.is_empty() { SHAPES.to_vec() } else { shapes };
    let mut table = Table::new(&["shape", "what", "time", "as long as ours", "σ₁", "σₙ"]);
    for (rows, cols) in shapes {
        let mut random = Random::new(3);
        let matrix = Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32);
        measure(&matrix, [!given("--no-numpy"), !given("--no-faer")], &mut table);
    }
    table.print();
}

fn block(
    matrix: &Array2<f32>,
) -> impl Fn(Range<usize>, Range<usize>) -> Result<Array2<f64>, ()> + Sync {
    |rows, cols| Ok(Zip::from(matrix.slice(s![rows, cols])).par_map_collect(|&w| f64::from(w)))
}

fn measure(matrix: &Array2<f32>, [numpy, faer]: [bool; 2], table: &mut Table) {
    let (rows, cols) = matrix.dim();
    let shape = format!("{rows} × {cols}");
    let block = block(matrix);
    let (ours, values) =
        fastest(2, || singular_values_by_gram([rows, cols], &block, &|| false).expect("values"));
    let mut row = |what: &str, time: Duration, first: f64, last: Option<f64>| {
        let last = last.map_or_else(String::new, |last| format!("{last:.6}"));
        let (what, first) = (what.to_owned(), format!("{first:.6}"));
        table.row(&[shape.clone(), what, seconds(time), ratio(time, ours), first, last]);
    };
    row("ours: Gram matrix, band, QL", ours, values[0], values.last().copied());
    let (time, estimate) =
        fastest(2, || estimate_leading([rows, cols], 64, &block, &|| false).expect("an estimate"));
    row("ours: estimate of 64", time, estimate.singular_values[0], None);
    row("ours: longest until cancelled", longest_cancel(matrix, ours), values[0], None);
    if faer {
        let (time, values) = fastest(1, || singular_values(matrix.view()).expect("values"));
        row("faer SVD, f64", time, values[0], values.last().copied());
    }
    if !numpy {
        return;
    }
    let program = NUMPY.replace("ROWS", &rows.to_string()).replace("COLS", &cols.to_string());
    let bytes: Vec<u8> = matrix.iter().flat_map(|w| w.to_le_bytes()).collect();
    let Some(printed) = python(&program, &bytes) else {
        println!("numpy is left out: PYTHON, or python3, does not run or has no numpy");
        return;
    };
    for (kind, line) in ["f32", "f64"].into_iter().zip(printed.lines()) {
        let numbers: Vec<f64> = line.split(' ').filter_map(|part| part.parse().ok()).collect();
        if let [time, first, last] = numbers[..] {
            row(&format!("numpy LAPACK, {kind}"), Duration::from_secs_f64(time), first, Some(last));
        }
    }
}

/// The longest time between the wish and the return, over wishes at several points of the run.
fn longest_cancel(matrix: &Array2<f32>, whole: Duration) -> Duration {
    let (rows, cols) = matrix.dim();
    let block = block(matrix);
    let waits = (0..WISHES).map(|i| {
        let wish = whole * (2 * i + 1) / (2 * WISHES);
        let (begun, wished) = (Instant::now(), OnceLock::new());
        let is_cancelled = || {
            let is_time = begun.elapsed() > wish;
            // The wish is made at that time, not when it is first asked for.
            is_time.then(|| wished.get_or_init(|| begun + wish)).is_some()
        };
        let finished = singular_values_by_gram([rows, cols], &block, &is_cancelled);
        assert!(finished.is_err() || wished.get().is_none(), "a wish was not heard");
        wished.get().map_or(Duration::ZERO, Instant::elapsed)
    });
    waits.max().unwrap_or_default()
}
