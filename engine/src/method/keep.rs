//! Keep: the layer stays as it is.

use crate::encoding::{Dense, Encoding, Layout};
use crate::error::Result;
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task};

/// Leaves a layer as it is.
pub(super) struct Keep;

/// The registry's entry.
pub(super) static ENTRY: Keep = Keep;

static ABOUT: About = About {
    id: "keep",
    title: "Keep",
    summary: "The layer keeps every weight in the precision it has on disk.",
    citation: "",
    stage: Stage::Keep,
    needs: Needs::Weights,
    parameters: &[],
};

impl Method for Keep {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, _parameters: &Resolved) -> String {
        "keep".to_owned()
    }

    fn layout(&self, _parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        Ok(Layout::Dense(input.dtype))
    }

    fn compress(&self, _parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let values: Vec<f32> = task.weights.iter().copied().collect();
        Ok(Encoding::Dense(Dense::new(task.shape(), task.dtype, &values)))
    }
}
