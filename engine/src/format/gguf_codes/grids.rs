//! The grids of points that IQ1, IQ2 and IQ3 choose from.

use std::sync::LazyLock;

/// The points of all grids, packed; where they come from stands at the top.
const TEXT: &str = include_str!("grids.txt");

/// Coordinates of points, one point after another.
pub(super) type Grid = LazyLock<Vec<f32>>;

pub(super) static IQ1_S: Grid = LazyLock::new(|| grid("iq1_s", 2048 * 8, &[-1.0, 0.0, 1.0]));
pub(super) static IQ2_XXS: Grid = LazyLock::new(|| grid("iq2_xxs", 256 * 8, &IQ2));
pub(super) static IQ2_XS: Grid = LazyLock::new(|| grid("iq2_xs", 512 * 8, &IQ2));
pub(super) static IQ2_S: Grid = LazyLock::new(|| grid("iq2_s", 1024 * 8, &IQ2));
pub(super) static IQ3_XXS: Grid =
    LazyLock::new(|| grid("iq3_xxs", 256 * 4, &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0]));
pub(super) static IQ3_S: Grid =
    LazyLock::new(|| grid("iq3_s", 512 * 4, &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0]));

/// What the coordinates of IQ2 are.
const IQ2: [f32; 3] = [8.0, 25.0, 43.0];

/// The section of that name, as numbers of `values`: of few two lie in a nibble, of many one.
fn grid(name: &str, coordinates: usize, values: &[f32]) -> Vec<f32> {
    let title = format!("[{name}]");
    let lines = TEXT.lines().skip_while(|line| *line != title).skip(1);
    let digits = lines.take_while(|line| !line.starts_with('[')).flat_map(str::bytes);
    let nibbles: Vec<u8> =
        digits.map(|digit| char::from(digit).to_digit(16).unwrap_or(0) as u8).collect();
    // The first coordinates lie in the lower half of a byte, which is written last.
    let nibbles = nibbles.chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]);
    let shifts: &[u8] = if values.len() > 4 { &[0] } else { &[0, 2] };
    let mask = if values.len() > 4 { 7 } else { 3 };
    let numbers = nibbles.flat_map(|nibble| shifts.iter().map(move |shift| nibble >> shift & mask));
    let mut points = vec![0.0; coordinates];
    for (point, number) in points.iter_mut().zip(numbers) {
        *point = values.get(usize::from(number)).copied().unwrap_or(0.0);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grid_is_whole_and_has_no_point_twice() {
        for (name, grid, dimensions, n) in [
            ("iq1_s", &IQ1_S, 8, 2048),
            ("iq2_xxs", &IQ2_XXS, 8, 256),
            ("iq2_xs", &IQ2_XS, 8, 512),
            ("iq2_s", &IQ2_S, 8, 1024),
            ("iq3_xxs", &IQ3_XXS, 4, 256),
            ("iq3_s", &IQ3_S, 4, 512),
        ] {
            let bits = if dimensions == 4 { 4 } else { 2 };
            let digits: usize = TEXT
                .lines()
                .skip_while(|line| *line != format!("[{name}]"))
                .skip(1)
                .take_while(|line| !line.starts_with('['))
                .map(str::len)
                .sum();
            assert_eq!(digits * 4, n * dimensions * bits, "{name}");
            assert_eq!(grid.len(), n * dimensions, "{name}");
            let points: std::collections::BTreeSet<Vec<i32>> = grid
                .chunks_exact(dimensions)
                .map(|point| point.iter().map(|&value| value as i32).collect())
                .collect();
            assert_eq!(points.len(), n, "{name}");
        }
        assert_eq!(IQ2_XXS[8..16], [43.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        assert_eq!(IQ3_XXS[4..8], [20.0, 4.0, 4.0, 4.0]);
    }
}
