//! Counts how often users were refused something.
//!
//! Input: refusals. Output: their numbers by user, for display. Thread: any, one at a time. Nothing can fail.

use std::collections::HashMap;

/// Users whose refusals are counted by name; the refusals of all others are counted together.
pub(super) const USERS_MAX: usize = 64;

/// Refusals by user.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    by_user: HashMap<u32, u64>,
    others: u64,
}

/// One resource, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareStatus {
    /// Its name.
    pub name: &'static str,
    /// How much there is, how much of it is held, and the user who holds the most with what it holds. None for a rate.
    pub held: Option<HeldStatus>,
    /// Refusals by user, in the order of the users.
    pub refused: Vec<(u32, u64)>,
    /// Refusals of users beyond those.
    pub refused_others: u64,
}

/// How much of a resource is held, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldStatus {
    /// How much there is.
    pub capacity: u64,
    /// How much is held.
    pub held: u64,
    /// The user who holds the most, and how much.
    pub most: Option<(u32, u64)>,
}

impl Refused {
    pub(super) fn add(&mut self, uid: u32) {
        if self.by_user.len() < USERS_MAX || self.by_user.contains_key(&uid) {
            *self.by_user.entry(uid).or_default() += 1;
        } else {
            self.others += 1;
        }
    }

    pub(super) fn status(&self, name: &'static str, held: Option<HeldStatus>) -> ShareStatus {
        let mut refused: Vec<(u32, u64)> = self.by_user.iter().map(|(uid, count)| (*uid, *count)).collect();
        refused.sort_unstable();
        ShareStatus { name, held, refused, refused_others: self.others }
    }
}
