//! Looks up the names of the processes that send: command and systemd unit.
//!
//! Input: the credentials of what was read, and a [`Handle`] on the process. Output: [`Names`]. Thread: the writer that
//! owns the table, never for each event. Failure: none that matters. What cannot be learned stays empty, because a
//! guess would be a forgery.
//!
//! Command and unit come from /proc, by a process number. The kernel reuses the number when the process has ended. So
//! they count only if a pidfd shows that the process was alive *after* they were read.
//!
//! Linux 6.16 attaches the sender's pidfd to what it sends. It also says in which cgroup a process was that has been
//! reaped. The id of a cgroup is valid for one run of a unit, so a unit that is known once names all of its processes
//! that end too soon. Such a process has no command any more. An older kernel gives only the number: the process with
//! this number is taken for the sender, right after the read, and never at a take-over.
//!
//! A look-up takes about 0.1 ms. A process is looked up at most once a second for each of its connections. One writer
//! looks up a limited number of processes in a second, and each user has its share of them, see [`LookUps`]; above
//! that, known names stay for longer, and those of new senders stay empty.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirEntryExt;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::sources::Peer;
use crate::pipeline::account::Identity;
use crate::pipeline::record::{COMM_BYTES_MAX, UNIT_BYTES_MAX};
use crate::pipeline::shares::look_ups::LookUps;
use crate::sys::recvmmsg::Credentials;
use crate::sys::{clock, pidfd};

/// How long names count as fresh.
const NAMES_FOR_NS: u64 = NS_A_SECOND;
const NS_A_SECOND: u64 = 1_000_000_000;
/// Processes that are remembered at most.
const KNOWN_MAX: usize = 1024;
/// Units that are remembered at most.
const UNITS_MAX: usize = 2 * CGROUPS_MAX;
/// Cgroups that are looked at to find the names of units, at most, and those of one unit. A user to whom a unit is
/// delegated may create very many in it.
const CGROUPS_MAX: usize = 16 << 10;
const CGROUPS_OF_UNIT_MAX: usize = 64;
/// The suffixes of those systemd units that can hold processes.
const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".socket", ".mount", ".swap", ".timer"];

/// How to reach a process.
#[derive(Debug)]
pub(crate) enum Handle {
    /// The kernel gave its pidfd.
    Process(OwnedFd),
    /// Only its number is known. It was read a moment ago.
    Number,
    /// There is none: the number may be another process's by now, or the kernel gives pidfds and has given none.
    None,
}

/// The names of a process; empty if unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) comm: Box<[u8]>,
    pub(crate) unit: Box<[u8]>,
    /// The process has been reaped or is about to be: it has no command any more.
    pub(crate) has_ended: bool,
}

/// A process that was looked up a moment ago.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The number of the peer that it was given.
    pub(crate) peer: u64,
    pub(crate) names: Names,
    /// When it was looked up.
    pub(crate) at_ns: u64,
}

/// The processes that one writer knows.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// The kernel attaches pidfds to what is read.
    pub(crate) has_pidfds: bool,
    known: HashMap<Credentials, Known>,
    /// By the id of their cgroup.
    units: HashMap<u64, Box<[u8]>>,
    /// When the names of cgroups were last searched for.
    searched_ns: u64,
    look_ups: LookUps,
}

impl Processes {
    /// Whether names that were looked up at `at_ns` are fresh.
    #[inline]
    pub(crate) fn are_fresh(at_ns: u64, now_ns: u64) -> bool {
        // The clock may be set back: then they are looked up again.
        now_ns.abs_diff(at_ns) < NAMES_FOR_NS
    }

    /// How to reach the process that sent what was just read.
    pub(crate) fn handle(&self, process: Option<OwnedFd>) -> Handle {
        match process {
            Some(process) => Handle::Process(process),
            None if self.has_pidfds => Handle::None,
            None => Handle::Number,
        }
    }

    /// The process with these credentials, if its names are fresh.
    pub(crate) fn fresh(&self, sender: Credentials, now_ns: u64) -> Option<Known> {
        self.known.get(&sender).filter(|known| Self::are_fresh(known.at_ns, now_ns)).cloned()
    }

    /// Remembers the names of a process, looked up at `at_ns`, that shares a connection with others: they may send by
    /// turns.
    pub(crate) fn remember(&mut self, peer: &Peer, at_ns: u64) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let Identity { pid, uid, gid, comm, unit, .. } = &peer.identity;
        let names = Names { comm: comm.clone(), unit: unit.clone(), has_ended: false };
        let sender = Credentials { pid: *pid, uid: *uid, gid: *gid };
        self.known.insert(sender, Known { peer: peer.number, names, at_ns });
    }

    /// Looks up the names of a process. None if it cannot be reached, or if there were too many look-ups.
    pub(crate) fn look_up(&mut self, sender: Credentials, handle: &Handle, now_ns: u64) -> Option<Names> {
        let opened;
        let process = match handle {
            Handle::Process(process) => process,
            Handle::Number => {
                opened = open(sender.pid)?;
                &opened
            }
            Handle::None => return None,
        };
        self.look_up_again(sender, process, now_ns)
    }

    /// Looks up the names of a process whose pidfd is kept.
    pub(crate) fn look_up_again(&mut self, sender: Credentials, process: &OwnedFd, now_ns: u64) -> Option<Names> {
        self.look_ups.take(sender.uid, now_ns).then(|| self.names_of(sender.pid, process))
    }

    /// The names of the process that a pidfd stands for. Its number is `pid`.
    pub(crate) fn names_of(&mut self, pid: u32, process: &OwnedFd) -> Names {
        let info = pidfd::info(process);
        let cgroup = info.and_then(|info| info.cgroup);
        // An older kernel does not say the number, but then it has not given the pidfd either.
        if pid != 0 && info.is_none_or(|info| info.pid == Some(pid)) {
            let (comm, unit) = read_names(pid);
            if !is_gone(process) {
                if let (Some(cgroup), false) = (cgroup, unit.is_empty()) {
                    self.name_cgroup(cgroup, unit.clone());
                }
                return Names { comm, unit, has_ended: false };
            }
        }
        let unit = cgroup.map(|cgroup| self.unit_of_cgroup(cgroup, clock::now_ns())).unwrap_or_default();
        Names { comm: Box::default(), unit, has_ended: true }
    }

    fn name_cgroup(&mut self, cgroup: u64, unit: Box<[u8]>) {
        if self.units.len() >= UNITS_MAX && !self.units.contains_key(&cgroup) {
            self.units.clear();
        }
        self.units.insert(cgroup, unit);
    }

    fn unit_of_cgroup(&mut self, cgroup: u64, now_ns: u64) -> Box<[u8]> {
        if !self.units.contains_key(&cgroup) && !Self::are_fresh(self.searched_ns, now_ns) {
            self.searched_ns = now_ns;
            for (cgroup, unit) in cgroups() {
                self.name_cgroup(cgroup, unit);
            }
        }
        self.units.get(&cgroup).cloned().unwrap_or_default()
    }
}

/// Opens the process that has this number now.
pub(crate) fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

/// Command and unit of the process that has this number now.
fn read_names(pid: u32) -> (Box<[u8]>, Box<[u8]>) {
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    let comm = comm[..comm.len().min(COMM_BYTES_MAX)].into();
    (comm, unit_of(&cgroup).unwrap_or_default().as_bytes().into())
}

/// A pidfd is readable when its process has ended (pidfd_open(2)).
fn is_gone(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// All cgroups of units in the unified hierarchy: the ids, and the names of the units.
fn cgroups() -> Vec<(u64, Box<[u8]>)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the mount point is the fifth word, and the type comes after a dash.
    let is_unified = |line: &&str| line.split_once(" - ").is_some_and(|(_, rest)| rest.starts_with("cgroup2 "));
    let Some(root) = mounts.lines().find(is_unified).and_then(|line| line.split(' ').nth(4)) else { return Vec::new() };
    cgroups_below(PathBuf::from(root))
}

fn cgroups_below(root: PathBuf) -> Vec<(u64, Box<[u8]>)> {
    let mut found: Vec<(u64, Box<[u8]>)> = Vec::new();
    let mut of_unit: HashMap<String, usize> = HashMap::new();
    let mut folders = vec![(root, String::from("0::"))];
    while let Some((folder, path)) = folders.pop() {
        let is_in_unit = unit_of(&path).is_some();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if found.len() + folders.len() >= CGROUPS_MAX {
                return found;
            }
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            if let Some(unit) = unit_of(&path) {
                let cgroups = of_unit.entry(unit.to_owned()).or_default();
                if *cgroups >= CGROUPS_OF_UNIT_MAX {
                    if is_in_unit {
                        break;
                    }
                    continue;
                }
                *cgroups += 1;
                found.push((entry.ino(), unit.as_bytes().into()));
            }
            folders.push((entry.path(), path));
        }
    }
    found
}

/// The system unit in the text of /proc/PID/cgroup: the first part of the path below its slices, as systemd reads it.
fn unit_of(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let (_, controllers_and_path) = line.split_once(':')?;
        let (controllers, path) = controllers_and_path.split_once(':')?;
        if !controllers.is_empty() && controllers != "name=systemd" {
            return None;
        }
        let unit = path.split('/').find(|part| !part.is_empty() && !part.ends_with(".slice"))?;
        // systemd puts an underscore before names that collide with the kernel's own files.
        let unit = unit.strip_prefix('_').unwrap_or(unit);
        let good = UNIT_SUFFIXES.iter().any(|suffix| unit.len() > suffix.len() && unit.ends_with(suffix));
        (good && unit.len() <= UNIT_BYTES_MAX).then_some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::shares::look_ups::LOOK_UPS_A_SECOND;
    use crate::sys::recvmmsg::Headers;
    use crate::sys::socket_options::identify_senders;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};

    #[test]
    fn the_unit_is_the_one_that_systemd_would_name() {
        for (cgroup, unit) in [
            ("0::/system.slice/cron.service\n", Some("cron.service")),
            ("0::/system.slice/system-getty.slice/getty@tty1.service\n", Some("getty@tty1.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/foot.service\n", Some("user@1000.service")),
            ("0::/user.slice/user-1000.slice/session-2.scope\n", Some("session-2.scope")),
            ("4:memory:/a.service\n1:name=systemd:/system.slice/b.service\n0::/\n", Some("b.service")),
            ("0::/system.slice/_cpu.service\n", Some("cpu.service")),
            ("0::/\n", None),
            ("0::/docker/0123456789abcdef\n", None),
            ("0::/.service\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
        assert_eq!(unit_of(&format!("0::/{}.service", "x".repeat(300))), None);
    }

    #[test]
    fn a_process_that_is_gone_has_no_command_and_another_with_its_number_lends_it_none() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It has its name when it answers.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let process = open(child.id()).unwrap();
        let mut processes = Processes::default();
        assert_eq!(*processes.names_of(child.id(), &process).comm, *b"cat");
        // The number of a process that lives stands for one that has got it since.
        drop(child.stdin.take());
        child.wait().unwrap();
        let names = processes.names_of(std::process::id(), &process);
        assert!(names.has_ended && names.comm.is_empty(), "{names:?}");
        assert!(open(child.id()).is_none());
    }

    /// A cgroup with the name of a unit. None if this machine lets nobody make one.
    struct Cgroup(PathBuf);

    impl Cgroup {
        fn new(name: &str) -> Option<Self> {
            let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
            let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
            let folder = PathBuf::from(line.split(' ').nth(4)?).join(name);
            fs::create_dir(&folder).ok().map(|()| Self(folder))
        }
    }

    impl Drop for Cgroup {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn a_child_that_ended_before_its_datagram_is_read_has_its_unit_and_no_command() {
        let (from, to) = UnixDatagram::pair().unwrap();
        let unit = format!("dbufd-test-{}.service", std::process::id());
        let cgroup = Cgroup::new(&unit);
        let (true, true, Some(cgroup)) = (identify_senders(&to).unwrap(), pidfd::are_described(), &cgroup) else {
            return eprintln!("skipped: this needs Linux 6.16 and a cgroup");
        };
        let script = format!("echo $$ > {} && exec printf x", cgroup.0.join("cgroup.procs").display());
        let mut child = Command::new("sh").args(["-c", &script]).stdout(OwnedFd::from(from)).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        let (mut headers, mut arena) = (Headers::anonymous().unwrap(), [0; 16]);
        headers.ask_for_pidfds(true);
        assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 1);
        let (sender, process) = (headers.sender(0).unwrap(), headers.take_pidfd(0).unwrap());
        assert_eq!(sender.pid, child.id());
        let names = Processes::default().names_of(sender.pid, &process);
        let expected = Names { comm: Box::default(), unit: unit.as_bytes().into(), has_ended: true };
        assert_eq!(names, expected);
    }

    #[test]
    fn one_writer_looks_up_a_limited_number_of_processes_in_a_second() {
        let mut processes = Processes::default();
        let own = Credentials { pid: std::process::id(), uid: 0, gid: 0 };
        let names = processes.look_up(own, &Handle::Number, 1).unwrap();
        assert!(!names.comm.is_empty());
        assert!((1..LOOK_UPS_A_SECOND).all(|_| processes.look_ups.take(0, 1)));
        assert_eq!(processes.look_up(own, &Handle::Number, 2), None);
        assert_eq!(processes.look_up(own, &Handle::Number, NS_A_SECOND), Some(names));
    }

    #[test]
    fn a_unit_with_very_many_cgroups_does_not_hide_those_of_others() {
        let root = tempfile::tempdir().unwrap();
        for path in (0..500).map(|n| format!("a.slice/many.service/{n}/below")).chain(["z.slice/z.service".into()]) {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let found = cgroups_below(root.path().to_path_buf());
        let of = |unit: &str| found.iter().filter(|(_, found)| **found == *unit.as_bytes()).count();
        assert_eq!((of("many.service"), of("z.service")), (CGROUPS_OF_UNIT_MAX, 1));
    }
}
