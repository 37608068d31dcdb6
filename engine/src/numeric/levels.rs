//! Finding out whether values were rounded before: few distinct levels in every group, perhaps an even step apart.

/// Group widths tried; rows as a whole are tried too.
const WIDTHS: [usize; 4] = [32, 64, 128, 256];
/// Levels of more than 8 bits are no codes.
const MAX_LEVELS: usize = 256;
/// Rows examined in all, spread evenly.
const ROWS: usize = 512;
/// A group is taken for rounded if it has at most one level for this many values.
const VALUES_A_LEVEL: usize = 4;

/// What was found: few levels in every group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Columns in a group; `None` for whole rows.
    pub width: Option<usize>,
    /// The most distinct values in a group.
    pub levels: usize,
    /// Whether the levels of every group are whole steps apart.
    pub is_even: bool,
    /// Groups examined.
    pub examined: usize,
}

/// One candidate width while it is not refuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    width: Option<usize>,
    levels: usize,
    is_even: bool,
    examined: usize,
    /// Values in a group, also for whole rows.
    group_length: usize,
    is_refuted: bool,
}

/// Examines rows, dropping each width as soon as one group refutes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelSearch {
    candidates: Vec<Candidate>,
}

impl Default for LevelSearch {
    fn default() -> Self {
        let widths = WIDTHS.map(Some).into_iter().chain([None]);
        let candidate = |width| Candidate {
            width,
            levels: 0,
            is_even: true,
            examined: 0,
            group_length: 0,
            is_refuted: false,
        };
        Self { candidates: widths.map(candidate).collect() }
    }
}

impl LevelSearch {
    /// Of how many rows one is examined.
    pub fn stride(rows: usize) -> usize {
        rows.div_ceil(ROWS).max(1)
    }

    /// Examines a row.
    pub fn add_row(&mut self, weights: &[f32]) {
        for candidate in &mut self.candidates {
            let width = candidate.width.unwrap_or(weights.len());
            if width > weights.len() || weights.is_empty() {
                candidate.is_refuted = true;
            }
            for group in weights.chunks_exact(width.max(1)) {
                if candidate.is_refuted {
                    break;
                }
                candidate.examine(group);
            }
        }
    }

    /// Joins what other rows showed.
    pub fn merge(&mut self, other: Self) {
        for (candidate, other) in self.candidates.iter_mut().zip(other.candidates) {
            candidate.levels = candidate.levels.max(other.levels);
            candidate.is_even &= other.is_even;
            candidate.examined += other.examined;
            candidate.group_length = candidate.group_length.max(other.group_length);
            candidate.is_refuted |= other.is_refuted;
        }
    }

    /// The grouping that describes the values in the fewest bits, among those where every group has few levels, and
    /// at least two somewhere: log₂(levels) for a code, and 16 bits for the step of a group, or for each of its
    /// levels where they are uneven. A wider group than the true one sees several grids at once and costs more.
    pub fn found(&self) -> Option<Levels> {
        let holds = |candidate: &&Candidate| {
            !candidate.is_refuted && candidate.levels > 1 && candidate.examined > 0
        };
        let candidates = self.candidates.iter().filter(holds);
        let best =
            candidates.min_by(|a, b| a.description_bits().total_cmp(&b.description_bits()))?;
        let &Candidate { width, levels, is_even, examined, .. } = best;
        Some(Levels { width, levels, is_even, examined })
    }
}

impl Candidate {
    fn description_bits(&self) -> f64 {
        let stored = if self.is_even { 1 } else { self.levels };
        (self.levels as f64).log2() + 16.0 * stored as f64 / self.group_length as f64
    }

    fn examine(&mut self, group: &[f32]) {
        let mut sorted = group.to_vec();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        if sorted.len() > MAX_LEVELS.min(group.len() / VALUES_A_LEVEL) {
            self.is_refuted = true;
            return;
        }
        self.levels = self.levels.max(sorted.len());
        self.is_even &= is_even(&sorted);
        self.examined += 1;
        self.group_length = group.len();
    }
}

/// Whether ascending levels are whole multiples of their smallest gap apart, up to the rounding of BF16.
fn is_even(levels: &[f32]) -> bool {
    let gaps = || levels.windows(2).map(|pair| f64::from(pair[1]) - f64::from(pair[0]));
    let step = gaps().fold(f64::INFINITY, f64::min);
    let largest = levels.iter().fold(0.0_f64, |a, w| a.max(f64::from(w.abs())));
    let allowed = 0.02 + largest / step / 256.0;
    allowed < 0.25 && gaps().all(|gap| (gap / step - (gap / step).round()).abs() <= allowed)
        || levels.len() <= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn searched(rows: &[Vec<f32>]) -> Option<Levels> {
        let mut search = LevelSearch::default();
        for row in rows {
            search.add_row(row);
        }
        search.found()
    }

    fn normals(n: usize) -> Vec<f32> {
        let mut random = Random::new(6);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    #[test]
    fn four_bits_in_groups_of_64_are_found() {
        let rounded: Vec<f32> = normals(512)
            .chunks(64)
            .flat_map(|group| {
                let step = group.iter().fold(0.0_f32, |a, w| a.max(w.abs())) / 7.0;
                group.iter().map(move |w| (w / step).round() * step)
            })
            .collect();
        let found = searched(&[rounded]).unwrap();
        assert_eq!((found.width, found.is_even, found.examined), (Some(64), true, 8));
        assert!(found.levels <= 15, "{found:?}");
    }

    #[test]
    fn uneven_levels_of_whole_rows_are_found_and_fresh_weights_are_not() {
        let palette = [-1.7_f32, -0.4, 0.1, 1.3];
        let row: Vec<f32> = (0..512).map(|i| palette[(i * 7 + i / 3) % 4]).collect();
        let found = searched(&[row]).unwrap();
        assert_eq!((found.width, found.levels, found.is_even), (None, 4, false));
        assert_eq!(searched(&[normals(512)]), None);
        assert_eq!(searched(&[vec![0.5; 512]]), None, "one level is no grid");
    }
}
