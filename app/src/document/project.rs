//! Project files (`.ron`): checkpoint, plan, target and view, versioned. Types of their own, so that the engine
//! may change without breaking a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_engine::plan::{Plan, Rules};
use lapidary_engine::target::{self, Aim};
use lapidary_engine::{Error, Result, disk};
use serde::{Deserialize, Serialize};

use crate::document::draft::Draft;
use crate::document::model::Model;

/// The newest version this program reads.
pub const VERSION: u32 = 3;
/// The version of projects that take nothing out, which older programs read too.
const WHOLE_VERSION: u32 = 2;
/// The largest project that is read.
const MAX_PROJECT_BYTES: u64 = 64 << 20;

/// A project as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Version of the file.
    pub version: u32,
    /// The checkpoint, relative to the project's folder where possible.
    pub checkpoint: String,
    /// A target's id.
    #[serde(default = "default_target")]
    pub target: String,
    /// Assignments by tensor name, pattern or role, in order.
    #[serde(default)]
    pub plan: Rules,
    /// The plans of other targets, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<String, Rules>,
    /// Blocks and experts that the plan takes out.
    #[serde(default, skip_serializing_if = "Removal::is_empty")]
    pub removed: Removal,
    /// The same of the plans of other targets, where they take out any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed_for: BTreeMap<String, Removal>,
    /// Devices each layer is split over when it is run.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub tensor_parallel: u32,
    /// The most bytes of a weight file; 0 keeps the files of the source.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shard_bytes: u64,
    /// What was on screen.
    #[serde(default)]
    pub view: View,
}

/// What was on screen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct View {
    /// Names of the selected tensors.
    pub selected: Vec<String>,
    /// The metric that colours the map.
    pub metric: String,
    /// The text of the layer filter.
    pub filter: String,
    /// The columns of the layer list, by id; the usual ones if empty.
    pub columns: Vec<String>,
}

/// The part of a project that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn default_target() -> String {
    "dense".to_owned()
}

/// A model is no project: says what makes one of it, and what gives a GGUF file other types without one.
fn refuse_model(path: &Path) -> Result<()> {
    let ends = |with: &str| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(with));
    let (path, is_folder) = (path.display(), path.is_dir());
    if ends("gguf") && !is_folder {
        return Err(Error::plan(
            format!("{path} is a GGUF file, not a project"),
            format!(
                "give its tensors other types with lapidary convert {path} --target gguf --type Q4_K, or name it as the checkpoint of a project for the target gguf"
            ),
        ));
    }
    if ends("safetensors") || is_folder {
        return Err(Error::plan(
            format!("{path} is a model, not a project"),
            "save a project of it in the window, or have lapidary plan write one",
        ));
    }
    Ok(())
}

impl Project {
    /// Reads a project.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a newer version, [`Error::Malformed`] with line and column for anything else;
    /// an unknown field is named. [`Error::Plan`] for a model in its place.
    pub fn read(path: &Path) -> Result<Self> {
        refuse_model(path)?;
        let text = disk::read_text(path, MAX_PROJECT_BYTES)?;
        let malformed =
            |error: ron::error::SpannedError| Error::malformed("project", path, format!("{error}"));
        let Versioned { version } = ron::from_str(&text).map_err(malformed)?;
        if version > VERSION {
            return Err(Error::plan(
                format!(
                    "{} was written by a newer Lapidary (project version {version}; this one reads up to {VERSION})",
                    path.display()
                ),
                "update Lapidary, or save the project again with the older version",
            ));
        }
        ron::from_str(&text).map_err(malformed)
    }

    /// Writes the project; the file is the old one or the new one, never a part. A folder that is not there is not
    /// made.
    pub fn write(&self, path: &Path) -> Result<()> {
        let pretty = ron::ser::PrettyConfig::new().depth_limit(3);
        let text = ron::ser::to_string_pretty(self, pretty).map_err(|error| {
            Error::Unsupported { what: format!("writing the project ({error})") }
        })?;
        disk::write_named_file(path, (text + "\n").as_bytes())
    }

    /// Plans and target on an open checkpoint.
    ///
    /// # Errors
    /// [`Error::Plan`] for targets and layers that are not there.
    pub fn draft(&self, checkpoint: &Checkpoint) -> Result<Draft> {
        // What cannot be taken out is a problem to be shown, not one that keeps a project shut.
        let mut plan = self.plan.resolve(checkpoint)?;
        plan.set_removal(self.removed.clone());
        let mut draft = Draft::new(plan, target::find(&self.target)?);
        draft.tensor_parallel = self.tensor_parallel.max(1);
        draft.shard_bytes = self.shard_bytes;
        for (id, rules) in &self.plans {
            let mut plan = rules.resolve(checkpoint)?;
            plan.set_removal(self.removed_for.get(id).cloned().unwrap_or_default());
            draft.set_other(target::find(id)?, plan);
        }
        Ok(draft)
    }

    /// The plan for the present target on an open checkpoint.
    ///
    /// # Errors
    /// [`Error::Plan`] for layers that are not there, and for what cannot be taken out.
    pub fn resolve(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        let mut plan = self.plan.resolve(checkpoint)?;
        checkpoint.check_removal(&self.removed)?;
        plan.set_removal(self.removed.clone());
        Ok(plan)
    }

    /// Target and run.
    ///
    /// # Errors
    /// [`Error::Plan`] for a target that there is not.
    pub fn aim(&self) -> Result<Aim> {
        Ok(Aim {
            target: target::find(&self.target)?,
            tensor_parallel: self.tensor_parallel.max(1),
            shard_bytes: self.shard_bytes,
        })
    }

    /// Where the checkpoint lies, given where the project lies.
    pub fn checkpoint_path(&self, project: &Path) -> PathBuf {
        project.parent().unwrap_or(Path::new(".")).join(&self.checkpoint)
    }
}

impl Project {
    /// Work on a checkpoint that is named so.
    pub fn of(checkpoint: String, draft: &Draft, view: View) -> Self {
        let removed = draft.plan().removal().clone();
        let removed_for: BTreeMap<String, Removal> = draft
            .others()
            .filter(|(_, plan)| !plan.removal().is_empty())
            .map(|(id, plan)| (id.to_owned(), plan.removal().clone()))
            .collect();
        let is_whole = removed.is_empty() && removed_for.is_empty();
        Self {
            version: if is_whole { WHOLE_VERSION } else { VERSION },
            checkpoint,
            target: draft.target().about().id.to_owned(),
            plan: Rules::of(draft.plan()),
            plans: other_plans(draft),
            removed,
            removed_for,
            tensor_parallel: draft.tensor_parallel,
            shard_bytes: draft.shard_bytes,
            view,
        }
    }
}

impl Model {
    /// What is on screen.
    pub fn view(&self) -> View {
        let tensors = self.checkpoint.tensors();
        View {
            selected: self.selection.layers().map(|l| tensors[l].name.clone()).collect(),
            metric: self.metric.id.to_owned(),
            filter: self.list.filter.clone(),
            columns: self.list.columns.iter().map(|column| column.id().to_owned()).collect(),
        }
    }
}

/// The plans of targets that are not the present one.
fn other_plans(draft: &Draft) -> BTreeMap<String, Rules> {
    draft.others().map(|(id, plan)| (id.to_owned(), Rules::of(plan))).collect()
}

/// `checkpoint` as a project at `project` names it: relative where there is a way, with forward slashes.
pub fn relative_checkpoint(checkpoint: &Path, project: &Path) -> String {
    let absolute = |path: &Path| {
        std::path::absolute(path).unwrap_or_else(|_no_current_folder| path.to_path_buf())
    };
    let (checkpoint, project) = (absolute(checkpoint), absolute(project));
    let folder = project.parent().unwrap_or(Path::new("."));
    let path = pathdiff::diff_paths(&checkpoint, folder).unwrap_or(checkpoint);
    path.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Project> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.ron");
        disk::write_file(&path, text.as_bytes()).unwrap();
        Project::read(&path)
    }

    #[test]
    fn a_written_project_reads_back() {
        let text = r#"(version: 1, checkpoint: "../m", target: "dense", plan: {
            "*.down_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 4, "clipping": "mse"})]),
        })"#;
        let project = read(text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("again.ron");
        project.write(&path).unwrap();
        assert_eq!(Project::read(&path).unwrap(), project);
    }

    #[test]
    fn what_is_taken_out_is_written_and_read() {
        let project = read(
            r#"(version: 3, checkpoint: "m", removed: (blocks: [1, 4], experts: {0: [7]}), removed_for: {"gguf": (blocks: [2])})"#,
        )
        .unwrap();
        assert_eq!(project.removed.told(), "blocks 1 and 4; expert 7 of block 0");
        assert_eq!(project.removed_for["gguf"].told(), "block 2");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("again.ron");
        project.write(&path).unwrap();
        assert_eq!(Project::read(&path).unwrap(), project);
        // What takes nothing out is as it always was.
        let old = read(r#"(version: 2, checkpoint: "m")"#).unwrap();
        assert!(old.removed.is_empty());
        old.write(&path).unwrap();
        let text = disk::read_text(&path, 1 << 20).unwrap();
        assert!(!text.contains("removed"), "{text}");
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = read(r#"(version: 1, checkpoint: "m", tarjet: "dense")"#).unwrap_err();
        assert!(error.to_string().contains("tarjet"), "{error}");
    }

    #[test]
    fn a_pattern_written_twice_is_refused() {
        let keep = r#"(steps: [(method: "keep")])"#;
        let text = format!(r#"(version: 1, checkpoint: "m", plan: {{"a": {keep}, "a": {keep}}})"#);
        let error = read(&text).unwrap_err();
        assert!(error.to_string().contains("a appears twice"), "{error}");
    }

    #[test]
    fn a_newer_version_is_said_before_its_unknown_fields() {
        let error = read(r#"(version: 99, checkpoint: "m", colours: "many")"#).unwrap_err();
        assert!(error.to_string().contains("newer Lapidary"), "{error}");
    }

    #[test]
    fn checkpoints_are_named_relative_to_the_project() {
        assert_eq!(
            relative_checkpoint(Path::new("/a/models/m"), Path::new("/a/projects/p.ron")),
            "../models/m"
        );
    }
}
