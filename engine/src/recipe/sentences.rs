//! What one side says and the other cannot, gathered and put into few sentences that name the layers.

/// Names of a sentence; the others are counted.
const NAMED: usize = 5;

/// Sentences in the making.
#[derive(Debug, Default)]
pub(super) struct Unsaid(Vec<Sentence>);

#[derive(Debug)]
struct Sentence {
    before: String,
    after: String,
    names: Vec<String>,
}

impl Unsaid {
    /// A whole sentence; said once.
    pub(super) fn say(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.0.iter().any(|old| old.names.is_empty() && old.before == sentence) {
            self.0.push(Sentence { before: sentence, after: String::new(), names: Vec::new() });
        }
    }

    /// One more name of the sentence `before … names … after`; the same twice in a row counts once.
    pub(super) fn of(&mut self, before: &str, name: &str, after: &str) {
        let same = |old: &&mut Sentence| {
            !old.names.is_empty() && old.before == before && old.after == after
        };
        match self.0.iter_mut().find(same) {
            Some(sentence) if sentence.names.last().is_some_and(|last| last == name) => {}
            Some(sentence) => sentence.names.push(name.to_owned()),
            None => self.0.push(Sentence {
                before: before.to_owned(),
                after: after.to_owned(),
                names: vec![name.to_owned()],
            }),
        }
    }

    /// The sentences, in the order in which they were begun; names may hold anything, a sentence is one line.
    pub(super) fn sentences(self) -> Vec<String> {
        let text = |sentence: Sentence| {
            let Sentence { before, after, names } = sentence;
            let text =
                if names.is_empty() { before } else { format!("{before}{}{after}", list(&names)) };
            text.replace(char::is_control, "?")
        };
        self.0.into_iter().map(text).collect()
    }
}

/// `a`, `a and b`, `a, b and 3 more`.
fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [name] => name.clone(),
        [names @ .., last] if names.len() < NAMED => format!("{} and {last}", names.join(", ")),
        _ => format!("{} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_gathered_and_counted() {
        let mut unsaid = Unsaid::default();
        unsaid.say("Once.");
        unsaid.say("Once.");
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            unsaid.of("Of ", name, ".");
        }
        unsaid.of("Only ", "x", ".");
        unsaid.of("Two: ", "x", "");
        unsaid.of("Two: ", "y", "");
        let expected = ["Once.", "Of a, b, c, d, e and 2 more.", "Only x.", "Two: x and y"];
        assert_eq!(unsaid.sentences(), expected);
    }
}
