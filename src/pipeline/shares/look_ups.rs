//! Divides the processes that a writer looks up in a second among the users.
//!
//! Input: a user, and the time. Output: whether one of its processes may be looked up. Thread: the writer that owns it.
//! Nothing can fail. Root and the user that the daemon runs as may use up all of it.

use std::collections::HashMap;

use super::bound::{PARTS, ROOT, share};

const NS_A_SECOND: u64 = 1_000_000_000;
/// Processes that one writer looks up in a second, at most. A look-up takes about 0.1 ms.
pub(crate) const LOOK_UPS_A_SECOND: u64 = 1000;

/// Counts the look-ups of one second.
#[derive(Debug)]
pub(crate) struct LookUps {
    own_uid: u32,
    second: u64,
    total: u64,
    by_user: HashMap<u32, u64>,
}

impl Default for LookUps {
    fn default() -> Self {
        let own_uid = rustix::process::geteuid().as_raw();
        Self { own_uid, second: 0, total: 0, by_user: HashMap::new() }
    }
}

impl LookUps {
    /// Whether a process of this user may be looked up now. Counts it if so.
    pub(crate) fn take(&mut self, uid: u32, now_ns: u64) -> bool {
        let second = now_ns / NS_A_SECOND;
        if self.second != second {
            (self.second, self.total) = (second, 0);
            self.by_user.clear();
        }
        let own = self.by_user.get(&uid).copied().unwrap_or(0);
        let is_exempt = uid == ROOT || uid == self.own_uid;
        let most = if is_exempt { u64::MAX } else { share(LOOK_UPS_A_SECOND, self.total, own, PARTS) };
        let may = self.total < LOOK_UPS_A_SECOND && own < most;
        if may {
            self.total += 1;
            self.by_user.insert(uid, own + 1);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many processes of a user may be looked up now.
    fn taken(look_ups: &mut LookUps, uid: u32, now_ns: u64) -> u64 {
        (0..).take_while(|_| look_ups.take(uid, now_ns)).count() as u64
    }

    #[test]
    fn a_user_who_starts_a_process_for_each_event_leaves_look_ups_to_the_others() {
        let mut look_ups = LookUps { own_uid: 999, ..LookUps::default() };
        for second in [1, 2, 1_700_000_000] {
            let now_ns = second * NS_A_SECOND;
            assert_eq!(taken(&mut look_ups, 2000, now_ns), 250);
            assert_eq!(taken(&mut look_ups, 2000, now_ns + 1), 0);
            assert_eq!(taken(&mut look_ups, 3000, now_ns), 187);
            let others: u64 = (4000..4100).map(|uid| taken(&mut look_ups, uid, now_ns)).sum();
            assert!((250..=313).contains(&others), "{others}: the last quarter is root's");
            let rest = LOOK_UPS_A_SECOND - 250 - 187 - others;
            assert_eq!(taken(&mut look_ups, ROOT, now_ns), rest);
            assert_eq!(taken(&mut look_ups, 999, now_ns), 0, "nothing is left");
        }
    }
}
