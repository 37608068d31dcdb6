//! Cheap scores set right where a budget hangs on them, by measuring the model itself.

use std::cell::Cell;

use crate::allocator::{Problem, Refined, refine};
use crate::error::Result;
use crate::observer::{Observer, Progress, Unit as Counted};
use crate::scores::{Measuring, Metric, Question, Remembered, UnitScores};

impl Question<'_> {
    /// The scores in nats: as [`Metric::Measured`] tells them where the choice under the budget of `problem` hangs on
    /// them, and estimated elsewhere; see [`refine`]. `problem` has the units of `scores` in their order, under a
    /// budget, with damages by any cheap metric. The second result says what was measured.
    ///
    /// Cost: a pass from the first block of the unit for each option that is measured.
    ///
    /// # Errors
    /// What compressing, reading, running and solving say; [`crate::Error::Cancelled`].
    pub fn refined(
        &self,
        (scores, problem): (&[UnitScores], &Problem),
        measuring: Measuring<'_>,
        remembered: Option<&Remembered<'_>>,
        observer: &dyn Observer,
    ) -> Result<(Vec<UnitScores>, Refined)> {
        let done = Cell::new(0);
        let does_damage = |of: &UnitScores| of.options.iter().filter(|of| of.damage != 0.0).count();
        let most = scores.iter().map(does_damage).sum::<usize>() as u64;
        let mut measure = |unit: usize, option: usize| {
            let of = &scores[unit];
            observer.progress(Progress {
                stage: "Measuring where the choice hangs",
                item: self.subject.checkpoint.tensors()[of.unit.layers[0]].name.clone(),
                done: done.replace(done.get() + 1),
                total: most,
                unit: Counted::Candidates,
            });
            let by = (Metric::Measured, Some(measuring));
            let options = std::slice::from_ref(&of.options[option]);
            let damages = self.damages((&of.unit, options), by, remembered, observer)?;
            // Chance can make a change look good; a damage is none.
            Ok(damages.first().map_or(0.0, |damage| damage.max(0.0)))
        };
        let refined = refine(problem, &mut measure, observer)?;
        let mut scores = scores.to_vec();
        for (of, damages) in scores.iter_mut().zip(&refined.damages) {
            of.options.iter_mut().zip(damages).for_each(|(option, damage)| option.damage = *damage);
        }
        Ok((scores, refined))
    }
}
