//! What a rule speaks of: a layer by name, names of a shape, a role, or everything else.

use std::fmt;

use crate::checkpoint::{Role, Tensor};
use crate::error::{Error, Result};

/// Before the name of a role in a written pattern.
const ROLE: &str = "role:";
/// The written pattern that matches everything.
const DEFAULT: &str = "default";

/// Which layers a rule is for. Written `model.layers.0.mlp.down_proj.weight`, `*.down_proj.weight`, `role:down`,
/// `default`; the first kind outranks the second, and so on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// One layer, by the name of its tensor.
    Exact(String),
    /// Every layer whose name fits; `*` stands for any characters.
    Glob(String),
    /// Every layer of a role.
    Role(Role),
    /// Every layer.
    Default,
}

impl Pattern {
    /// Reads a pattern as it is written.
    ///
    /// # Errors
    /// [`Error::Plan`] for a role there is not, and for nothing.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::plan(
                "a rule without a pattern",
                "write default to mean every layer",
            ));
        }
        if let Some(role) = text.strip_prefix(ROLE) {
            let role = role.trim();
            let found = Role::ALL.into_iter().find(|known| known.name() == role);
            return found.map(Self::Role).ok_or_else(|| {
                let known: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
                let what = format!("there is no role {role:?}");
                Error::plan(what, format!("choose one of {}", known.join(", ")))
            });
        }
        Ok(match text {
            DEFAULT => Self::Default,
            glob if glob.contains('*') => Self::Glob(glob.to_owned()),
            name => Self::Exact(name.to_owned()),
        })
    }

    /// Whether it speaks of this tensor. Patterns other than exact names speak of weight matrices only: `*` must not
    /// trip over a norm.
    pub fn matches(&self, tensor: &Tensor) -> bool {
        match self {
            Self::Exact(name) => *name == tensor.name,
            _ if tensor.matrix.is_none() => false,
            Self::Glob(glob) => fits(glob, &tensor.name),
            Self::Role(role) => tensor.place.role == *role,
            Self::Default => true,
        }
    }

    /// The rank of its kind: the lower outranks the higher, whatever their order.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Exact(_) => 0,
            Self::Glob(_) => 1,
            Self::Role(_) => 2,
            Self::Default => 3,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Glob(text) => f.write_str(text),
            Self::Role(role) => write!(f, "{ROLE}{role}"),
            Self::Default => f.write_str(DEFAULT),
        }
    }
}

/// Whether `name` fits `glob`, in which `*` stands for any characters: greedy with one step back.
fn fits(glob: &str, name: &str) -> bool {
    let mut pieces = glob.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_characters() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("*.down_proj.weight", "model.layers.0.mlp.down_proj.weight", true),
            ("*.down_proj", "model.layers.0.mlp.down_proj.weight", false),
            ("model.layers.*.mlp.*.weight", "model.layers.12.mlp.up_proj.weight", true),
            ("model.layers.1.*", "model.layers.12.mlp.up_proj.weight", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn patterns_read_as_they_are_written() {
        for (text, rank) in [("a.b.weight", 0), ("a.*.weight", 1), ("role:down", 2), ("default", 3)]
        {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!((pattern.to_string().as_str(), pattern.rank()), (text, rank));
        }
        let error = Pattern::parse("role:dwon").unwrap_err().sentence();
        assert!(error.contains("\"dwon\"") && error.contains("gate_up, down, router"), "{error}");
        assert!(Pattern::parse("  ").is_err());
    }
}
