//! Counts what each user has in the segments: events and payload bytes, file by file.
//!
//! Input: each batch that was appended; listings of the directory; footers. Output: [`UserFill`]s. Thread: the reader
//! adds batches, the syncer reads the footers of older files, any thread looks; under a lock that is held for a few
//! instructions for each source of a batch. Nothing can fail: the user of events in a file without counts is unknown.

use std::collections::BTreeMap;

use dbuf_segment::footer::{Count, Footer};
use dbuf_segment::name::{Name, State};
use dbuf_segment::record::{Record, Source, SourceCount};

use crate::sync::{Mutex, MutexGuard, lock};

/// Users whose figures are kept for each file, at most. What others have in it counts as unknown.
const USERS_MAX: usize = 256;

/// What a user has in the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserFill {
    /// The user; None for events whose user is not known.
    pub uid: Option<u32>,
    /// Events.
    pub events: u64,
    /// Payload bytes.
    pub bytes: u64,
}

/// What the users have in one file.
type Users = Vec<UserFill>;

/// What each user has in each file, as it changes.
#[derive(Debug, Default)]
pub(super) struct Fill(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<Name, Users>,
    /// Files that are not counted yet.
    uncounted: Vec<Name>,
}

impl Fill {
    /// Adds a batch that was appended to a file.
    pub(super) fn add(&self, name: Name, events: u64, bytes: u64, sources: &[SourceCount<'_>]) {
        let mut inner = self.lock();
        let users = inner.files.entry(name).or_default();
        let of = |count: &SourceCount<'_>| (count.source.as_source().ok().and_then(user), count.events, count.bytes);
        add_all(users, events, bytes, sources.iter().map(of));
    }

    /// Takes a listing of the directory, sorted, into account. `active` is the active segment.
    pub(super) fn listed(&self, names: &[Name], active: Option<Name>) {
        let mut inner = self.lock();
        let Inner { files, uncounted } = &mut *inner;
        for name in names.iter().filter(|name| name.state == State::Sealed) {
            let before = Name { state: State::Active, ..*name };
            // It was the active one, and has a new name.
            if !files.contains_key(name)
                && names.binary_search(&before).is_err()
                && let Some(users) = files.remove(&before)
            {
                files.insert(*name, users);
            }
        }
        files.retain(|name, _| names.binary_search(name).is_ok() || Some(*name) == active);
        uncounted.clear();
        uncounted.extend(names.iter().filter(|name| name.state != State::Active && !files.contains_key(name)));
    }

    /// A file that is to be counted with [`Fill::count`].
    pub(super) fn next_uncounted(&self) -> Option<Name> {
        self.lock().uncounted.pop()
    }

    /// Counts a file from its footer; None if it cannot be read.
    pub(super) fn count(&self, name: Name, footer: Option<&Footer>) {
        let mut users = Users::new();
        if let Some(footer) = footer {
            let named = footer.counts().map(|(named, _)| named).into_iter().flatten();
            let of = |(record, Count { events, payload_bytes }): (Record<'_>, Count)| {
                (record.as_source().ok().and_then(user), events, payload_bytes)
            };
            add_all(&mut users, footer.events, footer.payload_bytes, named.map(of));
        }
        self.lock().files.insert(name, users);
    }

    /// What each user has in all files, most bytes first.
    pub(super) fn users(&self) -> Vec<UserFill> {
        let inner = self.lock();
        let mut sums: BTreeMap<Option<u32>, UserFill> = BTreeMap::new();
        for user in inner.files.values().flatten() {
            let sum = sums.entry(user.uid).or_insert(UserFill { uid: user.uid, ..UserFill::default() });
            sum.events += user.events;
            sum.bytes += user.bytes;
        }
        drop(inner);
        let mut users: Users = sums.into_values().filter(|user| user.events + user.bytes > 0).collect();
        users.sort_by_key(|user| (std::cmp::Reverse(user.bytes), user.uid));
        users
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

/// The user of a source, if the kernel has named one.
fn user(source: Source<'_>) -> Option<u32> {
    source.user().map(|(uid, _)| uid)
}

/// Adds what each source has, and counts the rest of all `events` and `bytes` as unknown.
fn add_all(users: &mut Users, events: u64, bytes: u64, sources: impl Iterator<Item = (Option<u32>, u64, u64)>) {
    let mut rest = (events, bytes);
    for (uid, events, bytes) in sources.filter(|(uid, events, bytes)| uid.is_some() && events + bytes > 0) {
        if add(users, uid, events, bytes) {
            rest = (rest.0.saturating_sub(events), rest.1.saturating_sub(bytes));
        }
    }
    if rest != (0, 0) {
        add(users, None, rest.0, rest.1);
    }
}

/// Returns whether there was room for the user.
fn add(users: &mut Users, uid: Option<u32>, events: u64, bytes: u64) -> bool {
    let at = users.iter().position(|user| user.uid == uid);
    let at = match at {
        Some(at) => at,
        None if uid.is_some() && users.len() >= USERS_MAX => return false,
        None => {
            users.push(UserFill { uid, ..UserFill::default() });
            users.len() - 1
        }
    };
    users[at].events += events;
    users[at].bytes += bytes;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::record::encode_source;

    fn record(uid: u32) -> Vec<u8> {
        let mut record = Vec::new();
        encode_source(&mut record, 0, 0, &Source { pid: 7, uid, ..Source::default() });
        record
    }

    fn count(record: &[u8], events: u64) -> SourceCount<'_> {
        let mut count = SourceCount::new(Record::decode(record).unwrap().0);
        (count.events, count.bytes) = (events, 10 * events);
        count
    }

    /// Adds a batch of these users, with 10 bytes for each event, and one event of an unknown user.
    fn add(fill: &Fill, name: Name, users: &[(u32, u64)]) {
        let records: Vec<_> = users.iter().map(|(uid, events)| (record(*uid), *events)).collect();
        let counts: Vec<_> = records.iter().map(|(record, events)| count(record, *events)).collect();
        let events = 1 + users.iter().map(|(_, events)| events).sum::<u64>();
        fill.add(name, events, 10 * events, &counts);
    }

    fn shown(fill: &Fill) -> Vec<(Option<u32>, u64)> {
        fill.users().iter().map(|user| (user.uid, user.events)).collect()
    }

    #[test]
    fn a_file_keeps_its_figures_when_it_is_sealed_and_a_deleted_one_has_none() {
        let fill = Fill::default();
        let [first, second] = [1, 50].map(|sequence| Name::new(sequence, State::Active));
        let sealed = Name { state: State::Sealed, ..first };
        add(&fill, first, &[(0, 2), (1000, 3)]);
        add(&fill, first, &[(1000, 4)]);
        assert_eq!(shown(&fill), [(Some(1000), 7), (None, 2), (Some(0), 2)]);
        // It is closed and waits for its name; the next one is too young for the listing.
        fill.listed(&[first], Some(second));
        add(&fill, second, &[(0, 20)]);
        fill.listed(&[sealed], Some(second));
        assert_eq!(fill.next_uncounted(), None, "it was counted as it was written");
        assert_eq!(shown(&fill), [(Some(0), 22), (Some(1000), 7), (None, 3)]);
        fill.listed(&[second], Some(second));
        assert_eq!(shown(&fill), [(Some(0), 20), (None, 1)]);
    }

    #[test]
    fn older_files_are_counted_from_their_footers_and_those_without_counts_are_of_unknown_users() {
        let fill = Fill::default();
        let [old, new] = [1, 101].map(|sequence| Name::new(sequence, State::Sealed));
        fill.listed(&[old, new], None);
        let golden: [&[u8]; 2] = [
            include_bytes!("../../../tests/golden/counts.segment"),
            include_bytes!("../../../tests/golden/lines.segment"),
        ];
        for bytes in golden {
            let name = fill.next_uncounted().unwrap();
            let bytes = crate::sync::Arc::new(bytes.to_vec());
            let segment = dbuf_segment::scan::segment::Segment::open(bytes, None).unwrap();
            fill.count(name, segment.footer.as_ref().ok());
        }
        assert_eq!(fill.next_uncounted(), None);
        assert_eq!(shown(&fill), [(None, 8), (Some(0), 8)]);
        fill.listed(&[new], None);
        assert_eq!(shown(&fill), [(Some(0), 8)]);
    }

    #[test]
    fn users_beyond_those_that_a_file_keeps_are_unknown() {
        let fill = Fill::default();
        let users: Vec<_> = (1..=300).map(|uid| (uid, 1)).collect();
        add(&fill, Name::new(1, State::Active), &users);
        let shown = shown(&fill);
        assert_eq!((shown.len(), shown[0]), (USERS_MAX + 1, (None, 300 - USERS_MAX as u64 + 1)));
    }
}
