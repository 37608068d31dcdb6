//! Self-attention over sequences that lie one after another, perhaps with keys and values of tokens seen before.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, concatenate, s};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::error::Result;
use crate::network::Network;
use crate::network::design::{Attention, Linear, Projection};
use crate::network::held::Held;
use crate::network::pass::Running;
use crate::numeric::activation::{soft_cap, softmax};
use crate::numeric::product::multiply;

/// Queries of a head that one task answers.
pub(super) const QUERIES: usize = 128;

/// Keys and values of the tokens of a sequence that were seen before, for one block.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// `[tokens, kv heads · head_dim]`, once there are any.
    held: Option<[Array2<f32>; 2]>,
}

impl Past {
    /// Number of tokens seen.
    pub fn tokens(&self) -> usize {
        self.held.as_ref().map_or(0, |[keys, _]| keys.nrows())
    }

    /// All keys and values, with those just computed.
    fn append(&mut self, new: [Array2<f32>; 2]) -> [&Array2<f32>; 2] {
        let all = match self.held.take() {
            None => new,
            Some([keys, values]) => {
                let joined = |old: &Array2<f32>, new: &Array2<f32>| {
                    concatenate(Axis(0), &[old.view(), new.view()]).unwrap_or_else(|_| old.clone())
                };
                [joined(&keys, &new[0]), joined(&values, &new[1])]
            }
        };
        let [keys, values] = self.held.insert(all);
        [keys, values]
    }
}

/// Queries, keys and values `[tokens, heads · head_dim]`.
pub(super) type Heads = [Array2<f32>; 3];

impl Network<'_> {
    /// The attention of a block: `[tokens, hidden]` to `[tokens, hidden]`.
    pub(super) fn attend(
        &self,
        attention: &Attention,
        held: &Held,
        x: ArrayView2<'_, f32>,
        running: &mut Running<'_, '_>,
    ) -> Result<Array2<f32>> {
        let [mut queries, mut keys, values] = self.project(attention, held, x, running)?;
        if let Some([of_queries, of_keys]) = &attention.norms {
            held.normalise(of_queries, &mut queries.view_mut());
            held.normalise(of_keys, &mut keys.view_mut());
        }
        let first = running.past.as_ref().map_or(0, |past| past.tokens());
        if let Some(rope) = &attention.rope {
            let places = (first, running.lengths);
            rope.apply(places, [&mut queries, &mut keys], attention.head_dim);
        }
        let mut mixed = self.spare.take(queries.dim());
        match &mut running.past {
            None => {
                let of = Sequences { attention, first: 0, lengths: running.lengths };
                of.mix([&queries, &keys, &values], &mut mixed, &|| running.observer.is_cancelled());
                self.spare.give(keys);
                self.spare.give(values);
            }
            Some(past) => {
                let [keys, values] = past.append([keys, values]);
                let of = Sequences { attention, first, lengths: running.lengths };
                of.mix([&queries, keys, values], &mut mixed, &|| running.observer.is_cancelled());
            }
        }
        running.observer.go_on()?;
        running.tap(self, &[&attention.output], None, mixed.view())?;
        let out = self.apply(&attention.output, held, mixed.view(), running.observer);
        self.spare.give(queries);
        self.spare.give(mixed);
        out
    }

    pub(super) fn project(
        &self,
        attention: &Attention,
        held: &Held,
        x: ArrayView2<'_, f32>,
        running: &mut Running<'_, '_>,
    ) -> Result<Heads> {
        let (queries, keys) =
            (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
        match &attention.projection {
            Projection::Apart(three) => {
                let linears: Vec<&Linear> = three.iter().collect();
                running.tap(self, &linears, None, x)?;
                let apply = |linear| self.apply(linear, held, x, running.observer);
                Ok([apply(&three[0])?, apply(&three[1])?, apply(&three[2])?])
            }
            Projection::Joined(linear) => {
                running.tap(self, &[linear], None, x)?;
                let all = self.apply(linear, held, x, running.observer)?;
                let part = |from: usize, to: usize| self.spare.copy(all.slice(s![.., from..to]));
                let parts = [
                    part(0, queries),
                    part(queries, queries + keys),
                    part(queries + keys, queries + 2 * keys),
                ];
                self.spare.give(all);
                Ok(parts)
            }
            Projection::PerHead(linear) => {
                running.tap(self, &[linear], None, x)?;
                let all = self.apply(linear, held, x, running.observer)?;
                let (heads, dim) = (attention.heads, attention.head_dim);
                let part = |which: usize| {
                    Array2::from_shape_fn((all.nrows(), queries), |(token, i)| {
                        all[(token, i / dim * 3 * dim + which * dim + i % dim)]
                    })
                };
                debug_assert_eq!(heads * dim, queries);
                Ok([part(0), part(1), part(2)])
            }
        }
    }
}

/// Sequences whose queries lie one after another; keys and values may begin `first` tokens earlier, for one sequence.
pub(super) struct Sequences<'a> {
    pub(super) attention: &'a Attention,
    pub(super) first: usize,
    pub(super) lengths: &'a [usize],
}

/// Some queries of one head, with the keys and values of their sequence and the place for the result.
struct Task<'a> {
    queries: ArrayView2<'a, f32>,
    keys: ArrayView2<'a, f32>,
    values: ArrayView2<'a, f32>,
    /// Position of the first of the queries among the keys.
    position: usize,
    out: ArrayViewMut2<'a, f32>,
}

impl Sequences<'_> {
    pub(super) fn mix(
        &self,
        [queries, keys, values]: [&Array2<f32>; 3],
        out: &mut Array2<f32>,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) {
        let mut tasks = Vec::new();
        let mut rest = out.view_mut();
        let (mut start, mut key_start) = (0, 0);
        for &length in self.lengths {
            let (mine, others) = rest.split_at(Axis(0), length);
            rest = others;
            let rows = key_start..key_start + self.first + length;
            let queries = queries.slice(s![start..start + length, ..]);
            let of_keys = [keys, values].map(|all| all.slice(s![rows.clone(), ..]));
            self.push_tasks(queries, of_keys, mine, &mut tasks);
            (start, key_start) = (start + length, rows.end);
        }
        tasks.into_par_iter().for_each_init(Vec::new, |scores, task| {
            if !is_cancelled() {
                self.answer(task, scores);
            }
        });
    }

    /// One task for every head and [`QUERIES`] queries.
    fn push_tasks<'t>(
        &self,
        queries: ArrayView2<'t, f32>,
        [keys, values]: [ArrayView2<'t, f32>; 2],
        mut out: ArrayViewMut2<'t, f32>,
        tasks: &mut Vec<Task<'t>>,
    ) {
        let dim = self.attention.head_dim;
        let shared = self.attention.heads / self.attention.kv_heads;
        for head in 0..self.attention.heads {
            let (mine, others) = out.split_at(Axis(1), dim);
            out = others;
            let cols = head * dim..(head + 1) * dim;
            let key_cols = head / shared * dim..(head / shared + 1) * dim;
            let mut rest = mine;
            let mut at = 0;
            while rest.nrows() > 0 {
                let queries_here = QUERIES.min(rest.nrows());
                let (tile, later) = rest.split_at(Axis(0), queries_here);
                rest = later;
                let rows = at..at + tile.nrows();
                at = rows.end;
                tasks.push(Task {
                    queries: queries.slice_move(s![rows.clone(), cols.clone()]),
                    keys: keys.slice_move(s![.., key_cols.clone()]),
                    values: values.slice_move(s![.., key_cols.clone()]),
                    position: self.first + rows.start,
                    out: tile,
                });
            }
        }
    }

    /// softmax(scale · q·kᵀ)·v over the keys that each query sees.
    fn answer(&self, task: Task<'_>, scores: &mut Vec<f32>) {
        let place = (task.position, task.keys);
        let Some((seen, shares)) = self.shares(task.queries, place, scores, None) else { return };
        let values = task.values.slice(s![seen, ..]);
        multiply(1.0, shares.view(), values, false, task.out);
    }

    /// Which keys the queries from `position` on see, and the share `[queries, those keys]` of each in what they are answered;
    /// where there is a soft cap, the scores under it go to `capped`.
    pub(super) fn shares<'s>(
        &self,
        queries: ArrayView2<'_, f32>,
        (position, keys): (usize, ArrayView2<'_, f32>),
        scores: &'s mut Vec<f32>,
        capped: Option<&mut Vec<f32>>,
    ) -> Option<(Range<usize>, ArrayViewMut2<'s, f32>)> {
        let (attention, n, total) = (self.attention, queries.nrows(), keys.nrows());
        let seen = |position: usize| {
            let end = if attention.causal { position + 1 } else { total };
            let window = attention.window.unwrap_or(usize::MAX);
            (position + 1).saturating_sub(window)..end
        };
        let (low, high) = (seen(position).start, seen(position + n - 1).end);
        let keys = keys.slice(s![low..high, ..]);
        scores.clear();
        scores.resize(n * (high - low), 0.0);
        let shape = (n, high - low);
        let mut scores = ArrayViewMut2::from_shape(shape, scores.as_mut_slice()).ok()?;
        multiply(attention.scale, queries, keys.t(), false, scores.view_mut());
        let mut capped = capped.filter(|_| attention.soft_cap.is_some());
        if let Some(capped) = &mut capped {
            capped.clear();
        }
        for (i, mut row) in scores.rows_mut().into_iter().enumerate() {
            let visible = seen(position + i);
            let row = row.as_slice_mut()?;
            let visible = visible.start - low..visible.end - low;
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
            if let Some(cap) = attention.soft_cap {
                soft_cap(&mut row[visible.clone()], cap);
            }
            if let Some(capped) = &mut capped {
                capped.extend_from_slice(row);
            }
            softmax(&mut row[visible]);
        }
        Some((low..high, scores))
    }
}
