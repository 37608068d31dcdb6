//! Measured results on disk: found by content, absent when anything is amiss, bounded, safe with two windows.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::{self, Found};
use lapidary_engine::statistics::{
    CACHE_LIMIT_BYTES, Cache, Cached, Key, Spectrum, Statistics, measure, measure_spectrum,
};
use lapidary_engine::{Error, Observer, Silent};
use lapidary_tests::{Weights, read, sample, write};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

fn cache(folder: &TempDir) -> Cache {
    Cache::new(&folder.path().join("cache"), CACHE_LIMIT_BYTES)
}

fn key(checkpoint: &Checkpoint, name: &str) -> Key {
    let index = checkpoint.find(name).expect("the tensor");
    Cache::key(checkpoint, index, &Silent).expect("a key")
}

/// The key of the only tensor of a file.
fn key_of(folder: &TempDir, weights: &Weights) -> Key {
    let path = folder.path().join("model.safetensors");
    weights.write(&path);
    let checkpoint = Checkpoint::open(&path).expect("it opens");
    Cache::key(&checkpoint, 0, &Silent).expect("a key")
}

fn files(folder: &TempDir) -> Vec<Found> {
    disk::list_tree(folder.path())
}

/// The one file of a kind.
fn only_file(folder: &TempDir, kind: &str) -> PathBuf {
    let mut files = files(folder);
    files.retain(|found| found.path.extension().is_some_and(|ending| ending == kind));
    assert_eq!(files.len(), 1, "{kind}");
    files.swap_remove(0).path
}

/// A value without meaning of about `8 n` bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Numbers(Vec<f64>);

impl Cached for Numbers {
    const KIND: &'static str = "numbers";
    const VERSION: u32 = 2;
}

/// The same in an older version.
#[derive(Debug, Serialize, Deserialize)]
struct OldNumbers(Vec<f64>);

impl Cached for OldNumbers {
    const KIND: &'static str = "numbers";
    const VERSION: u32 = 1;
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Keys by the dozen: those of a tensor of one number each.
fn keys(folder: &TempDir, n: usize) -> Vec<Key> {
    let path = folder.path().join("keys.safetensors");
    let names: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
    let add = |weights: Weights, (i, name): (usize, &String)| weights.f32(name, &[1], &[i as f32]);
    names.iter().enumerate().fold(Weights::new(), add).write(&path);
    let checkpoint = Checkpoint::open(&path).expect("it opens");
    names.iter().map(|name| key(&checkpoint, name)).collect()
}

#[test]
fn what_was_kept_equals_what_is_measured() {
    let (folder, sample) = (TempDir::new().unwrap(), sample());
    let cache = cache(&folder);
    for index in 0..sample.tensors().len() {
        let key = Cache::key(&sample, index, &Silent).unwrap();
        assert_eq!(cache.get::<Statistics>(key), None);
        cache.put(key, &measure(&sample, index, &Silent).unwrap()).unwrap();
    }
    // Another window, another run.
    let cache = Cache::new(&folder.path().join("cache"), CACHE_LIMIT_BYTES);
    for index in 0..sample.tensors().len() {
        let key = Cache::key(&sample, index, &Silent).unwrap();
        assert_eq!(cache.get(key), Some(measure(&sample, index, &Silent).unwrap()));
        assert_eq!(cache.get::<Spectrum>(key), None, "the kinds are apart");
    }
    let name = "model.layers.0.self_attn.k_proj.weight";
    let spectrum = measure_spectrum(&sample, sample.find(name).unwrap(), &Silent).unwrap();
    cache.put(key(&sample, name), &spectrum).unwrap();
    assert_eq!(cache.get(key(&sample, name)), Some(spectrum));
}

#[test]
fn nan_and_infinities_survive_bit_for_bit() {
    let folder = TempDir::new().unwrap();
    let cache = cache(&folder);
    let strange = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff8_0000_dead_beef), f64::INFINITY];
    let numbers = Numbers([&strange[..], &[f64::NEG_INFINITY, -0.0, 5e-324]].concat());
    let key = keys(&folder, 1)[0];
    cache.put(key, &numbers).unwrap();
    assert_eq!(bits(&cache.get::<Numbers>(key).unwrap().0), bits(&numbers.0));
    // A tensor without a finite value has moments that are NaN.
    let path = folder.path().join("nan.safetensors");
    Weights::new().f32("a", &[2], &[f32::NAN, f32::INFINITY]).write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let (fresh, key) = (measure(&checkpoint, 0, &Silent).unwrap(), self::key(&checkpoint, "a"));
    cache.put(key, &fresh).unwrap();
    let kept: Statistics = cache.get(key).unwrap();
    assert!(kept.mean.is_nan());
    assert_eq!(format!("{kept:?}"), format!("{fresh:?}"));
    assert_eq!(
        bits(&[kept.mean, kept.std, kept.min, kept.kurtosis]),
        bits(&[fresh.mean, fresh.std, fresh.min, fresh.kurtosis])
    );
}

#[test]
fn the_content_counts_and_the_name_does_not() {
    let folder = TempDir::new().unwrap();
    let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let of = |name: &str, dtype: &str, shape: &[usize]| {
        key_of(&folder, &Weights::new().with(name, dtype, shape, &bytes))
    };
    let first = of("a.weight", "F32", &[2, 4]);
    assert_eq!(of("b.weight", "F32", &[2, 4]), first, "another name");
    let other = TempDir::new().unwrap();
    assert_eq!(key_of(&other, &Weights::new().f32("a.weight", &[2, 4], &values)), first);
    // Anything else is another tensor.
    let mut different = vec![first];
    different.push(of("a.weight", "F32", &[4, 2]));
    different.push(of("a.weight", "F32", &[8]));
    different.push(of("a.weight", "I32", &[2, 4]));
    different.push(of("a.weight", "BF16", &[2, 8]));
    different.push(of("a.weight", "F16", &[2, 8]));
    different.push(of("norm.weight", "F32", &[2, 4])); // not seen as a matrix
    let mut changed = values;
    changed[7] = 8.000_001;
    different.push(key_of(&folder, &Weights::new().f32("a.weight", &[2, 4], &changed)));
    let n = different.len();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), n, "two keys are the same");
}

#[test]
fn a_conv1d_layer_is_another_matrix_than_a_linear_one() {
    let folder = TempDir::new().unwrap();
    let values = lapidary_tests::normals(1, 4 * 4);
    let attention = [0.5_f32; 4 * 12];
    let of = |columns: usize, rows: usize| {
        let path = folder.path().join("gpt.safetensors");
        let weights = Weights::new()
            .f32("h.0.attn.c_attn.weight", &[rows, columns], &attention)
            .f32("h.0.attn.c_proj.weight", &[4, 4], &values);
        weights.write(&path);
        key(&Checkpoint::open(&path).unwrap(), "h.0.attn.c_proj.weight")
    };
    assert_ne!(of(12, 4), of(4, 12), "the same bytes, but transposed in one of them");
}

#[test]
fn what_is_not_a_whole_record_of_this_version_is_absent() {
    let folder = TempDir::new().unwrap();
    let cache = cache(&folder);
    let keys = keys(&folder, 2);
    let numbers = Numbers(vec![1.0, f64::NAN, 3.0]);
    cache.put(keys[0], &OldNumbers(numbers.0.clone())).unwrap();
    assert_eq!(cache.get::<Numbers>(keys[0]), None, "an older version");
    cache.put(keys[0], &numbers).unwrap();
    assert!(cache.get::<OldNumbers>(keys[0]).is_none(), "a newer version");

    let path = only_file(&folder, "numbers");
    let whole = read(&path);
    for length in 0..whole.len() {
        write(&path, &whole[..length]);
        assert!(cache.get::<Numbers>(keys[0]).is_none(), "{length} bytes");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        write(&path, &changed);
        assert!(cache.get::<Numbers>(keys[0]).is_none(), "byte {at}");
    }
    for foreign in [&b"not a record"[..], &[0xff; 1000], &[whole.as_slice(), b"more"].concat()] {
        write(&path, foreign);
        assert!(cache.get::<Numbers>(keys[0]).is_none());
    }
    // A record under the name of another.
    let hex = [keys[0].to_string(), keys[1].to_string()];
    let other =
        folder.path().join("cache/v1").join(&hex[1][..2]).join(format!("{}.numbers", hex[1]));
    write(&other, &whole);
    assert!(cache.get::<Numbers>(keys[1]).is_none());
    // One that is too large is neither read nor written.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(cache.get::<Numbers>(keys[0]).is_none());
    let large = Numbers(vec![0.5; 9 << 20]);
    assert!(matches!(cache.put(keys[0], &large), Err(Error::Limit { .. })));
    // A folder where the file should be.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(cache.get::<Numbers>(keys[0]).is_none());
}

#[test]
fn the_least_recently_used_go_first() {
    let folder = TempDir::new().unwrap();
    let cache = Cache::new(&folder.path().join("cache"), 10 * 4096);
    let keys = keys(&folder, 8);
    let is_there = |key: Key| {
        // Not `get`, which would mark it as used.
        files(&folder).iter().any(|found| found.path.to_string_lossy().contains(&key.to_string()))
    };
    let now = SystemTime::now();
    for (i, &key) in keys.iter().enumerate() {
        cache.put(key, &Numbers(vec![i as f64])).unwrap();
        let found = files(&folder);
        let file = found.iter().find(|f| f.path.to_string_lossy().contains(&key.to_string()));
        let age = Duration::from_secs(1000 - i as u64);
        disk::touch(&file.expect("the record").path, now - age).unwrap();
    }
    // The first and third are used; then the limit becomes five blocks.
    assert!(cache.get::<Numbers>(keys[0]).is_some() && cache.get::<Numbers>(keys[2]).is_some());
    Cache::new(&folder.path().join("cache"), 5 * 4096 + 2048).trim().unwrap();
    let left: Vec<usize> = (0..8).filter(|&i| is_there(keys[i])).collect();
    assert_eq!(left, [0, 2, 5, 6, 7]);
}

#[test]
fn the_size_is_bounded_after_many_puts() {
    const LIMIT: u64 = 40 * 4096;
    let folder = TempDir::new().unwrap();
    let cache = Cache::new(&folder.path().join("cache"), LIMIT);
    let stranger = folder.path().join("cache/v1/ab/thesis.tex");
    write(&stranger, b"years of work");
    let litter = folder.path().join("cache/v1/ab/.tmpAbCdEf");
    write(&litter, b"half");
    for (i, key) in keys(&folder, 300).into_iter().enumerate() {
        cache.put(key, &Numbers(vec![i as f64; 400])).unwrap();
        let records = files(&folder).into_iter().filter(|found| found.bytes > 1000);
        let total: u64 = records
            .filter(|f| f.path.extension().is_some_and(|e| e == "numbers"))
            .map(|_| 4096)
            .sum();
        assert!(total <= LIMIT, "{total} bytes after {i}");
    }
    let left = files(&folder).len();
    assert!(left > 20, "only {left} are left");
    assert!(litter.exists(), "another window may be writing it");
    disk::touch(&litter, SystemTime::now() - Duration::from_hours(2)).unwrap();
    disk::touch(&stranger, SystemTime::now()).unwrap();
    cache.trim().unwrap();
    assert!(!litter.exists() && stranger.exists());
}

#[test]
fn two_windows_may_use_one_folder() {
    const LIMIT: u64 = 24 * 4096;
    let folder = TempDir::new().unwrap();
    let keys = keys(&folder, 40);
    let hits = AtomicUsize::new(0);
    let window = |seed: u64| {
        let cache = Cache::new(&folder.path().join("cache"), LIMIT);
        let mut random = lapidary_engine::numeric::seeds::Random::new(seed);
        for round in 0..400 {
            let i = (random.bits() % keys.len() as u64) as usize;
            let value = Numbers(vec![i as f64; 50 + i]);
            match random.bits() % 4 {
                0 => cache.put(keys[i], &value).unwrap(),
                1 if round % 10 == 0 => cache.trim().unwrap(),
                _ => {
                    if let Some(found) = cache.get::<Numbers>(keys[i]) {
                        assert_eq!(found, value);
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let window = &window;
            scope.spawn(move || window(seed));
        }
    });
    assert!(hits.into_inner() > 100, "nothing was ever found");
    let cache = Cache::new(&folder.path().join("cache"), LIMIT);
    cache.trim().unwrap();
    let left =
        files(&folder).iter().filter(|f| f.path.starts_with(folder.path().join("cache"))).count();
    assert!((1..=24).contains(&left), "{left} files");
}

/// Two shards in a folder.
fn shards(folder: &Path) {
    Weights::new()
        .normal("a.weight", &[4, 8])
        .normal("b.weight", &[8, 4])
        .write(&folder.join("1.safetensors"));
    Weights::new().normal("c.weight", &[4, 4]).write(&folder.join("2.safetensors"));
}

fn all_keys(checkpoint: &Checkpoint) -> Vec<Option<Key>> {
    let key = |index| Some(Cache::key(checkpoint, index, &Silent).expect("a key"));
    (0..checkpoint.tensors().len()).map(key).collect()
}

#[test]
fn keys_are_remembered_for_as_long_as_a_file_stays_as_it_is() {
    let (folder, model) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    shards(model.path());
    let cache = cache(&folder);
    let checkpoint = Checkpoint::open(model.path()).unwrap();
    assert_eq!(cache.known_keys(&checkpoint), [None; 3]);
    let keys = all_keys(&checkpoint);
    // One now, the others later.
    cache.remember(&checkpoint, &[keys[0], None, None]).unwrap();
    assert_eq!(cache.known_keys(&checkpoint), [keys[0], None, None]);
    cache.remember(&checkpoint, &[None, keys[1], keys[2]]).unwrap();
    let again = Checkpoint::open(model.path()).unwrap();
    assert_eq!(cache.known_keys(&again), keys);
    // One shard alone is the same file.
    let alone = Checkpoint::open(&model.path().join("2.safetensors")).unwrap();
    assert_eq!(cache.known_keys(&alone), [keys[2]]);

    // Changed in place: the same length, another time.
    let path = model.path().join("2.safetensors");
    let mut bytes = read(&path);
    *bytes.last_mut().unwrap() ^= 1;
    change_in_place(&path, &bytes);
    for checkpoint in [&again, &Checkpoint::open(model.path()).unwrap()] {
        assert_eq!(cache.known_keys(checkpoint), [keys[0], keys[1], None]);
    }
    // Keys of a file that changed since it was opened are not believed.
    cache.remember(&again, &keys).unwrap();
    let fresh = Checkpoint::open(model.path()).unwrap();
    assert_eq!(cache.known_keys(&fresh), [keys[0], keys[1], None]);
    let new = all_keys(&fresh);
    assert!(new[2] != keys[2] && new[..2] == keys[..2]);
    cache.remember(&fresh, &new).unwrap();
    assert_eq!(cache.known_keys(&fresh), new);
    // Replaced by another file: the one still open is the old one.
    std::fs::remove_file(&path).unwrap();
    Weights::new().normal("c.weight", &[4, 4]).write(&path);
    assert_eq!(cache.known_keys(&Checkpoint::open(model.path()).unwrap())[2], None);
}

fn change_in_place(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = std::fs::File::options().write(true).open(path).expect("a file");
    file.write_all(bytes).expect("written");
    file.set_modified(SystemTime::now() + Duration::from_millis(1)).expect("a time");
}

#[test]
fn remembered_keys_follow_how_a_tensor_is_seen() {
    let (folder, model) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let attention = |shape: &[usize]| {
        let weights = Weights::new().f32("h.0.attn.c_attn.weight", shape, &[0.5; 48]);
        weights.write(&model.path().join("1.safetensors"));
    };
    Weights::new()
        .normal("h.0.attn.c_proj.weight", &[4, 4])
        .write(&model.path().join("2.safetensors"));
    let cache = cache(&folder);
    attention(&[4, 12]);
    let before = Checkpoint::open(model.path()).unwrap();
    cache.remember(&before, &all_keys(&before)).unwrap();
    attention(&[12, 4]);
    let after = Checkpoint::open(model.path()).unwrap();
    assert_eq!(cache.known_keys(&after), [None, None], "the other shard decides what it is");
}

/// Cancels at once.
struct Cancelled;

impl Observer for Cancelled {
    fn is_cancelled(&self) -> bool {
        true
    }
}

#[test]
fn hashing_can_be_cancelled() {
    assert!(matches!(Cache::key(&sample(), 0, &Cancelled), Err(Error::Cancelled)));
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_and_reads_as_empty() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    write(&file, b"in the way");
    let (cache, key) = (Cache::new(&file, CACHE_LIMIT_BYTES), keys(&folder, 1)[0]);
    assert_eq!(cache.get::<Numbers>(key), None);
    assert!(matches!(cache.put(key, &Numbers(Vec::new())), Err(Error::Io { .. })));
    cache.trim().unwrap();
}
