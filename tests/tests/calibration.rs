//! Calibrations on disk: written, read, resumed, damaged, listed, deleted.

use std::path::{Path, PathBuf};

use lapidary_engine::calibration::{
    Calibration, Demands, Folder, Part, Prefix, Problem, Record, Settings, Text,
};
use lapidary_engine::numeric::channels::Channels;
use lapidary_engine::numeric::gram::Gram;
use lapidary_tests::{names_in, normal_matrix, on_threads, read, read_folder, write};
use ndarray::{Array2, Axis};
use proptest::prelude::{ProptestConfig, any, proptest};
use tempfile::TempDir;

fn settings(model_key: &str) -> Settings {
    Settings {
        model: "sample".to_owned(),
        model_key: model_key.to_owned(),
        texts: vec![Text { name: "a.txt".to_owned(), hash: "12".to_owned() }],
        sequence_tokens: 64,
        tokens: 640,
        seed: 1,
        prefix: Prefix::Original,
        has_grams: true,
    }
}

/// What a tap would have measured of a layer.
fn record(layers: &[&str], seed: u64, channels: usize, with_gram: bool) -> Record {
    let mut x = normal_matrix(seed, 640, channels);
    x[[5, 0]] = f32::NAN;
    let (mut sums, mut gram) = (Channels::new(channels), Gram::new(channels));
    x.axis_chunks_iter(Axis(0), 64).for_each(|piece| sums.add(piece));
    x[[5, 0]] = 1.0;
    gram.add(x.view());
    let layers = layers.iter().map(|&layer| layer.to_owned()).collect();
    let gram = with_gram.then_some(gram);
    Record { layers, routed_of: (seed == 2).then_some(640), inputs: sums.statistics(), gram }
}

fn first_block() -> Vec<Record> {
    vec![record(&["q.weight", "k.weight"], 1, 24, true), record(&["up.weight"], 2, 130, true)]
}

fn without_grams(records: Vec<Record>) -> Vec<Record> {
    records.into_iter().map(|record| Record { gram: None, ..record }).collect()
}

/// Kurtoses may be NaN, which equals nothing.
#[track_caller]
fn assert_same(found: &[Record], wanted: &[Record]) {
    assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
}

fn save_states(folder: &Folder, after: u32, states: &[Array2<f32>]) {
    let shapes: Vec<[usize; 2]> = states.iter().map(|of| [of.nrows(), of.ncols()]).collect();
    let written = folder.save_states(after, &shapes, &mut |batch| Ok(states[batch].clone()));
    assert_eq!(written.expect("a folder that can be written").batches(), states.len());
}

/// The block and the states behind it.
fn load_states(folder: &Folder) -> Option<(u32, Vec<Array2<f32>>)> {
    let (after, states) = folder.load_states()?;
    let all: Option<Vec<_>> = (0..states.batches()).map(|batch| states.get(batch)).collect();
    Some((after, all?))
}

fn statistics_file(folder: &Folder) -> PathBuf {
    folder.path().join("block-00000.safetensors")
}

#[test]
fn a_run_that_stopped_goes_on_at_its_block() {
    let root = TempDir::new().unwrap();
    let folder = Folder::create(root.path(), settings("m")).unwrap();
    assert!(folder.parts().is_empty() && load_states(&folder).is_none());
    folder.write_part(Part::Block(0), &first_block()).unwrap();
    let states = vec![normal_matrix(1, 64, 8), normal_matrix(2, 3, 8), Array2::zeros((0, 8))];
    save_states(&folder, 0, &states);
    // Another start with the same wish.
    let again = Folder::create(root.path(), settings("m")).unwrap();
    assert_eq!(again, folder);
    assert_eq!(again.parts(), [Part::Block(0)]);
    assert!(!again.is_finished());
    assert_eq!(load_states(&again), Some((0, states)));
    save_states(&again, 1, &[normal_matrix(3, 2, 8)]);
    assert_eq!(load_states(&again).unwrap().0, 1);
    assert_same(&again.read_part(Part::Block(0)).unwrap(), &without_grams(first_block()));
    again.write_part(Part::Block(11), &[record(&["o.weight"], 5, 3, false)]).unwrap();
    again.write_part(Part::Outside, &[record(&["lm_head.weight"], 7, 1, false)]).unwrap();
    again.finish().unwrap();
    assert!(again.is_finished() && load_states(&again).is_none());
    let names = [
        "block-00000.gram.safetensors",
        "block-00000.safetensors",
        "block-00011.safetensors",
        "manifest.json",
        "outside.safetensors",
    ];
    assert_eq!(names_in(again.path()), names);
    let all = again.load();
    assert!(all.is_finished && all.records().len() == 4);
    assert_eq!(all.record("k.weight").unwrap().inputs.channels(), 24);
    assert_eq!(all.record("up.weight").unwrap().routed_share(), Some(1.0));
    let demands = Demands { least_tokens: 1000, most_change: 1.0 };
    let problems = all.problems(["q.weight", "gone.weight"], &demands);
    assert!(
        matches!(
            &problems[..],
            [
                Problem::FewTokens { .. },
                Problem::NotFinite { values: 1, .. },
                Problem::Missing { .. }
            ]
        ),
        "{problems:?}"
    );
}

#[test]
fn gram_matrices_are_read_one_at_a_time() {
    let root = TempDir::new().unwrap();
    let folder = Folder::create(root.path(), settings("m")).unwrap();
    folder.write_part(Part::Block(0), &first_block()).unwrap();
    folder.write_part(Part::Block(1), &[record(&["o.weight"], 3, 5, false)]).unwrap();
    let all = folder.load();
    for wanted in first_block() {
        let record = all.record(&wanted.layers[0]).unwrap();
        let (found, wanted) = (folder.gram(record).unwrap(), wanted.gram.unwrap());
        assert_eq!((found.tokens(), found.to_dense_f32()), (640, wanted.to_dense_f32()));
    }
    assert_eq!(folder.gram(all.record("o.weight").unwrap()), None);
    // One value of one matrix is damaged: that one is gone, the other and the statistics are not.
    let path = folder.path().join("block-00000.gram.safetensors");
    let mut bytes = read(&path);
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    write(&path, &bytes);
    let found = |layer: &str| folder.gram(all.record(layer).unwrap()).is_some();
    assert_eq!([found("q.weight"), found("up.weight")], [true, false]);
    // Measured again without them, they are gone.
    folder.write_part(Part::Block(0), &without_grams(first_block())).unwrap();
    assert!(!path.exists());
}

#[test]
fn the_files_are_the_same_on_any_number_of_threads() {
    let run = |threads: usize| {
        let root = TempDir::new().unwrap();
        on_threads(threads, || {
            let folder = Folder::create(root.path(), settings("m")).unwrap();
            folder.write_part(Part::Block(0), &first_block()).unwrap();
            read_folder(folder.path())
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn the_files_are_read_by_the_safetensors_crate() {
    let root = TempDir::new().unwrap();
    let folder = Folder::create(root.path(), settings("m")).unwrap();
    folder.write_part(Part::Block(0), &first_block()).unwrap();
    let bytes = read(&statistics_file(&folder));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let square = file.tensor("q.weight.mean_square").unwrap();
    assert_eq!(square.shape(), [24]);
    let wanted = &first_block()[0].inputs.mean_square;
    let wanted: Vec<u8> = wanted.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(square.data(), wanted);
}

#[test]
fn states_may_be_replaced_by_what_is_made_of_them() {
    let root = TempDir::new().unwrap();
    let folder = Folder::create(root.path(), settings("m")).unwrap();
    let states = vec![normal_matrix(1, 6, 3), normal_matrix(2, 5, 3)];
    save_states(&folder, 0, &states);
    let (_, before) = folder.load_states().unwrap();
    let shapes = [[6, 3], [5, 3]];
    let twice = |batch: usize| Ok(before.get(batch).expect("a batch") * 2.0);
    folder.save_states(1, &shapes, &mut { twice }).unwrap();
    let doubled: Vec<Array2<f32>> = states.iter().map(|of| of * 2.0).collect();
    assert_eq!(load_states(&folder), Some((1, doubled.clone())));
    // What fails on the way leaves what was there.
    let error = folder.save_states(2, &shapes, &mut |_| Err(lapidary_engine::Error::Cancelled));
    assert!(error.is_err());
    assert_eq!(load_states(&folder), Some((1, doubled)));
}

#[test]
fn calibrations_are_listed_by_model_and_deleted_without_what_is_not_ours() {
    let root = TempDir::new().unwrap();
    let mut other = settings("m");
    other.seed = 2;
    let [a, b, c] =
        [settings("m"), other, settings("n")].map(|s| Folder::create(root.path(), s).unwrap());
    write(&root.path().join("stray").join("manifest.json"), b"{}");
    assert_eq!(Folder::list(root.path()).len(), 3);
    assert_eq!(Folder::list_of_model(root.path(), "m").len(), 2);
    a.write_part(Part::Block(0), &first_block()).unwrap();
    save_states(&a, 0, &[]);
    let bytes: usize = read_folder(a.path()).values().map(Vec::len).sum();
    assert_eq!(a.bytes(), bytes as u64);
    assert!(bytes > 4 * 130 * 131 / 2, "the larger Gram matrix alone");
    write(&b.path().join("notes.txt"), b"mine");
    let (path_a, path_b) = (a.path().to_owned(), b.path().to_owned());
    a.delete().unwrap();
    b.delete().unwrap();
    assert!(!path_a.exists());
    assert_eq!(names_in(&path_b), ["notes.txt"]);
    assert_eq!(Folder::list(root.path()), [c]);
    assert_eq!(Folder::list(Path::new("/nowhere")), []);
}

#[test]
fn folders_and_parts_of_others_are_absent() {
    let root = TempDir::new().unwrap();
    let folder = Folder::create(root.path(), settings("m")).unwrap();
    folder.write_part(Part::Block(0), &first_block()).unwrap();
    let foreign = Folder::create(root.path(), settings("n")).unwrap();
    // A part that was copied from another calibration.
    write(&statistics_file(&foreign), &read(&statistics_file(&folder)));
    assert!(foreign.read_part(Part::Block(0)).is_none());
    assert!(foreign.load().records().is_empty());
    // A manifest under another name.
    let moved = root.path().join("moved");
    write(&moved.join("manifest.json"), &read(&folder.path().join("manifest.json")));
    assert_eq!(Folder::open(&moved), None);
    let text = String::from_utf8(read(&folder.path().join("manifest.json"))).unwrap();
    write(&folder.path().join("manifest.json"), text.replace("640", "641").as_bytes());
    assert_eq!(Folder::open(folder.path()), None);
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let root = TempDir::new().unwrap();
    let folder = Folder::create(root.path(), settings("m")).unwrap();
    let twice = [record(&["a"], 1, 2, false), record(&["a"], 1, 2, false)];
    let error = folder.write_part(Part::Block(0), &twice).unwrap_err();
    assert!(error.sentence().contains("two calibrations of a"), "{}", error.sentence());
    assert!(folder.write_part(Part::Block(0), &[record(&[], 1, 2, false)]).is_err());
    assert!(folder.parts().is_empty());
    let none = Calibration::new(settings("m"), vec![], false);
    assert_eq!(none.record("a"), None);
}

/// A finished part, its hidden states, and their files.
fn small() -> (TempDir, Folder, [(PathBuf, Vec<u8>); 4]) {
    let root = TempDir::new().expect("a folder that can be written");
    let folder = Folder::create(root.path(), settings("m")).expect("a folder that can be written");
    folder
        .write_part(Part::Block(0), &[record(&["a"], 1, 3, true)])
        .expect("a folder that can be written");
    save_states(&folder, 4, &[normal_matrix(1, 2, 3)]);
    let files = [
        "block-00000.safetensors",
        "block-00000.gram.safetensors",
        "states.safetensors",
        "manifest.json",
    ]
    .map(|name| folder.path().join(name))
    .map(|path| (path.clone(), read(&path)));
    (root, folder, files)
}

/// Whether statistics, Gram matrix, states and manifest are there.
fn present(folder: &Folder) -> [bool; 4] {
    let gram = folder.gram(&record(&["a"], 1, 3, false)).is_some();
    let manifest = Folder::open(folder.path()).is_some();
    [folder.read_part(Part::Block(0)).is_some(), gram, load_states(folder).is_some(), manifest]
}

#[test]
fn files_cut_at_any_byte_are_absent() {
    let (_root, folder, files) = small();
    assert_eq!(present(&folder), [true; 4]);
    for (at, (path, bytes)) in files.iter().enumerate() {
        for length in 0..bytes.len() {
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(length as u64)
                .unwrap();
            let found = present(&folder)[at];
            assert!(!found, "{} cut to {length} bytes was read", path.display());
            std::fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
            write(path, bytes);
        }
        assert_eq!(present(&folder), [true; 4]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_are_absent_or_say_the_same(which in 0..4_usize, place in any::<u32>(), by in 1..=255_u8) {
        let (_root, folder, files) = small();
        let whole = format!("{:?}{:?}", folder.load().records(), load_states(&folder));
        let (path, bytes) = &files[which];
        let mut damaged = bytes.clone();
        let at = place as usize % damaged.len();
        damaged[at] ^= by;
        write(path, &damaged);
        let found = present(&folder);
        // Spaces and names in the manifest are for a person; all else is under a checksum.
        if found[which] && which != 3 {
            let now = format!("{:?}{:?}", folder.load().records(), load_states(&folder));
            assert_eq!(now, whole, "byte {at} of {}", path.display());
        }
    }
}
