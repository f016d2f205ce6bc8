//! Writes the account as JSON, which `dbufctl account` compares with the files.
//!
//! Input: a statement of the running threads. Output: JSON. Control thread. Nothing can fail.
//!
//! A producer is identified by the content of its source record, in hexadecimal. So producers differ exactly as in the
//! files, whatever bytes a tag has.

use serde_json::{Value, json};

use crate::pipeline::account::{Row, Statement};
use crate::pipeline::record::Cause;

/// `{"since_ns", "first_sequence", "next_sequence", "stream", "withdrawn", "deletions", "producers": [{"source",
/// "sent", "stored", "deleted", "deleted_bytes", "lost": {CAUSE: n}}]}`; the source is null in the row of all other
/// producers.
pub(super) fn to_json(statement: &Statement) -> Value {
    let (since_ns, first_sequence) = statement.since.unwrap_or((0, statement.next_sequence));
    json!({
        "since_ns": since_ns,
        "first_sequence": first_sequence,
        "next_sequence": statement.next_sequence,
        "stream": format!("{:032x}", statement.stream_id),
        "withdrawn": statement.withdrawn,
        "deletions": {
            "unknown_events": statement.deletions.unknown_events,
            "older_events": statement.deletions.older_events,
        },
        "producers": statement.rows.iter().map(row).collect::<Value>(),
    })
}

fn row(row: &Row) -> Value {
    let lost: serde_json::Map<String, Value> =
        Cause::ALL.iter().zip(row.lost).map(|(cause, events)| (cause.name().to_owned(), events.into())).collect();
    json!({
        "source": row.identity.as_ref().map(|identity| hexadecimal(&identity.to_record())),
        "sent": row.sent,
        "stored": row.stored,
        "deleted": row.deleted,
        "deleted_bytes": row.deleted_bytes,
        "lost": lost,
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
