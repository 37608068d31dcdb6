//! Where each tensor stands on the model map: blocks down, roles across, experts inside a cell, the rest in a tray.

use std::collections::BTreeMap;

use lapidary_engine::checkpoint::{Checkpoint, Role};

/// The tensors of a block, or those outside all blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Index of the block; `None` for what is outside.
    pub block: Option<u32>,
    /// Its tensors, in the checkpoint's order.
    pub tensors: Vec<usize>,
}

/// The places of a checkpoint's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapLayout {
    /// Columns.
    pub roles: Vec<Role>,
    /// Rows: indices of blocks.
    pub blocks: Vec<u32>,
    /// The layers of each cell, row by row; more than one for experts.
    pub cells: Vec<Vec<usize>>,
    /// Matrices outside the blocks: embeddings, the head.
    pub tray: Vec<usize>,
    /// Tensors that are no matrices: norms, biases, odd ones.
    pub odd: Vec<usize>,
    /// All tensors by block, those outside first.
    pub families: Vec<Family>,
    /// The most layers in one cell.
    pub most_in_a_cell: usize,
    order: Vec<usize>,
}

impl MapLayout {
    /// Lays out the tensors of a checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let all = || checkpoint.tensors().iter().enumerate();
        let layers = || all().filter(|(_, tensor)| tensor.matrix.is_some());
        let mut roles: Vec<Role> =
            layers().filter(|(_, t)| t.place.block.is_some()).map(|(_, t)| t.place.role).collect();
        let mut blocks: Vec<u32> = layers().filter_map(|(_, tensor)| tensor.place.block).collect();
        roles.sort_unstable();
        roles.dedup();
        blocks.sort_unstable();
        blocks.dedup();
        let mut map = Self {
            cells: vec![Vec::new(); roles.len() * blocks.len()],
            roles,
            blocks,
            odd: all().filter(|(_, tensor)| tensor.matrix.is_none()).map(|(i, _)| i).collect(),
            families: families(checkpoint),
            ..Self::default()
        };
        for (layer, tensor) in layers() {
            let row = tensor.place.block.and_then(|block| map.blocks.binary_search(&block).ok());
            match (row, map.roles.binary_search(&tensor.place.role)) {
                (Some(row), Ok(column)) => {
                    let columns = map.roles.len();
                    map.cells[row * columns + column].push(layer);
                }
                _ => map.tray.push(layer),
            }
        }
        map.most_in_a_cell = map.cells.iter().map(Vec::len).max().unwrap_or(0);
        map.order =
            map.tray.iter().chain(map.cells.iter().flatten()).chain(&map.odd).copied().collect();
        map
    }

    /// The layers of a cell.
    pub fn cell(&self, row: usize, column: usize) -> &[usize] {
        &self.cells[row * self.roles.len() + column]
    }

    /// Every tensor in the order of ranges: the tray, the cells row by row, the odd ones.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Where a layer stands among the cells: row, column, and place in the cell.
    pub fn place(&self, layer: usize) -> Option<(usize, usize, usize)> {
        let columns = self.roles.len();
        self.cells.iter().enumerate().find_map(|(cell, layers)| {
            let at = layers.binary_search(&layer).ok()?;
            Some((cell / columns, cell % columns, at))
        })
    }

    /// The layer `right` columns and `down` rows from `layer`, over empty cells; between experts one by one. From the
    /// tray, down leads into the cells, and up from the first row back.
    pub fn step(&self, layer: usize, (right, down): (isize, isize)) -> Option<usize> {
        let Some((row, column, at)) = self.place(layer) else {
            return self.step_outside(layer, (right, down));
        };
        let within = self.cell(row, column);
        let beside = at.checked_add_signed(right).filter(|_| right != 0);
        if let Some(&next) = beside.and_then(|at| within.get(at)) {
            return Some(next);
        }
        let (mut row, mut column) = (row as isize, column as isize);
        loop {
            row += down;
            column += right.signum();
            let inside = (0..self.blocks.len() as isize).contains(&row)
                && (0..self.roles.len() as isize).contains(&column);
            if !inside {
                return (row < 0).then(|| self.tray.last().copied()).flatten();
            }
            let cell = self.cell(row as usize, column as usize);
            if right < 0
                && let Some(&last) = cell.last()
            {
                return Some(last);
            }
            if let Some(&found) = cell.get(at.min(cell.len().saturating_sub(1))) {
                return Some(if right > 0 { cell[0] } else { found });
            }
        }
    }

    fn step_outside(&self, layer: usize, (right, down): (isize, isize)) -> Option<usize> {
        let shelf = if self.tray.contains(&layer) { &self.tray } else { &self.odd };
        let at = shelf.iter().position(|&other| other == layer)?;
        if down > 0 {
            return self.cells.iter().flatten().next().copied();
        }
        shelf.get(at.checked_add_signed(right + down)?).copied()
    }
}

fn families(checkpoint: &Checkpoint) -> Vec<Family> {
    let mut families: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
    for (index, tensor) in checkpoint.tensors().iter().enumerate() {
        families.entry(tensor.place.block).or_default().push(index);
    }
    families.into_iter().map(|(block, tensors)| Family { block, tensors }).collect()
}
