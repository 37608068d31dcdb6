//! What becomes of the outputs of a layer, on what the layers were seen to receive.

use ndarray::ArrayView2;

use crate::error::Result;
use crate::job::{Moments, Subject};
use crate::method::{Needs, chain_needs};
use crate::observer::Observer;
use crate::plan::Plan;

impl Subject<'_> {
    /// Whether a plan asks of the inputs of a layer what its outputs lose.
    pub fn asks_outputs(&self, plan: &Plan, layer: usize) -> bool {
        let name = &self.checkpoint.tensors()[layer].name;
        chain_needs(&plan.assignment(name).steps) >= Needs::Moments
    }

    /// The relative error of the outputs of a layer that became `made`, weights with what is added to its outputs:
    /// √(tr(Δ·H·Δᵀ)/tr(W·H·Wᵀ)), with the diagonal of H where a Gram matrix was not asked. `None` where the plan asks
    /// nothing of the inputs of the layer, so that nothing was read of them. Cost: rows·cols² operations with a Gram
    /// matrix.
    ///
    /// # Errors
    /// Whatever reading them says; [`crate::Error::Cancelled`].
    pub fn output_error(
        &self,
        (plan, layer): (&Plan, usize),
        weights: ArrayView2<'_, f32>,
        made: (ArrayView2<'_, f32>, Option<&[f32]>),
        observer: &dyn Observer,
    ) -> Result<Option<f64>> {
        let name = &self.checkpoint.tensors()[layer].name;
        let needs = chain_needs(&plan.assignment(name).steps);
        if !self.asks_outputs(plan, layer) {
            return Ok(None);
        }
        let inputs = self.calibrated.inputs(name, needs)?;
        Moments::relative_error_of(inputs.as_ref(), weights, made, observer)
    }
}
