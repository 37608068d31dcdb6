//! A compressed checkpoint seen as the layers it stands for, decoded by whoever knows its formats.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Coded, Tensor};
use crate::error::Result;
use crate::format::safetensors::Spec;
use crate::tensor::{DType, Shape};

/// Decodes layers by the names they have here.
pub trait Decodes: Debug + Send + Sync {
    /// Values `first ..` of a tensor in its row-major order, as many as `out` holds. Called from many threads at once.
    ///
    /// # Errors
    /// What reading says; [`crate::Error::Unsupported`] for parts that do not fit together.
    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()>;

    /// Passes to `visit` what says how its parts are read, then the bytes of these, piece by piece.
    ///
    /// # Errors
    /// What reading and `visit` say.
    fn stored(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;

    /// The tensors it is stored in.
    fn parts(&self, name: &str) -> Vec<Spec>;

    /// What is added to the outputs of the layer beside its bias.
    ///
    /// # Errors
    /// What reading says.
    fn shift(&self, name: &str) -> Result<Option<Vec<f32>>>;
}

impl Checkpoint {
    /// The same with tensors that `by` decodes: what each is stored in, and in how many bytes, by its name.
    #[must_use]
    pub fn decoded_by(
        mut self,
        by: Arc<dyn Decodes>,
        mut stored: HashMap<String, (Coded, u64)>,
    ) -> Self {
        for tensor in &mut self.tensors {
            if let Some((coded, bytes)) = stored.remove(&tensor.name) {
                tensor.coded = Some(coded);
                // Beyond the end of every file, as long as what it is stored in.
                tensor.range = u64::MAX - bytes..u64::MAX;
            }
        }
        self.tensor_bytes = self.tensors.iter().map(Tensor::bytes).sum();
        self.decoder = Some(by);
        self
    }

    /// Who decodes layers that lie there in parts, where they are seen as what they hold.
    pub fn decoder(&self) -> Option<&dyn Decodes> {
        self.decoder.as_deref()
    }

    /// The tensors that hold it in the files: its parts where it is decoded from them, bytes where it is in blocks, else
    /// itself.
    pub fn stored_as(&self, tensor: &Tensor) -> Vec<Spec> {
        let Tensor { name, dtype, shape, .. } = tensor;
        if tensor.coded.is_none() {
            return vec![Spec { name: name.clone(), dtype: *dtype, shape: shape.clone() }];
        }
        if let Some(by) = self.decoder_of(tensor) {
            return by.parts(name);
        }
        let shape = Shape(vec![tensor.bytes() as usize]);
        vec![Spec { name: name.clone(), dtype: DType::U8, shape }]
    }

    /// Who decodes this tensor, if it is one of those.
    pub(super) fn decoder_of(&self, tensor: &Tensor) -> Option<&dyn Decodes> {
        self.decoder.as_deref().filter(|_| tensor.coded.is_some())
    }
}
