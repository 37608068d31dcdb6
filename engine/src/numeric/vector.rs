//! Loops in the widest vectors the processor has.

/// Runs `work` compiled for the vectors of this processor, and returns what it returns. Loops are turned into vectors
/// only in what is inlined into `work`. Sums are never reordered and products never fused, so the result does not
/// depend on the processor.
#[inline]
pub fn vectorised<T>(work: impl FnOnce() -> T) -> T {
    pulp::Arch::new().dispatch(work)
}
