//! Layers that belong together: fused groups and tied embeddings.

use std::collections::BTreeMap;

use crate::checkpoint::{Config, Role, Tensor};

/// Why layers are fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FusedKind {
    /// Query, key and value projections.
    Qkv,
    /// Gate and up projections.
    GateUp,
}

impl FusedKind {
    /// Its name on screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qkv => "q k v",
            Self::GateUp => "gate up",
        }
    }

    fn of(role: Role) -> Option<Self> {
        match role {
            Role::Q | Role::K | Role::V => Some(Self::Qkv),
            Role::Gate | Role::Up => Some(Self::GateUp),
            _ => None,
        }
    }
}

/// Layers that runtimes store and run as one matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedGroup {
    /// Why they are fused.
    pub kind: FusedKind,
    /// Indices of the tensors, in the order of their roles.
    pub members: Vec<usize>,
}

/// An embedding that serves as the head too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tied {
    /// The embedding.
    pub embedding: usize,
    /// A head that is in the file all the same; loaders ignore it.
    pub head: Option<usize>,
}

/// Matrices of the same module with the same inputs: q/k/v, gate/up.
pub(super) fn fused_groups(tensors: &[Tensor]) -> Vec<FusedGroup> {
    let mut groups: BTreeMap<(usize, FusedKind, &str), Vec<usize>> = BTreeMap::new();
    let mut first: BTreeMap<(&str, FusedKind), usize> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let (Some(kind), Some(_)) = (FusedKind::of(tensor.place.role), tensor.matrix) else {
            continue;
        };
        let parent = tensor.module().rsplit_once('.').map_or("", |(parent, _)| parent);
        let at = *first.entry((parent, kind)).or_insert(index);
        groups.entry((at, kind, parent)).or_default().push(index);
    }
    let inputs = |index: &usize| tensors[*index].matrix.map(|matrix| matrix.shape.cols);
    groups
        .into_iter()
        .map(|((_, kind, _), members)| FusedGroup { kind, members })
        .filter(|group| {
            group.members.len() > 1
                && group.members.iter().all(|i| inputs(i) == inputs(&group.members[0]))
        })
        .collect()
}

/// The tied embedding: where config.json says so, or where a text generator has an embedding and no head.
pub(super) fn tied(tensors: &[Tensor], config: Option<&Config>) -> Option<Tied> {
    let find = |role: Role| tensors.iter().position(|t| t.place.role == role && t.matrix.is_some());
    let embedding = find(Role::Embedding)?;
    let head = find(Role::Head);
    let config = config?;
    let is_tied = config.ties_embeddings().unwrap_or(head.is_none() && config.is_causal());
    is_tied.then_some(Tied { embedding, head })
}
