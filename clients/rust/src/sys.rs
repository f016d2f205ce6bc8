//! Provides what neither the standard library nor rustix has: the time-stamp counter, descriptors that are checked
//! before each use, a forked child's first step, and a line on standard error.
//!
//! Input: descriptors, lines. Output: ticks; a number that changes in each forked child; borrowed descriptors. Any
//! thread. Failures: a C library without memory for one more handler; a descriptor that is not ours any more.
//!
//! Invariants, cited by number:
//! 1. `OPEN` lists each [`Descriptor`] that exists, from before another thread can fork until it is closed: both ends
//!    of its life hold the lock. One exception: memory that the daemon has just sent. A child that is forked between
//!    its arrival and its entry keeps it open; it is no connection, so its end is not delayed.
//! 2. `PARKED` is touched only by the thread that holds the lock of `OPEN`.

#![allow(unsafe_code, reason = "an instruction, and functions of the C library")]

use std::cell::UnsafeCell;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{OnceLock, PoisonError};

use dbuf_sync::atomic::AtomicU64;
use dbuf_sync::atomic::Ordering::Relaxed;
use dbuf_sync::{Mutex, MutexGuard};
use rustix::io::Errno;

/// How many forks lie between this process and the one that loaded the crate.
static FORKS: AtomicU64 = AtomicU64::new(0);
/// The descriptors that a forked child closes.
static OPEN: Mutex<Vec<(RawFd, Identity)>> = Mutex::new(Vec::new());
/// Keeps the lock of `OPEN` over a fork, so that the child finds the list whole.
static PARKED: Parked = Parked(UnsafeCell::new(None));
/// What standard error was when the crate was loaded.
static STANDARD_ERROR_AT_LOAD: OnceLock<Option<Identity>> = OnceLock::new();

/// Whether [`ticks`] counts anything here.
pub(crate) const HAS_TICKS: bool = cfg!(target_arch = "x86_64");
const STANDARD_ERROR: RawFd = 2;
/// The number of a descriptor that was closed.
const NO_DESCRIPTOR: RawFd = -1;

type Open = MutexGuard<'static, Vec<(RawFd, Identity)>>;

struct Parked(UnsafeCell<Option<Open>>);

// SAFETY: invariant 2.
unsafe impl Sync for Parked {}

/// Device and inode. The kernel gives each socket and each memfd an inode of its own.
type Identity = (u64, u64);

/// The processor's time-stamp counter.
#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, and the kernel lets programs use it unless prctl(2),
        // PR_SET_TSC, was asked not to.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// A number that differs between a process and its forked children. [`watch_forks`] was called before.
#[inline]
pub(crate) fn forks() -> u64 {
    // Relaxed: it changes only in a child, before anything else runs there.
    FORKS.load(Relaxed)
}

/// Has [`at_load`] called when the program or the shared object is loaded, before the program registers handlers for
/// forks itself. Handlers that were registered first run last before a fork, and first after it. So a handler of the
/// program may wait for its own locks while another thread opens a connection, and may send from the child. 101 is the
/// first priority that is not the C library's own; constructors without a priority run later.
// SAFETY: the C library calls each function in this section once, with arguments that a function without parameters
// does not see. `at_load` needs nothing that is set up later: the standard library allocates without `main`.
#[used]
#[unsafe(link_section = ".init_array.00101")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    // An allocator may register for forks at its first use. It has to come first, so that a fork takes its locks after
    // that of `OPEN`: `Descriptor::open` allocates under the lock of `OPEN`.
    drop(std::hint::black_box(Box::new(0_u8)));
    // It is set only here.
    let _ = STANDARD_ERROR_AT_LOAD.set(identity_of(STANDARD_ERROR));
    // Where it fails, the first call of the program tries again, and returns the error.
    let _ = watch_forks();
}

/// Has the C library count forks from here on, and close in each child what belongs to its parent. This is done at
/// load; a call later makes up for a failure there.
///
/// # Errors
/// When it has no memory for that.
pub(crate) fn watch_forks() -> io::Result<()> {
    const UNWATCHED: u64 = 0;
    const WATCHED: u64 = 1;
    static STATE: AtomicU64 = AtomicU64::new(UNWATCHED);
    // Not `OnceLock`: a child that is forked while another thread registers would wait for that thread for ever. A
    // thread that comes second does not wait, and no fork is between in practice.
    // Relaxed: a mark that one thread sets.
    if STATE.compare_exchange(UNWATCHED, WATCHED, Relaxed, Relaxed).is_err() {
        return Ok(());
    }
    // SAFETY: pthread_atfork(3) asks for functions that may run in a child, where only what is async-signal-safe
    // may be done: `in_child` adds to an atomic, reads a list, closes descriptors and unlocks a futex. The
    // functions are code of this library; if that is in a shared object, the C library ties them to the object
    // and forgets them when it is unloaded (glibc's __register_atfork).
    let error = unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    if error == 0 {
        return Ok(());
    }
    // Relaxed: as above.
    STATE.store(UNWATCHED, Relaxed);
    Err(io::Error::from_raw_os_error(error))
}

fn open_descriptors() -> Open {
    // A panic cannot leave the list half changed.
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn before_fork() {
    let open = open_descriptors();
    // SAFETY: invariant 2: `open` is the lock.
    unsafe { *PARKED.0.get() = Some(open) };
}

fn unpark() -> Option<Open> {
    // SAFETY: invariant 2: this thread, or the thread of which it is the copy, took the lock in `before_fork`.
    unsafe { (*PARKED.0.get()).take() }
}

extern "C" fn in_parent() {
    drop(unpark());
}

/// Closes the parent's connections in the child, which never uses them: the daemon would not see the parent's end while
/// a child lives, and would keep the parent's ring until then. Nothing is allocated or freed.
extern "C" fn in_child() {
    // Relaxed: the child has one thread.
    FORKS.fetch_add(1, Relaxed);
    if let Some(mut open) = unpark() {
        open.iter().for_each(|&(raw, identity)| close(raw, identity));
        open.clear();
    }
}

/// What a descriptor's number stands for now; None if for nothing.
fn identity_of(raw: RawFd) -> Option<Identity> {
    status_of(raw).as_ref().map(identity)
}

fn identity(status: &libc::stat) -> Identity {
    (status.st_dev, status.st_ino)
}

fn status_of(raw: RawFd) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat(2) takes any number, and writes a whole `stat` where it succeeds.
    if unsafe { libc::fstat(raw, status.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: it has succeeded.
    Some(unsafe { status.assume_init() })
}

/// Closes a descriptor, unless the program has closed it, or has put something else in its place.
fn close(raw: RawFd, identity: Identity) {
    if identity_of(raw) == Some(identity) {
        // SAFETY: the descriptor is this library's, and nothing of this library uses it any more.
        unsafe { libc::close(raw) };
    }
}

/// A descriptor of a program that may close all descriptors, or put others in their place, as daemons do that close
/// what they did not open. It is checked before each use: a number that stands for something else is left alone.
///
/// Two threads of which one closes foreign descriptors while the other sends are not safe from each other: the number
/// may change its meaning between the check and the use.
#[derive(Debug)]
pub(crate) struct Descriptor {
    raw: RawFd,
    identity: Identity,
}

impl Descriptor {
    /// What `make` opens. It is closed in each child that is forked from here on.
    pub(crate) fn open(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Self> {
        Self::checked(make, |_| true)
    }

    /// The same, for a socket. What is none is a file that the program has put in its place, and is not touched.
    pub(crate) fn socket(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Self> {
        Self::checked(make, |status| status.st_mode & libc::S_IFMT == libc::S_IFSOCK)
    }

    fn checked(
        make: impl FnOnce() -> io::Result<OwnedFd>,
        is_it: impl FnOnce(&libc::stat) -> bool,
    ) -> io::Result<Self> {
        // Made under the lock (invariant 1): another thread's fork comes before it, or finds it in the list.
        let mut open = open_descriptors();
        let mut made = make()?;
        if made.as_raw_fd() <= STANDARD_ERROR {
            // In a program that has closed its standard streams, what others write there would go to the daemon.
            made = rustix::io::fcntl_dupfd_cloexec(&made, STANDARD_ERROR + 1)?;
        }
        // Given up first: if another thread has closed it, it is not to be closed again.
        let raw = made.into_raw_fd();
        let status = status_of(raw).filter(is_it).ok_or(Errno::BADF)?;
        let identity = identity(&status);
        open.push((raw, identity));
        Ok(Self { raw, identity })
    }

    /// The descriptor.
    ///
    /// # Errors
    /// [`Errno::BADF`] if the number stands for nothing, or for something else, by now.
    pub(crate) fn get(&self) -> Result<BorrowedFd<'_>, Errno> {
        if identity_of(self.raw) != Some(self.identity) {
            return Err(Errno::BADF);
        }
        // SAFETY: it was open just now. `close` needs `&mut self`, so it cannot run while the borrow lives; a forked
        // child closes its own copy only (invariant 1). What the program closes meanwhile is said at the type.
        Ok(unsafe { BorrowedFd::borrow_raw(self.raw) })
    }

    /// What an error of a use of it comes from: [`Errno::BADF`] if the number stands for nothing, or for something
    /// else, by now.
    pub(crate) fn cause_of(&self, error: Errno) -> Errno {
        self.get().err().unwrap_or(error)
    }

    /// Closes it now. What is used of it later fails, as with a number that stands for nothing.
    pub(crate) fn close(&mut self) {
        let mut open = open_descriptors();
        open.retain(|&listed| listed != (self.raw, self.identity));
        // Under the lock: a child does not find it closed and still in the list.
        close(self.raw, self.identity);
        self.raw = NO_DESCRIPTOR;
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.close();
    }
}

/// A variable of the environment; none in a program that runs with more rights than its caller, such as one with the
/// setuid bit: the environment is the caller's.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    // SAFETY: getauxval(3) reads what the kernel has told this process.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // Not secure_getenv(3): the standard library's lock keeps `set_var` of another thread away.
    if is_secure { None } else { std::env::var_os(name) }
}

/// Writes a line to standard error with one write(2), if that does not have to wait. It is not written to a
/// pipe without a reader, and raises no SIGPIPE.
pub(crate) fn write_error_line(line: &[u8]) {
    let mut polled = libc::pollfd { fd: STANDARD_ERROR, events: libc::POLLOUT, revents: 0 };
    // SAFETY: poll(2) reads and writes one entry.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    // Anything else: it is closed, has no reader, or is full.
    if ready == 1 && polled.revents == libc::POLLOUT && !is_standard_error_a_data_file() {
        without_sigpipe(|| {
            // SAFETY: write(2) reads the line.
            unsafe { libc::write(STANDARD_ERROR, line.as_ptr().cast(), line.len()) }
        });
    }
}

/// Whether the program has closed its standard error, and a file of its own has that number. A file that was there at
/// load is where the program's caller wants such lines; one with `O_APPEND` is a log.
fn is_standard_error_a_data_file() -> bool {
    let Some(status) = status_of(STANDARD_ERROR) else { return false };
    let was_there = STANDARD_ERROR_AT_LOAD.get() == Some(&Some(identity(&status)));
    if was_there || status.st_mode & libc::S_IFMT != libc::S_IFREG {
        return false;
    }
    // SAFETY: F_GETFL asks about a number.
    let flags = unsafe { libc::fcntl(STANDARD_ERROR, libc::F_GETFL) };
    flags & libc::O_APPEND == 0
}

/// Calls `write`, which may fail with EPIPE; the signal that comes with it is consumed.
fn without_sigpipe(write: impl FnOnce() -> isize) {
    let (mut sigpipe, mut before, mut pending) =
        (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::<libc::sigset_t>::uninit());
    // SAFETY: sigemptyset(3) fills the set.
    unsafe { libc::sigemptyset(sigpipe.as_mut_ptr()) };
    // SAFETY: the set was filled.
    unsafe { libc::sigaddset(sigpipe.as_mut_ptr(), libc::SIGPIPE) };
    // SAFETY: both sets are memory of this function; it fails only for an action that there is not.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, sigpipe.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: sigpending(2) fills the set.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: the set was filled.
    let was_pending = unsafe { libc::sigismember(pending.as_ptr(), libc::SIGPIPE) } == 1;
    if write() < 0 && io::Error::last_os_error().kind() == io::ErrorKind::BrokenPipe && !was_pending {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set was filled, the time is there, and the details of the signal are not asked for.
        unsafe { libc::sigtimedwait(sigpipe.as_ptr(), std::ptr::null_mut(), &raw const now) };
    }
    // SAFETY: pthread_sigmask(3) has filled the set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on() {
        let (first, second) = (ticks(), ticks());
        assert!(!HAS_TICKS || second > first);
    }
    #[test]
    fn the_cause_of_an_error_is_the_descriptor_if_that_is_not_ours_any_more() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut ours = Descriptor::open(|| Ok(file.try_clone()?.into())).unwrap();
        assert_eq!(ours.cause_of(Errno::NOTSOCK), Errno::NOTSOCK);
        ours.identity.1 += 1;
        assert_eq!(ours.cause_of(Errno::NOTSOCK), Errno::BADF);
        ours.identity.1 -= 1;
    }
    #[test]
    fn a_new_descriptor_that_the_program_has_closed_or_replaced_is_neither_held_nor_closed() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let taken = |replaces: bool| {
            let made = std::os::unix::net::UnixStream::pair().unwrap().0;
            // A number that no other test gets.
            let made = rustix::io::fcntl_dupfd_cloexec(&made, 800).unwrap();
            let raw = made.as_raw_fd();
            let error = Descriptor::socket(|| {
                // What another thread of the program may do at this moment.
                if replaces {
                    // SAFETY: both numbers are of this test.
                    unsafe { libc::dup2(file.as_raw_fd(), raw) };
                } else {
                    // SAFETY: the number is of this test.
                    unsafe { libc::close(raw) };
                }
                Ok(made)
            });
            assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EBADF));
            raw
        };
        let replaced = taken(true);
        assert_eq!(identity_of(replaced), identity_of(file.as_raw_fd()), "the program's file is still open");
        // SAFETY: the program's file, which nothing uses.
        unsafe { libc::close(replaced) };
        taken(false);
    }
    #[test]
    fn a_write_that_no_process_reads_raises_no_signal() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // SAFETY: the signal would end this process, as it ends a program in C: that is what is tested. No other test
        // writes to a pipe.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let mut written = 0;
        without_sigpipe(|| {
            // SAFETY: it writes one byte of a constant.
            written = unsafe { libc::write(writer.as_raw_fd(), b"x".as_ptr().cast(), 1) };
            written
        });
        // SAFETY: what was there before.
        unsafe { libc::signal(libc::SIGPIPE, before) };
        assert_eq!(written, -1);
    }
}
