//! Runs that are kept: what was run on which text, and what came out, window by window, so that any two can be paired.
//! One file each, `<root>/<model key>/<time>-<hash>.json`; they appear whole, and what is damaged reads as absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Error, Result};
use crate::evaluation::{BlockScore, Evaluation, Figure, OutputError};
use crate::numeric::distributions::within_student;

const FORMAT: &str = "lapidary run 1";
const ENDING: &str = ".json";
/// The largest file that is read: some 100,000 windows.
const MAX_BYTES: u64 = 64 << 20;
/// Files of one model that are read.
const MAX_RUNS: usize = 10_000;
/// What lies in the middle of an interval's distribution.
const CONFIDENCE: f64 = 0.95;

/// A text that was run, and how it was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRun {
    /// What to call it.
    pub name: String,
    /// Of its content.
    pub fingerprint: String,
    /// Of the tokenizer's rules.
    pub tokenizer: String,
    /// Tokens of a window.
    pub length: usize,
    /// The most tokens that were to be taken.
    pub limit: Option<usize>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What was run, for a person: `the original`, `4-bit g128`.
    pub label: String,
    /// A hash of what was run: the same plan has the same.
    pub subject: String,
    /// Key of the model it was made from; see [`crate::calibration::model_key`].
    pub model_key: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// Effective bits per weight.
    pub bits_per_weight: f64,
    /// What it was held against; `None` if nothing.
    pub reference: Option<String>,
    /// The text.
    pub text: TextRun,
    /// When it ended, in seconds since 1970-01-01 UTC.
    pub seconds: u64,
    /// The figures, by window.
    pub evaluation: Evaluation,
    /// Output error by layer, if it was asked for.
    pub layers: BTreeMap<String, OutputError>,
    /// What each block does, if it was asked for.
    pub blocks: Vec<BlockScore>,
    /// What the plan gave each layer that it did not keep, as the JSON of its steps; `None` where a checkpoint was run
    /// as it is, and for runs from before this was kept.
    #[serde(default)]
    pub assignments: Option<BTreeMap<String, String>>,
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    format: String,
    record: T,
}

/// A run with the name it is kept under.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The name of its file.
    pub id: String,
    /// What was run and found.
    pub record: RunRecord,
}

impl RunRecord {
    /// Whether two runs scored the same tokens, so that their windows can be paired.
    pub fn is_comparable(&self, other: &Self) -> bool {
        let same = self.text.fingerprint == other.text.fingerprint
            && self.text.tokenizer == other.text.tokenizer
            && self.text.length == other.text.length;
        same && self.evaluation.nats_beyond(&other.evaluation).is_some()
    }

    /// Nats per token beyond those of another run on the same windows.
    pub fn nats_beyond(&self, other: &Self) -> Option<Figure> {
        let difference = self.evaluation.nats_beyond(&other.evaluation);
        difference.filter(|_| self.is_comparable(other))
    }

    /// The name it is kept under: by time, then by what it holds.
    fn id(&self, bytes: &[u8]) -> String {
        let hash = blake3::hash(bytes).to_hex();
        format!("{:012}-{}", self.seconds, &hash.as_str()[..12])
    }
}

impl Figure {
    /// Half the width of the interval that holds the true mean 95 times of 100, by Student's t for n windows with n − 1
    /// degrees of freedom; NaN of a single window.
    pub fn margin(&self) -> f64 {
        let degrees = if self.windows > 1 { self.windows - 1 } else { usize::MAX };
        within_student(CONFIDENCE, degrees) * self.error
    }

    /// Whether a difference may as well be none: the interval holds zero, or there is no interval.
    pub fn is_tie(&self) -> bool {
        self.value == 0.0 || self.error.is_nan() || self.value.abs() <= self.margin()
    }
}

/// A hash of what was run, from whatever tells it from others.
pub fn subject_key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().to_hex().as_str()[..32].to_owned()
}

/// Every run of a model, the first first.
pub fn runs(root: &Path, model_key: &str) -> Vec<Kept> {
    let Some(folder) = folder(root, model_key) else {
        return Vec::new();
    };
    let files = disk::list_files(&folder).unwrap_or_default();
    let read = |(name, _): (String, u64)| {
        let id = name.strip_suffix(ENDING)?.to_owned();
        let text = disk::read_text(&folder.join(&name), MAX_BYTES).ok()?;
        let file: File<RunRecord> = serde_json::from_str(&text).ok()?;
        let is_ours = file.format == FORMAT && file.record.model_key == model_key;
        is_ours.then_some(Kept { id, record: file.record })
    };
    files.into_iter().take(MAX_RUNS).filter_map(read).collect()
}

/// Keeps a run.
///
/// # Errors
/// [`Error::Io`]; [`Error::Unsupported`] for figures that are no numbers.
pub fn keep_run(root: &Path, record: RunRecord) -> Result<Kept> {
    let unsupported = |why: String| Error::Unsupported { what: format!("keeping a run ({why})") };
    let folder = folder(root, &record.model_key)
        .ok_or_else(|| unsupported("its model has no key".to_owned()))?;
    if !record.evaluation.nats_per_token().value.is_finite() {
        return Err(unsupported("its perplexity is no number".to_owned()));
    }
    let file = File { format: FORMAT.to_owned(), record: &record };
    let bytes = serde_json::to_vec(&file).map_err(|error| unsupported(error.to_string()))?;
    let id = record.id(&bytes);
    disk::write_file(&folder.join(format!("{id}{ENDING}")), &bytes)?;
    Ok(Kept { id, record })
}

/// Removes a run; one that is not there any more is no failure.
///
/// # Errors
/// [`Error::Io`].
pub fn delete_run(root: &Path, kept: &Kept) -> Result<()> {
    match folder(root, &kept.record.model_key).filter(|_| is_plain(&kept.id)) {
        Some(folder) => disk::remove_file(&folder.join(format!("{}{ENDING}", kept.id))),
        None => Ok(()),
    }
}

/// The folder of a model; `None` for a key that is no plain name.
fn folder(root: &Path, model_key: &str) -> Option<PathBuf> {
    is_plain(model_key).then(|| root.join(model_key))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Window;

    fn record(nats: &[f64], fingerprint: &str) -> RunRecord {
        let window = |&nats: &f64| Window { tokens: 10, nats, characters: 30, against: None };
        RunRecord {
            label: "4-bit".to_owned(),
            subject: "s".to_owned(),
            model_key: "abc123".to_owned(),
            bytes: 12,
            bits_per_weight: 4.125,
            reference: None,
            text: TextRun {
                name: "a.txt".to_owned(),
                fingerprint: fingerprint.to_owned(),
                tokenizer: "t".to_owned(),
                length: 11,
                limit: None,
            },
            seconds: 1_700_000_000,
            evaluation: Evaluation {
                windows: nats.iter().map(window).collect(),
                planned_tokens: 10 * nats.len() as u64,
                kl_p99: None,
            },
            layers: BTreeMap::from([("a".to_owned(), OutputError::default())]),
            blocks: Vec::new(),
            assignments: None,
        }
    }

    #[test]
    fn runs_are_kept_by_model_and_what_is_damaged_reads_as_absent() {
        let root = tempfile::tempdir().unwrap();
        let kept = keep_run(root.path(), record(&[30.0, 40.0], "f")).unwrap();
        let later = RunRecord { seconds: 1_700_000_001, ..record(&[31.0, 41.0], "f") };
        keep_run(root.path(), later).unwrap();
        let all = runs(root.path(), "abc123");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], kept, "the first first, and to the bit");
        assert!(runs(root.path(), "other").is_empty() && runs(root.path(), "../x").is_empty());
        let path = root.path().join("abc123").join(format!("{}.json", kept.id));
        disk::write_file(&path, b"{\"format\": \"lapidary run 1\", \"rec").unwrap();
        assert_eq!(runs(root.path(), "abc123").len(), 1);
        delete_run(root.path(), &all[1]).unwrap();
        delete_run(root.path(), &all[1]).unwrap();
        assert!(runs(root.path(), "abc123").is_empty());
        assert!(keep_run(root.path(), record(&[f64::NAN], "f")).is_err());
    }

    #[test]
    fn ties_are_told_from_differences_window_by_window() {
        let a = record(&[30.0, 60.0, 20.0, 50.0], "f");
        let worse = record(&[31.0, 61.1, 20.9, 51.0], "f");
        let same = record(&[30.5, 59.5, 20.4, 49.6], "f");
        assert!(!worse.nats_beyond(&a).unwrap().is_tie());
        assert!(same.nats_beyond(&a).unwrap().is_tie());
        assert!(a.evaluation.nats_per_token().error > 0.5, "unpaired, neither could be told");
        assert!(record(&[30.0, 60.0, 20.0, 50.0], "g").nats_beyond(&a).is_none(), "another text");
    }
}
