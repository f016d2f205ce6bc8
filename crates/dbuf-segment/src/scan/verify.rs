//! Describes a file, and verifies that every byte of it is what was written.
//!
//! Input: files. Output: [`Described`], from the footer if there is one; [`FileReport`], from every byte. Thread: any.
//! Nothing can fail: a file that cannot be read gives a report that says so.

use std::ops::ControlFlow;

use super::merge::Merged;
use super::segment::{Batch, Damage, Segment, Step};
use super::{Directory, SegmentFile, malformed, open_file, unreadable};
use crate::file::ReadAt;
use crate::footer::Footer;
use crate::format::{Broken, SegmentHeader, features_of};
use crate::name::State;
use crate::record::{Kind, Malformed, Record};
use dbuf_sync::Arc;

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The state in its name; sealed if it is not named like a segment.
    pub state: State,
    /// The sequence of its first event.
    pub first_sequence: u64,
    /// The sequence of its last event; None if it has none.
    pub last_sequence: Option<u64>,
    /// The smallest and the largest acceptance time, in nanoseconds of the wall clock; None if it has no event.
    pub times_ns: Option<(u64, u64)>,
    /// Events in it.
    pub events: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why it cannot be read. The other values then come from its name.
    pub error: Option<String>,
}

/// Describes a file, from its footer or, without one, from the headers of its batches. None if it is gone.
#[must_use]
pub fn describe(file: &SegmentFile) -> Option<Described> {
    let state = file.name.map_or(State::Sealed, |name| name.state);
    let mut described = Described {
        state,
        first_sequence: file.name.map_or(0, |name| name.first_sequence),
        last_sequence: None,
        times_ns: None,
        events: 0,
        bytes: file.bytes,
        error: None,
    };
    let footer = match open_file(file, None)? {
        Ok(Segment { footer: Ok(footer), .. }) => Ok(footer),
        Ok(segment) => segment.rebuild(false, &mut |_| {}).map(|(footer, _)| footer).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match footer {
        Ok(footer) => {
            described.first_sequence = footer.first_sequence;
            described.events = footer.events;
            if footer.events > 0 {
                described.last_sequence = footer.next_sequence.checked_sub(1);
                described.times_ns = Some((footer.time_min_ns, footer.time_max_ns));
            }
        }
        Err(e) => described.error = Some(e),
    }
    Some(described)
}

/// The result of checking every byte of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub file: SegmentFile,
    /// Whole batches.
    pub batches: u64,
    /// Events in these batches.
    pub events: u64,
    /// Events that loss records name. They were lost before they could be stored, so no byte here is wrong.
    pub lost_events: u64,
    /// The sequence of the first event, and the one after the last.
    pub sequences: (u64, u64),
    /// The damage.
    pub damage: Vec<Damage>,
    /// Bytes after the last whole batch of an active file: a batch that is being written, or a torn one.
    pub tail_bytes: u64,
}

/// Checks every byte of every file, and gives each report to `each` as soon as it is there. Returns the sequences that
/// should be in a file and are not: the first and the last of each gap.
pub fn verify(directory: &Directory, mut each: impl FnMut(&FileReport) -> ControlFlow<()>) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut next: Option<u64> = None;
    let mut stream_id = None;
    for file in &directory.files {
        let report = match open_file(file, stream_id) {
            None => continue,
            Some(Ok(segment)) => {
                stream_id = Some(segment.stream_id);
                check(file, &segment)
            }
            Some(Err(e)) => FileReport {
                file: file.clone(),
                batches: 0,
                events: 0,
                lost_events: 0,
                sequences: (0, 0),
                damage: vec![unreadable(file, &e)],
                tail_bytes: 0,
            },
        };
        if report.batches > 0 {
            if let Some(next) = next.filter(|next| *next < report.sequences.0) {
                gaps.push((next, report.sequences.0 - 1));
            }
            next = next.max(Some(report.sequences.1));
        }
        if each(&report).is_break() {
            break;
        }
    }
    gaps
}

/// Checks every byte of a segment in memory, or on any disk.
#[must_use]
pub fn verify_bytes(bytes: Arc<dyn ReadAt>) -> Vec<Damage> {
    let file = SegmentFile { path: "segment".into(), name: None, bytes: bytes.bytes().unwrap_or(0) };
    match Segment::open(bytes, None) {
        Ok(segment) => check(&file, &segment).damage,
        Err(e) => vec![unreadable(&file, &e)],
    }
}

fn check(file: &SegmentFile, segment: &Segment) -> FileReport {
    let mut report = FileReport {
        file: file.clone(),
        batches: 0,
        events: 0,
        lost_events: 0,
        sequences: (0, 0),
        damage: Vec::new(),
        tail_bytes: 0,
    };
    match &segment.header {
        Ok(header) => check_header(file, header, &mut report),
        Err(broken) => report.damage.push(damage(0, Segment::FIRST, broken)),
    }
    let first = segment.header.as_ref().map_or(0, |header| header.first_sequence);
    let mut rebuilt = Footer::new(segment.stream_id, first);
    let end = check_batches(segment, &mut rebuilt, &mut report);
    (report.batches, report.events) = (rebuilt.batches, rebuilt.events);
    report.sequences = (rebuilt.first_sequence, rebuilt.next_sequence);
    check_footer(file, segment, &rebuilt, end, &mut report);
    report
}

fn damage(offset: u64, bytes: u64, broken: &Broken) -> Damage {
    Damage { offset, bytes, what: broken.to_string(), events: None }
}

fn check_header(file: &SegmentFile, header: &SegmentHeader, report: &mut FileReport) {
    if file.name.is_some_and(|name| name.first_sequence != header.first_sequence) {
        report.damage.push(damage(0, Segment::FIRST, &Broken::Damaged("the file has the name of another segment")));
    }
}

/// Returns the offset at which the last whole batch ends.
fn check_batches(segment: &Segment, rebuilt: &mut Footer, report: &mut FileReport) -> u64 {
    let (mut batch, mut merged) = (Batch::default(), Merged::default());
    let mut at = Segment::FIRST;
    loop {
        match segment.step(at, &mut batch, &|_| true) {
            Ok(Step::Batch) => {
                at = batch.header.end();
                if rebuilt.batches == 0 && segment.header.is_err() {
                    rebuilt.first_sequence = batch.header.first_sequence;
                } else if batch.header.first_sequence < rebuilt.next_sequence {
                    let what = "a batch has sequences that an earlier one has";
                    report.damage.push(damage(batch.header.offset, at - batch.header.offset, &Broken::Damaged(what)));
                }
                match merged.order(&batch).and_then(|()| agree(&batch)) {
                    Ok(lost_events) => report.lost_events += lost_events,
                    Err(what) => report.damage.push(malformed(&batch.header, what)),
                }
                rebuilt.add(&batch.header);
                for run in batch.runs() {
                    rebuilt.add_run(run);
                }
            }
            Ok(Step::Damage { damage, next, .. }) => {
                report.damage.push(damage);
                at = next;
            }
            Ok(Step::End { torn_bytes }) => {
                report.tail_bytes = torn_bytes;
                return at;
            }
            Err(e) => {
                report.damage.push(super::forward::failed(segment, at, &e));
                return at;
            }
        }
    }
}

/// Checks a batch's header against its records. Returns how many events the records report as lost.
fn agree(batch: &Batch) -> Result<u64, Malformed> {
    let (mut payload_bytes, mut lost_events) = (0, 0);
    for (run, row) in batch.runs().zip(&batch.header.runs) {
        let (mut rest, mut events) = (run, 0);
        while !rest.is_empty() {
            let (record, bytes) = Record::decode(rest)?;
            if features_of(&record) & !batch.header.incompat != 0 {
                return Err(Malformed("a batch has records of a feature that its header does not name"));
            }
            events += record.event_count() as u32;
            match record.kind {
                Kind::Event => payload_bytes += record.payload_bytes() as u64,
                Kind::Loss => lost_events += record.as_loss()?.events,
                Kind::Source => {}
            }
            rest = &rest[bytes..];
        }
        if events != row.events {
            return Err(Malformed("the number of events in a run is not the one in its row"));
        }
    }
    if payload_bytes != batch.header.payload_bytes {
        return Err(Malformed("the payload bytes of a batch are not those in its header"));
    }
    Ok(lost_events)
}

fn check_footer(file: &SegmentFile, segment: &Segment, rebuilt: &Footer, end: u64, report: &mut FileReport) {
    let is_active = file.name.is_some_and(|name| name.state == State::Active);
    let is_torn = file.name.is_some_and(|name| name.state == State::Torn);
    match &segment.footer {
        // If batches are damaged, the footer cannot agree with the rest.
        Ok(footer) if report.damage.is_empty() && !footer.agrees_with(rebuilt) => {
            let what = Broken::Damaged("the footer does not agree with the batches");
            report.damage.push(damage(footer.offset, segment.file_bytes - footer.offset, &what));
        }
        Ok(_) => {}
        // It has none yet, or will never have one.
        Err(_) if is_active || (is_torn && report.tail_bytes == 0) => {}
        Err(broken) => report.damage.push(damage(end, segment.file_bytes.saturating_sub(end), broken)),
    }
}
