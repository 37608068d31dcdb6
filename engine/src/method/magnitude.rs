//! Magnitude pruning: the smallest |w| become zero.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{Dense, Encoding, Layout, Mask, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};
use crate::tensor::MatrixShape;

/// Drops the weights of least magnitude.
///
/// *Fraction* f of a `[rows, cols]` matrix: the round(f·rows·cols) weights of least |w| in the whole matrix
/// are dropped; of equal ones the later in row-major order first. *N:M*: of every run of m inputs in a row the n
/// largest |w| stay; a shorter last run of k keeps ⌈n·k/m⌉. Cost: a partial sort of the matrix, or of each run.
pub(super) struct Magnitude;

/// The registry's entry.
pub(super) static ENTRY: Magnitude = Magnitude;

static ABOUT: About = About {
    id: "magnitude",
    title: "Magnitude sparsity",
    summary: "The weights closest to zero become zero; the others keep their value or go on to a quantiser.",
    citation: "Han, Pool, Tran & Dally, Learning both weights and connections for efficient neural networks, NeurIPS 2015",
    stage: Stage::Prune,
    needs: Needs::Weights,
    parameters: &[
        Parameter {
            name: "pattern",
            title: "Pattern",
            help: "Anywhere drops the smallest weights of the matrix wherever they lie; N of M keeps n of every m inputs, the form that sparse tensor cores compute with.",
            kind: Kind::Choice(&[
                Option_ { id: "fraction", title: "Anywhere", help: "A share of the whole matrix." },
                Option_ {
                    id: "n-of-m",
                    title: "N of M",
                    help: "Of every m inputs in a row, n stay.",
                },
            ]),
            only_when: None,
        },
        Parameter {
            name: "fraction",
            title: "Share dropped",
            help: "Share of the weights that become zero. Without retraining, language models rarely stand more than 0.5.",
            kind: Kind::Fraction { min: 0.0, max: 0.99, default: 0.5 },
            only_when: Some(("pattern", "fraction")),
        },
        Parameter {
            name: "n",
            title: "Keep n",
            help: "Weights that stay in every run of m inputs; 2 of 4 is what NVIDIA's sparse tensor cores take.",
            kind: Kind::Integer { min: 1, max: 64, default: 2, usual: &[1, 2, 4] },
            only_when: Some(("pattern", "n-of-m")),
        },
        Parameter {
            name: "m",
            title: "Of every m",
            help: "Length of the runs of inputs.",
            kind: Kind::Integer { min: 2, max: 128, default: 4, usual: &[4, 8, 16] },
            only_when: Some(("pattern", "n-of-m")),
        },
    ],
};

/// A checked pattern.
enum Pattern {
    Dropped(usize),
    OfEvery { n: usize, m: usize },
}

impl Pattern {
    fn new(parameters: &Resolved, shape: MatrixShape) -> Result<Self> {
        if parameters.choice("pattern") == "fraction" {
            let dropped =
                (parameters.fraction("fraction") * shape.elements() as f64).round() as usize;
            return Ok(Self::Dropped(dropped));
        }
        let (n, m) = (parameters.integer("n") as usize, parameters.integer("m") as usize);
        if n > m {
            return Err(Error::plan(
                format!("magnitude cannot keep {n} of every {m} weights"),
                "choose n no larger than m",
            ));
        }
        Ok(Self::OfEvery { n, m })
    }

    fn kept(&self, shape: MatrixShape) -> usize {
        match *self {
            Self::Dropped(dropped) => shape.elements() - dropped,
            Self::OfEvery { n, m } => {
                let (whole, rest) = (shape.cols / m, shape.cols % m);
                shape.rows * (whole * n + kept_of_run(n, m, rest))
            }
        }
    }
}

fn kept_of_run(n: usize, m: usize, run: usize) -> usize {
    (n * run).div_ceil(m)
}

impl Method for Magnitude {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        match parameters.choice("pattern") {
            "fraction" => {
                format!("{} % sparse", (parameters.fraction("fraction") * 1000.0).round() / 10.0)
            }
            _ => format!("{}:{} sparse", parameters.integer("n"), parameters.integer("m")),
        }
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let kept = Pattern::new(parameters, input.shape)?.kept(input.shape);
        Ok(Layout::Sparse(SparseLayout { kept, inner: Box::new(Layout::Dense(input.dtype)) }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let mut values: Vec<f32> = task.weights.iter().copied().collect();
        let mut keep = vec![true; values.len()];
        match Pattern::new(parameters, shape)? {
            Pattern::Dropped(dropped) => drop_smallest(&values, dropped, &mut keep),
            Pattern::OfEvery { n, m } => {
                let cols = shape.cols.max(1);
                keep.par_chunks_mut(cols).enumerate().for_each(|(row, keep)| {
                    for (run, keep) in keep.chunks_mut(m).enumerate() {
                        let first = row * cols + run * m;
                        let values = &values[first..first + keep.len()];
                        drop_smallest(values, keep.len() - kept_of_run(n, m, keep.len()), keep);
                    }
                });
            }
        }
        task.observer.go_on()?;
        for (value, keep) in values.iter_mut().zip(&keep) {
            if !keep {
                *value = 0.0;
            }
        }
        let inner = Encoding::Dense(Dense::new(shape, task.dtype, &values));
        Ok(Encoding::Sparse(Sparse::new(Mask::new(&keep), inner)))
    }
}

/// Clears `keep` for the `dropped` values of least magnitude, the later of equal ones first.
fn drop_smallest(values: &[f32], dropped: usize, keep: &mut [bool]) {
    if dropped == 0 {
        return;
    }
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let magnitude = |i: u32| values[i as usize].abs();
    order.select_nth_unstable_by(dropped - 1, |&a, &b| {
        magnitude(a).total_cmp(&magnitude(b)).then(b.cmp(&a))
    });
    for &i in &order[..dropped] {
        keep[i as usize] = false;
    }
}
