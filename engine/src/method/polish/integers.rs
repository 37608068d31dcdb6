//! Grouped integers on their way: codes, and the grids of groups.

use crate::encoding::{Affine, AffineData, AffineLayout, Mask};
use crate::error::{Error, Result};
use crate::method::Task;
use crate::method::grid::stored_scale;
use crate::numeric::descent::{Curves, Descent, Grids};
use crate::numeric::grouping::Grouping;
use crate::tensor::round_f32;

/// ŵ = scale·(code − zero) + offset.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    zero: f32,
    offset: f32,
}

/// What of a grid moves with its scale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Nothing: symmetric.
    Fixed,
    /// A whole zero point.
    Whole,
    /// An offset.
    Offset,
}

/// How grids move.
struct Moves<'a> {
    layout: &'a AffineLayout,
    origin: Origin,
    mask: Option<&'a Mask>,
}

impl<'a> Moves<'a> {
    fn new(layout: &'a AffineLayout, mask: Option<&'a Mask>) -> Self {
        let origin = match (layout.has_offsets, layout.symmetric) {
            (true, _) => Origin::Offset,
            (false, true) => Origin::Fixed,
            (false, false) => Origin::Whole,
        };
        Self { layout, origin, mask }
    }

    /// The nearest code.
    fn code(&self, step: Step, value: f64) -> f32 {
        let steps = (value - f64::from(step.offset)) / f64::from(step.scale);
        let code = steps.round_ties_even() + f64::from(step.zero);
        code.clamp(0.0, f64::from(self.layout.largest())) as f32
    }

    fn stored(&self, scale: f64) -> f32 {
        stored_scale(scale as f32, self.layout.scale_dtype)
    }

    /// The best scale about a zero point, and how far both then move.
    fn about(&self, step: Step, zero: f32, curves: &Curves) -> Option<(Step, [f64; 2])> {
        let (scale, wanted) = (f64::from(step.scale), f64::from(zero));
        let origin = -scale * f64::from(step.zero);
        let start = [0.0, -scale * wanted - origin];
        let next = self.stored(scale + curves.about(wanted, start)?);
        let moved = [f64::from(next) - scale, -f64::from(next) * wanted - origin];
        (next > 0.0).then_some((Step { scale: next, zero, ..step }, moved))
    }

    /// Scale and offset at their best together, each as it is stored; and the offset alone.
    fn with_offset(&self, step: Step, curves: &Curves) -> Vec<(Step, [f64; 2])> {
        let (scale, offset) = (f64::from(step.scale), f64::from(step.offset));
        let joint = curves.joint().map_or(step.scale, |[a, _]| self.stored(scale + a));
        let beside = |next: f32| {
            let a = f64::from(next) - scale;
            let moved = (offset + curves.origin_beside(a)) as f32;
            let offset_next = round_f32(self.layout.scale_dtype, moved);
            let step = Step { scale: next, offset: offset_next, ..step };
            (step, [a, f64::from(offset_next) - offset])
        };
        [joint, step.scale].into_iter().filter(|&next| next > 0.0).map(beside).collect()
    }
}

impl Grids for Moves<'_> {
    type Grid = Step;

    fn choose(&self, step: &Step, curves: &Curves) -> Option<(Step, [f64; 2])> {
        let tried: Vec<(Step, [f64; 2])> = match self.origin {
            Origin::Fixed => self.about(*step, step.zero, curves).into_iter().collect(),
            Origin::Whole => {
                let zeros = (0..=self.layout.largest()).map(f32::from);
                zeros.filter_map(|zero| self.about(*step, zero, curves)).collect()
            }
            Origin::Offset => self.with_offset(*step, curves),
        };
        let change = |(_, moved): &(Step, [f64; 2])| curves.change(*moved);
        let best = tried.into_iter().min_by(|a, b| change(a).total_cmp(&change(b)))?;
        (change(&best) < 0.0).then_some(best)
    }

    fn value(&self, step: &Step, code: f32) -> f32 {
        step.scale * (code - step.zero) + step.offset
    }

    fn is_masked(&self) -> bool {
        self.mask.is_some()
    }

    fn is_kept(&self, at: usize) -> bool {
        self.mask.is_none_or(|mask| mask.keeps(at))
    }
}

/// Codes, grids and the walk.
pub(super) struct State<'a> {
    affine: &'a Affine,
    kind: Moves<'a>,
    codes: Vec<f32>,
    steps: Vec<Step>,
    descent: Descent,
}

impl<'a> State<'a> {
    /// Begins at `affine`, which `descent` holds decoded.
    pub(super) fn new(affine: &'a Affine, mask: Option<&'a Mask>, descent: Descent) -> Self {
        let offset = |group: usize| affine.offsets().get(group).copied().unwrap_or(0.0);
        let pairs = affine.scales().iter().zip(affine.zeros()).enumerate();
        let step = |(group, (&scale, &zero)): (usize, (&f32, &u8))| Step {
            scale,
            zero: f32::from(zero),
            offset: offset(group),
        };
        Self {
            affine,
            kind: Moves::new(affine.layout(), mask),
            codes: affine.codes().iter().map(|&code| f32::from(code)).collect(),
            steps: pairs.map(step).collect(),
            descent,
        }
    }

    fn group(&self, at: usize) -> usize {
        let (cols, grouping) = (self.affine.shape().cols, self.affine.layout().grouping);
        grouping.first_scale(at / cols, cols) + at % cols / grouping.width(cols)
    }

    pub(super) fn move_codes(&mut self, task: &Task<'_>) -> Result<()> {
        let (cols, kind, steps) = (self.affine.shape().cols, &self.kind, &self.steps);
        let grouping = self.affine.layout().grouping;
        let level = |row: usize, col: usize, best: f64| {
            if !kind.is_kept(row * cols + col) {
                return 0.0;
            }
            let step = steps[grouping.first_scale(row, cols) + col / grouping.width(cols)];
            f64::from(kind.value(&step, kind.code(step, best)))
        };
        let is_cancelled = || task.observer.is_cancelled();
        self.descent.move_weights(&level, &is_cancelled).ok_or(Error::Cancelled)?;
        for at in 0..self.codes.len() {
            let step = self.steps[self.group(at)];
            self.codes[at] = self.kind.code(step, self.descent.values()[at]);
        }
        Ok(())
    }

    pub(super) fn move_grids(&mut self, task: &Task<'_>) -> Result<()> {
        let grouping = self.affine.layout().grouping;
        if grouping == Grouping::Tensor {
            return Ok(());
        }
        let width = grouping.width(self.affine.shape().cols);
        let is_cancelled = || task.observer.is_cancelled();
        let of = (self.codes.as_slice(), self.steps.as_mut_slice());
        self.descent.move_grids(&self.kind, of, width, &is_cancelled).ok_or(Error::Cancelled)
    }

    pub(super) fn finish(self) -> Affine {
        let code = |(at, &code): (usize, &f32)| {
            // What a mask drops has the code of zero.
            let is_kept = self.kind.is_kept(at);
            (if is_kept { code } else { self.steps[self.group(at)].zero }) as u8
        };
        let codes = self.codes.iter().enumerate().map(code).collect();
        let (shape, layout) = (self.affine.shape(), self.affine.layout().clone());
        let scales = self.steps.iter().map(|step| step.scale).collect();
        let zeros = self.steps.iter().map(|step| step.zero as u8).collect();
        let data = AffineData { codes, scales, zeros };
        if layout.has_offsets {
            let offsets = self.steps.iter().map(|step| step.offset).collect();
            return Affine::with_offsets(shape, layout, data, offsets);
        }
        Affine::new(shape, layout, data)
    }
}
