//! Finds the daemon's socket by the rules of dbufctl, and the program's name.
//!
//! Input: the environment. Output: a path, and whether it can be trusted. Any thread. Failures: none.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys;

const SYSTEM_RUNTIME_DIR: &str = "/run/dbufd";
const STREAM_SOCKET: &str = "stream.sock";

/// The path of `stream.sock`: of this user's daemon, or of the machine's where there is only that. And whether the
/// path can be trusted: if not, the peer is to be looked at before anything is sent ([`is_own_or_root`]).
pub(super) fn default_path() -> (PathBuf, bool) {
    let temporary = sys::variable("TMPDIR").filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/tmp".into());
    let uid = rustix::process::geteuid().as_raw();
    let system = Path::new(SYSTEM_RUNTIME_DIR).join(STREAM_SOCKET);
    match runtime_dir(sys::variable, uid, Path::new(&temporary)) {
        None => (system, true),
        Some((own, is_trusted)) => {
            let path = own.join(STREAM_SOCKET);
            if !path.exists() && system.exists() { (system, true) } else { (path, is_trusted) }
        }
    }
}

/// Whether a process of this user is one that this program believes.
pub(super) fn is_own_or_root(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Where this user's daemon has its sockets, and whether other users cannot change that; None if the only place
/// belongs to another user.
fn runtime_dir(variable: impl Fn(&str) -> Option<OsString>, uid: u32, temporary: &Path) -> Option<(PathBuf, bool)> {
    let listed = variable("RUNTIME_DIRECTORY").unwrap_or_default();
    if let Some(first) = listed.as_bytes().split(|byte| *byte == b':').find(|part| !part.is_empty()) {
        return Some((PathBuf::from(std::ffi::OsStr::from_bytes(first)), true));
    }
    if uid == 0 {
        return Some((SYSTEM_RUNTIME_DIR.into(), true));
    }
    // The XDG specification says that a relative path is to be ignored.
    let xdg = PathBuf::from(variable("XDG_RUNTIME_DIR").unwrap_or_default());
    if xdg.is_absolute() {
        return Some((xdg.join("dbufd"), true));
    }
    // Everybody can make a folder in the temporary directory, before this look and after it.
    let private = temporary.join(format!("dbufd-{uid}"));
    is_private(&private, uid).then_some((private, false))
}

fn is_private(path: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(path).map_or(true, |it| it.is_dir() && it.uid() == uid && it.mode() & 0o077 == 0)
}

/// The program's short name.
pub(super) fn program_name() -> String {
    std::fs::read("/proc/self/comm")
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(variables: &[(&str, &str)], uid: u32, temporary: &str) -> Option<PathBuf> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        runtime_dir(variable, uid, Path::new(temporary)).map(|(path, _)| path)
    }

    #[test]
    fn the_daemon_is_sought_where_dbufctl_seeks_it() {
        let xdg = ("XDG_RUNTIME_DIR", "/run/user/7");
        assert_eq!(dir(&[("RUNTIME_DIRECTORY", ":/a:/b"), xdg], 0, "/tmp"), Some("/a".into()));
        assert_eq!(dir(&[xdg], 0, "/tmp"), Some("/run/dbufd".into()));
        assert_eq!(dir(&[xdg], 7, "/tmp"), Some("/run/user/7/dbufd".into()));
        let relative = [("XDG_RUNTIME_DIR", "run")];
        assert_eq!(dir(&relative, 7, "/nowhere"), Some("/nowhere/dbufd-7".into()));
    }

    #[test]
    fn a_folder_that_others_may_write_is_no_daemons() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw().max(1);
        let folder = temporary.path().join(format!("dbufd-{uid}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(dir(&[], uid, temporary.path().to_str().unwrap()), None);
    }

    #[test]
    fn only_a_folder_in_the_temporary_directory_has_to_be_looked_at_again() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_own_or_root(own) && is_own_or_root(0) && !is_own_or_root(own + 1));
        let found =
            |xdg: &str| runtime_dir(|name| (name == "XDG_RUNTIME_DIR").then(|| xdg.into()), 7, Path::new("/no"));
        assert_eq!(found("/run/user/7"), Some(("/run/user/7/dbufd".into(), true)));
        assert_eq!(found(""), Some(("/no/dbufd-7".into(), false)));
    }

    #[test]
    fn the_programs_name_is_known() {
        assert!(!program_name().is_empty());
    }
}
