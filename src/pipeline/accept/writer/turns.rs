//! Lets connections that send much wait for those that send little, and for each other in turn.
//!
//! Input: how much each read brought; the ready connections of a round. Output: the order in which to read those that
//! send much. Thread: the writer. Nothing can fail.
//!
//! What a connection sends may be costly: a read of small events that all differ takes milliseconds. With many such
//! connections a round would take that many times as long, and an event of somebody else would wait for its end. So
//! they are read last in a round, and only for [`READ_FOR`]. The others of them are ready again in the next round. A
//! new connection is one of them until its first read.

use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

/// A connection whose last read brought this many bytes sends much.
const MUCH_BYTES: usize = 16 << 10;
/// How long such connections are read in one round; the last read may take longer.
const READ_FOR: Duration = Duration::from_millis(1);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By the index of a connection: whether it sends little.
    send_little: Vec<bool>,
    /// The ready ones of this round. The next one is at the end.
    ready: Vec<(u32, EpollFlags)>,
    last: u32,
    until: Option<Instant>,
}

impl Turns {
    /// Begins with a new connection, which gets this index.
    pub(super) fn begin(&mut self, index: u32) {
        let index = index as usize;
        if index >= self.send_little.len() {
            self.send_little.resize(index + 1, false);
        }
        self.send_little[index] = false;
    }

    /// Whether a connection sends much, or may do so.
    #[inline]
    pub(super) fn sends_much(&self, index: u32) -> bool {
        !self.send_little.get(index as usize).copied().unwrap_or(false)
    }

    /// Notes how many bytes a read of a connection brought.
    #[inline]
    pub(super) fn note(&mut self, index: u32, bytes: usize) {
        if let Some(little) = self.send_little.get_mut(index as usize) {
            *little = bytes < MUCH_BYTES;
        }
    }

    /// Adds a connection that sends much and is ready.
    pub(super) fn add(&mut self, index: u32, flags: EpollFlags) {
        self.ready.push((index, flags));
    }

    /// The next connection to read in this round. None when all were read, or when the time is over.
    pub(super) fn next(&mut self, now: impl Fn() -> Instant) -> Option<(u32, EpollFlags)> {
        if self.ready.is_empty() {
            self.until = None;
            return None;
        }
        let is_over = match self.until {
            Some(until) => now() >= until,
            None => {
                self.until = Some(now() + READ_FOR);
                // After the one that was read last comes the one with the next index.
                let last = self.last;
                self.ready.sort_unstable_by_key(|(index, _)| std::cmp::Reverse((*index <= last, *index)));
                false
            }
        };
        if is_over {
            self.until = None;
            self.ready.clear();
        }
        let next = self.ready.pop()?;
        self.last = next.0;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Who is read in a round, if each read takes `each`.
    fn round(turns: &mut Turns, ready: &[u32], each: Duration) -> Vec<u32> {
        let now = Cell::new(Instant::now());
        ready.iter().for_each(|index| turns.add(*index, EpollFlags::EPOLLIN));
        let mut read = Vec::new();
        while let Some((index, _)) = turns.next(|| now.get()) {
            read.push(index);
            now.set(now.get() + each);
        }
        read
    }

    #[test]
    fn connections_that_send_much_are_read_in_turn_and_for_a_limited_time() {
        let mut turns = Turns::default();
        let ms = Duration::from_millis(1);
        assert_eq!(round(&mut turns, &[5, 1, 9], ms / 10), [1, 5, 9]);
        assert_eq!(round(&mut turns, &[5, 1, 9], ms / 2), [1, 5]);
        assert_eq!(round(&mut turns, &[5, 1, 9], ms / 2), [9, 1]);
        for expected in [5, 9, 1, 5] {
            assert_eq!(round(&mut turns, &[1, 5, 9], 3 * ms), [expected]);
        }
        assert_eq!(round(&mut turns, &[1], ms), [1], "it is the only one");
        assert!(round(&mut turns, &[], ms).is_empty());
    }

    #[test]
    fn a_connection_sends_much_as_long_as_its_reads_bring_much() {
        let mut turns = Turns::default();
        turns.begin(3);
        assert!(turns.sends_much(3), "it may");
        turns.note(3, MUCH_BYTES - 1);
        assert!(!turns.sends_much(3));
        turns.note(3, MUCH_BYTES);
        assert!(turns.sends_much(3));
        turns.note(3, 0);
        assert!(!turns.sends_much(3));
        turns.begin(3);
        assert!(turns.sends_much(3), "it is another one");
    }
}
