//! Reads the daemon's account: what it claims to have accepted, stored and lost.
//!
//! Input: the daemon's answer. Output: [`Claims`]. Failures: None for an answer that is not an account.

use serde_json::Value;

use crate::pipeline::account::{Identity, sum};
use crate::pipeline::record::Cause;

/// What the daemon claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    pub(super) since_ns: u64,
    /// The first sequence that the account covers, and the one after the last that is stored.
    pub(super) first_sequence: u64,
    pub(super) next_sequence: u64,
    pub(super) stream_id: u128,
    /// Events that were stored and that a failed sync has withdrawn.
    pub(super) withdrawn: u64,
    /// Events that retention has deleted: those of unknown producers, and those that are older than the account.
    pub(super) deleted_unknown: u64,
    pub(super) deleted_older: u64,
    pub(super) rows: Vec<Claim>,
}

/// What the daemon claims of one producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    /// None for all producers that have no row of their own.
    pub(super) identity: Option<Identity>,
    pub(super) sent: u64,
    pub(super) stored: u64,
    /// Stored events that retention has deleted, and their payload bytes.
    pub(super) deleted: u64,
    pub(super) deleted_bytes: u64,
    pub(super) lost: [u64; Cause::COUNT],
}

impl Claim {
    pub(super) fn lost_total(&self) -> u64 {
        sum(self.lost)
    }
}

impl Claims {
    /// Parses the daemon's answer; None if it is not an account.
    pub(super) fn of_json(data: &Value) -> Option<Self> {
        let number = |data: &Value, name: &str| data.get(name)?.as_u64();
        let row = |row: &Value| {
            let identity = match row.get("source")? {
                Value::Null => None,
                source => Some(Identity::from_record(&bytes(source.as_str()?)?)?),
            };
            let lost = row.get("lost")?;
            let lost = Cause::ALL.map(|cause| number(lost, cause.name()).unwrap_or(0));
            // A daemon of an earlier version does not count what retention deletes.
            let deleted = |name| number(row, name).unwrap_or(0);
            Some(Claim {
                identity,
                sent: number(row, "sent")?,
                stored: number(row, "stored")?,
                deleted: deleted("deleted"),
                deleted_bytes: deleted("deleted_bytes"),
                lost,
            })
        };
        let deleted = |name| data.get("deletions").and_then(|deletions| number(deletions, name)).unwrap_or(0);
        Some(Self {
            since_ns: number(data, "since_ns")?,
            first_sequence: number(data, "first_sequence")?,
            next_sequence: number(data, "next_sequence")?,
            stream_id: u128::from_str_radix(data.get("stream")?.as_str()?, 16).ok()?,
            withdrawn: number(data, "withdrawn")?,
            deleted_unknown: deleted("unknown_events"),
            deleted_older: deleted("older_events"),
            rows: data.get("producers")?.as_array()?.iter().map(row).collect::<Option<_>>()?,
        })
    }
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hexadecimal.as_bytes().chunks(2).map(pair).collect()
}
