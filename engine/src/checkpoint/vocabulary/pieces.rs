//! Pieces of sentencepiece: their scores, which a tokenizer.json no longer has.
//!
//! sentencepiece joins the two neighbours whose piece has the highest score; a tokenizer.json the two whose merge
//! stands first. Both do the same where merges are in the order of pieces, every way to make a piece is a merge, and the
//! score of a piece is minus the place of its merges. The first two are checked here.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::vocabulary::{BYTE, Model, NORMAL, UNKNOWN, Vocabulary, refused};
use crate::error::Result;

/// The type of a piece: a byte, the one for the unknown, or a normal one.
pub(super) fn kind(token: &str, model: &Model) -> i32 {
    if model.unk_token.as_deref() == Some(token) {
        UNKNOWN
    } else if is_byte(token) {
        BYTE
    } else {
        NORMAL
    }
}

/// Whether a token is a byte, as `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}

/// The score of each token: minus the place of its first merge; those that no merge makes come after all others.
///
/// # Errors
/// Where sentencepiece's rule would join others than the merges do.
pub(super) fn scores(vocabulary: &Vocabulary) -> Result<Vec<f32>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut before = None;
    for (place, (left, right)) in vocabulary.merges.iter().enumerate() {
        let made = format!("{left}{right}");
        if before.as_ref() == Some(&made) {
            continue;
        }
        if places.insert(made.clone(), place).is_some() {
            return Err(refused(format!("the merges that make {made:?} do not stand together")));
        }
        before = Some(made);
    }
    every_way_is_a_merge(vocabulary)?;
    let last = vocabulary.merges.len();
    let mut scores: Vec<f32> =
        (0..vocabulary.tokens.len()).map(|id| -((last + id) as f32)).collect();
    for (token, &id) in &vocabulary.ids {
        if let Some(&place) = places.get(token) {
            scores[id as usize] = -(place as f32);
        }
    }
    Ok(scores)
}

/// Cost: the characters of all tokens times the logarithm of their number.
fn every_way_is_a_merge(vocabulary: &Vocabulary) -> Result<()> {
    let merges: BTreeSet<(&str, &str)> =
        vocabulary.merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    let is_piece = |token: &str| {
        let id = vocabulary.ids.get(token);
        id.is_some_and(|&id| vocabulary.types[id as usize] == NORMAL)
    };
    for token in vocabulary.ids.keys().filter(|token| is_piece(token)) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let missing = |(left, right): &(&str, &str)| {
            is_piece(left) && is_piece(right) && !merges.contains(&(*left, *right))
        };
        if let Some((left, right)) = cuts.into_iter().find(missing) {
            return Err(refused(format!(
                "{left:?} and {right:?} have no merge, and sentencepiece would join them"
            )));
        }
    }
    Ok(())
}
