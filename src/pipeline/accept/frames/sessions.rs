//! Remembers how far each session of the framed protocol has come, also across the death of the process.
//!
//! Input: a HELLO attaches to a session, and the connection's end returns it with what is known of its events. Output:
//! for a client that comes back, the last accepted sequence, and the events that are not known to be durable. Thread:
//! any writer, under one lock that is taken at a connection's HELLO and at its end, never for an event. Failure:
//! attaching may be refused.
//!
//! A session is open on at most one connection at a time. A client may reconnect before the daemon has read the old
//! connection to its end. It is told to try again, because a WELCOME that overtakes bytes on the old connection would
//! make the client send those bytes twice.

use std::collections::{HashMap, HashSet};
use std::io;

use super::session_table::{FoundSession, SessionTable};
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::shares::{Held, Resource, Shares};
use crate::pipeline::takeover::spans::{Known, Span};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::fdstore::FdStore;

/// The user and the session's id. A session belongs to a user, so that no user can occupy or silence another user's
/// session.
type Key = (u32, u128);

/// All sessions. A user who has its share of them loses the session that was closed first; the
/// sessions of others stay. A session without events is not remembered: every program with a ring opens one, and there
/// is nothing to remember about it.
#[derive(Debug)]
pub struct Sessions {
    shares: Arc<Shares>,
    table: Mutex<Table>,
    /// Keeps the sessions for the next process.
    session_table: Option<SessionTable>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// Counts the closings, which gives their order.
    closings: u64,
    /// Rows of the session table below this number have been used. `free` lists the free ones among them.
    used: u32,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    row: u32,
    state: State,
    /// The part of its user's share.
    _held: Held,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    Closed { closing: u64, session_state: SessionState },
}

/// What is known of a session's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionState {
    /// The highest sequence that was accepted or refused.
    pub last: u64,
    /// Its events that the client does not know to be durable, oldest first.
    pub pending: Vec<Span>,
    /// Up to this event the client knows which events came to a file.
    pub losses: u64,
}

/// An open session. Dropping it closes the session.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    key: Key,
    row: u32,
    sessions: Arc<Sessions>,
    /// What the table will remember.
    pub session_state: SessionState,
}

impl Sessions {
    /// Creates an empty table that ends with the process.
    #[must_use]
    pub fn new(shares: Arc<Shares>) -> Arc<Self> {
        Arc::new(Self { shares, table: Mutex::default(), session_table: None })
    }

    /// Opens a table that `store` keeps for the next process, with the sessions that the previous process left. The
    /// notes of `inherited` must be resolved.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn stored(shares: Arc<Shares>, store: &FdStore, inherited: Option<SessionTable>) -> io::Result<Arc<Self>> {
        Ok(Self::over(shares, inherited.map_or_else(|| SessionTable::create(store), Ok)?))
    }

    fn over(shares: Arc<Shares>, session_table: SessionTable) -> Arc<Self> {
        let found = session_table.found();
        let mut table = Table::default();
        let last_closing = found.iter().map(|found| found.closing).max().unwrap_or(0);
        for FoundSession { row, uid, session, last, pending, losses, closing } in found {
            if last == 0 {
                session_table.forget(row);
                continue;
            }
            // The death of the process closed the sessions that were open, after all others.
            let closing = if closing == 0 { last_closing + 1 } else { closing };
            let state = State::Closed { closing, session_state: SessionState { last, pending, losses } };
            let held = shares.take_over(Resource::Sessions, uid, 1);
            table.entries.insert((uid, session), Entry { row, state, _held: held });
        }
        table.closings = last_closing + 1;
        let rows: HashSet<u32> = table.entries.values().map(|entry| entry.row).collect();
        table.used = rows.iter().max().map_or(0, |row| row + 1);
        table.free = (0..table.used).filter(|row| !rows.contains(row)).collect();
        Arc::new(Self { shares, table: Mutex::new(table), session_table: Some(session_table) })
    }

    /// A table with this memory and no store.
    #[cfg(test)]
    pub(crate) fn with_session_table(shares: Arc<Shares>, session_table: SessionTable) -> Arc<Self> {
        Self::over(shares, session_table)
    }

    /// Opens the session `id` of user `uid`, and returns its state if it was known. The id 0 means no session: it is
    /// neither remembered nor refused.
    ///
    /// # Errors
    /// Why not, as a text for the client: it is already open, or its user has as many open sessions as it may have.
    pub(crate) fn attach(
        sessions: &Arc<Self>,
        uid: u32,
        id: u128,
    ) -> Result<(SessionGuard, Option<SessionState>), String> {
        let key = (uid, id);
        let Self { shares, session_table, .. } = &**sessions;
        let (row, known) =
            if id == 0 { (0, None) } else { sessions.table().open(key, shares, session_table.as_ref())? };
        let guard =
            SessionGuard { key, row, sessions: Arc::clone(sessions), session_state: known.clone().unwrap_or_default() };
        Ok((guard, known))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    fn open(
        &mut self,
        key: Key,
        shares: &Arc<Shares>,
        session_table: Option<&SessionTable>,
    ) -> Result<(u32, Option<SessionState>), String> {
        if let Some(entry) = self.entries.get_mut(&key) {
            let State::Closed { session_state, .. } = std::mem::replace(&mut entry.state, State::Open) else {
                return Err("the session is open on another connection; try again".into());
            };
            if let Some(session_table) = session_table {
                session_table.opened(entry.row);
            }
            return Ok((entry.row, Some(session_state)));
        }
        let uid = key.0;
        let held = shares.take_or(Resource::Sessions, uid, 1, || self.make_room(uid, shares, session_table).is_some());
        let held = held.map_err(|refusal| format!("{refusal}; try again"))?;
        let row = self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        });
        if let Some(session_table) = session_table {
            session_table.begin(row, key.0, key.1);
        }
        self.entries.insert(key, Entry { row, state: State::Open, _held: held });
        Ok((row, None))
    }

    /// Forgets the session of the user that was closed first. One of another user only for root.
    fn make_room(&mut self, uid: u32, shares: &Shares, session_table: Option<&SessionTable>) -> Option<()> {
        let closed = self.entries.iter().filter_map(|(key, entry)| match &entry.state {
            State::Open => None,
            State::Closed { closing, .. } => Some((key.0 != uid, *closing, *key)),
        });
        let (_, _, oldest) = closed.filter(|(is_others, ..)| !is_others || !shares.limits(uid)).min()?;
        self.forget(&oldest, session_table)
    }

    fn forget(&mut self, key: &Key, session_table: Option<&SessionTable>) -> Option<()> {
        let entry = self.entries.remove(key)?;
        if let Some(session_table) = session_table {
            session_table.forget(entry.row);
        }
        self.free.push(entry.row);
        Some(())
    }

    fn close(&mut self, key: &Key, session_state: SessionState, session_table: Option<&SessionTable>) {
        if session_state.last == 0 {
            self.forget(key, session_table);
            return;
        }
        self.closings += 1;
        let closing = self.closings;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = State::Closed { closing, session_state };
            if let Some(session_table) = session_table {
                session_table.closed(entry.row, closing);
            }
        }
    }
}

impl SessionGuard {
    /// The session's id; 0 if there is none.
    pub(crate) fn id(&self) -> u128 {
        self.key.1
    }

    fn session_table(&self) -> Option<&SessionTable> {
        self.sessions.session_table.as_ref().filter(|_| self.key.1 != 0)
    }

    /// Notes that events up to `last` are about to be published at `position`.
    pub(crate) fn prepare(&self, position: PublishPosition, last: u64) {
        if let Some(session_table) = self.session_table() {
            session_table.prepare(self.row, position, last);
        }
    }

    /// Notes that this publish has failed.
    pub(crate) fn abort(&self) {
        if let Some(session_table) = self.session_table() {
            session_table.abort(self.row);
        }
    }

    /// Notes that everything up to `last` is published or refused, the latest in `generation`.
    pub(crate) fn commit(&self, last: u64, generation: u64) {
        if let Some(session_table) = self.session_table() {
            session_table.commit(self.row, last, generation);
        }
    }

    /// Notes what the client knows of its events.
    pub(crate) fn known(&mut self, known: Known) {
        self.session_state.losses = known.losses_known_to;
        if let Some(session_table) = self.session_table() {
            session_table.known(self.row, known);
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if self.key.1 == 0 {
            return;
        }
        let session_state = std::mem::take(&mut self.session_state);
        self.sessions.table().close(&self.key, session_state, self.sessions.session_table.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::accept::limits::SESSIONS_MAX;
    use crate::pipeline::accept::tests::manager::Manager;

    /// Opens a session and closes it, with one event.
    fn send_one(sessions: &Arc<Sessions>, id: u128) {
        let (mut guard, _) = Sessions::attach(sessions, 0, id).unwrap();
        guard.commit(1, 9);
        guard.session_state.last = 1;
    }

    fn is_known(sessions: &Arc<Sessions>, id: u128) -> bool {
        sessions.table().entries.contains_key(&(0, id))
    }

    #[test]
    fn a_session_is_open_on_one_connection_at_a_time_and_remembered_after() {
        let sessions = Sessions::new(Shares::even(4096));
        let (mut guard, known) = Sessions::attach(&sessions, 1000, 7).unwrap();
        assert_eq!(known, None);
        assert!(Sessions::attach(&sessions, 1000, 7).is_err(), "a second connection is refused");
        assert!(Sessions::attach(&sessions, 1001, 7).is_ok(), "the same number of another user is another session");
        guard.session_state.last = 42;
        drop(guard);
        let (_seat, known) = Sessions::attach(&sessions, 1000, 7).unwrap();
        assert_eq!(known, Some(SessionState { last: 42, ..SessionState::default() }));
    }

    #[test]
    fn connections_without_a_session_are_not_remembered() {
        let sessions = Sessions::new(Shares::even(4096));
        let first = Sessions::attach(&sessions, 0, 0).unwrap();
        let second = Sessions::attach(&sessions, 0, 0).unwrap();
        drop((first, second));
        assert!(sessions.table().entries.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_closed_first() {
        let sessions = Sessions::new(Shares::even(4096));
        let open: Vec<_> = (1..=8).map(|id| Sessions::attach(&sessions, 0, id).unwrap()).collect();
        for id in 9..=SESSIONS_MAX as u128 + 1 {
            send_one(&sessions, id);
        }
        assert_eq!(sessions.table().entries.len(), SESSIONS_MAX);
        assert!(!is_known(&sessions, 9), "the session that was closed first is forgotten");
        assert!(Sessions::attach(&sessions, 0, 1).is_err(), "an open one stays");
        drop(open);
    }

    #[test]
    fn a_session_that_has_sent_nothing_takes_the_place_of_no_other() {
        let sessions = Sessions::new(Shares::even(4096));
        send_one(&sessions, 1);
        for id in 2..=2 * SESSIONS_MAX as u128 {
            drop(Sessions::attach(&sessions, 0, id).unwrap());
        }
        assert!(is_known(&sessions, 1) && !is_known(&sessions, 2));
    }

    #[test]
    fn after_a_death_the_longest_closed_is_still_the_first_to_be_forgotten() {
        let store = Manager::new().store();
        let session_table = SessionTable::new().unwrap();
        let memory = session_table.descriptor();
        let first = Sessions::with_session_table(Shares::even(4096), session_table);
        // The higher the number, the longer closed. 1 and 2 are open when it dies, and of 2 nothing has come.
        (3..=SESSIONS_MAX as u128).rev().for_each(|id| send_one(&first, id));
        let open = [1, 2].map(|id| Sessions::attach(&first, 0, id).unwrap().0);
        open[0].commit(1, 9);
        let second = Sessions::stored(Shares::even(4096), &store, SessionTable::inherit(memory)).unwrap();
        assert!(is_known(&second, 1) && !is_known(&second, 2));
        send_one(&second, 1 << 70);
        for oldest in (3..=SESSIONS_MAX as u128).rev() {
            assert!(is_known(&second, oldest));
            send_one(&second, (1 << 70) + oldest);
            assert!(!is_known(&second, oldest) && is_known(&second, 1));
        }
    }

    #[test]
    fn a_table_full_of_open_sessions_turns_one_more_away() {
        let sessions = Sessions::new(Shares::even(4096));
        let open: Vec<_> = (1..=SESSIONS_MAX as u128).map(|id| Sessions::attach(&sessions, 0, id).unwrap()).collect();
        assert!(Sessions::attach(&sessions, 0, 1 << 70).is_err());
        assert!(Sessions::attach(&sessions, 0, 0).is_ok(), "a client without a session is still admitted");
        drop(open);
        assert!(Sessions::attach(&sessions, 0, 1 << 70).is_ok());
    }

    /// Opens a session of this user and closes it, with one event.
    fn send_one_of(sessions: &Arc<Sessions>, uid: u32, id: u128) {
        let (mut guard, _) = Sessions::attach(sessions, uid, id).unwrap();
        guard.session_state.last = 1;
    }

    #[test]
    fn a_user_who_has_its_share_loses_its_own_sessions_and_those_of_others_stay() {
        let sessions = Sessions::new(Shares::even(16));
        send_one_of(&sessions, 1000, 1);
        let open = Sessions::attach(&sessions, 1000, 2).unwrap();
        for id in 1..=100 {
            send_one_of(&sessions, 1001, id);
        }
        let known: Vec<Key> = sessions.table().entries.keys().copied().collect();
        assert!(known.contains(&(1000, 1)) && known.contains(&(1000, 2)) && known.contains(&(1001, 100)));
        assert_eq!(known.len(), 2 + 14 / 4, "a quarter of what the other leaves");
        drop(open);
    }

    #[test]
    fn a_user_with_nothing_but_open_sessions_is_refused_and_nobody_else_is() {
        let sessions = Sessions::new(Shares::even(16));
        let open: Vec<_> = (1..=4).map(|id| Sessions::attach(&sessions, 1000, id).unwrap()).collect();
        let why = Sessions::attach(&sessions, 1000, 5).unwrap_err();
        assert_eq!(why, "this user may have 4 sessions while others need theirs (limits.shares); try again");
        assert!(Sessions::attach(&sessions, 1001, 5).is_ok() && Sessions::attach(&sessions, 0, 5).is_ok());
        drop(open);
        assert!(Sessions::attach(&sessions, 1000, 5).is_ok());
    }

    #[test]
    fn root_finds_room_in_a_full_table_by_the_session_that_was_closed_first_whosever_it_is() {
        let sessions = Sessions::new(Shares::even(4));
        send_one_of(&sessions, 1000, 1);
        let open: Vec<_> = (1..=3).map(|id| Sessions::attach(&sessions, 0, id).unwrap()).collect();
        assert!(Sessions::attach(&sessions, 1001, 1).is_err(), "not for another user");
        assert!(sessions.table().entries.contains_key(&(1000, 1)));
        send_one_of(&sessions, 0, 4);
        assert!(!sessions.table().entries.contains_key(&(1000, 1)));
        drop(open);
    }
}
