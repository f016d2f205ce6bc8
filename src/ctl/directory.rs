//! Opens the files that a command reads.
//!
//! Input: paths. Output: the segments in them. Failures: a path that cannot be read, with advice.

use std::io;
use std::path::{Path, PathBuf};

use super::access::{Use, denied};
use super::values::boot;
use crate::pipeline::store::scan::{Directory, SegmentFile};

/// Opens the segments of `files`, or of `directory` if there are none.
pub(crate) fn open(files: &[PathBuf], directory: &Path) -> anyhow::Result<Directory> {
    let opened = match files {
        [] => Directory::open(directory).map_err(|error| (directory, error)),
        [only] if only.is_dir() => Directory::open(only).map_err(|error| (only.as_path(), error)),
        files => match files.iter().find_map(|file| Some((file, file.metadata().err()?))) {
            Some((file, error)) => Err((file.as_path(), error)),
            None => Directory::of_files(files).map_err(|error| (files[0].as_path(), error)),
        },
    };
    opened.map_err(|(path, error)| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return anyhow::anyhow!("{}: {}", path.display(), denied(path, Use::Read));
        }
        let advice = match error.kind() {
            io::ErrorKind::NotFound if files.is_empty() => "name the directory of the segments with --directory DIR",
            io::ErrorKind::NotFound if is_boot(path) => "to name a boot, write -b=ID without a space",
            io::ErrorKind::NotFound => "see 'dbufctl segments' for the files that are there",
            _ => "check the disk; see dmesg",
        };
        anyhow::anyhow!("{}: {error}; {advice}", path.display())
    })
}

/// Whether this was probably the boot of `-b`, which journalctl also takes after a space.
fn is_boot(path: &Path) -> bool {
    path.to_str().is_some_and(|text| boot(text).is_ok())
}

/// The name of a segment's file, for people.
pub(crate) fn file_name(file: &SegmentFile) -> String {
    file.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
