//! Self-attention there and back.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, concatenate, s};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::error::Result;
use crate::network::attention::{Heads, QUERIES, Sequences};
use crate::network::design::{Attention, Projection};
use crate::network::reverse::{Backs, Walk};
use crate::numeric::product::multiply;
use crate::numeric::slopes::{soft_cap_slope, softmax_slope};

/// What the way back needs.
pub(super) struct Tape {
    input: Array2<f32>,
    /// Queries and keys before their norms, where they have any.
    raw: Option<[Array2<f32>; 2]>,
    /// Queries, keys and values as they meet.
    heads: Heads,
    /// What the last layer received.
    mixed: Array2<f32>,
}

impl Walk<'_> {
    pub(super) fn attend(
        &self,
        attention: &Attention,
        input: Array2<f32>,
    ) -> Result<(Tape, Array2<f32>)> {
        let project = self
            .running(|running| self.network.project(attention, self.held, input.view(), running));
        let [mut queries, mut keys, values] = project?;
        let raw = attention.norms.as_ref().map(|[of_queries, of_keys]| {
            let raw = [queries.clone(), keys.clone()];
            self.held.normalise(of_queries, &mut queries.view_mut());
            self.held.normalise(of_keys, &mut keys.view_mut());
            raw
        });
        if let Some(rope) = &attention.rope {
            rope.apply((0, self.lengths), [&mut queries, &mut keys], attention.head_dim);
        }
        let mut mixed = Array2::zeros(queries.dim());
        let of = Sequences { attention, first: 0, lengths: self.lengths };
        of.mix([&queries, &keys, &values], &mut mixed, &|| self.observer.is_cancelled());
        self.observer.go_on()?;
        let out = self.apply(&attention.output, &mixed)?;
        Ok((Tape { input, raw, heads: [queries, keys, values], mixed }, out))
    }

    /// Shows the layers, from the derivative by what the part gave.
    pub(super) fn attend_back(
        &self,
        attention: &Attention,
        tape: Tape,
        slope: Array2<f32>,
        backs: &mut dyn Backs,
    ) -> Result<()> {
        self.show(&attention.output, (&tape.mixed, &slope), backs)?;
        let of_mixed = self.through(&attention.output, &slope)?;
        let of = Sequences { attention, first: 0, lengths: self.lengths };
        let is_cancelled = || self.observer.is_cancelled();
        let [mut queries, mut keys, values] = of.back(&tape.heads, &of_mixed, &is_cancelled);
        self.observer.go_on()?;
        if let Some(rope) = &attention.rope {
            let places = (0, self.lengths);
            rope.apply_transposed(places, [&mut queries, &mut keys], attention.head_dim);
        }
        let (norms, raw) = (attention.norms.as_ref(), tape.raw.as_ref());
        self.normalise_back(norms.map(|n| &n[0]), raw.map(|r| &r[0]), &mut queries);
        self.normalise_back(norms.map(|n| &n[1]), raw.map(|r| &r[1]), &mut keys);
        match &attention.projection {
            Projection::Apart(three) => {
                for (linear, slope) in three.iter().zip([queries, keys, values]) {
                    self.show(linear, (&tape.input, &slope), backs)?;
                }
                Ok(())
            }
            Projection::Joined(linear) => {
                let parts = [queries.view(), keys.view(), values.view()];
                let all = concatenate(Axis(1), &parts).unwrap_or_default();
                let all = all.as_standard_layout().into_owned();
                self.show(linear, (&tape.input, &all), backs)
            }
            Projection::PerHead(linear) => {
                let dim = attention.head_dim;
                let parts = [&queries, &keys, &values];
                let value = |(token, i): (usize, usize)| {
                    parts[i / dim % 3][(token, i / dim / 3 * dim + i % dim)]
                };
                let all = Array2::from_shape_fn((queries.nrows(), 3 * queries.ncols()), value);
                self.show(linear, (&tape.input, &all), backs)
            }
        }
    }
}

/// A head of keys and values of a sequence with the heads of queries it serves, and the places for derivatives by them.
struct Task<'a> {
    heads: [ArrayView2<'a, f32>; 3],
    /// By what the heads of queries gave.
    slope: ArrayView2<'a, f32>,
    by: [ArrayViewMut2<'a, f32>; 3],
}

/// Memory of one task after the other.
#[derive(Default)]
struct Buffers {
    shares: Vec<f32>,
    capped: Vec<f32>,
    slopes: Vec<f32>,
}

impl Sequences<'_> {
    /// Derivatives by queries, keys and values, from that by what the heads gave. Shares are computed anew.
    fn back(
        &self,
        heads: &Heads,
        slope: &Array2<f32>,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Heads {
        let [mut queries, mut keys, mut values] =
            [0, 1, 2].map(|of| Array2::<f32>::zeros(heads[of].dim()));
        let mut tasks = Vec::new();
        let mut rest = [queries.view_mut(), keys.view_mut(), values.view_mut()];
        let mut start = 0;
        for &length in self.lengths {
            let rows = start..start + length;
            start = rows.end;
            let split = rest.map(|all| all.split_at(Axis(0), length));
            let [(a, a_rest), (b, b_rest), (c, c_rest)] = split;
            rest = [a_rest, b_rest, c_rest];
            let of = [0, 1, 2].map(|of| heads[of].slice(s![rows.clone(), ..]));
            self.push_back_tasks(of, slope.slice(s![rows, ..]), [a, b, c], &mut tasks);
        }
        tasks.into_par_iter().for_each_init(Buffers::default, |buffers, task| {
            self.answer_back(task, buffers, is_cancelled);
        });
        [queries, keys, values]
    }

    /// One task for every head of keys of a sequence.
    fn push_back_tasks<'t>(
        &self,
        heads: [ArrayView2<'t, f32>; 3],
        slope: ArrayView2<'t, f32>,
        mut by: [ArrayViewMut2<'t, f32>; 3],
        tasks: &mut Vec<Task<'t>>,
    ) {
        let dim = self.attention.head_dim;
        let group = self.attention.heads / self.attention.kv_heads * dim;
        let [queries, keys, values] = heads;
        for head in 0..self.attention.kv_heads {
            let [a, b, c] = by;
            let (a, a_rest) = a.split_at(Axis(1), group);
            let (b, b_rest) = b.split_at(Axis(1), dim);
            let (c, c_rest) = c.split_at(Axis(1), dim);
            by = [a_rest, b_rest, c_rest];
            let cols = head * group..(head + 1) * group;
            let key_cols = head * dim..(head + 1) * dim;
            tasks.push(Task {
                heads: [
                    queries.slice_move(s![.., cols.clone()]),
                    keys.slice_move(s![.., key_cols.clone()]),
                    values.slice_move(s![.., key_cols]),
                ],
                slope: slope.slice_move(s![.., cols]),
                by: [a, b, c],
            });
        }
    }

    /// With P the shares, A = P·V and S = scale·Q·Kᵀ: dV = Pᵀ·dA, dP = dA·Vᵀ, dS by the softmax, dQ = scale·dS·K,
    /// dK = scale·dSᵀ·Q, tile of queries by tile.
    fn answer_back(
        &self,
        task: Task<'_>,
        buffers: &mut Buffers,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) {
        let (dim, scale) = (self.attention.head_dim, self.attention.scale);
        let Task { heads: [queries, keys, values], slope, by: [mut of_q, mut of_k, mut of_v] } =
            task;
        for head in (0..queries.ncols()).step_by(dim.max(1)) {
            for first in (0..queries.nrows()).step_by(QUERIES) {
                if is_cancelled() {
                    return;
                }
                let rows = first..(first + QUERIES).min(queries.nrows());
                let tile = s![rows, head..head + dim];
                let (queries, slope) = (queries.slice(tile), slope.slice(tile));
                let Buffers { shares, capped, slopes } = buffers;
                let found = self.shares(queries, (first, keys), shares, Some(capped));
                let Some((seen, shares)) = found else { return };
                let seen = s![seen, ..];
                slopes.clear();
                slopes.resize(shares.len(), 0.0);
                let into = ArrayViewMut2::from_shape(shares.dim(), slopes.as_mut_slice());
                let Ok(mut slopes) = into else { return };
                multiply(1.0, shares.t(), slope, true, of_v.slice_mut(seen));
                multiply(1.0, slope, values.slice(seen).t(), false, slopes.view_mut());
                self.bend(&shares, capped, &mut slopes);
                multiply(scale, slopes.view(), keys.slice(seen), false, of_q.slice_mut(tile));
                multiply(scale, slopes.t(), queries, true, of_k.slice_mut(seen));
            }
        }
    }

    /// From derivatives by shares to those by scores, in place.
    fn bend(
        &self,
        shares: &ArrayViewMut2<'_, f32>,
        capped: &[f32],
        slopes: &mut ArrayViewMut2<'_, f32>,
    ) {
        let width = shares.ncols().max(1);
        for (i, (mut slope, share)) in slopes.rows_mut().into_iter().zip(shares.rows()).enumerate()
        {
            let (Some(slope), Some(share)) = (slope.as_slice_mut(), share.as_slice()) else {
                return;
            };
            softmax_slope(share, slope);
            if let Some(cap) = self.attention.soft_cap {
                soft_cap_slope(&capped[i * width..(i + 1) * width], cap, slope);
            }
        }
    }
}
