//! Which weights may be dropped: anywhere, or so many of every run of inputs.

use crate::encoding::Layout;
use crate::error::{Error, Result};
use crate::method::{Kind, Option_, Parameter, Resolved};
use crate::tensor::MatrixShape;

/// The parameter `pattern` of every method that chooses weights to drop.
pub(super) const PATTERN: Parameter = Parameter {
    name: "pattern",
    title: "Pattern",
    help: "Anywhere drops the weights that matter least wherever they lie; N of M keeps n of every m inputs, the form that sparse tensor cores compute with.",
    kind: Kind::Choice(&[
        Option_ { id: "fraction", title: "Anywhere", help: "A share of the whole matrix." },
        Option_ { id: "n-of-m", title: "N of M", help: "Of every m inputs in a row, n stay." },
    ]),
    only_when: None,
};

/// The parameter `fraction` of every method that chooses weights to drop.
pub(super) const FRACTION: Parameter = Parameter {
    name: "fraction",
    title: "Share dropped",
    help: "Share of the weights that become zero. Without retraining, language models rarely stand more than 0.5.",
    kind: Kind::Fraction { min: 0.0, max: 0.99, default: 0.5 },
    only_when: Some(("pattern", "fraction")),
};

/// The parameter `n` of every method that chooses weights to drop.
pub(super) const KEEP: Parameter = Parameter {
    name: "n",
    title: "Keep n",
    help: "Weights that stay in every run of m inputs; 2 of 4 is what NVIDIA's sparse tensor cores take.",
    kind: Kind::Integer { min: 1, max: 64, default: 2, usual: &[1, 2, 4] },
    only_when: Some(("pattern", "n-of-m")),
};

/// The parameter `m` of every method that chooses weights to drop.
pub(super) const OF: Parameter = Parameter {
    name: "m",
    title: "Of every m",
    help: "Length of the runs of inputs.",
    kind: Kind::Integer { min: 2, max: 128, default: 4, usual: &[4, 8, 16] },
    only_when: Some(("pattern", "n-of-m")),
};

/// A checked pattern.
pub(super) enum Pattern {
    /// So many of the whole matrix go.
    Dropped(usize),
    /// Of every m inputs in a row n stay; of a shorter last run of k, ⌈n·k/m⌉.
    OfEvery {
        /// That stay.
        n: usize,
        /// Length of a run.
        m: usize,
    },
}

impl Pattern {
    /// The pattern that the parameters of `method` ask for.
    ///
    /// # Errors
    /// [`Error::Plan`] where more should stay than there are.
    pub(super) fn new(method: &str, parameters: &Resolved, shape: MatrixShape) -> Result<Self> {
        if parameters.choice("pattern") == "fraction" {
            let dropped =
                (parameters.fraction("fraction") * shape.elements() as f64).round() as usize;
            return Ok(Self::Dropped(dropped));
        }
        let (n, m) = (parameters.integer("n") as usize, parameters.integer("m") as usize);
        if n > m {
            return Err(Error::plan(
                format!("{method} cannot keep {n} of every {m} weights"),
                "choose n no larger than m",
            ));
        }
        Ok(Self::OfEvery { n, m })
    }

    /// Weights that stay.
    pub(super) fn kept(&self, shape: MatrixShape) -> usize {
        match *self {
            Self::Dropped(dropped) => shape.elements() - dropped,
            Self::OfEvery { n, m } => {
                let (whole, rest) = (shape.cols / m, shape.cols % m);
                shape.rows * (whole * n + kept_of_run(n, m, rest))
            }
        }
    }
}

/// Weights that stay of a run of `run`.
pub(super) fn kept_of_run(n: usize, m: usize, run: usize) -> usize {
    (n * run).div_ceil(m)
}

/// Refuses a mask before a method that has no place for one.
pub(super) fn refuse_mask(method: &str, previous: Option<&Layout>) -> Result<()> {
    if !matches!(previous, Some(Layout::Sparse(_))) {
        return Ok(());
    }
    let what = format!("{method} stores no mask of single weights");
    Err(Error::plan(what, "remove the sparsity before it, or choose another quantiser"))
}

/// The pattern in a few characters, as `50 %` or `2:4`.
pub(super) fn label(parameters: &Resolved) -> String {
    match parameters.choice("pattern") {
        "fraction" => format!("{} %", (parameters.fraction("fraction") * 1000.0).round() / 10.0),
        _ => format!("{}:{}", parameters.integer("n"), parameters.integer("m")),
    }
}

/// Clears `keep` for the `dropped` of `n` weights of least score, the later of equal ones first.
pub(super) fn drop_least(
    n: usize,
    dropped: usize,
    score: impl Fn(usize) -> f64,
    keep: &mut [bool],
) {
    if dropped == 0 {
        return;
    }
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.select_nth_unstable_by(dropped - 1, |&a, &b| {
        score(a as usize).total_cmp(&score(b as usize)).then(b.cmp(&a))
    });
    for &i in &order[..dropped] {
        keep[i as usize] = false;
    }
}
