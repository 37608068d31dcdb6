//! Grids of grouped integers: their parameters, and how one is fitted to a group, weighted by its inputs or not.

mod codes;
mod fit;

pub(super) use fit::{Grid, Step, stored_scale};

use crate::method::{Kind, Needs, Option_, Parameter, Resolved};

/// The parameter `bits` of every quantiser to grouped integers.
pub(super) const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Bits of a code. 8 is nearly lossless, 4 is the usual choice with groups of 128 or fewer, 3 and 2 want better methods.",
    kind: Kind::Integer { min: 2, max: 8, default: 4, usual: &[2, 3, 4, 5, 6, 7, 8] },
    only_when: None,
};

/// The parameter `granularity` of every quantiser to grouped integers.
pub(super) const GRANULARITY: Parameter = Parameter {
    name: "granularity",
    title: "Scale for each",
    help: "Which weights share a scale: the finer, the smaller the error and the more bytes go to scales.",
    kind: Kind::Choice(&[
        Option_ { id: "group", title: "Group", help: "A run of inputs in a row." },
        Option_ { id: "channel", title: "Channel", help: "A whole output row." },
        Option_ { id: "tensor", title: "Tensor", help: "The whole matrix." },
    ]),
    only_when: None,
};

/// The parameter `group_size` of every quantiser to grouped integers.
pub(super) const GROUP_SIZE: Parameter = Parameter {
    name: "group_size",
    title: "Group size",
    help: "Inputs that share a scale. 128 costs 0.125 bits a weight for 16-bit scales, 32 costs 0.5. The last group of a row may be shorter; some targets want sizes that divide the row.",
    kind: Kind::Integer { min: 16, max: 256, default: 128, usual: &[16, 32, 64, 128, 256] },
    only_when: Some(("granularity", "group")),
};

/// The parameter `symmetry` of every quantiser to grouped integers.
pub(super) const SYMMETRY: Parameter = Parameter {
    name: "symmetry",
    title: "Grid",
    help: "Symmetric grids store no zero point and run fastest; asymmetric ones fit groups whose values lean to one side.",
    kind: Kind::Choice(&[
        Option_ {
            id: "symmetric",
            title: "Symmetric",
            help: "2^bits levels around zero; the highest positive value is clipped by half a step.",
        },
        Option_ {
            id: "symmetric-restricted",
            title: "Restricted",
            help: "2^bits − 1 levels; both extremes are exact.",
        },
        Option_ {
            id: "asymmetric",
            title: "Asymmetric",
            help: "2^bits levels from the lowest to the highest weight, with a stored zero point.",
        },
    ]),
    only_when: None,
};

/// The parameter `clipping` of every quantiser to grouped integers.
pub(super) const CLIPPING: Parameter = Parameter {
    name: "clipping",
    title: "Clipping",
    help: "Min-max covers every weight; least squares searches a narrower range, clipping a few large weights so that all others get finer steps; weighted counts what matters to the layer's outputs.",
    kind: Kind::Choice(&[
        Option_ {
            id: "min-max",
            title: "Min-max",
            help: "The grid spans all weights of the group.",
        },
        Option_ {
            id: "mse",
            title: "Least squares",
            help: "The grid of least squared error on the group.",
        },
        Option_ {
            id: "weighted",
            title: "Weighted",
            help: "The grid of least squared error with every weight counted by the mean square of its input; needs a calibration.",
        },
    ]),
    only_when: None,
};

/// What a quantiser with these parameters must be given for its clipping.
pub(super) fn needs(parameters: &Resolved) -> Needs {
    if parameters.choice("clipping") == "weighted" { Needs::Moments } else { Needs::Weights }
}

/// Bits, groups, grid and clipping in a few characters.
pub(super) fn label(parameters: &Resolved) -> String {
    let grouping = match parameters.choice("granularity") {
        "group" => format!("g{}", parameters.integer("group_size")),
        other => other.to_owned(),
    };
    let symmetry = match parameters.choice("symmetry") {
        "asymmetric" => " asym",
        "symmetric-restricted" => " restr",
        _ => "",
    };
    let clipping = match parameters.choice("clipping") {
        "mse" => " mse",
        "weighted" => " weighted",
        _ => "",
    };
    format!("{}-bit {grouping}{symmetry}{clipping}", parameters.integer("bits"))
}
