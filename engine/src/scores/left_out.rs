//! Candidates that no layer can have for a target, with the reason.

use crate::error::{Error, Result};
use crate::plan::Assignment;
use crate::scores::{Question, Unit};
use crate::target;

/// Candidates that no layer can have, for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Their labels, in the order of the palette, as `3-bit g128`.
    pub candidates: Vec<String>,
    /// Why the first cannot be had, in a sentence without a full stop; of the others the same but for its numbers.
    pub because: String,
}

impl Question<'_> {
    /// The candidates that no layer can have for the target, those of one reason together, in the order of the palette.
    ///
    /// # Errors
    /// [`Error::Plan`] where no candidate is left although there are layers to decide.
    pub fn left_out(&self) -> Result<Vec<LeftOut>> {
        let units: Vec<Unit> =
            self.all_units().into_iter().filter(|unit| !unit.is_locked).collect();
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let is_had = |of: &&Assignment| units.iter().any(|unit| self.held(unit, of).is_some());
        let gone: Vec<&Assignment> = self.palette.iter().filter(|of| !is_had(of)).collect();
        let mut all: Vec<LeftOut> = Vec::new();
        for candidate in &gone {
            let (label, because) = (candidate.label(), self.why_not(&units, candidate));
            match all.iter_mut().find(|other| wording(&other.because) == wording(&because)) {
                Some(other) => other.candidates.push(label),
                None => all.push(LeftOut { candidates: vec![label], because }),
            }
        }
        if gone.len() < self.palette.len() {
            return Ok(all);
        }
        let title = self.target.about().title;
        let told = |of: &LeftOut| format!("{}: {}", of.candidates.join(", "), of.because);
        let told: Vec<String> = all.iter().map(told).collect();
        Err(Error::plan(
            format!("no layer can have any of the candidates for {title}: {}", told.join("; ")),
            "offer other candidates, or choose another target",
        ))
    }

    /// Why a layer of a block, or else the first of all, cannot have a candidate.
    fn why_not(&self, units: &[Unit], candidate: &Assignment) -> String {
        let tensors = self.subject.checkpoint.tensors();
        let layers = || units.iter().flat_map(|unit| &unit.layers).map(|&layer| &tensors[layer]);
        let in_block = layers().find(|tensor| tensor.place.block.is_some());
        let layer = in_block.or_else(|| layers().next());
        let reason = layer.and_then(|tensor| target::refusal(tensor, candidate, self.target));
        reason.unwrap_or_else(|| "its method asks for inputs that were not measured".to_owned())
    }
}

impl LeftOut {
    /// Both in a sentence, for a target.
    pub fn told(&self, target: &dyn target::Target) -> String {
        let title = target.about().title;
        let (word, them) = if self.candidates.len() == 1 { ("is", "it") } else { ("are", "them") };
        let names = self.candidates.join(", ");
        format!(
            "{names} {word} left out, as no layer can have {them} for {title}: {}",
            self.because
        )
    }
}

/// A reason without its numbers: "3-bit codes" and "5-bit codes" are refused alike.
fn wording(because: &str) -> String {
    because.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}
