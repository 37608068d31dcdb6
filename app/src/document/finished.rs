//! Finished checkpoints written for other targets, unpacked, squeezed and proved: what is entered, what is known of it, how it went.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_engine::calibration::Folder;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk;
use lapidary_engine::export::{
    Contents, Prospect, Report, Squeezed, Verified, VerifiedTensor, finished_for,
};
use lapidary_engine::job::Limits;

use crate::converting;
use crate::document::{Document, Slot};
use crate::theme::text;

/// What is done with a finished checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Written for another target, without compressing it again; a GGUF file with other types.
    Convert,
    /// Written in full; a squeezed folder as it was.
    Unpack,
    /// Put into fewer bytes that give every bit back.
    Squeeze,
    /// Proved against the checkpoint it was made from.
    Verify,
}

impl Task {
    /// Every one of them, in the order of menus.
    pub const ALL: [Self; 4] = [Self::Convert, Self::Unpack, Self::Squeeze, Self::Verify];

    /// Its title, and that of its button.
    pub fn title(self) -> &'static str {
        match self {
            Self::Convert => "Convert",
            Self::Unpack => "Unpack",
            Self::Squeeze => "Squeeze",
            Self::Verify => "Verify",
        }
    }

    /// What is at work, for a sentence.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Convert => "A conversion",
            Self::Unpack => "Unpacking",
            Self::Squeeze => "Squeezing",
            Self::Verify => "A proof",
        }
    }

    /// Whether it writes a folder.
    pub fn writes(self) -> bool {
        self != Self::Verify
    }
}

/// A path that a form asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// What is read; of a proof the output.
    Input,
    /// What it was squeezed against, or is to be; of a proof the checkpoint it was made from.
    Base,
    /// The folder to write.
    Folder,
}

/// What the person has entered.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// What is read; of a proof the output.
    pub input: String,
    /// What it was squeezed against, or is to be; of a proof the checkpoint it was made from.
    pub base: String,
    /// The folder to write.
    pub folder: String,
    /// The target's id, once one was chosen.
    pub target: Option<&'static str>,
    /// The size that stacks are cut to; empty for whole stacks.
    pub size: String,
    /// The type or starting point for the tensors of a GGUF file; empty before one was chosen.
    pub kind: String,
    /// Whether errors count by what a calibration knows: the outputs of a layer, or its inputs.
    pub is_weighted: bool,
    /// By which calibration; the latest if `None`.
    pub calibration: Option<PathBuf>,
    /// The most bytes of a weight file; 0 for the files of the source.
    pub shard_bytes: u64,
    /// Working memory for a layer, in GiB.
    pub memory_gib: f64,
    /// Whether what an earlier attempt wrote is thrown away.
    pub is_fresh: bool,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            input: String::new(),
            base: String::new(),
            folder: String::new(),
            target: None,
            size: String::new(),
            kind: String::new(),
            is_weighted: false,
            calibration: None,
            shard_bytes: 0,
            memory_gib: Limits::default().memory_bytes as f64 / f64::from(1 << 30),
            is_fresh: false,
        }
    }
}

impl Form {
    /// The text of a path.
    pub fn path(&self, field: Field) -> &str {
        match field {
            Field::Input => &self.input,
            Field::Base => &self.base,
            Field::Folder => &self.folder,
        }
    }

    /// The text of a path, to change.
    pub fn path_mut(&mut self, field: Field) -> &mut String {
        match field {
            Field::Input => &mut self.input,
            Field::Base => &mut self.base,
            Field::Folder => &mut self.folder,
        }
    }

    /// A path, if anything is entered.
    pub fn entered(&self, field: Field) -> Option<PathBuf> {
        let text = self.path(field).trim();
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    /// How the machine may be used.
    pub fn limits(&self) -> Limits {
        Limits { memory_bytes: (self.memory_gib * f64::from(1 << 30)) as u64 }
    }

    /// What of it decides what is found out about the input.
    fn decisive(&self) -> Self {
        let (folder, target, size) = (String::new(), None, String::new());
        let (input, base) = (self.input.trim().to_owned(), self.base.trim().to_owned());
        Self { input, base, folder, target, size, is_fresh: false, ..self.clone() }
    }
}

/// A compressed checkpoint that was read once.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As it lies on disk.
    pub checkpoint: Arc<Checkpoint>,
    /// How its layers are stored; `None` of a GGUF file.
    pub contents: Option<Contents>,
    /// How the machine might be used.
    pub limits: Limits,
}

/// What a target comes to, or why it cannot be.
pub type Prospects = Vec<(&'static str, Result<Prospect, String>)>;

/// What was found out about an input.
#[derive(Clone, Debug)]
pub enum Looked {
    /// A compressed checkpoint, or a GGUF file.
    Checkpoint {
        /// What it holds.
        stored: Arc<Stored>,
        /// Each target by its id with what it comes to; of a GGUF file the one that takes it, once a type was chosen.
        prospects: Prospects,
        /// What does not fit, of a GGUF file.
        fitted: Vec<String>,
        /// Finished calibrations of a GGUF file, the latest first.
        calibrations: Vec<Folder>,
    },
    /// A squeezed folder.
    Squeezed(Squeezed),
    /// Bytes of weight files as they are, and about how many they would take.
    Squeezable(u64, u64),
}

impl Looked {
    /// What a target comes to.
    pub fn prospect(&self, target: &str) -> Option<&Result<Prospect, String>> {
        let Self::Checkpoint { prospects, .. } = self else { return None };
        prospects.iter().find(|(id, _)| *id == target).map(|(_, prospect)| prospect)
    }

    /// The target that keeps most layers compressed, the first of several.
    pub fn best(&self) -> Option<&'static str> {
        let Self::Checkpoint { prospects, .. } = self else { return None };
        let able = prospects.iter().filter_map(|(id, of)| Some((*id, of.as_ref().ok()?)));
        let best = able.min_by_key(|(_, of)| of.dense_layers()).map(|(id, _)| id);
        // Where there is no choice, it is told why the only one cannot be.
        best.or_else(|| prospects.first().filter(|_| prospects.len() == 1).map(|(id, _)| *id))
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Done {
    /// The output.
    pub path: PathBuf,
    /// What is known of it.
    pub outcome: Outcome,
    /// What got another form than was asked for, a sentence each.
    pub fitted: Vec<String>,
}

/// What is known of an output.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was written and proved.
    Written(Arc<Report>),
    /// Weight files are to the bit as they were.
    Restored(Squeezed),
    /// Weight files were squeezed, and give every bit back.
    Squeezed(Squeezed),
    /// How its proof went.
    Verified(Arc<Verified>),
}

/// A form with what is known of its input, and how it went.
#[derive(Debug, Default)]
pub struct Bench {
    /// What is entered.
    pub form: Form,
    /// What was found out about the input.
    pub looked: Slot<Looked>,
    /// What was entered then.
    asked: Form,
    /// How it went.
    pub run: Slot<Done>,
    /// What was said when it was stopped.
    pub note: Option<String>,
    /// Whether an earlier attempt at the folder can be gone on with.
    pub has_kept: bool,
    /// Bytes that are free where the output goes.
    pub free_bytes: Option<u64>,
    suggested: [String; 3],
}

impl Bench {
    /// Whether what was found out is about what is entered now.
    pub fn is_now(&self) -> bool {
        self.asked == self.form.decisive()
    }

    /// Remembers what is being found out.
    pub fn ask(&mut self) {
        self.asked = self.form.decisive();
        self.looked = Slot::Running { what: "Looking what it holds".to_owned(), progress: None };
    }

    /// What was found out, if it is about what is entered now.
    pub fn known(&self) -> Option<&Looked> {
        match &self.looked {
            Slot::Ready(looked) if self.is_now() => Some(looked),
            _ => None,
        }
    }

    /// What the chosen target comes to.
    pub fn prospect(&self) -> Option<&Result<Prospect, String>> {
        self.known()?.prospect(self.form.target?)
    }

    /// Suggests a path where none was entered, or only one that was suggested.
    pub fn suggest(&mut self, field: Field, path: &Path) {
        let place = field as usize;
        let text = self.form.path_mut(field);
        if text.is_empty() || *text == self.suggested[place] {
            *text = path.display().to_string();
            self.suggested[place].clone_from(text);
        }
    }

    /// Suggests a folder for what is made of the input, in the current one.
    pub fn suggest_folder(&mut self, task: Task) {
        let Some(input) = self.form.entered(Field::Input) else { return };
        let name = match (task, self.known()) {
            (Task::Verify, _) => return,
            (Task::Squeeze, _) => converting::named(&input, "squeezed"),
            (Task::Unpack, Some(Looked::Squeezed(_))) => converting::named(&input, "restored"),
            (_, Some(Looked::Checkpoint { stored, .. })) => {
                let target = self.form.target.and_then(|id| lapidary_engine::target::find(id).ok());
                let Some(target) = target else { return };
                PathBuf::from(converting::name(&stored.checkpoint, target))
            }
            _ => return,
        };
        let folder = std::env::current_dir().unwrap_or_default().join(name);
        self.suggest(Field::Folder, &folder);
        self.look_at_folder();
    }

    /// Looks what lies where the output goes.
    pub fn look_at_folder(&mut self) {
        let folder = self.form.entered(Field::Folder);
        self.has_kept = folder.as_deref().is_some_and(|folder| finished_for(folder).is_some());
        self.free_bytes = folder.and_then(|folder| disk::free_bytes(&folder).ok());
        self.form.is_fresh &= self.has_kept;
    }
}

/// The forms of all tasks.
#[derive(Debug, Default)]
pub struct Finished {
    benches: [Bench; Task::ALL.len()],
}

impl Finished {
    /// The form of a task.
    pub fn bench(&self, task: Task) -> &Bench {
        &self.benches[task as usize]
    }

    /// The form of a task, to change.
    pub fn bench_mut(&mut self, task: Task) -> &mut Bench {
        &mut self.benches[task as usize]
    }

    /// The task at work.
    pub fn at_work(&self) -> Option<Task> {
        Task::ALL.into_iter().find(|&task| self.bench(task).run.is_running())
    }

    /// The task whose input is being looked at.
    pub fn looking(&self) -> Option<Task> {
        Task::ALL.into_iter().find(|&task| self.bench(task).looked.is_running())
    }
}

/// Why a task cannot begin now, in a sentence.
pub fn why_not(document: &Document, task: Task) -> Option<String> {
    let bench = document.finished.bench(task);
    let form = &bench.form;
    if let Some(other) = document.finished.at_work() {
        return Some(format!("{} is at work; wait for it or cancel it first.", other.noun()));
    }
    if document.export.is_running() {
        return Some("An export is running; wait for it or cancel it first.".to_owned());
    }
    let is_missing = |field: Field| form.entered(field).is_none();
    if is_missing(Field::Input) || (task == Task::Verify && is_missing(Field::Base)) {
        return Some("Name what is read first.".to_owned());
    }
    if task.writes() && is_missing(Field::Folder) {
        return Some("Name a folder to write.".to_owned());
    }
    match task {
        Task::Convert => why_not_converted(bench),
        Task::Unpack => why_not_unpacked(bench),
        Task::Squeeze | Task::Verify => None,
    }
}

fn why_not_converted(bench: &Bench) -> Option<String> {
    let Some(looked) = bench.known() else { return Some(not_looked(bench)) };
    if let Looked::Squeezed(_) = looked {
        return Some("It is a squeezed folder; unpack it first.".to_owned());
    }
    match bench.form.target.and_then(|target| looked.prospect(target)) {
        Some(Ok(prospect)) => why_not_size(&bench.form.size, prospect),
        Some(Err(sentence)) => Some(sentence.clone()),
        None => Some("Choose what it is to become.".to_owned()),
    }
}

fn why_not_size(size: &str, prospect: &Prospect) -> Option<String> {
    if size.trim().is_empty() {
        return None;
    }
    match (crate::size::bytes_of(size), prospect.least_bytes) {
        (Err(error), _) => Some(error.sentence()),
        (_, None) => Some("Only an archive of stacks is cut to a size; leave it empty.".to_owned()),
        (Ok(size), Some(least)) if size < least => {
            Some(format!("With one level of every layer it takes {} bytes.", text::count(least)))
        }
        (Ok(_), Some(_)) => None,
    }
}

fn why_not_unpacked(bench: &Bench) -> Option<String> {
    let Some(looked) = bench.known() else { return Some(not_looked(bench)) };
    if let Looked::Squeezed(list) = looked {
        let base = list.base.as_ref().filter(|_| bench.form.entered(Field::Base).is_none());
        return base.map(|base| format!("It was squeezed against {base}; name that checkpoint."));
    }
    match looked.prospect("dense") {
        Some(prospect) => prospect.as_ref().err().cloned(),
        None => Some("A GGUF file is not unpacked.".to_owned()),
    }
}

fn not_looked(bench: &Bench) -> String {
    match &bench.looked {
        Slot::Failed(sentence) if bench.is_now() => sentence.clone(),
        _ => "It is not known yet what it holds.".to_owned(),
    }
}

/// Tensors of a proof by how they were found: identical, changed, compressed, missing.
pub fn tally(found: &Verified) -> [(&'static str, usize); 4] {
    ["identical", "changed", "compressed", "missing"].map(|stored| {
        (stored, found.tensors.iter().filter(|tensor| tensor.stored == stored).count())
    })
}

/// The tensor that is furthest off its source.
pub fn worst(found: &Verified) -> Option<(&VerifiedTensor, f64)> {
    let errors = found.tensors.iter().filter_map(|tensor| Some((tensor, tensor.relative_error?)));
    errors.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// A proof as text, to be copied: the verdict, every fault, and each tensor in columns apart by tabs.
pub fn proof_text(found: &Verified) -> String {
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), text::percent);
    let faults = found.faults.iter().map(|fault| format!("fault: {fault}\n"));
    let tensors = found.tensors.iter().map(|tensor| {
        let [error, reported] = [tensor.relative_error, tensor.reported].map(or_dash);
        format!("{}\t{}\t{error}\t{reported}\n", tensor.name, tensor.stored)
    });
    let head = format!("{}\n", converting::verdict(found));
    let columns = "tensor\tstored\terror\tas reported\n".to_owned();
    std::iter::once(head).chain(faults).chain([columns]).chain(tensors).collect()
}
