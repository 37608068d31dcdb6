//! Rounding of many weights at once against each by itself.

use super::{normals, plain_task};
use crate::encoding::AffineLayout;
use crate::method::grid::{Grid, Step as Spacing};
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, MatrixShape};

/// Weights on levels, between two of them, just beside the middle, and far outside the grid.
fn awkward(cols: usize, spacings: &[Spacing], width: usize) -> Vec<f32> {
    let place = |i: usize| match i % 7 {
        0 => i as f32 % 40.0 - 20.0,
        1..=3 => i as f32 % 40.0 - 19.5,
        4 => f32::from_bits((i as f32 % 16.0 + 0.5).to_bits() + 1),
        5 => f32::from_bits((i as f32 % 16.0 + 0.5).to_bits() - 1),
        _ => 1000.0 - i as f32 * 30.0,
    };
    (0..cols).map(|i| place(i) * spacings[i / width].scale).collect()
}

#[test]
fn codes_made_at_once_are_those_of_each_weight_alone() {
    for (bits, symmetric, width) in [
        (2, true, 32),
        (3, false, 50),
        (4, true, 128),
        (4, false, 33),
        (8, true, 31),
        (8, false, 96),
    ] {
        let layout = AffineLayout {
            bits,
            grouping: Grouping::Group(width),
            symmetric,
            scale_dtype: DType::F32,
            has_offsets: false,
        };
        let cols = 3 * width + 7;
        let spacing = |group: usize| Spacing {
            scale: [0.25, 1.0, 0.001, 3.7][group],
            zero: if symmetric { layout.middle() } else { (group * 3 % (1 << bits)) as u8 },
        };
        let spacings: Vec<Spacing> = (0..4).map(spacing).collect();
        let weights = awkward(cols, &spacings, width);
        let grid = Grid::clipped(layout, "min-max");
        let rounded = grid.encode(MatrixShape { rows: 1, cols }, &weights, &spacings);
        for (i, (&code, &weight)) in rounded.codes().iter().zip(&weights).enumerate() {
            let alone = grid.code(weight, spacings[i / width]);
            assert_eq!(code, alone, "{bits} bits, {width} in a group, weight {i} of {weight}");
        }
    }
}

/// Rows of whole pieces go another way than others.
#[test]
fn rows_of_whole_pieces_are_rounded_as_others() {
    let weights = normals(62, 5, 768);
    let importance: Vec<f32> = (0..768).map(|i| 1.0 + (i % 37) as f32).collect();
    for (width, symmetric, clipping) in [
        (128, true, "min-max"),
        (64, false, "min-max"),
        (32, true, "mse"),
        (256, false, "weighted"),
        (96, true, "min-max"),
    ] {
        let layout = AffineLayout {
            bits: 4,
            grouping: Grouping::Group(width),
            symmetric,
            scale_dtype: DType::F16,
            has_offsets: false,
        };
        let grid = Grid::clipped(layout, clipping);
        let importance = (clipping == "weighted").then_some(importance.as_slice());
        let (task, shape) = (plain_task(&weights), MatrixShape { rows: 5, cols: 768 });
        let values = weights.as_slice().unwrap();
        let steps = grid.fit_all(values, 768, importance, &task).unwrap();
        let rounded = grid.round(shape, values, importance, &task).unwrap();
        assert_eq!(rounded, grid.encode(shape, values, &steps), "{width}, {clipping}");
    }
}
