//! Loops in the widest vectors the processor has.
#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

/// Work whose loops are to become vectors. `run`, and whatever with a loop it calls, must be `#[inline(always)]`: what
/// stays a function of its own is compiled for the least processor.
pub trait Loops {
    /// What the work finds.
    type Found;

    /// Does the work.
    fn run(self) -> Self::Found;
}

struct Vectors<L>(L);

impl<L: Loops> pulp::WithSimd for Vectors<L> {
    type Output = L::Found;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> L::Found {
        self.0.run()
    }
}

/// Runs `work` compiled for the vectors of this processor. Sums are never reordered and products never fused, so what
/// it finds does not depend on the processor.
#[inline]
pub fn vectorised<L: Loops>(work: L) -> L::Found {
    pulp::Arch::new().dispatch(Vectors(work))
}
