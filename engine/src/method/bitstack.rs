//! `BitStack`: levels of about a bit a weight, each for what those before it left, so that any first few are the layer.

use crate::encoding::{Encoding, Layout, Stack, StackLayout};
use crate::error::Result;
use crate::method::factors::RANK;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Step, Task, signs,
};

/// W ≈ Σ Sᵢ∘(Lᵢ·Rᵢ): the signs of what is left, and the product nearest to its sizes.
///
/// Each level is found for what the levels before left as they are stored, factors in 16 bits, so it makes their rounding
/// good, too. The error falls from level to level. The first n levels of a stack are the stack of n levels, byte for byte.
/// A level takes 1 + 16·rank·(rows + cols)/(rows·cols) bits a weight; a rank beyond rows or columns is cut to them. The
/// authors fold the scales of inputs into norms; here factors take them, and nothing else changes.
/// Cost of a level: see [`crate::numeric::leading::leading_directions`].
pub(super) struct BitStack;

/// The registry's entry.
pub(super) static ENTRY: BitStack = BitStack;

static ABOUT: About = About {
    id: "bitstack",
    title: "BitStack",
    summary: "Levels of signs times a thin product, each for what is left: as many as fit are stored, and a stored stack can be cut to any of them.",
    citation: "Wang, Wang, Li, Wang, Liu, Yan & Wang, BitStack: Any-size compression of large language models in variable memory environments, ICLR 2025",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[LEVELS, OWN_RANK, signs::COUNTED],
};

/// As of the authors.
const OWN_RANK: Parameter = Parameter {
    kind: Kind::Integer { min: 1, max: 4096, default: 16, usual: &[1, 4, 8, 16, 32] },
    ..RANK
};

const LEVELS: Parameter = Parameter {
    name: "levels",
    title: "Levels",
    help: "A level costs a bit a weight and its factors. What a stack of fewer levels would be is in the one of more.",
    kind: Kind::Integer { min: 1, max: 16, default: 4, usual: &[1, 2, 3, 4, 6, 8] },
    only_when: None,
};

/// The most levels of [`stacks`].
const USUAL_LEVELS: i64 = 8;

/// Stacks of 1 to 8 levels, as candidates for one stack of any size: counted by inputs where so much is `known` of them.
pub fn stacks(known: Needs) -> Vec<Step> {
    let counted = if known >= Needs::Moments { "by-inputs" } else { "alike" };
    let of =
        |levels| Step::new(ABOUT.id).with(LEVELS.name, levels).with(signs::COUNTED.name, counted);
    (1..=USUAL_LEVELS).map(of).collect()
}

fn rank(parameters: &Resolved) -> usize {
    parameters.integer(RANK.name) as usize
}

impl Method for BitStack {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        signs::needs(parameters)
    }

    fn label(&self, parameters: &Resolved) -> String {
        let levels = parameters.integer(LEVELS.name);
        let by_inputs = signs::label(parameters);
        format!("{levels} levels of signs r{}{by_inputs}", rank(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        signs::refuse_mask(&input)?;
        let level = signs::layout(input.shape, rank(parameters));
        let levels = vec![level; parameters.integer(LEVELS.name) as usize];
        Ok(Layout::Stack(StackLayout { levels }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let counts = signs::counts(parameters, &task)?;
        let mut levels = Vec::new();
        let mut left = task.weights.to_owned();
        for _ in 0..parameters.integer(LEVELS.name) {
            task.observer.go_on()?;
            let level = signs::level(left.view(), counts.as_deref(), rank(parameters), &task)?;
            left -= &level.decode();
            levels.push(level);
        }
        Ok(Encoding::Stack(Stack::new(levels)))
    }
}
