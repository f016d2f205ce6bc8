//! Explains why the kernel denies access to a file or a socket, and names the remedy.
//!
//! Input: a path, and what was tried. Output: the part of an error's line after the path: owner, group and mode of what
//! denied it, and who may. It reads the file's status and the user database, and changes nothing. Nothing can fail: a
//! user or a group without a name is shown by its number.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getgroups};

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// To connect to a socket, for which the kernel demands the permission to write.
    Connect,
    /// The same, for something that the daemon does for root and its own user only.
    Order,
    /// To read a file, or to list a directory and to open its files.
    Read,
}

/// What the kernel decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    uid: u32,
    gid: u32,
    mode: u32,
    /// The permission bits that the use needs, as the last octal digit of a mode.
    needed: u32,
    /// Whether the use is allowed to members of the group whose mode allows it.
    is_for_group: bool,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asker {
    uid: u32,
    /// The groups of this process.
    groups: Vec<u32>,
    /// The groups of the user in the user database, which a new login would have.
    next_groups: Vec<u32>,
    /// Whether modes do not matter: capabilities(7), CAP_DAC_OVERRIDE.
    is_almighty: bool,
}

/// Why `path` may not be used in this way, and what to do.
pub(crate) fn denied(path: &Path, tried: Use) -> String {
    let (at, facts) = match culprit(path, tried) {
        Some(found) => found,
        None => return "permission denied; run dbufctl as root".to_owned(),
    };
    let place = if at == path { String::new() } else { format!(" by {}", at.display()) };
    let (owner, group) = (user_name(facts.uid), group_name(facts.gid));
    let held = format!("owner {owner}, group {group}, mode {:04o}", facts.mode);
    format!("permission denied{place} ({held}); {}", remedy(&facts, &Asker::this_process(), &owner, &group))
}

/// The file, or the directory on the way to it, that denies the use.
fn culprit(path: &Path, tried: Use) -> Option<(&Path, Facts)> {
    path.ancestors().find_map(|at| {
        // The nearest that can be looked at. If that is a directory on the way, it is the one that cannot be entered.
        let shown = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        let status = std::fs::metadata(shown).ok()?;
        let needed = match tried {
            _ if at != path => 0o1,
            Use::Connect | Use::Order => 0o2,
            Use::Read if status.is_dir() => 0o5,
            Use::Read => 0o4,
        };
        let is_for_group = tried != Use::Order;
        Some((at, Facts { uid: status.uid(), gid: status.gid(), mode: status.mode() & 0o7777, needed, is_for_group }))
    })
}

fn remedy(facts: &Facts, asker: &Asker, owner: &str, group: &str) -> String {
    // The kernel asks the owner's bits of the owner, and no others: a group does not help the owner.
    let bits_allow = facts.mode >> 3 & facts.needed == facts.needed;
    let group_may = facts.is_for_group && bits_allow && facts.gid != 0 && asker.uid != facts.uid;
    if asker.uid == 0 && !asker.is_almighty {
        format!(
            "this root has no CAP_DAC_OVERRIDE: add the group {group}, for example by SupplementaryGroups= of the unit"
        )
    } else if asker.uid == 0 {
        "root is denied by something other than the mode: see the kernel's log for a security module".to_owned()
    } else if group_may && !asker.groups.contains(&facts.gid) && asker.next_groups.contains(&facts.gid) {
        format!("you have been added to the group {group}: log in again")
    } else if group_may && !asker.groups.contains(&facts.gid) {
        format!("you must be root or in the group {group} (sudo usermod -aG {group} $USER, then log in again)")
    } else if facts.uid == 0 || facts.uid == asker.uid {
        "you must be root".to_owned()
    } else {
        format!("you must be root or the user {owner}")
    }
}

impl Asker {
    fn this_process() -> Self {
        let raw = |groups: Vec<Gid>| groups.into_iter().map(Gid::as_raw).collect::<Vec<u32>>();
        let uid = Uid::effective();
        let mut groups = getgroups().map(raw).unwrap_or_default();
        groups.push(Gid::effective().as_raw());
        let user = User::from_uid(uid).ok().flatten();
        let listed = user.and_then(|user| {
            let name = std::ffi::CString::new(user.name).ok()?;
            getgrouplist(&name, user.gid).ok()
        });
        Self {
            uid: uid.as_raw(),
            groups,
            next_groups: listed.map(raw).unwrap_or_default(),
            is_almighty: overrides_modes(),
        }
    }
}

/// Whether this process has CAP_DAC_OVERRIDE, by proc(5). Where that cannot be read, it is taken to have it.
fn overrides_modes() -> bool {
    const CAP_DAC_OVERRIDE: u64 = 1 << 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective.is_none_or(|capabilities| capabilities & CAP_DAC_OVERRIDE != 0)
}

fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: Facts = Facts { uid: 990, gid: 991, mode: 0o660, needed: 0o2, is_for_group: true };

    fn told(facts: &Facts, asker: &Asker) -> String {
        remedy(facts, asker, "dbufd", "dbufd")
    }

    fn user(groups: &[u32], next_groups: &[u32]) -> Asker {
        Asker { uid: 1000, groups: groups.to_vec(), next_groups: next_groups.to_vec(), is_almighty: false }
    }

    #[test]
    fn a_user_outside_the_group_learns_how_to_join_it() {
        let joins = "you must be root or in the group dbufd (sudo usermod -aG dbufd $USER, then log in again)";
        assert_eq!(told(&SOCKET, &user(&[1000], &[1000])), joins);
        let directory = Facts { mode: 0o750, needed: 0o5, ..SOCKET };
        assert_eq!(told(&directory, &user(&[1000], &[1000])), joins);
    }

    #[test]
    fn a_user_who_has_joined_the_group_since_the_login_is_told_to_log_in_again() {
        assert_eq!(told(&SOCKET, &user(&[1000], &[1000, 991])), "you have been added to the group dbufd: log in again");
    }

    #[test]
    fn a_group_that_would_not_help_is_not_named() {
        let outsider = user(&[1000], &[1000]);
        for facts in [
            Facts { mode: 0o600, ..SOCKET },
            Facts { mode: 0o640, ..SOCKET },
            Facts { gid: 0, ..SOCKET },
            Facts { mode: 0o740, needed: 0o5, ..SOCKET },
            Facts { is_for_group: false, ..SOCKET },
        ] {
            assert_eq!(told(&facts, &outsider), "you must be root or the user dbufd", "{facts:?}");
        }
        assert_eq!(told(&SOCKET, &user(&[991], &[991])), "you must be root or the user dbufd");
        assert_eq!(told(&Facts { uid: 0, mode: 0o600, ..SOCKET }, &outsider), "you must be root");
        assert_eq!(told(&Facts { uid: 1000, mode: 0o400, ..SOCKET }, &outsider), "you must be root");
        assert_eq!(told(&Facts { uid: 1000, mode: 0o460, ..SOCKET }, &outsider), "you must be root", "the owner");
        assert!(told(&SOCKET, &Asker { is_almighty: true, ..Asker::default() }).contains("security module"));
        assert!(told(&SOCKET, &Asker::default()).contains("SupplementaryGroups="), "root without capabilities");
    }

    #[test]
    fn the_owner_the_group_and_the_mode_are_those_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
        let status = std::fs::metadata(&file).unwrap();
        let (at, facts) = culprit(&file, Use::Read).unwrap();
        assert_eq!((at, facts.mode, facts.needed), (file.as_path(), 0o604, 0o4));
        assert_eq!((facts.uid, facts.gid), (status.uid(), status.gid()));
        let (owner, group) = (user_name(facts.uid), group_name(facts.gid));
        let told = denied(&file, Use::Connect);
        assert!(told.starts_with(&format!("permission denied (owner {owner}, group {group}, mode 0604); ")), "{told}");
    }

    #[test]
    fn a_directory_on_the_way_is_named_if_it_is_the_one_that_denies() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("not/there");
        let (at, facts) = culprit(&missing, Use::Connect).unwrap();
        assert_eq!((at, facts.needed), (directory.path(), 0o1));
        assert!(denied(&missing, Use::Read).contains(&format!("by {} (", directory.path().display())));
    }
}
