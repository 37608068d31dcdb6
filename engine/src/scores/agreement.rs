//! How far two metrics agree about the same candidates.

use crate::scores::{Scored, UnitScores};

/// Two scorings of the same candidates, compared by rank.
#[derive(Clone, Debug, PartialEq)]
pub struct RankAgreement {
    /// Spearman's ρ over all candidates of all units, −1 to 1: Pearson's correlation of their ranks, ties sharing the
    /// mean of theirs. Mostly high, as fewer bits do more damage by any metric.
    pub over_candidates: f64,
    /// The mean over candidates of Spearman's ρ over the units at that candidate: whether they agree which layers
    /// matter. `None` where no candidate has three units.
    pub over_units: Option<f64>,
    /// Candidates that both scored, kept units apart.
    pub compared: usize,
    /// Every unit, those first about which the two differ most.
    pub rows: Vec<Disagreement>,
}

/// How two metrics rank a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disagreement {
    /// The index of the unit among the first metric's.
    pub unit: usize,
    /// Its mean rank among the units at the same candidate by either metric: 0 is the least damage of all, 1 the most.
    pub ranks: [f64; 2],
}

/// A candidate both have scored.
struct Pair {
    unit: usize,
    candidate: usize,
    damages: [f64; 2],
}

/// Compares what two metrics say. Matched are units of the same layers at the same assignments; units that are kept or
/// locked are left out. `None` for fewer than three matches. Cost: a sort of the candidates.
pub fn rank_agreement(a: &[UnitScores], b: &[UnitScores]) -> Option<RankAgreement> {
    let pairs = pairs(a, b);
    if pairs.len() < 3 {
        return None;
    }
    let all: Vec<[f64; 2]> = pairs.iter().map(|pair| pair.damages).collect();
    let mut by_candidate = std::collections::BTreeMap::<usize, Vec<&Pair>>::new();
    for pair in &pairs {
        by_candidate.entry(pair.candidate).or_default().push(pair);
    }
    let mut correlations = Vec::new();
    let mut sums = vec![([0.0; 2], 0_usize); a.len()];
    for pairs in by_candidate.values().filter(|pairs| pairs.len() >= 3) {
        let damages: Vec<[f64; 2]> = pairs.iter().map(|pair| pair.damages).collect();
        correlations.extend(spearman(&damages));
        let ranks = [0, 1].map(|metric| ranks(&damages, metric));
        for (i, pair) in pairs.iter().enumerate() {
            let (sum, n) = &mut sums[pair.unit];
            for metric in [0, 1] {
                sum[metric] += ranks[metric][i] / (pairs.len() - 1) as f64;
            }
            *n += 1;
        }
    }
    let row = |(unit, (sum, n)): (usize, &([f64; 2], usize))| {
        (*n > 0).then(|| Disagreement { unit, ranks: sum.map(|sum| sum / *n as f64) })
    };
    let mut rows: Vec<Disagreement> = sums.iter().enumerate().filter_map(row).collect();
    let apart = |row: &Disagreement| (row.ranks[0] - row.ranks[1]).abs();
    rows.sort_by(|a, b| apart(b).total_cmp(&apart(a)).then(a.unit.cmp(&b.unit)));
    let n = correlations.len();
    Some(RankAgreement {
        over_candidates: spearman(&all)?,
        over_units: (n > 0).then(|| correlations.iter().sum::<f64>() / n as f64),
        compared: pairs.len(),
        rows,
    })
}

fn pairs(a: &[UnitScores], b: &[UnitScores]) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (unit, of_a) in a.iter().enumerate().filter(|(_, of)| !of.unit.is_locked) {
        let Some(of_b) = b.iter().find(|of| of.unit == of_a.unit) else { continue };
        for option in &of_a.options {
            let is_same = |other: &&Scored| other.assignments == option.assignments;
            let other = of_b.options.iter().find(is_same);
            if let (Some(candidate), Some(other)) = (option.candidate, other) {
                pairs.push(Pair { unit, candidate, damages: [option.damage, other.damage] });
            }
        }
    }
    pairs
}

/// Ranks from 0, equal values sharing the mean of theirs.
fn ranks(values: &[[f64; 2]], metric: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i][metric].total_cmp(&values[j][metric]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&i, &j| values[i][metric] == values[j][metric]) {
        let mean = first as f64 + (equal.len() - 1) as f64 / 2.0;
        for &i in equal {
            ranks[i] = mean;
        }
        first += equal.len();
    }
    ranks
}

/// Spearman's ρ; `None` where either metric gives all the same.
fn spearman(values: &[[f64; 2]]) -> Option<f64> {
    let ranks = [0, 1].map(|metric| ranks(values, metric));
    let middle = (values.len() as f64 - 1.0) / 2.0;
    let sum = |a: usize, b: usize| -> f64 {
        ranks[a].iter().zip(&ranks[b]).map(|(x, y)| (x - middle) * (y - middle)).sum()
    };
    let scale = (sum(0, 0) * sum(1, 1)).sqrt();
    (scale > 0.0).then(|| sum(0, 1) / scale)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::method::Step;
    use crate::plan::Assignment;
    use crate::scores::Unit;

    fn scores(damages: &[[f64; 2]]) -> Vec<UnitScores> {
        let option = |candidate: usize, damage: f64| {
            let step = Step::new("round-to-nearest").with("bits", candidate as i64 + 2);
            let assignments = vec![Arc::new(Assignment::of(vec![step]))];
            Scored { candidate: Some(candidate), assignments, bytes: 1, damage }
        };
        let unit = |(layer, damages): (usize, &[f64; 2])| UnitScores {
            unit: Unit { layers: vec![layer], is_locked: false, folds: false },
            options: damages.iter().enumerate().map(|(i, &damage)| option(i, damage)).collect(),
        };
        damages.iter().enumerate().map(unit).collect()
    }

    #[test]
    fn the_same_order_agrees_whatever_the_scale_and_the_reverse_does_not() {
        let a = scores(&[[1.0, 0.1], [2.0, 0.2], [3.0, 0.3]]);
        let cubes = scores(&[[1.0, 0.001], [8.0, 0.008], [27.0, 0.027]]);
        let same = rank_agreement(&a, &cubes).expect("compared");
        assert_eq!((same.over_candidates, same.over_units, same.compared), (1.0, Some(1.0), 6));
        let reverse = scores(&[[3.0, 0.3], [2.0, 0.2], [1.0, 0.1]]);
        let reverse = rank_agreement(&a, &reverse).expect("compared");
        assert_eq!(reverse.over_units, Some(-1.0));
        // Ranks 3 4 5 0 1 2 against 5 4 3 2 1 0: 1 − 6·Σd²/(n(n² − 1)) = 1 − 6·16/210.
        assert!((reverse.over_candidates - (1.0 - 96.0 / 210.0)).abs() < 1e-12);
        assert_eq!(reverse.rows[0], Disagreement { unit: 0, ranks: [0.0, 1.0] });
        assert_eq!(reverse.rows[2], Disagreement { unit: 1, ranks: [0.5, 0.5] });
    }

    #[test]
    fn ties_share_their_rank_and_what_is_not_scored_by_both_is_left_out() {
        let a = scores(&[[1.0, 1.0], [1.0, 2.0], [4.0, 3.0]]);
        assert_eq!(ranks(&[[1.0, 0.0], [1.0, 0.0], [4.0, 0.0]], 0), [0.5, 0.5, 2.0]);
        let mut b = a.clone();
        b.remove(1);
        assert_eq!(rank_agreement(&a, &b).expect("compared").compared, 4);
        assert_eq!(rank_agreement(&a, &b[..1]), None, "two candidates say nothing");
    }
}
