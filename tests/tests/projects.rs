//! Every file in `projects/` opens, resolves, plans for its target, survives being saved, and travels in the program.

use std::path::{Path, PathBuf};

use lapidary::document::project::{Project, VERSION};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::target::{self, Case, Lint, Manifest, Severity, Storage, lints};
use lapidary_tests::{names_in, read, repository, sample_path};
use tempfile::TempDir;

fn projects() -> Vec<PathBuf> {
    let folder = repository().join("projects");
    let names = names_in(&folder).into_iter();
    let all: Vec<PathBuf> = names
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "ron"))
        .map(|name| folder.join(name))
        .collect();
    assert!(all.len() >= 3, "{all:?}");
    all
}

#[test]
fn every_project_plans_for_its_target() {
    for path in projects() {
        let what = path.display();
        let project = Project::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!((1..=VERSION).contains(&project.version), "{what}");
        assert!(Path::new(&project.checkpoint).is_relative(), "{what}: it must travel");
        let checkpoint = Checkpoint::open(&project.checkpoint_path(&path)).unwrap();
        let plan = project.plan.resolve(&checkpoint).unwrap_or_else(|error| panic!("{error}"));
        assert!(!plan.is_empty(), "{what}");
        let target = target::find(&project.target).unwrap();
        let manifest = Manifest::new(&checkpoint, &plan, target).unwrap();
        let case = Case {
            checkpoint: &checkpoint,
            plan: &plan,
            aim: target.into(),
            entries: &manifest.entries,
        };
        let serious: Vec<Lint> =
            lints(&case).into_iter().filter(|lint| lint.severity < Severity::Note).collect();
        assert!(serious.is_empty(), "{what}: {serious:?}");
        // What a project plans its target holds natively, or it says dense.
        let is_native = |storage: &Storage| *storage == Storage::Native;
        let native = manifest.entries.iter().filter(|entry| is_native(&entry.storage)).count();
        let wanted = if project.target == "dense" { 0 } else { plan.len() };
        assert_eq!(native, wanted, "{what}");
        assert_eq!(manifest.tensor_bytes() < checkpoint.tensor_bytes(), native > 0, "{what}");
        for name in &project.view.selected {
            assert!(checkpoint.find(name).is_some(), "{what} selects {name}");
        }
    }
}

#[test]
fn a_saved_project_says_the_same() {
    for path in projects() {
        let project = Project::read(&path).unwrap();
        let folder = TempDir::new().unwrap();
        let again = folder.path().join("again.ron");
        project.write(&again).unwrap();
        assert_eq!(Project::read(&again).unwrap(), project, "{}", path.display());
        let first = read(&again);
        Project::read(&again).unwrap().write(&again).unwrap();
        assert_eq!(read(&again), first, "{}", path.display());
    }
}

#[test]
fn projects_open_with_what_they_are_for() {
    for path in projects() {
        let text = String::from_utf8(read(&path)).unwrap();
        assert!(text.starts_with("// "), "{} does not say what it is for", path.display());
    }
}

#[test]
fn the_program_carries_every_project_and_the_whole_sample() {
    let carried = String::from_utf8(read(&repository().join("app/src/builtin.rs"))).unwrap();
    for path in projects() {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(carried.contains(&format!("\"projects/{name}\"")), "{name}");
    }
    for name in names_in(&sample_path()) {
        assert!(carried.contains(&format!("\"assets/sample-books-6m/{name}\"")), "{name}");
    }
}
