//! Where each session of the framed protocol stands, for as long as the daemon lives.
//!
//! Enters: a HELLO takes a seat, the connection's end gives it back with what is known of its events. Leaves: the last
//! accepted sequence, for the client that comes again. Any writer thread, under one lock that is taken at a
//! connection's HELLO and at its end, never for an event. What can fail: a seat may be refused.
//!
//! A session is open on at most one connection at a time. A client that reconnects before the daemon has read the old
//! connection to its end is told to try again; a WELCOME that overtook bytes still on their way would make it send
//! them twice.

use std::collections::HashMap;

use super::acks::Span;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The most sessions that are remembered.
pub const SESSIONS_MAX: usize = 4096;

/// The user and the session's id. A session belongs to a user, so that nobody can occupy or silence that of another.
type Key = (u32, u128);

/// All sessions of a daemon's life, up to [`SESSIONS_MAX`]: those that have been closed longest are forgotten first.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    places: HashMap<Key, Place>,
    /// Counts closings, so that they have an order.
    closings: u64,
}

#[derive(Debug)]
enum Place {
    Open,
    Closed { closing: u64, standing: Standing },
}

/// What is known of a session's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// The highest sequence that was accepted or refused.
    pub last: u64,
    /// Its events that were not known to be durable, as one span.
    pub pending: Option<Span>,
}

/// An open session's place in the table; dropping it closes the session.
#[derive(Debug)]
pub(super) struct Seat {
    key: Key,
    sessions: Arc<Sessions>,
    /// What the table will remember.
    pub standing: Standing,
}

impl Sessions {
    /// A table without sessions.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens the session `id` of user `uid`, and says where it stood if it was known. None if it is open already, or
    /// if all places are taken by open ones. The id 0 stands for no session: it is neither remembered nor refused.
    pub(super) fn sit(sessions: &Arc<Self>, uid: u32, id: u128) -> Option<(Seat, Option<Standing>)> {
        let key = (uid, id);
        let known = if id == 0 { None } else { sessions.table().open(key)? };
        let seat = Seat { key, sessions: Arc::clone(sessions), standing: known.unwrap_or_default() };
        Some((seat, known))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no thread panics while it holds the sessions")
    }
}

impl Table {
    fn open(&mut self, key: Key) -> Option<Option<Standing>> {
        let known = match self.places.get(&key) {
            Some(Place::Open) => return None,
            Some(Place::Closed { standing, .. }) => Some(*standing),
            None => {
                self.make_room()?;
                None
            }
        };
        self.places.insert(key, Place::Open);
        Some(known)
    }

    fn make_room(&mut self) -> Option<()> {
        if self.places.len() < SESSIONS_MAX {
            return Some(());
        }
        let closed = self.places.iter().filter_map(|(key, place)| match place {
            Place::Open => None,
            Place::Closed { closing, .. } => Some((*closing, *key)),
        });
        let (_, oldest) = closed.min()?;
        self.places.remove(&oldest);
        Some(())
    }
}

impl Seat {
    /// The session's id; 0 if there is none.
    pub(super) fn id(&self) -> u128 {
        self.key.1
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.key.1 == 0 {
            return;
        }
        let mut table = self.sessions.table();
        table.closings += 1;
        let place = Place::Closed { closing: table.closings, standing: self.standing };
        table.places.insert(self.key, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_open_on_one_connection_at_a_time_and_remembered_after() {
        let sessions = Sessions::new();
        let (mut seat, known) = Sessions::sit(&sessions, 1000, 7).unwrap();
        assert_eq!(known, None);
        assert!(Sessions::sit(&sessions, 1000, 7).is_none(), "a second connection is turned away");
        assert!(Sessions::sit(&sessions, 1001, 7).is_some(), "the same number of another user is another session");
        seat.standing.last = 42;
        drop(seat);
        let (_seat, known) = Sessions::sit(&sessions, 1000, 7).unwrap();
        assert_eq!(known, Some(Standing { last: 42, pending: None }));
    }

    #[test]
    fn connections_without_a_session_are_not_remembered() {
        let sessions = Sessions::new();
        let first = Sessions::sit(&sessions, 0, 0).unwrap();
        let second = Sessions::sit(&sessions, 0, 0).unwrap();
        drop((first, second));
        assert!(sessions.table().places.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_closed_first() {
        let sessions = Sessions::new();
        let open: Vec<_> = (1..=8).map(|id| Sessions::sit(&sessions, 0, id).unwrap()).collect();
        for id in 9..=SESSIONS_MAX as u128 + 1 {
            drop(Sessions::sit(&sessions, 0, id).unwrap());
        }
        assert_eq!(sessions.table().places.len(), SESSIONS_MAX);
        assert!(!sessions.table().places.contains_key(&(0, 9)), "the first that was closed is gone");
        assert!(Sessions::sit(&sessions, 0, 1).is_none(), "an open one stays");
        drop(open);
    }

    #[test]
    fn a_table_full_of_open_sessions_turns_one_more_away() {
        let sessions = Sessions::new();
        let open: Vec<_> = (1..=SESSIONS_MAX as u128).map(|id| Sessions::sit(&sessions, 0, id).unwrap()).collect();
        assert!(Sessions::sit(&sessions, 0, 1 << 70).is_none());
        assert!(Sessions::sit(&sessions, 0, 0).is_some(), "who needs no session still comes in");
        drop(open);
        assert!(Sessions::sit(&sessions, 0, 1 << 70).is_some());
    }
}
