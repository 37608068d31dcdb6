//! What refining makes small: the squared error of a block's outputs on the tokens of a calibration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ndarray::{Array2, ArrayView2};

use crate::calibration::Stream;
use crate::error::{Error, Result};
use crate::network::{Backs, Batch, Gradient, LoadedBlock, Network, NoTaps};
use crate::numeric::product::add_outer;
use crate::numeric::seeds::Random;
use crate::observer::{Observer, Progress, Unit};

/// A layer by its name in the checkpoint, and its shape `[out, in]`.
pub(super) type Shape = (String, (usize, usize));

/// Some sequences as they enter the block, and what it should make of them.
struct Part {
    x: Array2<f32>,
    lengths: Vec<usize>,
    target: Array2<f32>,
}

/// How curved the error is about a layer: of Δ it is some Σ over rows o of rₒ·Δₒ·A·Δₒᵀ.
pub(super) struct Curvature {
    /// A = Σ x·xᵀ of its inputs.
    pub(super) gram: Array2<f32>,
    /// r, the mean over tokens of what a change of an output by 1 does, squared.
    pub(super) rows: Vec<f64>,
}

/// φ = Σ over tokens of ‖block(x; Ŵ) − block(x; W)‖², both on what entered the compressed block.
pub(super) struct Objective<'a> {
    network: &'a Network<'a>,
    block: LoadedBlock,
    parts: Vec<Part>,
    layers: Vec<Shape>,
    observer: &'a dyn Observer,
    progress: Steps,
}

/// How far the walk has come, in passes of the block.
pub(super) struct Steps {
    /// The block, as a person reads it.
    pub(super) item: String,
    /// Tokens that passed, and that pass at most.
    pub(super) done: AtomicU64,
    pub(super) total: u64,
}

impl<'a> Objective<'a> {
    /// Runs the original block on what entered it, and loads the compressed one. Memory: 8 bytes for each value of the stream.
    pub(super) fn new(
        [original, compressed]: [&'a Network<'a>; 2],
        (index, stream): (usize, &Stream),
        (layers, progress): (Vec<Shape>, Steps),
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let loaded = original.load_whole(index, observer)?;
        let mut parts = Vec::new();
        for (batch, lengths) in stream.lengths().iter().enumerate() {
            let x = stream.get(batch).ok_or_else(|| {
                let what = format!("what enters block {index} was changed while it was read");
                Error::plan(what, "calibrate again")
            })?;
            let mut target = x.clone();
            let running = Batch::new(&mut target, lengths);
            original.run(&loaded, running, &mut NoTaps, observer)?;
            parts.push(Part { x, lengths: lengths.clone(), target });
        }
        drop(loaded);
        let block = compressed.load_whole(index, observer)?;
        Ok(Self { network: compressed, block, parts, layers, observer, progress })
    }

    /// Puts the weights of one of the layers in place.
    pub(super) fn set(&mut self, layer: usize, weights: Array2<f32>) -> Result<()> {
        self.network.replace(&mut self.block, &self.layers[layer].0, weights)
    }

    /// φ.
    pub(super) fn error(&self) -> Result<f64> {
        let mut error = 0.0;
        for part in &self.parts {
            let mut x = part.x.clone();
            let running = Batch::new(&mut x, &part.lengths);
            self.network.run(&self.block, running, &mut NoTaps, self.observer)?;
            error += squares(&x, &part.target);
            self.passed(part);
        }
        Ok(error)
    }

    /// φ and its derivatives by the weights of the layers, in their order.
    pub(super) fn slopes(&self) -> Result<(f64, Vec<Array2<f32>>)> {
        let mut gradient = Gradient::new(self.layers.iter().cloned(), self.observer);
        let mut error = 0.0;
        for part in &self.parts {
            let mut slopes = |out: &Array2<f32>| {
                error += squares(out, &part.target);
                let mut slope = out.clone();
                slope.zip_mut_with(&part.target, |out, target| *out = 2.0 * (*out - target));
                Ok(slope)
            };
            let x = (&part.x, part.lengths.as_slice());
            self.network.run_back(&self.block, x, (&mut slopes, &mut gradient), self.observer)?;
            self.passed(part);
        }
        let of = |(name, shape): &Shape| {
            gradient.of(name).cloned().unwrap_or_else(|| Array2::zeros(*shape))
        };
        Ok((error, self.layers.iter().map(of).collect()))
    }

    /// How curved φ is about each layer, by Gauss and Newton with rows and inputs taken apart: for signs v at random,
    /// E\[(Jᵀ·v)ₒ²\] is Σ over outputs of the block of the squares of their derivatives by output o of the layer.
    pub(super) fn curvatures(&self) -> Result<Vec<Curvature>> {
        let empty = |(name, (rows, cols)): &Shape| {
            (name.clone(), (vec![0.0; *rows], Array2::zeros((*cols, *cols))))
        };
        let sums = self.layers.iter().map(empty).collect();
        let mut seen = Curved { sums, tokens: 0, observer: self.observer };
        let mut random = Random::new(0);
        for part in &self.parts {
            let mut signs = |out: &Array2<f32>| {
                let sign = || if random.bits() >> 63 == 0 { 1.0 } else { -1.0 };
                Ok(Array2::from_shape_simple_fn(out.dim(), sign))
            };
            let x = (&part.x, part.lengths.as_slice());
            self.network.run_back(&self.block, x, (&mut signs, &mut seen), self.observer)?;
            seen.tokens += part.x.nrows() as u64;
            self.passed(part);
        }
        let tokens = seen.tokens.max(1) as f64;
        let of = |(name, (_, cols)): &Shape| {
            let (mut rows, gram) =
                seen.sums.remove(name).unwrap_or((Vec::new(), Array2::zeros((*cols, *cols))));
            for row in &mut rows {
                *row /= tokens;
            }
            Curvature { gram, rows }
        };
        Ok(self.layers.iter().map(of).collect())
    }

    fn passed(&self, part: &Part) {
        let tokens = part.x.nrows() as u64;
        let done = self.progress.done.fetch_add(tokens, Ordering::Relaxed) + tokens;
        self.observer.progress(Progress {
            stage: "Refining",
            item: self.progress.item.clone(),
            done: done.min(self.progress.total),
            total: self.progress.total,
            unit: Unit::Tokens,
        });
    }
}

/// Σ (aᵢ − bᵢ)².
fn squares(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Sums up squares of derivatives by outputs, and products of inputs.
struct Curved<'o> {
    sums: BTreeMap<String, (Vec<f64>, Array2<f32>)>,
    tokens: u64,
    observer: &'o dyn Observer,
}

impl Backs for Curved<'_> {
    fn layer(
        &mut self,
        layer: &str,
        x: ArrayView2<'_, f32>,
        slope: ArrayView2<'_, f32>,
    ) -> Result<()> {
        if let Some((rows, gram)) = self.sums.get_mut(layer) {
            for slope in slope.rows() {
                rows.iter_mut().zip(slope).for_each(|(row, s)| *row += f64::from(*s).powi(2));
            }
            add_outer(x, x, gram.view_mut(), &|| self.observer.is_cancelled());
        }
        self.observer.go_on()
    }
}
