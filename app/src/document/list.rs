//! The layer list: which columns, a tree by block or one flat list, which rows.

use std::collections::BTreeSet;

use std::sync::Arc;

use lapidary_engine::target::Agreement;

use crate::document::columns::{Column, Sort};
use crate::document::filter::Filter;
use crate::document::model::Model;

/// A line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The head of a block, or of what is outside the blocks, with the number of its tensors that pass the filter.
    Block(Option<u32>, usize),
    /// A fused group with the number of its layers that pass the filter.
    Fused(usize, usize),
    /// A tensor.
    Tensor(usize),
}

/// How the list is shown.
#[derive(Clone, Debug)]
pub struct ListView {
    /// The columns, from left to right.
    pub columns: Vec<Column>,
    /// The order of tensors.
    pub sort: Sort,
    /// Whether tensors stand under their blocks.
    pub is_tree: bool,
    /// Blocks whose tensors are hidden.
    pub folded: BTreeSet<Option<u32>>,
    /// Fused groups whose layers are shown one by one.
    pub unfolded: BTreeSet<usize>,
    /// The text of the filter.
    pub filter: String,
    /// Why the filter was not understood; the rows are those of the last one that was.
    pub mistake: Option<String>,
    understood: Filter,
    lines: Vec<Row>,
    rows: Vec<usize>,
    stops: Vec<usize>,
}

impl ListView {
    /// A flat list of the given columns, or of the usual ones.
    pub fn new(columns: &[String], filter: &str) -> Self {
        let named: Vec<Column> = columns.iter().filter_map(|id| Column::find(id)).collect();
        let mut list = Self {
            columns: if named.is_empty() { Column::usual() } else { named },
            sort: Sort::default(),
            is_tree: false,
            folded: BTreeSet::new(),
            unfolded: BTreeSet::new(),
            filter: String::new(),
            mistake: None,
            understood: Filter::default(),
            lines: Vec::new(),
            rows: Vec::new(),
            stops: Vec::new(),
        };
        list.set_filter(filter);
        list
    }

    /// Takes on another filter.
    pub fn set_filter(&mut self, text: &str) {
        text.clone_into(&mut self.filter);
        match Filter::parse(text) {
            Ok(filter) => (self.understood, self.mistake) = (filter, None),
            Err(mistake) => self.mistake = Some(mistake),
        }
    }

    /// The lines on screen, in order.
    pub fn lines(&self) -> &[Row] {
        &self.lines
    }

    /// The tensors on screen, in order.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Where keys stop: every line, a fused group at its first layer.
    pub fn stops(&self) -> &[usize] {
        &self.stops
    }

    /// How many of some tensors the filter hides.
    pub fn hidden(&self, tensors: impl Iterator<Item = usize>) -> usize {
        if self.filter.is_empty() {
            return 0;
        }
        let shown: std::collections::HashSet<usize> = self.rows.iter().copied().collect();
        tensors.filter(|tensor| !shown.contains(tensor)).count()
    }

    /// Whether the list shows, sorts or filters by a metric.
    pub fn uses(&self, id: &str) -> bool {
        self.understood.names(id)
            || self.columns.iter().chain([&self.sort.column]).any(|column| column.id() == id)
    }

    /// Whether measuring something may change which rows are shown, or their order.
    pub fn depends_on_measurements(&self) -> bool {
        self.sort.is_by_metric() || self.filter.contains(['<', '>', '=', '≤', '≥', '≠'])
    }

    /// Shows a column at the end, or takes it out; the layer's name stays.
    pub fn toggle(&mut self, column: Column) {
        if let Some(at) = self.columns.iter().position(|other| *other == column) {
            if column != Column::Layer {
                self.columns.remove(at);
            }
        } else {
            self.columns.push(column);
        }
    }

    /// Moves a column by `step` places; the name stays first.
    pub fn move_column(&mut self, column: Column, step: isize) {
        let at = self.columns.iter().position(|other| *other == column);
        let to = at.and_then(|at| at.checked_add_signed(step));
        if let (Some(at @ 1..), Some(to @ 1..)) = (at, to)
            && to < self.columns.len()
        {
            let column = self.columns.remove(at);
            self.columns.insert(to, column);
        }
    }
}

/// The lines of the list with the tensors they stand for.
#[derive(Default)]
struct Arranged {
    lines: Vec<Row>,
    rows: Vec<usize>,
    stops: Vec<usize>,
}

impl Arranged {
    /// Adds tensors in their order, the layers of a fused group where the first of them stands.
    fn add(&mut self, model: &Model, tensors: &[usize]) {
        let mut done: BTreeSet<usize> = BTreeSet::new();
        let passing: std::collections::HashSet<usize> = tensors.iter().copied().collect();
        for &tensor in tensors {
            let Some(group) = model.checkpoint.fused_index_of(tensor) else {
                self.add_tensor(tensor);
                continue;
            };
            if !done.insert(group) {
                continue;
            }
            let passes = |member: &&usize| passing.contains(*member);
            let members = &model.checkpoint.fused_groups()[group].members;
            let members: Vec<usize> = members.iter().filter(passes).copied().collect();
            self.lines.push(Row::Fused(group, members.len()));
            self.stops.push(tensor);
            if model.list.unfolded.contains(&group) || !model.is_one(group) {
                self.stops.pop();
                for member in members {
                    self.add_tensor(member);
                }
            } else {
                self.rows.extend(members);
            }
        }
    }

    fn add_tensor(&mut self, tensor: usize) {
        self.lines.push(Row::Tensor(tensor));
        self.rows.push(tensor);
        self.stops.push(tensor);
    }
}

/// Filters and sorts the list of a model again.
fn arranged(model: &Model) -> Arranged {
    let list = &model.list;
    let mut lines = Arranged::default();
    let passing = |tensors: &mut dyn Iterator<Item = usize>| {
        let mut passing: Vec<usize> =
            tensors.filter(|&tensor| list.understood.passes(model, tensor)).collect();
        list.sort.apply(model, &mut passing);
        passing
    };
    if !list.is_tree {
        lines.add(model, &passing(&mut (0..model.checkpoint.tensors().len())));
        return lines;
    }
    for family in &model.map.families {
        let tensors = passing(&mut family.tensors.iter().copied());
        if tensors.is_empty() {
            continue;
        }
        lines.lines.push(Row::Block(family.block, tensors.len()));
        if !list.folded.contains(&family.block) {
            lines.add(model, &tensors);
        }
    }
    lines
}

impl Model {
    /// Filters and sorts the list again.
    pub fn refresh_rows(&mut self) {
        let Arranged { lines, rows, stops } = arranged(self);
        (self.list.lines, self.list.rows, self.list.stops) = (lines, rows, stops);
    }

    /// Whether the layers of a fused group have one row and take their assignments together: where the target must
    /// have them alike, and elsewhere until they are split or differ.
    pub fn is_one(&self, group: usize) -> bool {
        if self.target.capabilities().fused == Agreement::Must {
            return true;
        }
        if self.split.contains(&group) {
            return false;
        }
        let members = &self.checkpoint.fused_groups()[group].members;
        let of = |member: usize| self.plan().get(&self.checkpoint.tensors()[member].name);
        let first = of(members[0]);
        members.iter().all(|&member| match (first, of(member)) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.steps == b.steps,
            (None, None) => true,
            (Some(one), None) | (None, Some(one)) => one.is_keep(),
        })
    }

    /// Whether an edit of a layer is one of its whole fused group.
    pub fn moves_as_one(&self, layer: usize) -> bool {
        self.checkpoint.fused_index_of(layer).is_some_and(|group| self.is_one(group))
    }

    /// Whether a tensor is a weight matrix.
    pub fn is_matrix(&self, tensor: usize) -> bool {
        self.checkpoint.tensors()[tensor].matrix.is_some()
    }

    /// A short name for a fused group: `3 · q k v`.
    pub fn group_name(&self, group: usize) -> String {
        let group = &self.checkpoint.fused_groups()[group];
        let place = self.checkpoint.tensors()[group.members[0]].place;
        let block = place.block.map_or_else(String::new, |block| format!("{block} · "));
        let expert = place.expert.map_or_else(String::new, |expert| format!("e{expert} · "));
        format!("{block}{expert}{}", group.kind.name())
    }
}
