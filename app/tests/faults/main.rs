//! The program killed, cut off from its disk and called twice: what is left is nothing or whole, and the next run goes on
//! to the same bytes. `FAULT_SEED` chooses other moments.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lapidary_engine::disk;
use lapidary_engine::numeric::seeds::Random;
use tempfile::TempDir;

/// Times that the program is killed.
const KILLS: usize = 50;

const WORK: &str = ".out.lapidary-work";

/// A folder with a model of 260,000 parameters and a project that compresses 35 of its layers.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().expect("it works");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/stories260K");
        for (name, _) in disk::list_files(&model).expect("it works") {
            let bytes = disk::read_bytes(&model.join(&name), 10_000_000).expect("it works");
            disk::write_file(&folder.path().join("model").join(name), &bytes).expect("it works");
        }
        let project = r#"(version: 2, checkpoint: "model", target: "dense", plan: {
            "model.layers.*_proj.weight": (steps: [(method: "round-to-nearest",
                parameters: {"bits": 4, "group_size": 32, "clipping": "mse"})]),
        })"#;
        disk::write_file(&folder.path().join("p.ron"), project.as_bytes()).expect("it works");
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        names_in(self.folder.path())
    }

    /// A command of the program, run in the folder by a shell that first does `before`.
    fn after(&self, before: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{before}\nexec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_lapidary")])
            .args(arguments)
            .current_dir(self.folder.path())
            .env("LAPIDARY_HOME", self.at("home"))
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.after("", arguments).output().expect("it works")
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.after("", arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it works")
    }

    /// Exports without a break, and takes the files away again.
    fn unbroken(&self, compress: &[&str]) -> BTreeMap<String, Vec<u8>> {
        works(&self.run(compress));
        let files = self.files();
        std::fs::remove_dir_all(self.at("out")).expect("it works");
        files
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let out = self.at("out");
        let read =
            |name: &String| disk::read_bytes(&out.join(name), 100_000_000).expect("it works");
        names_in(&out).iter().map(|name| (name.clone(), read(name))).collect()
    }
}

const COMPRESS: [&str; 4] = ["compress", "p.ron", "--out", "out"];

/// The same for a target whose layers are written into the output as they are compressed.
const INTO_PLACE: [&str; 6] = ["compress", "p.ron", "--out", "out", "--target", "archive"];

fn names_in(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("it works").file_name();
    let entries = std::fs::read_dir(folder).expect("it works");
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it works")
}

#[track_caller]
fn works(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// Asserts the exit code, nothing on stdout, and that the last line on stderr says each of `said`.
#[track_caller]
fn fails(output: &Output, code: i32, said: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(stderr.lines().count(), 1 + usize::from(stderr.contains("going on")), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("lapidary: "), "{stderr}");
    for part in said {
        assert!(last.contains(part), "{part:?} is not in: {stderr}");
    }
}

#[test]
fn killed_at_fifty_moments_and_resumed_it_gives_the_same_bytes() {
    kill_and_resume(&COMPRESS);
}

#[test]
fn killed_at_fifty_moments_while_layers_are_written_into_place_it_gives_the_same_bytes() {
    kill_and_resume(&INTO_PLACE);
}

#[track_caller]
fn kill_and_resume(compress: &[&str]) {
    let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let place = Place::new();
    let begun = Instant::now();
    let whole = place.unbroken(compress);
    let whole_ns = begun.elapsed().as_nanos() as f64;
    let before = place.names();
    let mut random = Random::new(seed);
    let (mut killed, mut gone_on, mut finished) = (0, 0, 0);
    let mut longest_ns = whole_ns;
    for moment in 0..4 * KILLS {
        let what = || format!("seed {seed}, moment {moment}");
        if killed == KILLS {
            break;
        }
        let mut child = place.start(compress);
        std::thread::sleep(Duration::from_nanos((longest_ns * random.uniform()) as u64));
        child.kill().expect("it works");
        let output = child.wait_with_output().expect("it works");
        killed += usize::from(output.status.signal() == Some(9));
        gone_on += usize::from(text(&output.stderr).contains("going on: "));
        if place.at("out").exists() {
            // It was done before it was killed, or but for clearing away; the machine has become faster.
            assert!(place.files() == whole, "{}", what());
            std::fs::remove_dir_all(place.at("out")).expect("it works");
            longest_ns *= 0.95;
            continue;
        }
        // Every second time it is killed again where it went on.
        if moment % 2 == 0 {
            let output = place.run(compress);
            works(&output);
            gone_on += usize::from(text(&output.stderr).contains("going on: "));
            assert!(place.files() == whole, "{}", what());
            std::fs::remove_dir_all(place.at("out")).expect("it works");
            assert_eq!(place.names(), before, "{}: nothing hidden is left", what());
            finished += 1;
        }
    }
    assert_eq!(killed, KILLS, "so many were killed before they were done");
    assert!(gone_on >= 5, "only {gone_on} went on with finished layers");
    assert!(finished >= 10, "only {finished} were resumed to the end");
}

#[test]
fn interrupted_it_says_where_finished_layers_are_and_goes_on() {
    let place = Place::new();
    let whole = place.unbroken(&COMPRESS);
    let child = place.start(&COMPRESS);
    let finished = place.at(WORK).join("finished");
    while !finished.exists() || names_in(&finished).len() < 3 {
        std::thread::sleep(Duration::from_micros(200));
    }
    works(&Command::new("kill").args(["-INT", &child.id().to_string()]).output().unwrap());
    let output = child.wait_with_output().unwrap();
    fails(&output, 130, &["cancelled", "finished layers are kept in", "goes on with them"]);
    assert!(!place.at("out").exists());
    let output = place.run(&COMPRESS);
    works(&output);
    assert!(text(&output.stderr).contains("of 35 layers were finished before"));
    assert!(place.files() == whole);
}

#[test]
fn fresh_begins_anew() {
    let place = Place::new();
    let before = place.names();
    let whole = place.unbroken(&COMPRESS);
    let mut child = place.start(&COMPRESS);
    let finished = place.at(WORK).join("finished");
    while !finished.exists() || names_in(&finished).is_empty() {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = place.run(&[&COMPRESS[..], &["--fresh"]].concat());
    works(&output);
    assert!(text(&output.stderr).contains("thrown away"), "{}", text(&output.stderr));
    assert!(!text(&output.stderr).contains("going on"));
    assert!(place.files() == whole);
    std::fs::remove_dir_all(place.at("out")).unwrap();
    assert_eq!(place.names(), before);
}

#[test]
fn a_full_disk_midway_is_a_sentence_and_leaves_nothing_half_written() {
    for compress in [&COMPRESS[..], &INTO_PLACE] {
        fill_the_disk(compress);
    }
}

#[track_caller]
fn fill_the_disk(compress: &[&str]) {
    let place = Place::new();
    let whole = place.unbroken(compress);
    let before = place.names();
    // Files may have half of what the weights take: layers fit, the output does not. Shells count in 512 bytes or more.
    let blocks = whole["model.safetensors"].len() / 2048;
    let limit = format!("ulimit -f {blocks}");
    let trapped = format!("{limit}\ntrap '' XFSZ");
    let output = place.after(&trapped, compress).output().expect("it works");
    fails(&output, 1, &["model.safetensors", "free some space", "nothing half-written"]);
    assert!(!place.at("out").exists());
    assert_eq!(names_in(&place.at(WORK)), ["finished"]);
    // Without the trap the system ends the process.
    let output = place.after(&limit, compress).output().expect("it works");
    assert!(output.status.signal().is_some(), "{output:?}");
    assert!(!place.at("out").exists());
    let output = place.run(compress);
    works(&output);
    assert!(text(&output.stderr).contains("35 of 35 layers were finished before"));
    assert!(place.files() == whole);
    std::fs::remove_dir_all(place.at("out")).expect("it works");
    // And where not even a layer fits.
    let output = place.after("ulimit -f 1\ntrap '' XFSZ", compress).output().expect("it works");
    fails(&output, 1, &["cannot write", "free some space"]);
    assert!(!place.at("out").exists());
    works(&place.run(compress));
    assert!(place.files() == whole);
    std::fs::remove_dir_all(place.at("out")).expect("it works");
    assert_eq!(place.names(), before);
}

#[test]
fn an_older_output_survives_a_failure() {
    let place = Place::new();
    works(&place.run(&COMPRESS));
    let older = place.files();
    let other = [&COMPRESS[..], &["--force", "--target", "archive"]].concat();
    works(&place.run(&other));
    let archive = place.files();
    assert_ne!(archive, older);
    let dense = [&COMPRESS[..], &["--force"]].concat();
    let output = place.after("ulimit -f 400\ntrap '' XFSZ", &dense).output().unwrap();
    fails(&output, 1, &["free some space"]);
    assert!(place.files() == archive, "the older output is untouched");
    works(&place.run(&dense));
    assert!(place.files() == older);
}

#[test]
fn of_two_processes_the_second_is_refused_at_once() {
    let place = Place::new();
    let whole = place.unbroken(&COMPRESS);
    let before = place.names();
    // Stopped in the middle, so that it surely is at work while the second begins.
    let first = place.start(&COMPRESS);
    let signal = |name: &str| {
        works(&Command::new("kill").args([name, &first.id().to_string()]).output().unwrap());
    };
    while !place.at(WORK).join("partial").exists() {
        std::thread::sleep(Duration::from_micros(200));
    }
    signal("-STOP");
    let second = place.run(&COMPRESS);
    let fresh = place.run(&[&COMPRESS[..], &["--fresh"]].concat());
    signal("-CONT");
    for refused in [second, fresh] {
        fails(&refused, 2, &["another export to out is running", "choose another output folder"]);
        assert_eq!(text(&refused.stderr).lines().count(), 1);
    }
    works(&first.wait_with_output().unwrap());
    assert!(place.files() == whole);
    std::fs::remove_dir_all(place.at("out")).unwrap();
    assert_eq!(place.names(), before);
}

#[test]
fn places_that_cannot_be_written_are_said_before_anything_is_computed() {
    let place = Place::new();
    let before = place.names();
    let under_a_file = "p.ron/out".to_owned();
    let too_long = "n".repeat(300);
    for out in [&under_a_file, &too_long, "/proc/self/out", "/dev/null/out", "/dev/full/out"] {
        let output = place.run(&["compress", "p.ron", "--out", out]);
        let code = output.status.code();
        assert!(matches!(code, Some(1 | 2)), "{out}: {}", text(&output.stderr));
        fails(&output, code.unwrap(), &["cannot "]);
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
        assert_eq!(place.names(), before, "{out}");
    }
    // Permissions bind whoever is not root.
    std::fs::create_dir(place.at("closed")).unwrap();
    works(&Command::new("chmod").args(["555"]).arg(place.at("closed")).output().unwrap());
    let output = place.run(&["compress", "p.ron", "--out", "closed/out"]);
    if output.status.success() {
        assert!(place.at("closed/out").is_dir(), "only root may");
    } else {
        fails(&output, 1, &["cannot ", "choose a folder you may write to"]);
        assert!(names_in(&place.at("closed")).is_empty());
    }
}

#[test]
fn files_of_a_wished_size_come_from_the_command_line() {
    let place = Place::new();
    let sharded = [&COMPRESS[..], &["--shard-size", "300kB"]].concat();
    works(&place.run(&sharded));
    let files = place.files();
    let weights: Vec<_> = files.iter().filter(|(name, _)| name.ends_with("safetensors")).collect();
    assert!(weights.len() >= 4, "{:?}", files.keys());
    assert!(weights.iter().all(|(_, bytes)| bytes.len() <= 300_000));
    assert!(files.contains_key("model.safetensors.index.json"));
    let whole = ["unpack", "out", "--out", "whole"];
    fails(&place.run(&whole), 2, &["no compressed layer"]);
    let archive = ["compress", "p.ron", "--target", "archive", "--out", "packed"];
    works(&place.run(&[&archive[..], &["--shard-size", "50kB"]].concat()));
    works(&place.run(&["unpack", "packed", "--out", "whole", "--shard-size", "1GB"]));
    let name = |name: &String| name.ends_with("safetensors") || name.ends_with("index.json");
    let left: Vec<String> = names_in(&place.at("whole")).into_iter().filter(name).collect();
    assert_eq!(left, ["model.safetensors"]);
    let bad = [&COMPRESS[..], &["--shard-size", "3 parsecs"]].concat();
    fails(&place.run(&bad), 2, &["3 parsecs", "5GB"]);
    let cut = ["compress", "p.ron", "--out", "g", "--target", "gguf", "--shard-size", "1MB"];
    works(&place.run(&cut));
    let is_part = |name: &String| name.contains("-of-");
    let parts: Vec<String> = names_in(&place.at("g")).into_iter().filter(is_part).collect();
    assert!(parts.len() > 1, "{parts:?}");
    let last = format!("-of-{:05}.gguf", parts.len());
    assert!(parts.iter().all(|name| name.ends_with(&last)), "{parts:?}");
    let bytes = |name: &String| std::fs::metadata(place.at("g").join(name)).unwrap().len();
    assert!(parts.iter().all(|name| bytes(name) <= 1_000_000));
}

#[test]
fn a_dry_run_foretells_the_bytes_and_writes_nothing() {
    let place = Place::new();
    let before = place.names();
    let said = |arguments: &[&str]| {
        let output = place.run(&[&COMPRESS[..], &["--dry-run"], arguments].concat());
        works(&output);
        text(&output.stdout).to_owned()
    };
    let line = |said: &str, head: &str| {
        let found = said.lines().find(|line| line.starts_with(head));
        found.unwrap_or_else(|| panic!("no {head} in {said}")).to_owned()
    };
    let dense = said(&[]);
    assert_eq!(place.names(), before);
    assert!(line(&dense, "plan").contains("35 compressed but stored in full"), "{dense}");
    assert!(line(&dense, "layers").contains("35 to compress; "), "{dense}");
    // The largest batch is all of them: 20 bytes for each of their weights.
    let weights: u64 = 5 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 172 * 64);
    let memory = format!("{:.2} MB for layers", 20.0 * weights as f64 / 1e6);
    assert!(line(&dense, "memory").contains(&memory), "{memory} is not in {dense}");
    let time = line(&dense, "time");
    assert!(time.contains("an estimate") && time.contains(" s for layers"), "{time}");
    for target in ["dense", "archive"] {
        let foretold = line(&said(&["--target", target]), "output");
        works(&place.run(&[&COMPRESS[..], &["--target", target]].concat()));
        let files = place.files();
        let of_output = files.iter().filter(|(name, _)| !name.starts_with("lapidary-report"));
        let (count, bytes) = of_output.fold((0, 0), |(n, sum), (_, b)| (n + 1, sum + b.len()));
        let digits = foretold.replace(',', "");
        assert!(digits.contains(&format!(" {bytes} bytes in {count} files")), "{foretold}");
        let taken = place.run(&[&COMPRESS[..], &["--dry-run"]].concat());
        fails(&taken, 2, &["out already exists", "--force"]);
        std::fs::remove_dir_all(place.at("out")).unwrap();
    }
    // What another attempt finished counts.
    let stopped = place.after("ulimit -f 400\ntrap '' XFSZ", &COMPRESS).output().unwrap();
    fails(&stopped, 1, &["free some space"]);
    assert!(line(&said(&[]), "layers").contains("35 of them finished before"));
    let refused = place.run(&[&COMPRESS[..], &["--dry-run", "--memory", "0.00001"]].concat());
    fails(&refused, 1, &["compressing tensor", "available"]);
}
