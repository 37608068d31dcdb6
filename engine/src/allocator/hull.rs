//! Lower convex hulls of what groups can be, merged by slope: the linear relaxation of an allocation.

/// What one more step along a group's hull costs and saves.
#[derive(Clone, Copy, Debug)]
pub(super) struct HullStep {
    /// The group.
    pub(super) group: usize,
    /// Its point before and behind, as positions among its points.
    pub(super) from: usize,
    pub(super) to: usize,
    /// Weight that it adds and cost that it saves, both positive.
    pub(super) weight: f64,
    pub(super) saved: f64,
}

impl HullStep {
    /// Cost saved by one unit of weight.
    pub(super) fn slope(&self) -> f64 {
        self.saved / self.weight
    }
}

/// Points (weight, cost) of a group, weight rising and cost falling.
pub(super) type Points = Vec<(f64, f64)>;

/// Cost saved per weight from the first point to the second.
fn slope(from: (f64, f64), to: (f64, f64)) -> f64 {
    (from.1 - to.1) / (to.0 - from.0)
}

/// Positions of the points on the lower convex hull, the first and the last among them; slopes fall strictly.
pub(super) fn vertices(points: &[(f64, f64)]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::new();
    for (at, &point) in points.iter().enumerate() {
        while let [.., before, last] = hull.as_slice()
            && slope(points[*last], point) >= slope(points[*before], points[*last])
        {
            hull.pop();
        }
        hull.push(at);
    }
    hull
}

/// Every step of every group's hull, the one that saves most for its weight first; of equal ones by group.
///
/// Taking them in this order visits the vertices of the relaxation's frontier. Cost: sorting the points.
pub(super) fn steps(groups: &[Points]) -> Vec<HullStep> {
    let mut steps = Vec::new();
    for (group, points) in groups.iter().enumerate() {
        for pair in vertices(points).windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let weight = points[to].0 - points[from].0;
            steps.push(HullStep { group, from, to, weight, saved: points[from].1 - points[to].1 });
        }
    }
    steps.sort_by(|a, b| b.slope().total_cmp(&a.slope()));
    steps
}

/// The frontier of the linear relaxation: its vertices, weight rising and cost falling.
#[derive(Clone, Debug)]
pub(super) struct Relaxation {
    vertices: Vec<(f64, f64)>,
}

impl Relaxation {
    /// That of these groups. Cost: sorting the points.
    pub(super) fn of(groups: &[Points]) -> Self {
        let first = || groups.iter().filter_map(|points| points.first());
        let mut vertex = (first().map(|p| p.0).sum::<f64>(), first().map(|p| p.1).sum::<f64>());
        let mut vertices = vec![vertex];
        for step in steps(groups) {
            vertex = (vertex.0 + step.weight, vertex.1 - step.saved);
            vertices.push(vertex);
        }
        Self { vertices }
    }

    /// The least weight at which the relaxation costs at most `cost`: no choice that weighs less costs less.
    pub(super) fn least_weight(&self, cost: f64) -> f64 {
        let behind = self.vertices.partition_point(|vertex| vertex.1 > cost);
        match (behind.checked_sub(1).map(|at| self.vertices[at]), self.vertices.get(behind)) {
            (Some(from), Some(to)) => from.0 + (from.1 - cost) / (from.1 - to.1) * (to.0 - from.0),
            (None, Some(to)) => to.0,
            (Some(from), None) => from.0,
            (None, None) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_above_the_line_between_its_neighbours_is_no_vertex() {
        let points = vec![(0.0, 10.0), (1.0, 9.0), (2.0, 4.0), (4.0, 2.0), (6.0, 0.0)];
        assert_eq!(vertices(&points), [0, 2, 4]);
        let steps = steps(&[points, vec![(3.0, 5.0), (4.0, 3.0)]]);
        let slopes: Vec<f64> = steps.iter().map(HullStep::slope).collect();
        assert_eq!(slopes, [3.0, 2.0, 1.0]);
        assert_eq!((steps[1].group, steps[1].from, steps[1].to), (1, 0, 1));
    }

    #[test]
    fn the_least_weight_of_a_cost_lies_between_vertices() {
        let relaxation = Relaxation::of(&[vec![(0.0, 10.0), (2.0, 4.0), (6.0, 0.0)]]);
        let costs = [12.0, 10.0, 7.0, 4.0, 2.0, 0.0, -1.0];
        let weights = costs.map(|cost| relaxation.least_weight(cost));
        assert_eq!(weights, [0.0, 0.0, 1.0, 2.0, 4.0, 6.0, 6.0]);
    }
}
