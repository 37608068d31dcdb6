//! Half-quadratic quantisation: a group's zero point is moved so that most weights come out nearly exact.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::encoding::{
    Affine, AffineData, AffineLayout, Encoding, Layout, Mask, Sparse, SparseLayout,
};
use crate::error::Result;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::grouping::Grouping;
use crate::numeric::vector::{Loops, power, vectorised};
use crate::observer::Observer;
use crate::tensor::{DType, round_f32};

/// Uniform quantisation of a `[rows, cols]` matrix, w ≈ s·(q − z), whose zero point z lowers Σ|w − ŵ|^p, p < 1: a
/// norm that forgives a few large errors for many small ones.
///
/// Starts from s = (max − min)/(2^b − 1), z = −min/s, and repeats, with e = w/s − (q − z) in steps of the grid:
/// q = clamp(round(w/s + z)); e' = sign(e)·max(0, |e| − |e|^(p−1)/β); z = mean(q − (w/s − e')); β grows by 1 %.
/// β begins at 10. The paper measures e in weights, so that its result changes with their unit; in steps it does not.
/// Of all z met that with the least Σ|w − ŵ|^p is kept, so it is never worse than where it started.
/// A *fractional* zero point is stored as the offset o = −s·z, w ≈ s·q + o; a *whole* one is rounded each time, in a
/// range that includes zero. Cost: some 20 passes, each with two powers a weight.
pub(super) struct Hqq;

/// The registry's entry.
pub(super) static ENTRY: Hqq = Hqq;

static ABOUT: About = About {
    id: "hqq",
    title: "HQQ",
    summary: "Equally spaced levels whose zero point moves until most weights of the group lie close to a level; large errors on a few weights are forgiven.",
    citation: "Badri & Shaji, Half-quadratic quantization of large machine learning models, Mobius Labs, 2023",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[
        Parameter {
            name: "bits",
            title: "Bits",
            help: "Bits of a code. The method is made for 4 and fewer bits; at 8 there is little left to gain.",
            kind: Kind::Integer { min: 2, max: 8, default: 4, usual: &[2, 3, 4, 5, 6, 8] },
            only_when: None,
        },
        Parameter {
            name: "granularity",
            title: "Scale for each",
            help: "Which weights share a scale and a zero point.",
            kind: Kind::Choice(&[
                Option_ { id: "group", title: "Group", help: "A run of inputs in a row." },
                Option_ { id: "channel", title: "Channel", help: "A whole output row." },
            ]),
            only_when: None,
        },
        Parameter {
            name: "group_size",
            title: "Group size",
            help: "Inputs that share a scale and a zero point. The authors use 64, and 16 for 2 bits. The last group of a row may be shorter.",
            kind: Kind::Integer { min: 16, max: 256, default: 64, usual: &[16, 32, 64, 128, 256] },
            only_when: Some(("granularity", "group")),
        },
        Parameter {
            name: "symmetry",
            title: "Zero point",
            help: "Fractional zero points are the method's own and fit best; whole ones are what most integer formats can store.",
            kind: Kind::Choice(&[
                Option_ {
                    id: "fractional",
                    title: "Fractional",
                    help: "Anywhere between two levels, stored in the precision of the scales.",
                },
                Option_ {
                    id: "asymmetric",
                    title: "Whole",
                    help: "On a level, stored in as many bits as a code.",
                },
            ]),
            only_when: None,
        },
        Parameter {
            name: "norm",
            title: "Norm p",
            help: "Errors count as |e|^p. The smaller, the more a few large errors are forgiven; 0.7 is the authors' choice.",
            kind: Kind::Fraction { min: 0.3, max: 1.0, default: 0.7 },
            only_when: None,
        },
        Parameter {
            name: "rounds",
            title: "Rounds",
            help: "How often the zero point is moved, at most; it settles within some 10.",
            kind: Kind::Integer { min: 1, max: 100, default: 20, usual: &[5, 10, 20] },
            only_when: None,
        },
    ],
};

/// β of the first round.
const BETA: f32 = 10.0;
/// What β is multiplied by from round to round.
const KAPPA: f32 = 1.01;
/// Partial sums, for the lanes of the processor.
const LANES: usize = 8;

/// The checked parameters.
struct Quantiser {
    layout: AffineLayout,
    norm: f32,
    rounds: i64,
}

/// Scale and zero point of a group, in steps of its grid.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    zero: f32,
}

impl Quantiser {
    fn new(parameters: &Resolved, dtype: DType) -> Self {
        let grouping = match parameters.choice("granularity") {
            "channel" => Grouping::Channel,
            _ => Grouping::Group(parameters.integer("group_size") as usize),
        };
        let layout = AffineLayout {
            bits: parameters.integer("bits") as u32,
            grouping,
            symmetric: false,
            scale_dtype: dtype.scale_dtype(),
            has_offsets: parameters.choice("symmetry") == "fractional",
        };
        let norm = parameters.fraction("norm") as f32;
        Self { layout, norm, rounds: parameters.integer("rounds") }
    }

    /// Where the search begins; the scale is already rounded as it is stored.
    fn start(&self, weights: &[f32]) -> Fit {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for &weight in weights {
            (low, high) = (low.min(weight), high.max(weight));
        }
        if !self.layout.has_offsets || weights.is_empty() {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let levels = f64::from(self.layout.largest());
        let exact = ((f64::from(high) - f64::from(low)) / levels) as f32;
        let stored = round_f32(self.layout.scale_dtype, exact);
        // A group of equal weights has no span: its offset says all.
        let scale = if stored < f32::MIN_POSITIVE { 1.0 } else { stored };
        self.stored(Fit { scale, zero: -low / scale })
    }

    /// The zero point as it is stored.
    fn stored(&self, fit: Fit) -> Fit {
        let zero = if self.layout.has_offsets {
            round_f32(self.layout.scale_dtype, -fit.scale * fit.zero) / -fit.scale
        } else {
            fit.zero.round_ties_even().clamp(0.0, f32::from(self.layout.largest()))
        };
        Fit { zero, ..fit }
    }

    #[inline]
    fn code(&self, steps: f32, zero: f32) -> f32 {
        code(steps, zero, f32::from(self.layout.largest()))
    }

    /// The fit with the least Σ|e|^p among those met.
    fn fit(&self, weights: &[f32]) -> Fit {
        let start = self.start(weights);
        let inverse = 1.0 / start.scale;
        let (mut best, mut least) = (start, f64::INFINITY);
        let (mut zero, mut beta) = (start.zero, BETA);
        for _ in 0..=self.rounds {
            let stored = self.stored(Fit { zero, ..start });
            let ends = (stored.zero, zero);
            let (norm, top) = (self.norm, f32::from(self.layout.largest()));
            let (error, moved) = vectorised(Round { weights, inverse, ends, beta, norm, top });
            // A round may be worse than the one before, and later ones still better than both.
            if error < least {
                (best, least) = (stored, error);
            }
            if moved == zero {
                break;
            }
            (zero, beta) = (moved, beta * KAPPA);
        }
        best
    }

    /// Codes and fits of row-major `weights`; those that a mask drops take no part, and have code 0 or that of zero.
    fn quantise(
        &self,
        (weights, cols): (&[f32], usize),
        mask: Option<&Mask>,
        observer: &dyn Observer,
    ) -> Result<(Vec<u8>, Vec<Fit>)> {
        let width = self.layout.grouping.width(cols);
        let per_row = self.layout.grouping.groups_per_row(cols);
        let mut codes = vec![0; weights.len()];
        let rows = codes.par_chunks_mut(cols.max(1)).enumerate();
        let fits: Vec<Vec<Fit>> = rows
            .map(|(row, codes)| {
                let mut fits = Vec::with_capacity(per_row);
                for (group, codes) in codes.chunks_mut(width).enumerate() {
                    observer.go_on()?;
                    let first = row * cols + group * width;
                    fits.push(self.group(weights, first, mask, codes));
                }
                Ok(fits)
            })
            .collect::<Result<_>>()?;
        Ok((codes, fits.into_par_iter().flatten_iter().collect()))
    }

    fn group(&self, all: &[f32], first: usize, mask: Option<&Mask>, codes: &mut [u8]) -> Fit {
        let weights = &all[first..first + codes.len()];
        let keeps = |i: usize| mask.is_none_or(|mask| mask.keeps(first + i));
        let kept: Vec<f32> =
            weights.iter().enumerate().filter(|(i, _)| keeps(*i)).map(|(_, &w)| w).collect();
        let fit = self.fit(&kept);
        let inverse = 1.0 / fit.scale;
        let dropped = if self.layout.has_offsets { 0.0 } else { fit.zero };
        for (i, (code, &weight)) in codes.iter_mut().zip(weights).enumerate() {
            let found = if keeps(i) { self.code(weight * inverse, fit.zero) } else { dropped };
            *code = found as u8;
        }
        fit
    }
}

#[inline(always)]
fn code(steps: f32, zero: f32, top: f32) -> f32 {
    let code = (steps + zero).round_ties_even();
    let code = if code > 0.0 { code } else { 0.0 };
    if code < top { code } else { top }
}

/// One round over a group: Σ|e|^p with the stored zero point, and where the half-quadratic step moves the exact one.
struct Round<'a> {
    weights: &'a [f32],
    /// One over the scale.
    inverse: f32,
    /// The zero point as it is stored, and the exact one.
    ends: (f32, f32),
    beta: f32,
    norm: f32,
    /// The largest code.
    top: f32,
}

impl Round<'_> {
    /// |e|^p of a weight, and where it would have the zero point.
    #[inline(always)]
    fn of(&self, weight: f32) -> (f32, f32) {
        let (steps, (stored, zero)) = (weight * self.inverse, self.ends);
        let error = power((steps - (code(steps, stored, self.top) - stored)).abs(), self.norm);
        let code = code(steps, zero, self.top);
        let away = steps - (code - zero);
        let size = away.abs();
        // |e|^(p−1) grows beyond bounds at 0, where nothing is left anyway.
        let least = if size > 1e-6 { size } else { 1e-6 };
        let shrunk = size - power(least, self.norm - 1.0) / self.beta;
        let shrunk = if shrunk > 0.0 { shrunk } else { 0.0 };
        (error, code - (steps - shrunk.copysign(away)))
    }
}

impl Loops for Round<'_> {
    type Found = (f64, f32);

    #[inline(always)]
    fn run(self) -> (f64, f32) {
        let (mut errors, mut moved) = ([0.0_f64; LANES], [0.0_f64; LANES]);
        let (lanes, rest) = self.weights.as_chunks::<LANES>();
        for weights in lanes {
            for i in 0..LANES {
                let (error, zero) = self.of(weights[i]);
                errors[i] += f64::from(error);
                moved[i] += f64::from(zero);
            }
        }
        for (i, &weight) in rest.iter().enumerate() {
            let (error, zero) = self.of(weight);
            errors[i] += f64::from(error);
            moved[i] += f64::from(zero);
        }
        let moved: f64 = moved.iter().sum();
        (errors.iter().sum(), (moved / self.weights.len().max(1) as f64) as f32)
    }
}

impl Method for Hqq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let grouping = match parameters.choice("granularity") {
            "group" => format!("g{}", parameters.integer("group_size")),
            other => other.to_owned(),
        };
        let zero = if parameters.choice("symmetry") == "fractional" { "" } else { " whole" };
        format!("{}-bit {grouping} hqq{zero}", parameters.integer("bits"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let affine = Layout::Affine(Quantiser::new(parameters, input.dtype).layout);
        Ok(SparseLayout::over(input.previous, affine))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let quantiser = Quantiser::new(parameters, task.dtype);
        let (shape, layout) = (task.shape(), quantiser.layout.clone());
        let (weights, mask) = masked(&task);
        let (codes, fits) = quantiser.quantise((&weights, shape.cols), mask, task.observer)?;
        let scales = fits.iter().map(|fit| fit.scale).collect();
        let affine = if layout.has_offsets {
            let offset = |fit: &Fit| round_f32(layout.scale_dtype, -fit.scale * fit.zero);
            let offsets = fits.iter().map(offset).collect();
            let data = AffineData { codes, scales, zeros: Vec::new() };
            Affine::with_offsets(shape, layout, data, offsets)
        } else {
            let zeros = fits.iter().map(|fit| fit.zero as u8).collect();
            Affine::new(shape, layout, AffineData { codes, scales, zeros })
        };
        Ok(Sparse::over(mask, Encoding::Affine(affine)))
    }
}
