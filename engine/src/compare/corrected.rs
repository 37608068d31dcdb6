//! Layers with corrections that lie in an adapter beside the checkpoint.

use crate::compare::stored::{CompressedLayer, Stores};
use crate::format::adapter;
use crate::format::layer::Form;
use crate::tensor::MatrixShape;

impl Stores<'_> {
    /// The layer with what an adapter of the checkpoint adds to it.
    pub(super) fn corrected(&self, mut layer: CompressedLayer) -> Result<CompressedLayer, String> {
        let Some(factors) = self.b.factors(self.name) else { return Ok(layer) };
        let [right, left] = factors.map(|index| &self.b.tensors()[index]);
        let MatrixShape { rows, cols } = layer.shape;
        let fits = |rank: usize| right.shape.0 == [rank, cols] && left.shape.0 == [rows, rank];
        let rank = right.shape.0.first().copied().filter(|&rank| fits(rank));
        let Some(rank) = rank.filter(|_| right.dtype == left.dtype) else {
            return Err(format!(
                "its adapter adds {} of shape {} times {} of shape {}, which is no {}",
                left.dtype, left.shape, right.dtype, right.shape, layer.shape
            ));
        };
        let parts = adapter::PARTS.map(str::to_owned).into_iter().zip(factors);
        layer.parts.extend(parts);
        layer.form =
            Form::Corrected(Box::new(layer.form), adapter::Factors { rank, dtype: right.dtype });
        Ok(layer)
    }
}
