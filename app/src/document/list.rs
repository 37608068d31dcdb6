//! The layer list: which columns, a tree by block or one flat list, which rows.

use std::collections::BTreeSet;

use crate::document::columns::{Column, Sort};
use crate::document::filter::Filter;
use crate::document::model::Model;

/// A line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The head of a block, or of what is outside the blocks, with the number of its tensors that pass the filter.
    Block(Option<u32>, usize),
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
    /// The text of the filter.
    pub filter: String,
    /// Why the filter was not understood; the rows are those of the last one that was.
    pub mistake: Option<String>,
    understood: Filter,
    lines: Vec<Row>,
    rows: Vec<usize>,
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
            filter: String::new(),
            mistake: None,
            understood: Filter::default(),
            lines: Vec::new(),
            rows: Vec::new(),
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

/// Filters and sorts the list of a model again.
fn lines(model: &Model) -> (Vec<Row>, Vec<usize>) {
    let list = &model.list;
    let mut lines = Vec::new();
    let mut rows = Vec::new();
    let passing = |tensors: &mut dyn Iterator<Item = usize>| {
        let mut passing: Vec<usize> =
            tensors.filter(|&tensor| list.understood.passes(model, tensor)).collect();
        list.sort.apply(model, &mut passing);
        passing
    };
    if !list.is_tree {
        rows = passing(&mut (0..model.checkpoint.tensors().len()));
        lines.extend(rows.iter().map(|&tensor| Row::Tensor(tensor)));
        return (lines, rows);
    }
    for family in &model.map.families {
        let tensors = passing(&mut family.tensors.iter().copied());
        if tensors.is_empty() {
            continue;
        }
        lines.push(Row::Block(family.block, tensors.len()));
        if !list.folded.contains(&family.block) {
            lines.extend(tensors.iter().map(|&tensor| Row::Tensor(tensor)));
            rows.extend(tensors);
        }
    }
    (lines, rows)
}

impl Model {
    /// Filters and sorts the list again.
    pub fn refresh_rows(&mut self) {
        let (lines, rows) = lines(self);
        (self.list.lines, self.list.rows) = (lines, rows);
    }
}
