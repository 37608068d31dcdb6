//! The cuts of a tensor train of one layer, before anything is exported.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::method::{self, Cut, Task};
use crate::observer::Observer;
use crate::plan::Assignment;

/// Singular values of a layer at every cut of the tensor train that it is assigned, with the rank that is kept; none of any other
/// assignment. Cost: see [`method::cuts`].
///
/// # Errors
/// What reading the layer says; those of [`method::cuts`]; [`crate::Error::Cancelled`].
pub fn cuts(
    checkpoint: &Checkpoint,
    assignment: &Assignment,
    layer: usize,
    observer: &dyn Observer,
) -> Result<Vec<Cut>> {
    let (tensor, weights) = (&checkpoint.tensors()[layer], checkpoint.weights(layer, observer)?);
    let task = Task {
        tensor: &tensor.name,
        weights: weights.view(),
        dtype: tensor.dtype,
        previous: None,
        fused_peak: None,
        inputs: None,
        observer,
    };
    method::cuts(&assignment.steps, &task)
}
