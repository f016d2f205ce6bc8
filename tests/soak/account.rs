//! Where the daemon's own account is held against the senders'.

use crate::machine::Machine;
use crate::senders::Sent;

/// What is wrong with the daemon's own account of an epoch, once there is one that files alone can give: for each
/// producer, that what it sent is stored, lost with a cause, or still in memory. Called when all is durable, before
/// anything is deleted.
pub(crate) fn account_is_right(_machine: &Machine, _sent: &[Sent]) -> Vec<String> {
    Vec::new()
}
