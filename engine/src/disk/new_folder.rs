//! Folders that appear whole or not at all, prepared in a hidden place beside them that one process has at a time, and
//! that keeps finished parts for the next one.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use blake3::Hasher;

use crate::disk::{Lock, NewFile, open_to_others, parent, remove_file};
use crate::error::{Error, Result};

/// The longest name of an output, in bytes, that the name of its workplace repeats.
const MAX_REPEATED_BYTES: usize = 200;

/// How often a folder is made again that others take away.
const MOST_ATTEMPTS: u32 = 100;

/// What the name of a workplace ends in.
const SUFFIX: &str = ".lapidary-work";

/// The hidden folder `.NAME.lapidary-work` beside an output `NAME`. Held under a lock that ends with the process.
///
/// In it lie `partial`, the output as far as it is; `replaced`, an older output while its name changes hands; and
/// `finished`, parts that another attempt may take over. Dropped, all goes but what is finished; where nothing is, nothing
/// is left.
#[derive(Debug)]
struct Workplace {
    folder: PathBuf,
    lock: Option<Lock>,
}

impl Workplace {
    /// Takes the workplace of an output, and clears away what a process that died left half done.
    fn take(destination: &Path, marker: &str) -> Result<Self> {
        let folder = workplace(destination);
        let Some(lock) = lock_in(&folder)? else {
            return Err(Error::plan(
                format!("another export to {} is running", destination.display()),
                "wait for it, or choose another output folder",
            ));
        };
        let taken = Self { folder, lock: Some(lock) };
        taken.put_back(destination, marker)?;
        clear(&taken.partial())?;
        Ok(taken)
    }

    /// Gives an older output its name again, which a process that died had moved aside. It is thrown away only where the
    /// output that was to replace it is there.
    fn put_back(&self, destination: &Path, marker: &str) -> Result<()> {
        let old = self.replaced().join("old");
        if old.exists() && !destination.join(marker).is_file() {
            if is_empty_folder(destination) {
                std::fs::remove_dir(destination).map_err(Error::io("replace", destination))?;
            }
            if destination.exists() {
                return Err(Error::plan(
                    format!(
                        "{} holds an earlier output whose place {} has taken",
                        old.display(),
                        destination.display()
                    ),
                    "move one of them elsewhere",
                ));
            }
            std::fs::rename(&old, destination).map_err(Error::io("restore", destination))?;
        }
        clear(&self.replaced())
    }

    fn partial(&self) -> PathBuf {
        self.folder.join("partial")
    }

    fn replaced(&self) -> PathBuf {
        self.folder.join("replaced")
    }

    fn finished(&self) -> PathBuf {
        self.folder.join("finished")
    }
}

/// Makes a folder and takes the lock in it. A process that ends in between may take the folder away again.
fn lock_in(folder: &Path) -> Result<Option<Lock>> {
    let mut attempts = 0;
    loop {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        match Lock::take(&folder.join("lock")) {
            Err(Error::Io { source, .. })
                if source.kind() == ErrorKind::NotFound && attempts < MOST_ATTEMPTS =>
            {
                attempts += 1;
            }
            taken => return taken,
        }
    }
}

fn is_empty_folder(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Removes a folder with all it holds; one that is not there is no failure.
fn clear(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

impl Drop for Workplace {
    /// What cannot be removed stays for the next one; there is nobody left to tell.
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.partial()).ok();
        // An older output that could not be put back is not thrown away.
        std::fs::remove_dir(self.replaced()).ok();
        std::fs::remove_dir(self.finished()).ok();
        std::fs::remove_file(self.folder.join("lock")).ok();
        self.lock = None;
        std::fs::remove_dir(&self.folder).ok();
    }
}

/// Where an output is prepared.
fn workplace(destination: &Path) -> PathBuf {
    let name = destination.file_name().unwrap_or("output".as_ref());
    let mut hidden = OsString::from(".");
    if name.len() <= MAX_REPEATED_BYTES {
        hidden.push(name);
    } else {
        let hash = Hasher::new().update(name.as_encoded_bytes()).finalize();
        hidden.push(&hash.to_hex().as_str()[..32]);
    }
    hidden.push(SUFFIX);
    parent(destination).join(hidden)
}

/// Throws away what earlier attempts at an output finished; gives whether there was anything.
///
/// # Errors
/// [`Error::Plan`] while another process works there, [`Error::Io`] where it cannot be removed.
pub fn discard_finished(destination: &Path, marker: &str) -> Result<bool> {
    if !workplace(destination).exists() {
        return Ok(false);
    }
    let taken = Workplace::take(destination, marker)?;
    let was_there = taken.finished().exists();
    clear(&taken.finished())?;
    Ok(was_there)
}

/// Where the finished parts of an earlier attempt at an output lie, if there are any.
pub fn finished_for(destination: &Path) -> Option<PathBuf> {
    let finished = workplace(destination).join("finished");
    finished.is_dir().then_some(finished)
}

/// A folder under a temporary name that becomes `destination` only when [`NewFolder::finish`] is called;
/// dropped before, it vanishes with all it holds but for finished parts.
#[derive(Debug)]
pub struct NewFolder {
    workplace: Workplace,
    partial: PathBuf,
    destination: PathBuf,
    replace: bool,
    marker: String,
    /// Parts that were adopted, and where.
    adopted: Mutex<Vec<(PathBuf, PathBuf)>>,
}

impl NewFolder {
    /// Begins `destination`. What is there already is replaced only if `replace` is set, and only if it is
    /// an empty folder or holds `marker`, a file that shows this program made it.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::Plan`] for what must not be replaced, and while another process makes the same
    /// folder; [`Error::Io`] for a place or a name that cannot be written.
    pub fn create(destination: &Path, replace: bool, marker: &str) -> Result<Self> {
        may_become(destination, replace, marker)?;
        let folder = parent(destination);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let workplace = Workplace::take(destination, marker)?;
        // An older output may be back in its place.
        may_become(destination, replace, marker)?;
        let partial = workplace.partial();
        std::fs::create_dir(&partial).map_err(Error::io("create", &partial))?;
        let (destination, marker) = (destination.to_path_buf(), marker.to_owned());
        let adopted = Mutex::default();
        Ok(Self { workplace, partial, destination, replace, marker, adopted })
    }

    /// Where the parts lie until the folder is finished.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// A folder, perhaps not there yet, for parts that another attempt may take over where this one fails. It vanishes
    /// when the folder is finished.
    pub fn finished_parts(&self) -> PathBuf {
        self.workplace.finished()
    }

    /// Begins a file in the folder, or in one within it, as `adapter/config.json`.
    pub fn file(&self, name: &str) -> Result<NewFile> {
        NewFile::create(&self.place(name)?)
    }

    /// Where a file of that name lies; makes the folder within.
    fn place(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let folder = parent(&path);
        if !folder.is_dir() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            open_to_others(folder, 0o755)?;
        }
        Ok(path)
    }

    /// Puts a finished part into the folder under a name, where another attempt still finds it if this one fails. What is
    /// written to either then is written to both, where the file system gives a file two names.
    pub fn adopt(&self, part: &Path, name: &str) -> Result<()> {
        let path = self.place(name)?;
        if std::fs::hard_link(part, &path).is_ok() {
            let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
            adopted.push((part.to_path_buf(), path));
            return Ok(());
        }
        // A file system that gives no file two names.
        std::fs::copy(part, &path).map_err(Error::io("write", &path))?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("write", &path))
    }

    /// Copies a file into the folder under its own name; gives its bytes.
    pub fn copy(&self, source: &Path) -> Result<u64> {
        let Some(name) = source.file_name() else {
            return Ok(0);
        };
        let mut original = File::open(source).map_err(Error::io("copy", source))?;
        // Not `std::fs::copy`: a copy of a read-only original would be read-only too.
        let mut copy = NewFile::create(&self.path().join(name))?;
        let bytes =
            std::io::copy(&mut original, copy.writer()).map_err(Error::io("copy", source))?;
        copy.finish()?;
        Ok(bytes)
    }

    /// Gives the folder its name. A folder replaced is moved aside first and removed last; where the process dies in
    /// between, the next attempt puts it back.
    pub fn finish(self) -> Result<()> {
        // Somebody else may have made a folder there meanwhile.
        may_become(&self.destination, self.replace, &self.marker)?;
        // A finished output shares no file with parts of another attempt, which may be written to.
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        adopted.iter().try_for_each(|(part, _)| remove_file(part))?;
        self.take_name().inspect_err(|_error| {
            for (part, path) in adopted.iter() {
                std::fs::hard_link(path, part).ok();
            }
        })?;
        // The output is there; what cannot be removed beside it is no failure.
        clear(&self.workplace.finished()).ok();
        clear(&self.workplace.replaced()).ok();
        Ok(())
    }

    fn take_name(&self) -> Result<()> {
        let Self { workplace, partial, destination, .. } = self;
        let old = workplace.replaced().join("old");
        let is_replaced = destination.exists();
        if is_replaced {
            std::fs::create_dir_all(workplace.replaced())
                .map_err(Error::io("write in", &workplace.folder))?;
            std::fs::rename(destination, &old).map_err(Error::io("replace", destination))?;
        }
        let renamed = open_to_others(partial, 0o755).and_then(|()| {
            std::fs::rename(partial, destination).map_err(Error::io("write", destination))
        });
        if let Err(error) = renamed {
            // Put the old one back before telling; a failure here leaves it where the next attempt finds it.
            if is_replaced {
                std::fs::rename(&old, destination).map_err(Error::io("restore", destination))?;
            }
            return Err(error);
        }
        Ok(())
    }
}

/// Refuses a name that an output may not take: what is there is replaced only if `replace` is set, and only if it is an empty
/// folder or holds `marker`.
///
/// # Errors
/// [`Error::Exists`], [`Error::Plan`], and [`Error::Io`] for a name that there cannot be.
pub fn may_become(destination: &Path, replace: bool, marker: &str) -> Result<()> {
    match destination.symlink_metadata() {
        Ok(_) => may_replace(destination, replace, marker),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // A name that is too long, a folder that may not be looked into, a file in place of one.
        Err(error) => Err(Error::io("write", destination)(error)),
    }
}

fn may_replace(destination: &Path, replace: bool, marker: &str) -> Result<()> {
    if !replace {
        return Err(Error::Exists { path: destination.to_path_buf() });
    }
    if is_empty_folder(destination) || destination.join(marker).is_file() {
        return Ok(());
    }
    Err(Error::plan(
        format!(
            "{} was not written by Lapidary (it holds no {marker}), so it is not replaced",
            destination.display()
        ),
        "choose another output folder, or remove this one yourself",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{read_bytes, write_file, write_within};

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let new = NewFolder::create(&out, false, "report").unwrap();
        let mut file = new.file("a").unwrap();
        file.write(b"half").unwrap();
        drop(file);
        drop(new);
        assert_eq!(names(folder.path()).len(), 0, "the partial folder must vanish");
    }

    #[test]
    fn only_our_own_or_empty_folders_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        write_file(&out.join("thesis.tex"), b"years of work").unwrap();
        assert!(matches!(NewFolder::create(&out, false, "report"), Err(Error::Exists { .. })));
        assert!(matches!(NewFolder::create(&out, true, "report"), Err(Error::Plan { .. })));
        write_file(&out.join("report"), b"{}").unwrap();
        let new = NewFolder::create(&out, true, "report").unwrap();
        new.file("b").unwrap().finish().unwrap();
        new.finish().unwrap();
        assert!(out.join("b").exists());
        assert!(!out.join("thesis.tex").exists());
        assert_eq!(names(folder.path()), ["out"], "nothing is left aside");
    }

    #[test]
    fn finished_parts_outlive_an_attempt_but_not_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let new = NewFolder::create(&out, false, "report").unwrap();
        write_file(&new.finished_parts().join("a"), b"done").unwrap();
        drop(new);
        assert_eq!(names(folder.path()), [".out.lapidary-work"]);
        assert!(finished_for(&out).is_some());
        let new = NewFolder::create(&out, false, "report").unwrap();
        assert_eq!(names(&new.finished_parts()), ["a"]);
        new.finish().unwrap();
        assert_eq!(names(folder.path()), ["out"]);
        let new = NewFolder::create(&out, true, "report");
        assert!(new.is_ok(), "an empty folder is replaced");
        write_file(&new.unwrap().finished_parts().join("a"), b"done").unwrap();
        assert!(
            discard_finished(&out, "report").unwrap() && !discard_finished(&out, "report").unwrap()
        );
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn an_adopted_part_is_the_outputs_alone_once_that_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let new = NewFolder::create(&out, false, "report").unwrap();
        let part = new.finished_parts().join("part");
        write_within(&part, 6, 3, b"abc").unwrap();
        new.adopt(&part, "whole").unwrap();
        // Stopped here, it is still there for the next one.
        drop(new);
        assert!(part.is_file());
        let new = NewFolder::create(&out, false, "report").unwrap();
        new.adopt(&part, "whole").unwrap();
        let mut over = NewFile::over(&new.path().join("whole")).unwrap();
        over.write(b"xyz").unwrap();
        over.skip(3).unwrap();
        assert_eq!(over.written_bytes(), 6);
        over.finish().unwrap();
        new.finish().unwrap();
        assert_eq!(read_bytes(&out.join("whole"), 10).unwrap(), b"xyzabc");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn one_works_at_a_folder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let first = NewFolder::create(&out, false, "report").unwrap();
        let sentence = NewFolder::create(&out, false, "report").unwrap_err().sentence();
        assert!(sentence.contains("another export") && sentence.contains("out"), "{sentence}");
        let other = NewFolder::create(&folder.path().join("other"), false, "report").unwrap();
        first.file("a").unwrap().finish().unwrap();
        first.finish().unwrap();
        other.finish().unwrap();
        assert_eq!(names(folder.path()), ["other", "out"]);
    }

    #[test]
    fn what_a_dead_process_left_is_cleared_and_an_older_output_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let work = folder.path().join(".out.lapidary-work");
        write_file(&work.join("partial/half"), b"h").unwrap();
        write_file(&work.join("replaced/old/report"), b"{}").unwrap();
        write_file(&work.join("lock"), b"").unwrap();
        assert!(matches!(NewFolder::create(&out, false, "report"), Err(Error::Exists { .. })));
        assert_eq!(names(&out), ["report"], "the older output is back");
        assert_eq!(names(folder.path()), ["out"]);
        let new = NewFolder::create(&out, true, "report").unwrap();
        assert_eq!(names(new.path()).len(), 0);
    }

    #[test]
    fn what_somebody_else_put_there_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let new = NewFolder::create(&out, true, "report").unwrap();
        write_file(&out.join("thesis.tex"), b"years of work").unwrap();
        assert!(matches!(new.finish(), Err(Error::Plan { .. })));
        assert_eq!(names(&out), ["thesis.tex"]);
        // Nor does it cost the older output that a process which died had moved aside.
        let work = folder.path().join(".out.lapidary-work");
        write_file(&work.join("replaced/old/report"), b"{}").unwrap();
        let sentence = NewFolder::create(&out, true, "report").unwrap_err().sentence();
        assert!(sentence.contains("not written by Lapidary"), "{sentence}");
        assert!(discard_finished(&out, "report").is_err());
        assert_eq!(names(&work.join("replaced/old")), ["report"]);
        std::fs::remove_dir_all(&out).unwrap();
        std::fs::create_dir(&out).unwrap();
        drop(NewFolder::create(&out, true, "report").unwrap());
        assert_eq!(names(&out), ["report"], "an empty folder in its place gives way");
    }

    #[test]
    fn names_that_no_folder_can_have_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let long = NewFolder::create(&folder.path().join("n".repeat(300)), false, "report");
        assert!(matches!(long, Err(Error::Io { .. })));
        let file = folder.path().join("file");
        write_file(&file, b"").unwrap();
        assert!(NewFolder::create(&file.join("out"), false, "report").is_err());
        assert_eq!(names(folder.path()), ["file"]);
        let longest = folder.path().join("n".repeat(255));
        NewFolder::create(&longest, false, "report").unwrap().finish().unwrap();
        assert!(longest.is_dir());
    }
}
