//! Says how much of something finite one user may hold.
//!
//! Input: how much there is, how much is held, and how much of it the user holds. Output: the most that the user may
//! hold. Pure; any thread. Nothing can fail.

/// The user who may hold everything.
pub(super) const ROOT: u32 = 0;
/// A user gets one part in this many, and root keeps one part in this many.
pub(super) const PARTS: u64 = 4;

/// The most that a user who holds `own` may hold of something of which `total` is held: one part in `parts` of what the
/// others leave, without root's part.
pub(super) fn share(capacity: u64, total: u64, own: u64, parts: u64) -> u64 {
    let left = capacity.saturating_sub(total);
    let until_roots = left.saturating_sub(capacity / PARTS);
    (left.saturating_add(own) / parts).min(own.saturating_add(until_roots))
}
