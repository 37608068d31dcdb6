//! Sequences a model is run on, cut from encoded documents. In: tokens of each document, a length, a budget.
//! Out: sequences of ids with how much text their scored tokens cover. Never encodes.
//!
//! Documents are joined in their order, as language-modelling sets are scored; a sequence may hold the end of one
//! document and the beginning of the next. Sequences do not overlap: the k-th begins at token k · length.

use super::{Extent, Token};
use crate::error::{Error, Result};
use crate::numeric::seeds::Random;

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens a sequence, at least 2.
    pub length: usize,
    /// The most tokens in all; no limit if `None`.
    pub budget: Option<usize>,
    /// A token put before each sequence, as part of its length, such as [`super::Tokenizer::begin`] for models that
    /// were never trained without it.
    pub begin: Option<u32>,
    /// Which sequences, in which order.
    pub order: Order,
}

/// Which sequences, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the beginning of the text, in its order.
    InText(Rest),
    /// Whole sequences drawn at random without putting back. A smaller budget draws the first of the same sequences.
    Sampled {
        /// Of the drawing.
        seed: u64,
    },
}

/// What becomes of the last tokens, fewer than a whole sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Left out, as in most published perplexities: every scored token then has the same range of contexts.
    Dropped,
    /// Kept if at least one token of it is scored.
    Kept,
}

impl Cut {
    /// To score a text: whole sequences in order.
    pub fn scoring(length: usize) -> Self {
        Self { length, budget: None, begin: None, order: Order::InText(Rest::Dropped) }
    }

    /// To calibrate: at least `budget` tokens in sequences drawn by `seed`, or all there are.
    pub fn calibration(length: usize, budget: usize, seed: u64) -> Self {
        Self { length, budget: Some(budget), begin: None, order: Order::Sampled { seed } }
    }

    /// Tokens of the text in a whole sequence.
    fn of_text(&self) -> usize {
        self.length - usize::from(self.begin.is_some())
    }
}

/// Ids a model is run on as one. Every token but the first is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The ids.
    pub ids: Vec<u32>,
    /// Where its first token of the text stands among those of all documents.
    pub at: usize,
    /// The text that its scored tokens cover.
    pub scored: Extent,
}

/// What was cut; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// The sequences.
    pub list: Vec<Sequence>,
    /// Tokens of the documents, whether they came into a sequence or not.
    pub available: usize,
}

impl Sequences {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.list.iter().map(|sequence| sequence.ids.len()).sum()
    }

    /// Tokens that are scored: all but the first of each sequence.
    pub fn scored_tokens(&self) -> usize {
        self.tokens() - self.list.len()
    }

    /// The text that the scored tokens cover: Σ nats / ln 2 / characters are bits per character.
    pub fn scored(&self) -> Extent {
        self.list.iter().map(|sequence| sequence.scored).sum()
    }
}

/// Cuts documents into sequences. A text to score that is shorter than a sequence is one sequence.
///
/// # Errors
/// [`Error::Plan`] for a length below 2, for fewer than 2 tokens, and to calibrate for fewer than a sequence.
pub fn cut(documents: &[Vec<Token>], how: &Cut) -> Result<Sequences> {
    if how.length < 2 {
        return Err(Error::plan(
            format!("a sequence of {} tokens predicts nothing", how.length),
            "choose a length of 2 or more",
        ));
    }
    let tokens: Vec<Token> = documents.iter().flatten().copied().collect();
    let starts = match how.order {
        Order::InText(rest) => in_text(tokens.len(), how, rest)?,
        Order::Sampled { seed } => sampled(tokens.len(), how, seed)?,
    };
    let list = starts.into_iter().map(|(at, n)| sequence(&tokens[at..at + n], at, how.begin));
    Ok(Sequences { list: list.collect(), available: tokens.len() })
}

/// Begin and tokens of each sequence, in order.
fn in_text(available: usize, how: &Cut, rest: Rest) -> Result<Vec<(usize, usize)>> {
    let each = how.of_text();
    let least = 2 - usize::from(how.begin.is_some());
    // The budget counts what is put before, too.
    let whole = how.budget.map_or(usize::MAX, |budget| budget / how.length);
    let over = how.budget.map_or(0, |budget| budget % how.length).saturating_sub(how.length - each);
    let taken = available.min(whole.saturating_mul(each).saturating_add(over));
    if taken < least {
        return Err(Error::plan(
            format!(
                "the text has {available} tokens and {taken} of them may be taken, too few to score one"
            ),
            "give a longer text, or raise the number of tokens",
        ));
    }
    let n = taken / each;
    let mut starts: Vec<(usize, usize)> = (0..n).map(|k| (k * each, each)).collect();
    let left = taken - n * each;
    if left >= least && (rest == Rest::Kept || n == 0) {
        starts.push((n * each, left));
    }
    Ok(starts)
}

/// The same for sequences drawn by a Fisher-Yates shuffle that stops at the budget.
fn sampled(available: usize, how: &Cut, seed: u64) -> Result<Vec<(usize, usize)>> {
    let each = how.of_text();
    let n = available / each;
    if n == 0 {
        return Err(Error::plan(
            format!("the text has {available} tokens, fewer than one sequence of {}", how.length),
            "give a longer text, or choose shorter sequences",
        ));
    }
    let drawn = how.budget.map_or(n, |budget| budget.div_ceil(how.length)).clamp(1, n);
    let mut order: Vec<usize> = (0..n).collect();
    let mut random = Random::new(seed);
    for at in 0..drawn {
        let other = at + (random.uniform() * (n - at) as f64) as usize;
        order.swap(at, other.min(n - 1));
    }
    Ok(order[..drawn].iter().map(|k| (k * each, each)).collect())
}

fn sequence(tokens: &[Token], at: usize, begin: Option<u32>) -> Sequence {
    let ids = begin.into_iter().chain(tokens.iter().map(|token| token.id)).collect();
    let unscored = usize::from(begin.is_none());
    let scored = tokens.iter().skip(unscored).map(|token| token.covers).sum();
    Sequence { ids, at, scored }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(ids: std::ops::Range<u32>) -> Vec<Token> {
        let covers = |id: u32| Extent { bytes: 2 * u64::from(id), characters: u64::from(id) };
        ids.map(|id| Token { id, covers: covers(id) }).collect()
    }

    fn ids(sequences: &Sequences) -> Vec<Vec<u32>> {
        sequences.list.iter().map(|sequence| sequence.ids.clone()).collect()
    }

    #[test]
    fn sequences_go_through_the_joined_documents() {
        let documents = [document(0..5), document(5..11)];
        let cut = |rest| cut(&documents, &Cut { order: Order::InText(rest), ..Cut::scoring(4) });
        let dropped = cut(Rest::Dropped).unwrap();
        assert_eq!(ids(&dropped), [vec![0, 1, 2, 3], vec![4, 5, 6, 7]]);
        assert_eq!((dropped.available, dropped.tokens(), dropped.scored_tokens()), (11, 8, 6));
        assert_eq!(dropped.scored(), Extent { bytes: 48, characters: 1 + 2 + 3 + 5 + 6 + 7 });
        let kept = cut(Rest::Kept).unwrap();
        assert_eq!(ids(&kept)[2], [8, 9, 10]);
        assert_eq!(kept.list[2].at, 8);
    }

    #[test]
    fn a_token_put_before_is_part_of_the_length_and_not_scored() {
        let how = Cut { begin: Some(99), ..Cut::scoring(4) };
        let sequences = cut(&[document(1..8)], &how).unwrap();
        assert_eq!(ids(&sequences), [vec![99, 1, 2, 3], vec![99, 4, 5, 6]]);
        assert_eq!(sequences.scored().characters, 21, "every token of the text is scored");
    }

    #[test]
    fn a_short_text_is_scored_whole_and_refused_for_calibration() {
        let three = [document(0..3)];
        assert_eq!(ids(&cut(&three, &Cut::scoring(256)).unwrap()), [vec![0, 1, 2]]);
        let sentence = cut(&three, &Cut::calibration(256, 1000, 0)).unwrap_err().sentence();
        assert!(sentence.contains("3 tokens") && sentence.contains("256"), "{sentence}");
        assert!(cut(&[document(0..1)], &Cut::scoring(256)).is_err());
        assert!(cut(&[document(0..9)], &Cut::scoring(1)).is_err());
    }

    #[test]
    fn budgets_bound_what_is_scored_and_are_reached_by_what_calibrates() {
        let text = [document(0..100)];
        for budget in 2..130 {
            let how =
                Cut { budget: Some(budget), order: Order::InText(Rest::Kept), ..Cut::scoring(7) };
            let tokens = cut(&text, &how).unwrap().tokens();
            assert!(tokens <= budget && tokens + 1 >= budget.min(100), "{tokens} of {budget}");
            let drawn = cut(&text, &Cut::calibration(7, budget, 3)).unwrap().tokens();
            assert!((budget.min(98)..budget + 7).contains(&drawn), "{drawn} for {budget}");
        }
    }
}
