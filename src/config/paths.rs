//! Decides where sockets, segments and the configuration are. The daemon and dbufctl use the same rule, so each finds
//! the other without an option.
//!
//! Input: the environment and the user id. Output: paths. Only [`make_runtime_dir`] creates anything. Any thread.
//! Failures: the last resort for sockets, a folder in the shared temporary directory, may belong to another user.
//!
//! For each place the first rule that applies:
//! 1. what systemd says (`RUNTIME_DIRECTORY`, `LOGS_DIRECTORY`, `CONFIGURATION_DIRECTORY`; the first of a `:` list);
//! 2. for root: `/run/dbufd`, `/var/log/dbufd`, `/etc/dbufd`;
//! 3. for an ordinary user: the XDG directories; without `XDG_RUNTIME_DIR`, a private folder in the temporary directory
//!    holds the sockets.
//!
//! A command-line option overrides all of these. The caller handles it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

/// Where a daemon that serves the whole machine has its sockets.
pub const SYSTEM_RUNTIME_DIR: &str = "/run/dbufd";
/// Where a daemon that serves the whole machine has its segments.
pub const SYSTEM_SEGMENTS_DIR: &str = "/var/log/dbufd";
/// Where the configuration of the whole machine is.
pub const SYSTEM_CONFIG_DIR: &str = "/etc/dbufd";
/// The socket that dbufctl talks to, in the runtime directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// The socket for text lines and frames, in the runtime directory.
pub const STREAM_SOCKET: &str = "stream.sock";
/// The socket for datagrams, in the runtime directory.
pub const DATAGRAM_SOCKET: &str = "dgram.sock";

/// Where the sockets are.
///
/// # Errors
/// The folder in the temporary directory exists and is not a private folder of this user. Another user could then
/// answer in the daemon's name.
pub fn runtime_dir() -> io::Result<PathBuf> {
    let surroundings = Surroundings::real();
    let path = surroundings.runtime_dir();
    if path == surroundings.private_dir() {
        check_private(&path, surroundings.uid)?;
    }
    Ok(path)
}

/// Where the segments are.
#[must_use]
pub fn segments_dir() -> PathBuf {
    Surroundings::real().segments_dir()
}

/// Where `dbufd.toml` and `dbufd.toml.d` are.
#[must_use]
pub fn config_dir() -> PathBuf {
    Surroundings::real().config_dir()
}

/// Creates the directory of the sockets if it is missing: 0755 for root, 0700 for an ordinary user. An existing
/// directory is left as it is.
///
/// # Errors
/// The directory cannot be created, or it is the folder in the temporary directory and is not private to this user.
pub fn make_runtime_dir(path: &Path) -> io::Result<()> {
    let surroundings = Surroundings::real();
    let mode = if surroundings.uid == 0 { 0o755 } else { 0o700 };
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    if path == surroundings.private_dir() {
        // Checked after it was created: another user may have been faster, so only its present owner counts.
        check_private(path, surroundings.uid)?;
    }
    Ok(())
}

fn check_private(path: &Path, uid: u32) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let wrong = if !meta.is_dir() {
        "is not a directory"
    } else if meta.uid() != uid {
        "belongs to another user"
    } else if meta.permissions().mode() & 0o077 != 0 {
        "is open to other users"
    } else {
        return Ok(());
    };
    let text = format!("{} {wrong}; remove it, or set XDG_RUNTIME_DIR or --runtime", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// What the paths depend on. It is separate from the process so that the rule can be tested.
struct Surroundings<'a> {
    uid: u32,
    temporary: PathBuf,
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// From the user database, for when `HOME` is not set.
    home: &'a dyn Fn() -> Option<PathBuf>,
}

impl Surroundings<'_> {
    fn real() -> Self {
        Surroundings {
            uid: Uid::effective().as_raw(),
            temporary: std::env::temp_dir(),
            variable: &|name| std::env::var_os(name),
            home: &|| User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir),
        }
    }

    fn runtime_dir(&self) -> PathBuf {
        let user = || self.absolute("XDG_RUNTIME_DIR").map_or_else(|| self.private_dir(), |dir| dir.join("dbufd"));
        self.choose("RUNTIME_DIRECTORY", SYSTEM_RUNTIME_DIR, user)
    }

    fn segments_dir(&self) -> PathBuf {
        self.choose("LOGS_DIRECTORY", SYSTEM_SEGMENTS_DIR, || self.xdg("XDG_STATE_HOME", ".local/state"))
    }

    fn config_dir(&self) -> PathBuf {
        self.choose("CONFIGURATION_DIRECTORY", SYSTEM_CONFIG_DIR, || self.xdg("XDG_CONFIG_HOME", ".config"))
    }

    fn private_dir(&self) -> PathBuf {
        self.temporary.join(format!("dbufd-{}", self.uid))
    }

    fn choose(&self, variable: &str, as_root: &str, as_user: impl FnOnce() -> PathBuf) -> PathBuf {
        let listed = (self.variable)(variable).and_then(|list| {
            let first = list.as_bytes().split(|&byte| byte == b':').find(|part| !part.is_empty())?;
            Some(PathBuf::from(OsString::from_vec(first.to_vec())))
        });
        match listed {
            Some(path) => path,
            None if self.uid == 0 => PathBuf::from(as_root),
            None => as_user(),
        }
    }

    fn xdg(&self, variable: &str, below_home: &str) -> PathBuf {
        let base = self.absolute(variable).unwrap_or_else(|| {
            let home = self.absolute("HOME").or_else(self.home).unwrap_or_else(|| PathBuf::from("/"));
            home.join(below_home)
        });
        base.join("dbufd")
    }

    /// The XDG specification says that relative paths are ignored.
    fn absolute(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(uid: u32, variables: &[(&str, &str)]) -> [String; 3] {
        let surroundings = Surroundings {
            uid,
            temporary: "/tmp".into(),
            variable: &|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()),
            home: &|| Some("/home/from-database".into()),
        };
        [surroundings.runtime_dir(), surroundings.segments_dir(), surroundings.config_dir()]
            .map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn systemd_wins_over_root_and_root_over_the_user() {
        let all = [
            ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
            ("LOGS_DIRECTORY", "/var/log/a"),
            ("CONFIGURATION_DIRECTORY", ":/etc/a"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("XDG_STATE_HOME", "/s"),
            ("XDG_CONFIG_HOME", "/c"),
        ];
        assert_eq!(paths(0, &all), ["/run/a", "/var/log/a", "/etc/a"]);
        assert_eq!(paths(1000, &all), ["/run/a", "/var/log/a", "/etc/a"]);
        assert_eq!(paths(0, &all[3..]), ["/run/dbufd", "/var/log/dbufd", "/etc/dbufd"]);
        assert_eq!(paths(1000, &all[3..]), ["/run/user/1/dbufd", "/s/dbufd", "/c/dbufd"]);
    }

    #[test]
    fn without_variables_a_user_gets_the_home_and_a_folder_in_the_temporary_directory() {
        let home = ["/tmp/dbufd-7", "/h/.local/state/dbufd", "/h/.config/dbufd"];
        assert_eq!(paths(7, &[("HOME", "/h")]), home);
        assert_eq!(paths(7, &[("HOME", "/h"), ("XDG_RUNTIME_DIR", ""), ("XDG_STATE_HOME", "relative")]), home);
        assert_eq!(paths(7, &[])[1], "/home/from-database/.local/state/dbufd");
    }

    #[test]
    fn a_folder_that_is_not_private_to_the_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let uid = Uid::effective().as_raw();
        let path = dir.path().join("sockets");
        check_private(&path, uid).expect("a missing folder is accepted");
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        check_private(&path, uid).unwrap();
        assert!(check_private(&path, uid + 1).unwrap_err().to_string().contains("another user"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(check_private(&path, uid).unwrap_err().to_string().contains("open to other users"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(check_private(&link, uid).unwrap_err().to_string().contains("not a directory"));
    }
}
