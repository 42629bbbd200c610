//! Clocks of programs that can be made to jump: Debian's libfaketime answers for the system's clock.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where Debian keeps libraries of an architecture, and what the library is called there.
const LIBRARIES: &str = "/usr/lib";
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// The library; `None` where it is not installed.
pub fn library() -> Option<PathBuf> {
    let folders = fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
    folders.map(|entry| entry.path().join(FAKETIME)).find(|path| path.is_file())
}

/// The wall clock of one program: the system's, and so many seconds more.
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is right; `offset` is the file that says by how much it is wrong.
    pub fn new(library: &Path, offset: PathBuf) -> io::Result<Self> {
        let clock = Clock { library: library.to_owned(), offset };
        clock.set(0)?;
        Ok(clock)
    }

    /// From now on it is wrong by so many seconds. The program looks at its clock's error once a second.
    pub fn set(&self, seconds: i64) -> io::Result<()> {
        // The library may read at any moment: the file is replaced whole.
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n"))?;
        fs::rename(new, &self.offset)
    }

    /// The variables that give a program this clock. Time that passes is not touched, only the time of day.
    pub fn variables(&self) -> [(&'static str, &OsStr); 4] {
        [
            ("LD_PRELOAD", self.library.as_os_str()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.as_os_str()),
            ("FAKETIME_CACHE_DURATION", OsStr::new("1")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", OsStr::new("1")),
        ]
    }
}
