//! Starts a program with descriptors at the numbers from 3 on, as systemd does: without `unsafe`, by way of this test.
//!
//! The test runs itself again with a socket as its standard input. The copy receives the descriptors over it. The
//! kernel gives each the lowest free number, so they land at 3, 4, 5 and so on. Then it becomes the program: its
//! process number, which the test knows, is the one in `LISTEN_PID`.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// What the copy is to become, an argument a line.
const ORDER: &str = "DBUFD_TEST_LAUNCH";
/// Descriptors of one message; the kernel allows 253.
const A_MESSAGE: usize = 200;
const FIRST: i32 = 3;

/// Starts `order` with these descriptors and their names. `adjust` may change what else the program gets.
pub(crate) fn launch(
    order: &[String],
    passed: &[(BorrowedFd<'_>, &str)],
    adjust: impl FnOnce(&mut Command),
) -> std::io::Result<Child> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let names: Vec<&str> = passed.iter().map(|(_, name)| *name).collect();
    let mut command = Command::new(std::env::current_exe()?);
    let own = "manager::launch::a_program_is_started_with_the_descriptors_that_are_passed_to_it";
    command.args(["--exact", own, "--nocapture", "--test-threads=1"]);
    command.env(ORDER, order.join("\n")).env("LISTEN_FDNAMES", names.join(":"));
    command.env("LISTEN_FDS", passed.len().to_string());
    for inherited in ["JOURNAL_STREAM", "INVOCATION_ID", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(inherited);
    }
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    adjust(&mut command);
    let child = command.spawn()?;
    drop(command);
    for part in passed.chunks(A_MESSAGE) {
        let descriptors: Vec<BorrowedFd<'_>> = part.iter().map(|(descriptor, _)| *descriptor).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(A_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for them");
        sendmsg(&ours, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
        // One message at a time: the descriptors of one may be on their way at once, and no more.
        ours.read_exact(&mut [0])?;
    }
    Ok(child)
}

/// The copy. Does nothing where it is run as a test.
#[test]
fn a_program_is_started_with_the_descriptors_that_are_passed_to_it() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let count: i32 = std::env::var("LISTEN_FDS").expect("a count").parse().expect("a number");
    // What the parent of the tests has left open would take one of the numbers.
    let open = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
    let open: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| *number >= FIRST) {
        // The list's own is closed already.
        let _ = nix::unistd::close(number);
    }
    let stdin = std::io::stdin();
    let mut next = FIRST;
    while next < FIRST + count {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(A_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // Without close-on-exec: they are for the program.
        let got = recvmsg(stdin.as_fd(), &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::empty());
        assert_eq!(got.expect("descriptors").bytes, 1, "the test is there");
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
            for descriptor in descriptors {
                assert_eq!(descriptor.into_raw_fd(), next, "the numbers from 3 on are free");
                next += 1;
            }
        }
        rustix::io::write(stdin.as_fd(), &[0]).expect("the test is there");
    }
    let mut words = order.split('\n');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).env("LISTEN_PID", std::process::id().to_string()).env_remove(ORDER).stdin(Stdio::null());
    let error = command.exec();
    let _ = writeln!(std::io::stderr(), "cannot start {order}: {error}");
    std::process::exit(127);
}
