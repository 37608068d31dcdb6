//! Files brought to the disk while other work goes on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::error::{Error, Result};

/// How long it is waited between two looks whether to go on.
const PAUSE: Duration = Duration::from_millis(50);

/// Written files on their way to the disk. Nobody waits for a disk that takes its time where this is dropped.
#[derive(Debug)]
pub struct Syncing(Receiver<Result<()>>);

impl Syncing {
    /// Begins; what was written to these files before is on the disk when [`Self::wait`] ends.
    ///
    /// # Errors
    /// [`Error::Io`] where the system has no thread left.
    pub fn begin(paths: Vec<PathBuf>) -> Result<Self> {
        let (tell, heard) = sync_channel(1);
        let sync = move || {
            let one = |path: &PathBuf| {
                // Windows wants a file that may be written.
                let file = File::options().write(true).open(path);
                file.and_then(|file| file.sync_all()).map_err(Error::io("write", path))
            };
            tell.send(paths.iter().try_for_each(one)).ok();
        };
        let thread = std::thread::Builder::new().name("to the disk".to_owned()).spawn(sync);
        thread.map_err(Error::io("start a thread for", Path::new("the output")))?;
        Ok(Self(heard))
    }

    /// Waits until the disk has them, or until `go_on` fails.
    ///
    /// # Errors
    /// [`Error::Io`]; that of `go_on`.
    pub fn wait(self, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        loop {
            match self.0.recv_timeout(PAUSE) {
                Ok(done) => return done,
                Err(RecvTimeoutError::Timeout) => go_on()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let lost = std::io::Error::other("the thread that waited for the disk is gone");
                    return Err(Error::io("write", Path::new("the output"))(lost));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::write_expendable_file;

    #[test]
    fn files_are_synced_and_one_that_is_not_there_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "b"] {
            write_expendable_file(&path(name), b"text").unwrap();
        }
        let both = Syncing::begin(vec![path("a"), path("b")]).unwrap();
        both.wait(&|| Ok(())).unwrap();
        let error = Syncing::begin(vec![path("a"), path("none")]).unwrap().wait(&|| Ok(()));
        assert!(error.unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn waiting_ends_where_the_work_is_to_end() {
        let (_tell, heard) = sync_channel(1);
        let error = Syncing(heard).wait(&|| Err(Error::Cancelled)).unwrap_err();
        assert!(matches!(error, Error::Cancelled));
    }
}
