//! Sparse dictionaries: every row of a matrix as a combination of a few atoms of its own choice.

use ndarray::Array2;

use crate::encoding::{Encoding, Layout, LowRank, LowRankLayout, Mask, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::factors::{
    FACTOR_BITS, FACTOR_GROUP, FACTORS, energy, factor_of, fitted, held, times,
};
use crate::method::low_rank::NEAREST;
use crate::method::{About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Task};
use crate::numeric::gram::Gram;
use crate::numeric::leading::leading_directions;
use crate::numeric::pursuit::pursue_along;
use crate::tensor::{DType, MatrixShape};

/// W ≈ S·D, atoms D `[atoms, cols]` dense, S `[rows, atoms]` with a share of its entries not zero: a union of subspaces where low rank
/// has one.
///
/// From the leading right singular vectors (of W·H^½ for *outputs*, H = Σ x·xᵀ) in turn: S by matching pursuit in
/// D·H·Dᵀ ([`pursue_along`]), as many entries as rows · share · atoms, each row as many as serve; D by least squares given S, (SᵀS)·D = Sᵀ·W, which
/// is the best in any H (method of optimal directions, in place of K-SVD's atom after atom). A round that does not better
/// the error is not taken, and ends it. With a share of 1 it is low rank. Bytes: a bit for each entry of S, its entries that are not zero, and D.
/// Cost of a round: 2·rows·cols·atoms + up to 12·atoms for each entry, in f64.
pub(super) struct Dictionary;

/// The registry's entry.
pub(super) static ENTRY: Dictionary = Dictionary;

static ABOUT: About = About {
    id: "sparse-dictionary",
    title: "Sparse dictionary",
    summary: "Writes every row as a combination of a few atoms out of a dictionary that is learnt for the matrix: for the same bytes nearer than low rank, where rows lie in several subspaces.",
    citation: "Shopkhoev, Makhov & others, CoSpaDi: compressing LLMs via calibration-guided sparse dictionary learning, 2025; Aharon, Elad & Bruckstein, K-SVD, 2006; Engan, Aase & Husøy, Method of optimal directions for frame design, 1999",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[ATOMS, SHARE, ROUNDS, NEAREST, FACTORS, FACTOR_BITS, FACTOR_GROUP],
};

const ATOMS: Parameter = Parameter {
    name: "atoms",
    title: "Atoms",
    help: "Rows of the dictionary. Each costs as many numbers as there are inputs, and a bit for each output.",
    kind: Kind::Integer { min: 1, max: 16384, default: 128, usual: &[64, 128, 256, 512, 1024] },
    only_when: None,
};

const SHARE: Parameter = Parameter {
    name: "share",
    title: "Share of atoms",
    help: "How many of the atoms a row takes in the mean. One half is the authors' choice.",
    kind: Kind::Fraction { min: 0.05, max: 1.0, default: 0.5 },
    only_when: None,
};

const ROUNDS: Parameter = Parameter {
    name: "rounds",
    title: "Rounds",
    help: "How often entries and atoms are fitted in turn, at most.",
    kind: Kind::Integer { min: 1, max: 50, default: 8, usual: &[1, 4, 8, 16] },
    only_when: None,
};

/// Atoms, and entries of S that are not zero.
fn extents(parameters: &Resolved, shape: MatrixShape) -> (usize, usize) {
    let atoms = (parameters.integer("atoms") as usize).min(shape.rows).min(shape.cols);
    let entries = parameters.fraction("share") * (shape.rows * atoms) as f64;
    (atoms, entries.round() as usize)
}

fn layout(parameters: &Resolved, shape: MatrixShape, dtype: DType) -> LowRankLayout {
    let (rank, kept) = extents(parameters, shape);
    let factor = factor_of(parameters, dtype);
    let inner = Box::new(factor.clone());
    let left = Box::new(Layout::Sparse(SparseLayout { kept, inner }));
    LowRankLayout { rank, left, right: Box::new(factor) }
}

impl Method for Dictionary {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("nearest") == "outputs" { Needs::Gram } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let whitened = if self.needs(parameters) == Needs::Gram { " whitened" } else { "" };
        let (atoms, share) = (parameters.integer("atoms"), parameters.fraction("share"));
        let held = match parameters.choice("factors") {
            "integers" => format!(" of {} bits", parameters.integer("factor_bits")),
            _ => String::new(),
        };
        format!("{atoms} atoms{held}, {share} of them a row{whitened}")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        if input.previous.is_some() {
            return Err(Error::plan(
                "combinations of atoms cannot keep the zeros of a mask",
                "remove the sparsity or choose another method",
            ));
        }
        Ok(Layout::LowRank(layout(parameters, input.shape, input.dtype)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let gram = match self.needs(parameters) {
            Needs::Gram => Some(task.gram()?),
            _ => None,
        };
        let (atoms, entries) = extents(parameters, task.shape());
        let search = Search {
            task: &task,
            gram: gram.as_deref(),
            entries,
            wide: task.weights.mapv(f64::from),
        };
        let mut best = search.start(atoms)?;
        for _ in 0..parameters.integer("rounds") {
            task.observer.go_on()?;
            let next = search.round(&best.atoms)?;
            if next.error >= best.error {
                break;
            }
            best = next;
        }
        search.held(best, &layout(parameters, task.shape(), task.dtype))
    }
}

/// Entries, atoms, and what they leave.
struct Found {
    codes: Array2<f64>,
    kept: Vec<bool>,
    atoms: Array2<f64>,
    error: f64,
}

struct Search<'a, 't> {
    task: &'a Task<'t>,
    gram: Option<&'a Gram>,
    entries: usize,
    wide: Array2<f64>,
}

impl Search<'_, '_> {
    /// The leading right singular vectors as atoms, in H, and the entries of them.
    fn start(&self, atoms: usize) -> Result<Found> {
        let is_cancelled = || self.task.observer.is_cancelled();
        let directions = leading_directions(self.task.weights, self.gram, atoms, &is_cancelled);
        self.task.observer.go_on()?;
        let directions = directions.ok_or_else(|| Error::Numeric {
            tensor: self.task.tensor.to_owned(),
            why: "its singular vectors were not found".to_owned(),
        })?;
        let left = Array2::from_shape_fn((self.wide.nrows(), atoms), |at| directions[at]);
        let mut found = times(left.t(), self.wide.view(), self.task)?;
        for mut atom in found.rows_mut() {
            let norm = atom.dot(&atom).sqrt();
            if norm > 0.0 {
                atom /= norm;
            }
        }
        self.round(&found)
    }

    /// Entries for these atoms, then atoms for these entries.
    fn round(&self, atoms: &Array2<f64>) -> Result<Found> {
        let is_cancelled = || self.task.observer.is_cancelled();
        let (rows, k) = (self.wide.nrows(), atoms.nrows());
        let weighted = match self.gram {
            Some(gram) => times(atoms.view(), gram.to_dense().view(), self.task)?,
            None => atoms.clone(),
        };
        let gradient = times(self.wide.view(), weighted.t(), self.task)?;
        let h = times(weighted.view(), atoms.t(), self.task)?;
        let gradient = gradient.into_raw_vec_and_offset().0;
        let stored = |value: f64| value as f32;
        let found = pursue_along(gradient, &h, self.entries, &stored, &is_cancelled);
        let Some((places, values)) = found else { return Err(Error::Cancelled) };
        let (mut codes, mut kept) = (Array2::zeros((rows, k)), vec![false; rows * k]);
        for (&place, &value) in places.iter().zip(&values) {
            codes[[place / k, place % k]] = f64::from(value);
            kept[place] = true;
        }
        let atoms = fitted(&codes, &self.wide, atoms.clone(), self.task)?;
        let error = self.left(&codes, &atoms)?;
        Ok(Found { codes, kept, atoms, error })
    }

    fn left(&self, codes: &Array2<f64>, atoms: &Array2<f64>) -> Result<f64> {
        let left = &self.wide - &times(codes.view(), atoms.view(), self.task)?;
        Ok(energy(&left.mapv(|value| value as f32), self.gram))
    }

    /// Entries and atoms as they are stored, the atoms fitted to the entries as stored.
    fn held(&self, found: Found, layout: &LowRankLayout) -> Result<Encoding> {
        let Found { mut codes, kept, mut atoms, .. } = found;
        for (mut column, mut atom) in codes.columns_mut().into_iter().zip(atoms.rows_mut()) {
            let root = (atom.dot(&atom) / column.dot(&column)).sqrt().sqrt();
            if root.is_finite() && root > 0.0 {
                column *= root;
                atom /= root;
            }
        }
        let hold = |layout: &Layout, values: &Array2<f64>| held(layout, values, None, self.task);
        let inner = match &*layout.left {
            Layout::Sparse(sparse) => &*sparse.inner,
            other => other,
        };
        let left = Encoding::Sparse(Sparse::new(Mask::new(&kept), hold(inner, &codes)?));
        let atoms = fitted(&left.decode().mapv(f64::from), &self.wide, atoms, self.task)?;
        Ok(Encoding::LowRank(LowRank::new(left, hold(&layout.right, &atoms)?)))
    }
}
