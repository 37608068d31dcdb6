//! A search on disk: one file, written anew after every generation, under a key of everything it follows from.

use std::path::{Path, PathBuf};

use blake3::Hasher;

use crate::allocator::{Problem, Search};
use crate::disk::{self, Lock};
use crate::error::{Error, Result};
use crate::method;
use crate::search::{Task, Wish};

const MAGIC: [u8; 4] = *b"LAPS";
/// Magic and checksum.
const HEADER_BYTES: usize = 4 + 32;
/// The largest state that is read: 1,000 generations of 100 finalists and 1,000 groups.
const MAX_BYTES: u64 = 1 << 30;

/// Where a search is kept: `<folder>/<key>.search`, held against others while this lives.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    key: String,
    _lock: Lock,
}

impl Kept {
    /// The place of a search in `folder`, which is made.
    ///
    /// # Errors
    /// [`Error::Plan`] while another process runs the same search there; [`Error::Io`].
    pub fn open(task: &Task<'_>, wish: &Wish, folder: &Path) -> Result<Self> {
        let key = key_of(task, wish);
        let path = folder.join(format!("{key}.search"));
        let lock = folder.join(format!("{key}.lock"));
        // Makes the folder, too.
        disk::write_file(&folder.join("about.txt"), ABOUT.as_bytes())?;
        let lock = Lock::take(&lock)?.ok_or_else(|| {
            Error::plan(
                format!("this search is running already, in {}", folder.display()),
                "wait for it, or stop it, or give another folder",
            )
        })?;
        Ok(Self { path, key, _lock: lock })
    }

    /// The search as it was kept, with as many generations as are wished for; a new one where none is, or where it is
    /// damaged.
    ///
    /// # Errors
    /// Those of [`Search::new`].
    pub fn search(&self, problem: &Problem, wish: &Wish) -> Result<Search> {
        let kept = self.read().filter(|search| search.check(problem).is_ok());
        let Some(mut search) = kept else {
            return Search::new(problem, wish.settings.clone(), wish.start.as_deref());
        };
        search.set_generations(wish.settings.generations);
        Ok(search)
    }

    fn read(&self) -> Option<Search> {
        let bytes = disk::read_bytes(&self.path, MAX_BYTES).ok()?;
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
        let checksum = header.strip_prefix(&MAGIC)?;
        if checksum != self.checksum(payload) {
            return None;
        }
        postcard::from_bytes(payload).ok()
    }

    /// Keeps the search as it is now: the old file or the new one is there, never a part.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&self, search: &Search) -> Result<()> {
        let payload = postcard::to_stdvec(search)
            .map_err(|error| Error::Unsupported { what: format!("keeping a search ({error})") })?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.checksum(&payload));
        bytes.extend(payload);
        disk::write_file(&self.path, &bytes)
    }

    fn checksum(&self, payload: &[u8]) -> [u8; 32] {
        let mut hasher = Hasher::new();
        hasher.update(self.key.as_bytes()).update(payload);
        hasher.finalize().into()
    }
}

/// What a person finds in the folder.
const ABOUT: &str = "Searches of `lapidary search`, which go on where they were, and the layers they have compressed.\nThe folder may be removed: then they begin again.\n";

/// A hash of everything that decides what the generations are; how many there are to be does not.
fn key_of(task: &Task<'_>, wish: &Wish) -> String {
    let mut hasher = Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    text(&format!("lapidary search 2 of methods {}", method::VERSION));
    text(task.identity);
    for (group, of) in task.problem.groups().iter().zip(task.scores) {
        text(&group.name);
        for option in &of.options {
            text(&option.bytes.to_string());
            for assignment in &option.assignments {
                text(&serde_json::to_string(&assignment.steps).unwrap_or_default());
            }
        }
    }
    for group in 0..task.problem.groups().len() {
        text(&format!("{:?}", task.problem.allowed(group)));
    }
    text(&format!("{} {:?}", task.problem.budget(), wish.start));
    let settings = &wish.settings;
    let stages = &settings.stages;
    text(&format!(
        "{} {} {} {stages:?}",
        settings.offspring, settings.most_exchanges, settings.seed
    ));
    for sequence in task.sequences {
        text(&format!("{sequence:?}"));
    }
    hasher.finalize().to_hex().as_str()[..32].to_owned()
}
