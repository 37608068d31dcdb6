//! From text to ids and sequences: the same ids as the Python package `tokenizers`, windows as the sample was scored,
//! and a sentence for every text and tokenizer that will not do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::text::{
    Cut, Document, Extent, Order, Rest, Source, Specials, Texts, Token, Tokenizer, cut,
    read_questions,
};
use lapidary_engine::{Error, Observer, Result, Silent};
use lapidary_tests::{
    assert_says, data, on_threads, plain_llama, read, read_json, repository, sample, sample_path,
    write,
};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::tempdir;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/tokenizers").join(name)
}

fn read_tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::read(path, None).unwrap_or_else(|error| panic!("{}", error.sentence()))
}

fn sample_tokenizer() -> Tokenizer {
    Tokenizer::open(&sample()).expect("the sample has a tokenizer")
}

fn ids_of(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn documents(texts: &[&str]) -> Vec<Document> {
    let named =
        |(at, text): (usize, &&str)| Document { name: at.to_string(), text: (*text).to_owned() };
    texts.iter().enumerate().map(named).collect()
}

fn book() -> Texts {
    Source::path(sample_path().join("heldout_oz.txt")).read(&Silent).expect("the book is read")
}

fn encode(tokenizer: &Tokenizer, texts: &Texts) -> Vec<Vec<Token>> {
    let encoded = tokenizer.encode_documents(texts.documents(), Specials::Added, &Silent);
    encoded.expect("the text is encoded")
}

#[test]
fn ids_are_those_of_the_python_package() {
    let golden = read_json(&golden("tokens.json"));
    let texts = golden["texts"].as_array().unwrap();
    let tokenizers = golden["tokenizers"].as_array().unwrap();
    assert_eq!((texts.len(), tokenizers.len()), (14, 6));
    for expected in tokenizers {
        let file = expected["file"].as_str().unwrap();
        let tokenizer = read_tokenizer(&repository().join(file));
        for (at, text) in texts.iter().map(|text| text.as_str().unwrap()).enumerate() {
            let added = tokenizer.encode(text, Specials::Added).unwrap();
            let left = tokenizer.encode(text, Specials::Left).unwrap();
            assert_eq!(added, ids_of(&expected["added"][at]), "{file}: {text:?}");
            assert_eq!(left, ids_of(&expected["left"][at]), "{file}: {text:?}");
            let decoded = tokenizer.decode(&added).unwrap();
            assert_eq!(decoded, expected["decoded"][at].as_str().unwrap(), "{file}: {text:?}");
        }
        let ids = tokenizer.encode(&book().documents()[0].text, Specials::Added).unwrap();
        assert_eq!(ids.len() as u64, expected["book_tokens"].as_u64().unwrap(), "{file}");
        let fnv = ids.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, id| {
            (hash ^ u64::from(*id)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(fnv.to_string(), expected["book_fnv"].as_str().unwrap(), "{file}");
    }
}

#[test]
fn the_sample_is_cut_as_it_was_scored() {
    let encoded = encode(&sample_tokenizer(), &book());
    let sequences = cut(&encoded, &Cut::scoring(256)).unwrap();
    assert_eq!(sequences.available, 63_768);
    assert_eq!((sequences.list.len(), sequences.scored_tokens()), (249, 63_495));
    let rest = Cut { order: Order::InText(Rest::Kept), ..Cut::scoring(256) };
    assert_eq!(cut(&encoded, &rest).unwrap().list[249].ids.len(), 24);
    let scored = sequences.scored();
    let all = book().extent();
    assert!(scored.characters > all.characters * 99 / 100 && scored.bytes < all.bytes);
}

#[test]
fn special_tokens_and_the_tokens_of_a_text_can_be_shown() {
    let sample = sample_tokenizer();
    assert_eq!((sample.vocabulary(), sample.begin()), (2048, None));
    assert_eq!(sample.token(0).as_deref(), Some("<|endoftext|>"));
    let ids = sample.encode(" the", Specials::Added).unwrap();
    assert_eq!((ids.len(), sample.token(ids[0])), (1, Some(" the".to_owned())));
    assert_eq!(sample.token(2048), None);
    let stories = read_tokenizer(&data("stories260K/tokenizer.json"));
    assert_eq!(stories.begin(), Some(1));
    let once = stories.encode("the", Specials::Left).unwrap();
    assert_eq!(stories.token(once[0]).as_deref(), Some(" the"));
    assert_eq!(read_tokenizer(&golden("bytes-3.json")).begin(), Some(400));
    assert_eq!(read_tokenizer(&golden("words.json")).begin(), Some(2));
    assert_eq!(
        read_tokenizer(&golden("unigram.json")).begin(),
        None,
        "its token stands at the end"
    );
}

#[test]
fn every_character_is_covered_once_whatever_the_tokenizer() {
    let text = "Größe 👩‍👩‍👧‍👦  two 日本語\n\nend";
    let extent = Source::pasted(text).read(&Silent).unwrap().extent();
    for name in ["bytes-3", "fallback", "words", "unigram"] {
        let tokenizer = read_tokenizer(&golden(&format!("{name}.json")));
        let tokens =
            &tokenizer.encode_documents(&documents(&[text]), Specials::Added, &Silent).unwrap()[0];
        let covered: Extent = tokens.iter().map(|token| token.covers).sum();
        assert_eq!(covered, extent, "{name}");
    }
}

#[test]
fn documents_are_encoded_alike_on_any_number_of_threads() {
    let tokenizer = sample_tokenizer();
    let book = book();
    let parts: Vec<&str> = book.documents()[0].text.split("\n\n").collect();
    let documents = documents(&parts);
    let on = |n| {
        on_threads(n, || tokenizer.encode_documents(&documents, Specials::Added, &Silent).unwrap())
    };
    let one = on(1);
    assert!(one.len() > 500);
    assert_eq!(one, on(3));
    let alone = tokenizer.encode(parts[7], Specials::Added).unwrap();
    assert_eq!(one[7].iter().map(|token| token.id).collect::<Vec<_>>(), alone);
}

/// Cancels when it is asked for the n-th time.
struct Impatient(AtomicUsize);

impl Observer for Impatient {
    fn is_cancelled(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }
}

#[test]
fn everything_long_can_be_cancelled() {
    let folder = tempdir().unwrap();
    write(&folder.path().join("a.jsonl"), "{\"text\": \"word\"}\n".repeat(5000).as_bytes());
    let impatient = |n| Impatient(AtomicUsize::new(n));
    let cancelled = |result: Result<()>| assert!(matches!(result, Err(Error::Cancelled)));
    cancelled(Source::path(folder.path()).read(&impatient(1000)).map(|_| ()));
    cancelled(Source::path(folder.path()).read(&impatient(0)).map(|_| ()));
    let (tokenizer, long) = (sample_tokenizer(), book().documents()[0].text.repeat(5));
    for (asked, text) in [(0, "a"), (2, "a b c"), (0, &long), (1, &long), (2, &long)] {
        let encoded =
            tokenizer.encode_documents(&documents(&[text]), Specials::Added, &impatient(asked));
        cancelled(encoded.map(|_| ()));
    }
}

#[test]
fn samples_are_drawn_by_seed_without_putting_back() {
    let encoded = encode(&sample_tokenizer(), &book());
    let draw = |budget, seed| cut(&encoded, &Cut::calibration(128, budget, seed)).unwrap();
    assert_eq!(draw(4096, 7), draw(4096, 7));
    assert_ne!(draw(4096, 7).list, draw(4096, 8).list);
    assert_eq!(draw(4096, 7).tokens(), 4096);
    assert_eq!(draw(4000, 7).tokens(), 4096, "a budget is reached");
    assert_eq!(
        draw(2048, 7).list,
        draw(4096, 7).list[..16],
        "a smaller budget draws the first ones"
    );
    let mut starts: Vec<usize> = draw(usize::MAX, 7).list.iter().map(|s| s.at).collect();
    assert!(!starts.is_sorted());
    starts.sort_unstable();
    assert_eq!(starts, (0..498).map(|k| 128 * k).collect::<Vec<_>>(), "each exactly once");
}

#[test]
fn a_missing_or_broken_tokenizer_is_a_sentence() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = plain_llama(folder.path());
    assert_says(Tokenizer::open(&model), &["has no tokenizer.json", "beside its weights"]);
    write(&at("tokenizer.model"), b"\x0a\x0e");
    let reopened = || Checkpoint::open(folder.path()).unwrap();
    assert_says(Tokenizer::open(&reopened()), &["tokenizer.model", "transformers"]);
    for broken in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"version": "1.0", "added_tokens": [], "model": {"type": "Telepathy"}}"#,
        r#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#,
    ] {
        write(&at("tokenizer.json"), broken.as_bytes());
        assert_says(Tokenizer::open(&reopened()), &["not a valid tokenizer.json"]);
    }
    write(&at("tokenizer.json"), &read(&golden("words.json")));
    let said = ["another vocabulary", "399", "8 rows", "published with these weights"];
    assert_says(Tokenizer::open(&reopened()), &said);
}

#[test]
fn an_added_token_without_a_row_is_refused_where_it_is_used() {
    let path = golden("bytes-3.json");
    assert!(Tokenizer::read(&path, Some(399)).is_err());
    let tokenizer = Tokenizer::read(&path, Some(400)).unwrap();
    assert_eq!(tokenizer.encode("a", Specials::Left).unwrap().len(), 1);
    assert_says(tokenizer.encode("a", Specials::Added), &["<|begin|>", "id 400", "400 rows"]);
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let folder = tempdir().unwrap();
    for (name, text) in [
        ("b.txt", "second"),
        ("a/z.MD", "first"),
        (
            "c.jsonl",
            "{\"text\": \"third\"}\n\n{\"text\": \" \"}\n{\"text\": \"fourth\", \"id\": 1}\n",
        ),
        (".hidden.txt", "no"),
        (".git/d.txt", "no"),
        ("e.bin", "no"),
        ("f.txt", " \n"),
        ("g.txt", "\u{feff}fifth\r\n"),
    ] {
        write(&folder.path().join(name), text.as_bytes());
    }
    let texts = Source::path(folder.path()).read(&Silent).unwrap();
    let all: Vec<(String, &str)> = texts
        .documents()
        .iter()
        .map(|document| (document.name.replace('\\', "/"), document.text.as_str()))
        .collect();
    let named = [
        ("a/z.MD", "first"),
        ("b.txt", "second"),
        ("c.jsonl:1", "third"),
        ("c.jsonl:4", "fourth"),
        ("g.txt", "fifth\r\n"),
    ];
    assert_eq!(all, named.map(|(name, text)| (name.to_owned(), text)));
    assert_eq!(texts.extent().characters, 29);
}

#[test]
fn equal_texts_have_equal_fingerprints_whatever_their_names() {
    let folder = tempdir().unwrap();
    write(&folder.path().join("any.txt"), b"one text");
    let print = |source: Source| source.read(&Silent).unwrap().fingerprint();
    let file = print(Source::path(folder.path().join("any.txt")));
    assert_eq!(file, print(Source::pasted("one text")));
    assert_ne!(file, print(Source::pasted("one texts")));
    assert_eq!(file.to_string().len(), 64);
    write(&folder.path().join("a.jsonl"), b"{\"text\": \"one \"}\n{\"text\": \"text\"}");
    let split = Source::path(folder.path().join("a.jsonl"));
    assert_ne!(file, print(split), "where documents end counts");
}

#[test]
fn a_text_that_will_not_do_is_a_sentence() {
    let folder = tempdir().unwrap();
    let says = |name: &str, bytes: &[u8], field: Option<&str>, said: &[&str]| {
        let path = folder.path().join(name);
        write(&path, bytes);
        let source = Source::Path { path, field: field.map(str::to_owned) };
        assert_says(source.read(&Silent), said);
    };
    says("blank.txt", b" \n", None, &["blank.txt holds no text"]);
    says("a.txt", b"ab\ncaf\xe9 noir", None, &["a.txt", "byte 6, in line 2", "UTF-8"]);
    says("a.txt", b"\xff\xfea\0", None, &["UTF-16"]);
    says("a.txt", b"PK\x03\x04\0\0", None, &["byte 4 is zero", "binary"]);
    says("big.txt", &vec![b'a'; (16 << 20) + 1], None, &["16 MiB", "split it"]);
    says(
        "a.jsonl",
        b"{\"text\": \"x\"}\n{\"body\": \"y\"}",
        None,
        &["line 2", "\"text\"", "\"body\""],
    );
    says("a.jsonl", b"{\"text\": \"x\"}", Some("body"), &["line 1", "\"body\"", "it has \"text\""]);
    says("a.jsonl", b"{\"text\": 3}", None, &["line 1", "no text in a field"]);
    says("a.jsonl", b"\n{\"text\": ", None, &["line 2", "not JSON"]);
    says("a.jsonl", b"[1]", None, &["line 1", "not an object"]);
    says("a.jsonl", "[".repeat(100_000).as_bytes(), None, &["line 1", "not JSON"]);
    assert_says(Source::pasted("").read(&Silent), &["the pasted text holds no text"]);
    assert_says(
        Source::path(folder.path().join("none")).read(&Silent),
        &["none", "check the path"],
    );
    let empty = tempdir().unwrap();
    assert_says(Source::path(empty.path()).read(&Silent), &["holds no text", ".jsonl"]);
}

#[test]
fn questions_are_read_line_by_line() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("questions.jsonl");
    let good = "{\"question\": \"2+2?\", \"choices\": [\"3\", \"4\"], \"answer\": \"B\"}\n";
    write(&path, format!("{good}\n{good}").as_bytes());
    let questions = read_questions(&path, &Silent).unwrap();
    assert_eq!((questions.len(), questions[1].answer), (2, 1));
    write(&path, format!("{good}{{\"question\": \"q\", \"choices\": [\"a\"]}}").as_bytes());
    assert_says(read_questions(&path, &Silent), &["questions.jsonl", "line 2", "has 1 choices"]);
    write(&path, b"\n");
    assert_says(read_questions(&path, &Silent), &["holds no question", "\"answer\""]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_back_what_byte_level_tokenizers_encoded(text in any::<String>(), more in "[ a-z\\n0-9'é]{0,80}") {
        static TOKENIZERS: std::sync::LazyLock<[Tokenizer; 2]> =
            std::sync::LazyLock::new(|| [sample_tokenizer(), read_tokenizer(&golden("bytes-3.json"))]);
        for tokenizer in &*TOKENIZERS {
            for text in [&text, &more] {
                let documents = documents(&[text]);
                let tokens = &tokenizer.encode_documents(&documents, Specials::Left, &Silent).unwrap()[0];
                let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
                prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), text);
                let covered: Extent = tokens.iter().map(|token| token.covers).sum();
                let characters = text.chars().count() as u64;
                prop_assert_eq!(covered, Extent { bytes: text.len() as u64, characters });
            }
        }
    }

    #[test]
    fn windows_partition_the_tokens(lengths in prop::collection::vec(0_usize..40, 1..6), length in 2_usize..30, begins in any::<bool>()) {
        let mut next = 0..;
        let token = |id: u32| Token { id, covers: Extent { bytes: 3, characters: 1 } };
        let documents: Vec<Vec<Token>> =
            lengths.iter().map(|n| next.by_ref().take(*n).map(token).collect()).collect();
        let n: usize = lengths.iter().sum();
        prop_assume!(n >= 2);
        let how = Cut { begin: begins.then_some(9999), order: Order::InText(Rest::Kept), ..Cut::scoring(length) };
        let sequences = cut(&documents, &how).unwrap();
        let joined: Vec<u32> = sequences.list.iter().flat_map(|s| s.ids[usize::from(begins)..].to_vec()).collect();
        prop_assert_eq!(&joined[..], &(0..joined.len() as u32).collect::<Vec<_>>()[..]);
        prop_assert!(n - joined.len() <= usize::from(!begins), "at most one token, which cannot be scored, is left");
        prop_assert!(sequences.list.iter().all(|s| (2..=length).contains(&s.ids.len())));
        prop_assert_eq!(sequences.scored().characters, sequences.scored_tokens() as u64);
    }

    #[test]
    fn a_damaged_tokenizer_is_an_error_or_works(at in 0.0..1.0_f64, byte in any::<u8>(), end in 0.0..1.0_f64) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        for name in ["bytes-3.json", "words.json", "unigram.json"] {
            let mut bytes = read(&golden(name));
            let place = (at * bytes.len() as f64) as usize;
            bytes[place] = byte;
            write(&path, &bytes);
            let tokenizer = Tokenizer::read(&path, Some(500));
            let encoded = tokenizer.and_then(|it| it.encode("Dorothy lived, 日本語\n", Specials::Added));
            if let Ok(ids) = encoded {
                prop_assert!(ids.iter().all(|id| *id < 500));
            }
            bytes.truncate((end * bytes.len() as f64) as usize);
            write(&path, &bytes);
            prop_assert!(Tokenizer::read(&path, None).is_err());
        }
    }
}
