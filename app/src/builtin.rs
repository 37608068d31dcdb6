//! The sample model and its projects, carried inside the program and unpacked beside each other when first needed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lapidary_engine::disk;

macro_rules! carried {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../", $path)))),*]
    };
}

/// Files by their path in the repository: projects find the sample by the same relative path there and here.
static FILES: &[(&str, &[u8])] = carried![
    "assets/sample-books-6m/config.json",
    "assets/sample-books-6m/generation_config.json",
    "assets/sample-books-6m/heldout_oz.txt",
    "assets/sample-books-6m/model.safetensors",
    "assets/sample-books-6m/special_tokens_map.json",
    "assets/sample-books-6m/tokenizer.json",
    "assets/sample-books-6m/tokenizer_config.json",
    "projects/sample-4-bit.ron",
    "projects/sample-mixed.ron",
    "projects/sample-sparse.ron",
];

/// Where the built-in files lie.
#[derive(Clone, Debug)]
pub struct Builtin {
    root: PathBuf,
}

impl Builtin {
    /// The sample's folder.
    pub fn sample(&self) -> PathBuf {
        self.root.join("assets").join("sample-books-6m")
    }

    /// The project of `lapidary demo`.
    pub fn demo_project(&self) -> PathBuf {
        self.root.join("projects").join("sample-4-bit.ron")
    }

    /// Where `lapidary demo` writes if not told.
    pub fn demo_output(&self) -> PathBuf {
        self.root.join("demo")
    }
}

/// The folder for the program's own data: `LAPIDARY_HOME`, or the place the system has for it.
pub fn home() -> PathBuf {
    let from_environment = std::env::var_os("LAPIDARY_HOME").map(PathBuf::from);
    let from_system = || {
        directories::ProjectDirs::from("", "", "lapidary")
            .map(|dirs| dirs.data_local_dir().to_path_buf())
    };
    from_environment.or_else(from_system).unwrap_or_else(|| PathBuf::from(".lapidary"))
}

/// Unpacks into `home` what is missing or damaged; a file that is already there and right is not touched.
pub fn unpack(home: &Path) -> anyhow::Result<Builtin> {
    let root = home.to_path_buf();
    for (path, bytes) in FILES {
        let target = root.join(Path::new(path));
        let is_there = disk::Source::open(&target)
            .and_then(|source| source.bytes(0..source.len_bytes()).map(|found| found == *bytes));
        if !is_there.unwrap_or(false) {
            disk::write_file(&target, bytes).with_context(|| "cannot unpack the built-in sample; set LAPIDARY_HOME to a folder you may write to")?;
        }
    }
    Ok(Builtin { root })
}
