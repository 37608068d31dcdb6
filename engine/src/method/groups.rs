//! What methods that fit a few scales to each group share: the walk over groups, in parallel and under a mask.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{
    Encoding, Layout, Mask, Sparse, SparseLayout, Stack, StackLayout, Vectors, VectorsLayout,
};
use crate::error::Result;
use crate::method::grid::{GRANULARITY, GROUP_SIZE};
use crate::method::{Kind, LayoutInput, Parameter, Resolved, Task, masked, signs};
use crate::numeric::codebook::Codebook;
use crate::numeric::grouping::Grouping;
use crate::numeric::planes::{Digit, Planes, Weighed, nearest};
use crate::tensor::DType;

/// How often scales and digits of planes are fitted in turn.
pub(super) const ROUNDS: Parameter = Parameter {
    name: "rounds",
    title: "Rounds",
    help: "How often scales and digits are fitted in turn, at most; 0 leaves what was found to begin with.",
    kind: Kind::Integer { min: 0, max: 50, default: 15, usual: &[0, 5, 15, 50] },
    only_when: None,
};

/// The grouping that [`GRANULARITY`] and [`GROUP_SIZE`] say.
pub(super) fn grouping(parameters: &Resolved) -> Grouping {
    match parameters.choice(GRANULARITY.name) {
        "channel" => Grouping::Channel,
        "tensor" => Grouping::Tensor,
        _ => Grouping::Group(parameters.integer(GROUP_SIZE.name) as usize),
    }
}

/// The same in a label.
pub(super) fn label(parameters: &Resolved) -> String {
    match grouping(parameters) {
        Grouping::Group(size) => format!("g{size}"),
        Grouping::Channel => "channel".to_owned(),
        Grouping::Tensor => "tensor".to_owned(),
    }
}

/// Weights in groups.
pub(super) struct Groups<'a> {
    /// Row-major.
    pub(super) values: &'a [f32],
    /// Which of them are looked at; the others get code 0.
    pub(super) mask: Option<&'a Mask>,
    /// What an error counts, by input.
    pub(super) counts: Option<&'a [f32]>,
    /// Which share scales.
    pub(super) grouping: Grouping,
}

impl Groups<'_> {
    /// Codes of all weights, and so many `scales` of each group, group by group, as `fit` finds them.
    pub(super) fn fit(
        &self,
        scales: usize,
        task: &Task<'_>,
        fit: impl Fn(Weighed<'_>) -> Result<Planes> + Sync,
    ) -> Result<(Vec<u8>, Vec<f32>)> {
        let (rows, cols) = task.weights.dim();
        let groups = self.grouping.scales(rows, cols);
        let mut found = vec![0.0; groups * scales];
        let mut codes = vec![0; self.values.len()];
        if codes.is_empty() {
            return Ok((codes, found));
        }
        // A line of groups: a row, or all of the matrix.
        let line = if self.grouping == Grouping::Tensor { codes.len() } else { cols };
        let width =
            if self.grouping == Grouping::Tensor { line } else { self.grouping.width(cols) };
        let lines = codes.par_chunks_mut(line);
        let lines = lines.zip(found.par_chunks_mut(line.div_ceil(width) * scales)).enumerate();
        lines.try_for_each(|(at, (codes, found))| {
            task.observer.go_on()?;
            let groups = codes.chunks_mut(width).zip(found.chunks_mut(scales)).enumerate();
            for (group, (codes, found)) in groups {
                self.fit_one(at * line + group * width, codes, found, &fit)?;
            }
            Ok(())
        })?;
        Ok((codes, found))
    }

    /// The group of weights from `first` on.
    fn fit_one(
        &self,
        first: usize,
        codes: &mut [u8],
        scales: &mut [f32],
        fit: &impl Fn(Weighed<'_>) -> Result<Planes>,
    ) -> Result<()> {
        let keeps = |at: usize| self.mask.is_none_or(|mask| mask.keeps(at));
        let kept = || (first..first + codes.len()).filter(|&at| keeps(at));
        let values: Vec<f32> = kept().map(|at| self.values[at]).collect();
        let count = |counts: &[f32]| kept().map(|at| counts[at % counts.len()]).collect::<Vec<_>>();
        let counts = self.counts.map(count);
        // Where no input counts all do alike.
        let counts = counts.filter(|counts| counts.iter().any(|&count| count > 0.0));
        let found = fit(Weighed { values: &values, counts: counts.as_deref() })?;
        scales.copy_from_slice(&found.scales);
        let places: Vec<usize> = kept().map(|at| at - first).collect();
        for (place, code) in places.into_iter().zip(found.codes) {
            codes[place] = code;
        }
        Ok(())
    }
}

fn plane(digit: Digit, parameters: &Resolved, dtype: DType) -> VectorsLayout {
    let codebook = match digit {
        Digit::Sign => Codebook::Signs,
        Digit::Bit => Codebook::Bits,
    };
    let grouping = grouping(parameters);
    VectorsLayout { codebook, grouping, scale_dtype: dtype.scale_dtype() }
}

/// So many planes of digits under scales of groups, as levels of a stack, under the mask of the step before.
pub(super) fn layout(
    digit: Digit,
    planes: usize,
    parameters: &Resolved,
    input: LayoutInput<'_>,
) -> Layout {
    let plane = Layout::Vectors(plane(digit, parameters, input.dtype));
    SparseLayout::over(input.previous, Layout::Stack(StackLayout { levels: vec![plane; planes] }))
}

/// The encoding of [`layout`] with the scales that `fit` finds for each group, rounded, and its codes; where it gives none,
/// those of the nearest sums under the scales as rounded.
pub(super) fn stack(
    (digit, planes): (Digit, usize),
    parameters: &Resolved,
    task: &Task<'_>,
    fit: impl Fn(Weighed<'_>) -> Result<Planes> + Sync,
) -> Result<Encoding> {
    let (layout, shape) = (plane(digit, parameters, task.dtype), task.shape());
    let counts = signs::counts(parameters, task)?;
    let (values, mask) = masked(task);
    let grouping = layout.grouping;
    let groups = Groups { values: &values, mask, counts: counts.as_deref(), grouping };
    let rounded = |of: Weighed<'_>| {
        let round = |scale: f32| signs::saturated(layout.scale_dtype, scale);
        let found = fit(of)?;
        let scales: Vec<f32> = found.scales.into_iter().map(round).collect();
        let codes =
            if found.codes.is_empty() { nearest(digit, &scales, of.values) } else { found.codes };
        Ok(Planes { scales, codes })
    };
    let (codes, scales) = groups.fit(planes, task, rounded)?;
    let level = |plane: usize| {
        let codes = codes.iter().map(|code| u32::from(code >> plane & 1)).collect();
        let scales = scales.iter().skip(plane).step_by(planes).copied().collect();
        Encoding::Vectors(Vectors::new(shape, layout.clone(), codes, scales))
    };
    let stack = Encoding::Stack(Stack::new((0..planes).map(level).collect()));
    Ok(Sparse::over(mask, stack))
}
