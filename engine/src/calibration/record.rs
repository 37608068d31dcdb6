//! Records of sites, what was run to make them, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use blake3::Hasher;
use serde::{Deserialize, Serialize};

use crate::numeric::channels::Inputs;
use crate::numeric::digits::count;
use crate::numeric::gram::Gram;

/// What was run: what the numbers depend on, and the names a person knows it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Title of the model, for a person.
    pub model: String,
    /// What tells the model's content from any other, such as a hash of its tensors.
    pub model_key: String,
    /// The texts, in order.
    pub texts: Vec<Text>,
    /// Tokens of a sequence.
    pub sequence_tokens: u64,
    /// Tokens in all.
    pub tokens: u64,
    /// Seed by which sequences are chosen.
    pub seed: u64,
    /// What the blocks before a layer are.
    pub prefix: Prefix,
    /// Whether Gram matrices are kept.
    pub has_grams: bool,
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Its name, for a person.
    pub name: String,
    /// Hash of its content.
    pub hash: String,
}

/// What the blocks before a layer are while its inputs are measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefix {
    /// The original ones.
    Original,
    /// Compressed by a plan.
    Compressed {
        /// Hash of the plan.
        plan: String,
    },
    /// Compressed by a plan as the run came to them, each with what was measured of it behind those before.
    InTurn {
        /// Hash of the plan.
        plan: String,
    },
}

impl Settings {
    /// A line about it: texts, tokens, and behind what a layer was measured.
    pub fn title(&self) -> String {
        let names: Vec<&str> = self.texts.iter().map(|text| text.name.as_str()).collect();
        let (names, tokens) = (names.join(", "), count(self.tokens));
        let behind = match self.prefix {
            Prefix::Original => "",
            Prefix::Compressed { .. } => ", behind compressed blocks",
            Prefix::InTurn { .. } => ", behind blocks compressed in turn",
        };
        match self.sequence_tokens {
            0 => format!("{names}, {tokens} tokens, imported"),
            each => format!("{names}, {tokens} tokens in sequences of {each}{behind}"),
        }
    }

    /// 32 hexadecimal digits that stand for everything the numbers depend on; names play no part.
    pub fn key(&self) -> String {
        let mut hasher = Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        text("lapidary calibration 1");
        text(&self.model_key);
        text(&self.texts.len().to_string());
        self.texts.iter().for_each(|of| text(&of.hash));
        match &self.prefix {
            Prefix::Original => text("original"),
            Prefix::Compressed { plan } => {
                text("compressed");
                text(plan);
            }
            Prefix::InTurn { plan } => {
                text("in turn");
                text(plan);
            }
        }
        text(if self.has_grams { "grams" } else { "" });
        for number in [self.sequence_tokens, self.tokens, self.seed] {
            text(&number.to_string());
        }
        hasher.finalize().to_hex().as_str()[..32].to_owned()
    }
}

/// What was measured of one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Names of the weight tensors that receive this input, at least one.
    pub layers: Vec<String>,
    /// For an expert: tokens that its router saw, of which those in `inputs` were sent here.
    pub routed_of: Option<u64>,
    /// The sums by channel. An imported record has the mean squares alone: its other lists are empty.
    pub inputs: Inputs,
    /// The Gram matrix, if it is kept and in memory.
    pub gram: Option<Gram>,
}

impl Record {
    /// Share of its router's tokens that an expert received; `None` for other layers.
    pub fn routed_share(&self) -> Option<f64> {
        self.routed_of.map(|of| self.inputs.tokens as f64 / of.max(1) as f64)
    }
}

/// Everything measured of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// What was run.
    pub settings: Settings,
    /// Whether every block was finished.
    pub is_finished: bool,
    records: Vec<Record>,
    by_layer: BTreeMap<String, usize>,
}

/// What is asked of a calibration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demands {
    /// Fewest tokens of a layer.
    pub least_tokens: u64,
    /// Largest change of the mean squares from half of the tokens to all, relative.
    pub most_change: f64,
}

/// What is wrong with the data of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// There is no record.
    Missing {
        /// The tensor.
        layer: String,
    },
    /// No token came by.
    NoTokens {
        /// The tensor.
        layer: String,
    },
    /// Fewer tokens than were asked for.
    FewTokens {
        /// The tensor.
        layer: String,
        /// Tokens there were.
        tokens: u64,
        /// Tokens asked for.
        least: u64,
    },
    /// Inputs are NaN or infinite.
    NotFinite {
        /// The tensor.
        layer: String,
        /// How many values.
        values: u64,
    },
    /// The mean squares still move.
    NotConverged {
        /// The tensor.
        layer: String,
        /// Their relative change from half of the tokens to all.
        change: f64,
    },
}

impl Problem {
    /// The tensor it is about.
    pub fn layer(&self) -> &str {
        match self {
            Self::Missing { layer }
            | Self::NoTokens { layer }
            | Self::FewTokens { layer, .. }
            | Self::NotFinite { layer, .. }
            | Self::NotConverged { layer, .. } => layer,
        }
    }

    /// For a person, a line with a full stop.
    pub fn sentence(&self) -> String {
        match self {
            Self::Missing { layer } => format!("{layer} was not calibrated."),
            Self::NoTokens { layer } => format!("{layer} received no token."),
            Self::FewTokens { layer, tokens, least } => {
                format!("{layer} received {tokens} tokens, fewer than {least}.")
            }
            Self::NotFinite { layer, values } => {
                format!("{layer} received {values} values that are NaN or infinite.")
            }
            Self::NotConverged { layer, change } => format!(
                "The mean squares of {layer} changed by {:.1} % over the second half of the text.",
                100.0 * change
            ),
        }
    }
}

impl Calibration {
    /// All records of a run. Of two records of one layer the later counts.
    pub fn new(settings: Settings, records: Vec<Record>, is_finished: bool) -> Self {
        let names = |(at, record): (usize, &Record)| {
            record.layers.iter().map(move |layer| (layer.clone(), at)).collect::<Vec<_>>()
        };
        let by_layer = records.iter().enumerate().flat_map(names).collect();
        Self { settings, is_finished, records, by_layer }
    }

    /// The record of the tensor of this name.
    pub fn record(&self, layer: &str) -> Option<&Record> {
        self.by_layer.get(layer).map(|&at| &self.records[at])
    }

    /// All records, in the order they were made.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What is wrong with the data of `layers`, in their order, several for one layer where need be; of layers that
    /// share an input only the first is named, unless it has no record.
    pub fn problems<'a>(
        &self,
        layers: impl IntoIterator<Item = &'a str>,
        demands: &Demands,
    ) -> Vec<Problem> {
        let (mut problems, mut seen) = (Vec::new(), BTreeSet::new());
        for layer in layers {
            match self.by_layer.get(layer) {
                None => problems.push(Problem::Missing { layer: layer.to_owned() }),
                Some(&at) if seen.insert(at) => {
                    problems.extend(problems_of(layer, &self.records[at].inputs, demands));
                }
                Some(_) => {}
            }
        }
        problems
    }
}

fn problems_of(layer: &str, inputs: &Inputs, demands: &Demands) -> Vec<Problem> {
    let layer = || layer.to_owned();
    let (tokens, least) = (inputs.tokens, demands.least_tokens);
    let mut found = Vec::new();
    if tokens == 0 {
        found.push(Problem::NoTokens { layer: layer() });
    } else if tokens < least {
        found.push(Problem::FewTokens { layer: layer(), tokens, least });
    }
    let values: u64 = inputs.not_finite.iter().sum();
    // An imported importance matrix says so by its sums.
    let bad = inputs.mean_square.iter().filter(|square| !square.is_finite()).count() as u64;
    if values.max(bad) > 0 {
        found.push(Problem::NotFinite { layer: layer(), values: values.max(bad) });
    }
    if let Some(change) = inputs.change_after(0.5).filter(|change| *change > demands.most_change) {
        found.push(Problem::NotConverged { layer: layer(), change });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::channels::Channels;
    use crate::numeric::seeds::Random;
    use ndarray::Array2;

    fn settings() -> Settings {
        Settings {
            model: "a".to_owned(),
            model_key: "1".to_owned(),
            texts: vec![Text { name: "t".to_owned(), hash: "h".to_owned() }],
            sequence_tokens: 128,
            tokens: 1024,
            seed: 0,
            prefix: Prefix::Original,
            has_grams: false,
        }
    }

    fn record(layers: &[&str], tokens: usize, spoil: impl Fn(&mut Array2<f32>)) -> Record {
        let mut random = Random::new(1);
        let mut x = Array2::from_shape_simple_fn((tokens, 8), || random.normal() as f32);
        spoil(&mut x);
        let mut sums = Channels::new(8);
        x.axis_chunks_iter(ndarray::Axis(0), 50).for_each(|piece| sums.add(piece));
        let layers = layers.iter().map(|&layer| layer.to_owned()).collect();
        Record { layers, routed_of: Some(400), inputs: sums.statistics(), gram: None }
    }

    #[test]
    fn the_key_is_of_content_and_not_of_names() {
        let key = settings().key();
        let of = |change: &dyn Fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            changed.key()
        };
        assert_eq!(of(&|s| s.model.push('x')), key);
        assert_eq!(of(&|s| s.texts[0].name.push('x')), key);
        let changed = [
            of(&|s| s.model_key.push('x')),
            of(&|s| s.texts[0].hash.push('x')),
            of(&|s| s.texts.clear()),
            of(&|s| s.sequence_tokens += 1),
            of(&|s| s.tokens += 1),
            of(&|s| s.seed += 1),
            of(&|s| s.has_grams = true),
            of(&|s| s.prefix = Prefix::Compressed { plan: "p".to_owned() }),
            of(&|s| s.prefix = Prefix::Compressed { plan: "q".to_owned() }),
            of(&|s| s.prefix = Prefix::InTurn { plan: "q".to_owned() }),
        ];
        let all: BTreeSet<&String> = changed.iter().chain([&key]).collect();
        assert_eq!(all.len(), changed.len() + 1);
    }

    #[test]
    fn problems_are_named_once_for_an_input() {
        let records = vec![
            record(&["q", "k"], 4000, |_| {}),
            record(&["none"], 0, |_| {}),
            record(&["few"], 20, |x| x[[3, 3]] = f32::NAN),
            record(&["moves"], 400, |x| x.row_mut(399).fill(50.0)),
        ];
        let calibration = Calibration::new(settings(), records, true);
        assert_eq!(calibration.record("k"), calibration.record("q"));
        assert_eq!(calibration.record("few").unwrap().routed_share(), Some(0.05));
        let demands = Demands { least_tokens: 100, most_change: 0.1 };
        let layers = ["q", "k", "none", "few", "moves", "gone"];
        let problems = calibration.problems(layers, &demands);
        let named: Vec<&str> = problems.iter().map(Problem::layer).collect();
        assert_eq!(named, ["none", "few", "few", "moves", "gone"]);
        assert!(matches!(problems[0], Problem::NoTokens { .. }));
        assert!(matches!(problems[1], Problem::FewTokens { tokens: 20, least: 100, .. }));
        assert!(matches!(problems[2], Problem::NotFinite { values: 1, .. }));
        assert!(matches!(problems[3], Problem::NotConverged { change, .. } if change > 0.5));
        assert!(problems.iter().all(|problem| problem.sentence().ends_with('.')));
    }
}
