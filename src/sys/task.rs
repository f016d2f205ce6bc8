//! Asks the kernel about this process's threads: gettid(2), proc_pid_stat(5).
//!
//! Input: a thread's number. Output: its state. Thread: any. Failure: /proc or the thread is not there; then the thread
//! counts as not stopped.

use std::fs;

/// The number of the calling thread.
#[must_use]
pub fn current() -> i32 {
    rustix::thread::gettid().as_raw_pid()
}

/// Whether a thread of this process was stopped, by a signal or by the process that traces it.
#[must_use]
pub fn is_stopped(number: i32) -> bool {
    fs::read_to_string(format!("/proc/self/task/{number}/stat"))
        .is_ok_and(|stat| matches!(state(&stat), Some('t' | 'T')))
}

/// The state follows the name, which is in brackets and may itself contain brackets.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_found_behind_any_name() {
        assert_eq!(state("17 (dbufd-reader) t 1 17 17 0"), Some('t'));
        assert_eq!(state("17 (a) T (b) S 1 17 17 0"), Some('S'));
        assert_eq!(state("17 (dbufd"), None);
    }

    #[test]
    fn a_thread_that_runs_or_does_not_exist_is_not_stopped() {
        assert!(!is_stopped(current()) && !is_stopped(i32::MAX));
    }
}
