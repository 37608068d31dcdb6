//! A checkpoint's tokenizer.json. In: a text. Out: ids with the text they cover, and back. The rules are those of the
//! `tokenizers` crate; here stand limits, cancellation, and what fits the model. Never cuts a text before encoding it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rayon::prelude::*;
use tokenizers::models::ModelWrapper;
use tokenizers::tokenizer::{Encoding, Model as _, OffsetType, PreTokenizer as _};

use super::{Document, Extent, Fingerprint, Token};
use crate::checkpoint::{Checkpoint, Role};
use crate::disk;
use crate::error::{Error, Result};
use crate::observer::{Observer, Progress, Silent, Unit};

const FILE_NAME: &str = "tokenizer.json";
/// The largest tokenizer.json that is read; the largest in use have some 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// A text up to this long is encoded within 0.1 s.
const AT_ONCE_BYTES: usize = 32 << 10;
const SAVE_WITH_TRANSFORMERS: &str = "save it as tokenizer.json with transformers: \
     AutoTokenizer.from_pretrained(folder).save_pretrained(folder)";
/// Vocabularies in other files than tokenizer.json.
const OTHER_FILES: [&str; 6] = [
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
];

/// Whether the tokens that frame a text, such as `<s>`, are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// As tokenizer.json says, once a document: what transformers does unless told otherwise.
    Added,
    /// Only the text itself, as for the options of a question.
    Left,
}

/// A tokenizer, ready to use from any thread.
#[derive(Debug)]
pub struct Tokenizer {
    rules: Arc<tokenizers::Tokenizer>,
    path: PathBuf,
    /// Rows of the embedding, where it is known.
    rows: Option<usize>,
    fingerprint: Fingerprint,
}

impl Tokenizer {
    /// Opens the tokenizer.json beside the weights of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Plan`] where there is none, or one of another vocabulary than the embedding's; those of
    /// [`Tokenizer::read`].
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        if let Some(gguf) = checkpoint.gguf() {
            return Self::of_bytes(
                gguf.tokenizer()?,
                checkpoint.path(),
                embedding_rows(checkpoint),
            );
        }
        let named = |name: &str| {
            let is_named = |file: &&crate::checkpoint::SideFile| file.path.ends_with(name);
            checkpoint.side_files().iter().find(is_named)
        };
        if let Some(file) = named(FILE_NAME) {
            return Self::read(&file.path, embedding_rows(checkpoint));
        }
        let folder = checkpoint.path().display();
        match OTHER_FILES.into_iter().find(|name| named(name).is_some()) {
            Some(other) => Err(Error::plan(
                format!("{folder} has no tokenizer.json, only {other}, which is not read"),
                SAVE_WITH_TRANSFORMERS,
            )),
            None => Err(Error::plan(
                format!("{folder} has no tokenizer.json, so text cannot be turned into tokens"),
                "put the tokenizer.json of the model beside its weights, or name one",
            )),
        }
    }

    /// Reads a tokenizer.json for a model whose embedding has `rows` rows. Truncation and padding that were saved in
    /// it are switched off, and so is random dropping of merges.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Io`], [`Error::Limit`] beyond 256 MiB; [`Error::Plan`] if its vocabulary, added
    /// tokens left out, has ids beyond the embedding.
    pub fn read(path: &Path, rows: Option<usize>) -> Result<Self> {
        Self::of_bytes(&disk::read_bytes(path, MAX_TOKENIZER_BYTES)?, path, rows)
    }

    fn of_bytes(bytes: &[u8], path: &Path, rows: Option<usize>) -> Result<Self> {
        let bad = |what: String| Error::malformed(FILE_NAME, path, what);
        let parsed = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(bad)?;
        let mut rules = parsed.map_err(|error| bad(one_line(&error.to_string())))?;
        rules.with_truncation(None).map_err(|error| bad(one_line(&error.to_string())))?;
        rules.with_padding(None);
        if let ModelWrapper::BPE(model) = rules.get_model()
            && model.dropout.is_some()
        {
            let mut steady = model.clone();
            steady.dropout = None;
            rules.with_model(steady);
        }
        let fingerprint = Fingerprint::of([bytes]);
        let tokenizer =
            Self { rules: Arc::new(rules), path: path.to_path_buf(), rows, fingerprint };
        tokenizer.fits()?;
        Ok(tokenizer)
    }

    /// Only the vocabulary proper must fit: some models list a token for pictures that they have no row for.
    fn fits(&self) -> Result<()> {
        let highest = self.rules.get_vocab(false).into_values().max();
        match (self.rows, highest) {
            (Some(rows), Some(highest)) if highest as usize >= rows => Err(Error::plan(
                format!(
                    "{} is the tokenizer of another vocabulary: its ids go up to {highest}, the embedding has {rows} rows",
                    self.path.display()
                ),
                "use the tokenizer.json that was published with these weights",
            )),
            _ => Ok(()),
        }
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the file's bytes: the same text has the same ids under the same fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Number of tokens, added ones too.
    pub fn vocabulary(&self) -> usize {
        self.rules.get_vocab_size(true)
    }

    /// The token that is put before a text, such as `<s>`, if there is one.
    pub fn begin(&self) -> Option<u32> {
        let encoding = self.rules.encode("a", true).ok()?;
        let is_added = *encoding.get_special_tokens_mask().first()? == 1;
        encoding.get_ids().first().copied().filter(|_| is_added)
    }

    /// A token as it reads in a text, spaces and line ends too; `None` for an id that is none.
    pub fn token(&self, id: u32) -> Option<String> {
        let piece = self.rules.id_to_token(id)?;
        // A decoder that strips the space at the beginning of a text would strip it from every single token.
        if piece.contains('▁') {
            return Some(piece.replace('▁', " "));
        }
        let text = self.rules.decode(&[id], false).ok();
        text.filter(|text| !text.is_empty()).or(Some(piece))
    }

    /// The text of ids; ids that are no token read as nothing.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the file's rules fail.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let bad = |what: String| Error::malformed(FILE_NAME, &self.path, what);
        let decoded = guarded(|| self.rules.decode(ids, false)).map_err(bad)?;
        decoded.map_err(|error| bad(one_line(&error.to_string())))
    }

    /// The ids of a text, encoded in one go.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode_documents`].
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let tokens = self.tokens(text, specials, &Silent)?;
        Ok(tokens.into_iter().map(|token| token.id).collect())
    }

    /// The tokens of each document, in order. Documents are encoded side by side, each in one go, so that ids do not
    /// depend on the number of threads. Cost: some MB/s and 50 times the bytes of a document in memory a thread.
    ///
    /// # Errors
    /// [`Error::Plan`] for a token beyond the rows of the embedding, [`Error::Malformed`] where the file's rules fail,
    /// [`Error::Cancelled`].
    pub fn encode_documents(
        &self,
        documents: &[Document],
        specials: Specials,
        observer: &dyn Observer,
    ) -> Result<Vec<Vec<Token>>> {
        let total_bytes = documents.iter().map(|document| document.text.len() as u64).sum();
        let done_bytes = AtomicU64::new(0);
        let encode = |document: &Document| {
            let tokens = self.tokens(&document.text, specials, observer)?;
            let bytes = document.text.len() as u64;
            let before = done_bytes.fetch_add(bytes, Ordering::Relaxed);
            let item = document.name.clone();
            observer.progress(Progress {
                stage: "encoding text",
                item,
                done: before + bytes,
                total: total_bytes,
                unit: Unit::Bytes,
            });
            Ok(tokens)
        };
        documents.par_iter().map(encode).collect()
    }

    fn tokens(
        &self,
        text: &str,
        specials: Specials,
        observer: &dyn Observer,
    ) -> Result<Vec<Token>> {
        let encoded = if text.len() <= AT_ONCE_BYTES {
            guarded(|| run(&self.rules, text, specials, observer))
        } else {
            self.run_aside(text, specials, observer)?
        };
        let bad = |what: String| Error::malformed(FILE_NAME, &self.path, what);
        let encoding = encoded.map_err(bad)?.map_err(|error| match error.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => bad(one_line(&other.to_string())),
        })?;
        self.has_rows(encoding.0.get_ids())?;
        Ok(covered(text, &encoding.0, &encoding.1))
    }

    /// [`run`] on a thread of its own, which is left to itself when cancelled: some rules take a whole text at once. It
    /// ends between words, or with the step it is in, and what it found is dropped.
    fn run_aside(
        &self,
        text: &str,
        specials: Specials,
        observer: &dyn Observer,
    ) -> Result<Guarded> {
        observer.go_on()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(1);
        let (rules, text, told) = (self.rules.clone(), text.to_owned(), Told(stop.clone()));
        let work = move || {
            // Nobody listens any more where it was cancelled.
            drop(sender.send(guarded(|| run(&rules, &text, specials, &told))));
        };
        let thread = std::thread::Builder::new().name("encode text".to_owned());
        thread.spawn(work).map_err(Error::io("start a thread to encode for", &self.path))?;
        loop {
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(encoded) => return Ok(encoded),
                Err(RecvTimeoutError::Timeout) => observer.go_on().inspect_err(|_cancelled| {
                    stop.store(true, Ordering::Relaxed);
                })?,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Cancelled),
            }
        }
    }

    fn has_rows(&self, ids: &[u32]) -> Result<()> {
        let Some(rows) = self.rows else { return Ok(()) };
        match ids.iter().find(|id| **id as usize >= rows) {
            None => Ok(()),
            Some(id) => Err(Error::plan(
                format!(
                    "the text has the token {:?} (id {id}), for which the embedding of {rows} rows has none",
                    self.rules.id_to_token(*id).unwrap_or_default()
                ),
                "leave this token out of the text, or use the tokenizer.json of these weights",
            )),
        }
    }
}

/// Rows of the table that ids look up; `None` where no tensor is known to be it.
fn embedding_rows(checkpoint: &Checkpoint) -> Option<usize> {
    let is_table = |tensor: &&crate::checkpoint::Tensor| {
        tensor.place.role == Role::Embedding
            && tensor.place.block.is_none()
            && tensor.shape.0.len() == 2
    };
    checkpoint.tensors().iter().find(is_table).map(|tensor| tensor.shape.0[0])
}

/// Tokens, added ones among them, and where those of the text end.
type Encoded = (Encoding, Vec<usize>);
/// Tokens, what the rules say, or that they failed.
type Guarded = std::result::Result<tokenizers::Result<Encoded>, String>;

/// Listens for one cancellation.
struct Told(Arc<AtomicBool>);

impl Observer for Told {
    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What `tokenizers::Tokenizer::encode` does, asking between words whether to go on; with it, where the tokens of the
/// text end, which some files have trimmed of spaces afterwards.
fn run(
    rules: &tokenizers::Tokenizer,
    text: &str,
    specials: Specials,
    observer: &dyn Observer,
) -> tokenizers::Result<Encoded> {
    observer.go_on()?;
    let normalizer = rules.get_normalizer();
    let mut pieces = rules.get_added_vocabulary().extract_and_normalize(normalizer, text);
    observer.go_on()?;
    if let Some(splitter) = rules.get_pre_tokenizer() {
        splitter.pre_tokenize(&mut pieces)?;
    }
    pieces.tokenize(|piece| {
        observer.go_on()?;
        rules.get_model().tokenize(piece.get())
    })?;
    observer.go_on()?;
    let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
    let ends = encoding.get_offsets().iter().map(|(_, end)| *end).collect();
    Ok((rules.post_process(encoding, None, specials == Specials::Added)?, ends))
}

/// Tokens with what each covers of `text`, of which the tokens that were not added end at `ends`. Ends may go back
/// within a character that is several tokens; their running maximum does not.
fn covered(text: &str, encoding: &Encoding, ends: &[usize]) -> Vec<Token> {
    let (mut ends, mut end_before) = (ends.iter(), 0);
    let cover = |(&id, &is_added): (&u32, &u32)| {
        let own = if is_added == 1 { None } else { ends.next() };
        let end = own.map_or(end_before, |end| text.floor_char_boundary(*end).max(end_before));
        let covered = &text[end_before..end];
        end_before = end;
        let (bytes, characters) = (covered.len() as u64, covered.chars().count() as u64);
        Token { id, covers: Extent { bytes, characters } }
    };
    encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()).map(cover).collect()
}

/// Runs rules that came from a file: some files that parse still bring the crate to panic.
fn guarded<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_panic| "its rules contradict each other".to_owned())
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
