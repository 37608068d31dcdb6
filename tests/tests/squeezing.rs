//! Squeezed folders come back to the bit, alone and against a base; what is damaged or another's is refused by name.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{
    Destination, Squeezed, estimate_squeezed, export, is_squeezed, squeeze, unsqueeze,
};
use lapidary_engine::job::Limits;
use lapidary_engine::{Result, Silent, target};
use lapidary_tests::{
    assert_says, names_in, on_threads, plan, raw_file, read, read_folder, rtn, sample, sample_path,
    write,
};
use serde_json::json;
use tempfile::TempDir;

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn squeezed(path: &Path, base: Option<&Path>, out: &Path) -> Squeezed {
    squeeze(path, base, to(out), &Silent).unwrap_or_else(|error| panic!("{error}"))
}

fn restored(path: &Path, base: Option<&Path>, out: &Path) -> Result<Squeezed> {
    unsqueeze(path, base, to(out), &Silent)
}

/// The sample's folder, a copy of it with some weights changed a little, and a folder for the rest.
fn tuned(root: &Path) -> std::path::PathBuf {
    let tuned = root.join("tuned");
    let files = read_folder(&sample_path());
    for (name, bytes) in files {
        let mut bytes = bytes;
        if name.ends_with(".safetensors") {
            let start = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
            // The last bit of the mantissa of every fifth BF16.
            bytes[start..].iter_mut().step_by(10).for_each(|byte| *byte ^= 1);
        }
        write(&tuned.join(name), &bytes);
    }
    tuned
}

#[test]
fn a_model_comes_back_to_the_bit_in_two_thirds_at_any_number_of_threads() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("squeezed");
    let found = squeezed(&sample_path(), None, &out);
    assert!(is_squeezed(&out) && !is_squeezed(&sample_path()));
    let file = &found.files[0];
    let share = file.squeezed_bytes as f64 / file.bytes as f64;
    assert!((0.6..0.72).contains(&share), "{share}");
    let name = format!("{}.squeezed", file.name);
    assert_eq!(read(&out.join(&name)).len() as u64, file.squeezed_bytes);
    let back = root.path().join("back");
    restored(&out, None, &back).unwrap();
    assert_eq!(read_folder(&back), read_folder(&sample_path()));
    let alone = root.path().join("alone");
    on_threads(1, || squeezed(&sample_path(), None, &alone));
    assert_eq!(read_folder(&alone), read_folder(&out));
    let (before, after) = estimate_squeezed(&sample_path(), None, &Silent).unwrap();
    assert_eq!(before, file.bytes);
    assert!((after as f64 / file.squeezed_bytes as f64 - 1.0).abs() < 0.02, "{after}");
}

#[test]
fn an_archive_comes_back_and_opens() {
    let root = TempDir::new().unwrap();
    let (archive, out, back) =
        (root.path().join("archive"), root.path().join("out"), root.path().join("back"));
    let sample = sample();
    let plan = plan(&sample, &[("*_proj.weight", vec![rtn(4)])]).unwrap();
    export(&sample, &plan, target::find("archive").unwrap(), to(&archive), &Silent).unwrap();
    let found = squeezed(&archive, None, &out);
    assert!(found.files[0].squeezed_bytes < found.files[0].bytes);
    restored(&out, None, &back).unwrap();
    assert_eq!(read_folder(&back), read_folder(&archive));
    assert!(Checkpoint::open(&back).is_ok());
}

#[test]
fn against_its_base_a_model_is_what_was_changed() {
    let root = TempDir::new().unwrap();
    let tuned = tuned(root.path());
    let (alone, against) = (root.path().join("alone"), root.path().join("against"));
    let alone = squeezed(&tuned, None, &alone).files[0].squeezed_bytes;
    let base = sample_path();
    let less = squeezed(&tuned, Some(&base), &against).files[0].squeezed_bytes;
    // One bit in five elements: 0.72 bits an element, of 16.
    assert!(less * 8 < alone, "{less} and {alone}");
    assert_says(restored(&against, None, &root.path().join("a")), &["against", "--base"]);
    // Another base has the names and the shapes, and gives something else.
    let other = restored(&against, Some(&tuned), &root.path().join("b"));
    assert_says(other, &["model.safetensors", "--base"]);
    restored(&against, Some(&base), &root.path().join("c")).unwrap();
    assert_eq!(read_folder(&root.path().join("c")), read_folder(&tuned));
    // Against itself there is next to nothing.
    let same = root.path().join("same");
    let nothing = squeezed(&base, Some(&base), &same).files[0].squeezed_bytes;
    assert!(nothing < 20_000, "{nothing}");
}

#[test]
fn what_is_damaged_cut_or_another_is_refused_and_leaves_nothing() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("squeezed");
    let found = squeezed(&sample_path(), None, &out);
    let file = out.join(format!("{}.squeezed", found.files[0].name));
    let good = read(&file);
    let back = root.path().join("back");
    let n = good.len();
    for at in [3, 22, 30, 200, n / 3, n / 2, n - 40, n - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        write(&file, &bytes);
        assert_says(restored(&out, None, &back), &["safetensors.squeezed"]);
    }
    for length in [0, 10, 25, 1000, n / 2, n - 1] {
        write(&file, &good[..length]);
        assert_says(restored(&out, None, &back), &["safetensors.squeezed"]);
    }
    write(&file, &[good.as_slice(), b"more"].concat());
    assert_says(restored(&out, None, &back), &["safetensors.squeezed"]);
    assert!(!names_in(root.path()).contains(&"back".to_owned()));
    // A header that speaks of petabytes takes no memory for them.
    let (bytes, name) = (1_u64 << 52, "enormous");
    let header =
        json!({ name: {"dtype": "U8", "shape": [bytes], "data_offsets": [0, bytes]} }).to_string();
    let whole = (8 + header.len() as u64 + bytes).to_le_bytes();
    let header = raw_file(&header, &[]);
    write(&file, &[b"lapidary squeezed 1\n".as_slice(), &whole, &header].concat());
    assert_says(restored(&out, None, &back), &["safetensors.squeezed", "too early"]);
    write(&file, &good);
    restored(&out, None, &back).unwrap();
    let empty = root.path().join("empty");
    std::fs::create_dir_all(&empty).expect("a folder");
    assert_says(
        squeeze(&empty, None, to(&root.path().join("x")), &Silent),
        &["no safetensors file"],
    );
}
