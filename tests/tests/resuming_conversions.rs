//! Conversions that stop and go on: to the same bytes, behind what is whole and fits only.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, convert, export, finished_for};
use lapidary_engine::job::Limits;
use lapidary_engine::target::{self, Aim, Target};
use lapidary_engine::{Error, Observer, Result, Silent, disk};
use lapidary_tests::observers::At;
use lapidary_tests::{names_in, plan, read, read_folder, rtn, small_llama, write};
use tempfile::TempDir;

fn dense() -> &'static dyn Target {
    target::find("dense").expect("a target")
}

fn packed() -> &'static dyn Target {
    target::find("compressed-tensors").expect("a target")
}

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

/// An archive in `folder` of a llama at 4 bits.
fn archive(folder: &Path) -> Checkpoint {
    small_llama(&folder.join("model"));
    let checkpoint = Checkpoint::open(&folder.join("model")).expect("a model");
    let plan = plan(&checkpoint, &[("*_proj.weight", vec![rtn(4)])]).expect("a plan");
    let (out, target) = (folder.join("archive"), target::find("archive").expect("a target"));
    export(&checkpoint, &plan, target, to(&out), &Silent).expect("an export");
    Checkpoint::open(&out).expect("an archive")
}

fn convert_to(
    archive: &Checkpoint,
    aim: impl Into<Aim>,
    out: &Path,
    observer: &dyn Observer,
) -> Result<Report> {
    convert(archive, aim, to(out), observer)
}

#[test]
fn a_conversion_goes_on_behind_the_last_tensor_that_was_written() {
    let folder = TempDir::new().unwrap();
    let archive = archive(folder.path());
    let at = |name: &str| folder.path().join(name);
    let sharded = Aim { shard_bytes: 12_000, ..dense().into() };
    for (aim, out) in
        [(packed().into(), at("packed")), (sharded, at("sharded")), (dense().into(), at("dense"))]
    {
        convert_to(&archive, aim, &at("whole"), &Silent).unwrap();
        let whole = read_folder(&at("whole"));
        std::fs::remove_dir_all(at("whole")).unwrap();
        let mut before = 0;
        for (stage, nth) in [("Writing", 1), ("Writing", 4), ("Writing", 9), ("Proving", 3)] {
            let observer = At::cancelling(stage, nth);
            let done = convert_to(&archive, aim, &out, &observer);
            assert!(matches!(done, Err(Error::Cancelled)) && !out.exists(), "{done:?}");
            let kept = finished_for(&out).expect("something is kept");
            let bytes = |name: &String| read(&kept.join(name)).len();
            let there: usize = names_in(&kept).iter().map(bytes).sum();
            assert!(there > before, "{stage} {nth}: {there} bytes, {before} before");
            before = there;
        }
        let observer = At::listening();
        convert_to(&archive, aim, &out, &observer).unwrap();
        let said = observer.said();
        assert!(
            !said.is_empty() && said.iter().all(|line| line.starts_with("going on: ")),
            "{said:?}"
        );
        assert!(read_folder(&out) == whole, "{}", out.display());
        assert!(finished_for(&out).is_none());
    }
    assert_eq!(names_in(folder.path()), ["archive", "dense", "model", "packed", "sharded"]);
}

/// What happens to what was written before, and to the source.
type Damage<'a> = &'a dyn Fn(&Path, &Path);

#[test]
fn what_is_damaged_or_of_another_conversion_is_written_anew() {
    let folder = TempDir::new().unwrap();
    let archive = archive(folder.path());
    let at = |name: &str| folder.path().join(name);
    convert_to(&archive, dense(), &at("whole"), &Silent).unwrap();
    let whole = read_folder(&at("whole"));
    let out = at("out");
    let stop = |aim: &'static dyn Target| {
        let observer = At::cancelling("Writing", 9);
        convert_to(&archive, aim, &out, &observer).unwrap_err();
        let kept = finished_for(&out).unwrap();
        let names = names_in(&kept);
        let [note, weights] = names.as_slice() else { panic!("two files: {names:?}") };
        assert_eq!(Path::new(note).extension(), Some("json".as_ref()));
        (kept.join(note), kept.join(weights))
    };
    let damages: [Damage<'_>; 5] = [
        &|_, weights| {
            let mut bytes = read(weights);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            write(weights, &bytes);
        },
        &|_, weights| write(weights, &read(weights)[..100]),
        &|note, _| write(note, b"{}"),
        &|note, _| disk::remove_file(note).unwrap(),
        &|_, weights| disk::remove_file(weights).unwrap(),
    ];
    for damage in damages {
        let (note, weights) = stop(dense());
        damage(&note, &weights);
        let observer = At::listening();
        convert_to(&archive, dense(), &out, &observer).unwrap();
        assert_eq!(observer.said(), Vec::<String>::new());
        assert!(read_folder(&out) == whole);
        std::fs::remove_dir_all(&out).unwrap();
    }
    // What follows the last whole tensor is cut off; the files of another target make room.
    let (_, weights) = stop(dense());
    write(&weights, &[read(&weights), vec![7; 1000]].concat());
    let observer = At::listening();
    convert_to(&archive, dense(), &out, &observer).unwrap();
    assert!(observer.said().len() == 1 && read_folder(&out) == whole);
    std::fs::remove_dir_all(&out).unwrap();
    let first = stop(dense());
    let second = stop(packed());
    assert!(first != second && !first.0.exists() && !first.1.exists());
}
