//! Where each layer stands on the model map: blocks down, roles across, the rest in a tray.

use lapidary_engine::checkpoint::{Checkpoint, Role};

/// The places of a checkpoint's weight matrices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapLayout {
    /// Columns.
    pub roles: Vec<Role>,
    /// Rows: indices of blocks.
    pub blocks: Vec<u32>,
    /// The layers of each cell, row by row; more than one for experts.
    pub cells: Vec<Vec<usize>>,
    /// Matrices outside the blocks.
    pub tray: Vec<usize>,
}

impl MapLayout {
    /// Lays out the weight matrices of a checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let layers = || {
            checkpoint.tensors().iter().enumerate().filter(|(_, tensor)| tensor.matrix.is_some())
        };
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
            tray: Vec::new(),
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
        map
    }

    /// The layers of a cell.
    pub fn cell(&self, row: usize, column: usize) -> &[usize] {
        &self.cells[row * self.roles.len() + column]
    }

    /// Every layer, row by row, the tray first: the order of ranges.
    pub fn order(&self) -> Vec<usize> {
        self.tray.iter().chain(self.cells.iter().flatten()).copied().collect()
    }
}
