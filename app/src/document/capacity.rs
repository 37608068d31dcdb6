//! What forms can hold of a layer or of values whose bounds are known: what is shown, and what was found.

use std::collections::BTreeMap;

use lapidary_engine::job::{self, Held, Source};

/// What the person wants held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The layer in the inspector.
    #[default]
    Layer,
    /// Values whose bounds are known.
    Source(Source),
}

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Values {
    /// A layer.
    Layer(usize),
    /// Values whose bounds are known.
    Source(Source),
}

impl Values {
    /// The source whose bound they have: normal values stand for weights.
    pub fn source(self) -> Source {
        match self {
            Self::Layer(_) => Source::Normal,
            Self::Source(source) => source,
        }
    }
}

/// What was found of some values so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The forms that hold them, by bits.
    pub held: Vec<Held>,
    /// Bits and distortion of uniform quantisers with an ideal entropy coder.
    pub entropy_coded: Vec<[f64; 2]>,
    /// Forms tried.
    pub tried: usize,
    /// Forms there are.
    pub of: usize,
    /// Why it went no further.
    pub failure: Option<String>,
}

impl Found {
    /// Whether nothing is left to be tried.
    pub fn is_complete(&self) -> bool {
        self.failure.is_some() || (self.of > 0 && self.tried == self.of)
    }
}

/// A piece of what is found.
#[derive(Clone, Debug)]
pub enum News {
    /// What an ideal entropy coder makes of them, and how many forms there are.
    Begun(Vec<[f64; 2]>, usize),
    /// One more form was tried, and held them or refused.
    Tried(Option<Box<Held>>),
    /// It goes no further.
    Failed(String),
}

/// The panel.
#[derive(Debug, Default)]
pub struct Capacity {
    /// What the person wants held.
    pub choice: Choice,
    /// Id of the method whose forms stand out.
    pub highlighted: Option<&'static str>,
    /// What forms are tried on now.
    pub in_flight: Option<Values>,
    found: BTreeMap<Values, Found>,
}

impl Capacity {
    /// What is to be held with this layer in the inspector.
    pub fn values(&self, layer: usize) -> Values {
        match self.choice {
            Choice::Layer => Values::Layer(layer),
            Choice::Source(source) => Values::Source(source),
        }
    }

    /// What is known of some values.
    pub fn found(&self, values: Values) -> Option<&Found> {
        self.found.get(&values)
    }

    /// Whether forms are left to be tried on some values.
    pub fn lacks(&self, values: Values) -> bool {
        !self.found(values).is_some_and(Found::is_complete)
    }

    /// How many forms were tried on some values.
    pub fn tried(&self, values: Values) -> usize {
        self.found(values).map_or(0, |found| found.tried)
    }

    /// Takes in what was found.
    pub fn take(&mut self, values: Values, news: News) {
        let found = self.found.entry(values).or_default();
        match news {
            News::Begun(entropy_coded, of) => {
                (found.entropy_coded, found.of) = (entropy_coded, of);
            }
            News::Tried(held) => {
                found.tried += 1;
                if let Some(held) = held {
                    found.held.push(*held);
                    job::by_bits(&mut found.held);
                }
            }
            News::Failed(sentence) => found.failure = Some(sentence),
        }
        if found.is_complete() && self.in_flight == Some(values) {
            self.in_flight = None;
        }
    }
}
