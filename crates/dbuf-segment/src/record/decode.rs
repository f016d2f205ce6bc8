//! Decodes records: a borrowed view of bytes that are not trusted.
//!
//! Input: bytes. Output: a [`Record`] that borrows from them. Thread: any. Failure: [`Malformed`].

use std::fmt;
use std::ops::Range;

use memchr::memrchr;

use super::encode::{Piece, put_head, put_padded};
use super::layout::{HEAD_BYTES, Kind, LOSS_PAYLOAD_BYTES, SOURCE_FIXED_BYTES, flag, padded};
use super::loss::{Cause, Loss};
use super::newlines::{self, Newlines};
use super::source::{Source, Transport};

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(
    /// What is wrong with them.
    pub &'static str,
);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// A record that borrows its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Facility times 8 plus priority.
    pub pri: u8,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Acceptance time, in nanoseconds of the wall clock.
    pub time_ns: u64,
    /// The id of its source in this run.
    pub source: u32,
    body: &'a [u8],
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes of the words that these flags announce. Uses a table, because the x86-64 baseline has no instruction that
/// counts bits, and this is called several times for each event.
#[inline]
fn bytes_of_words(flags: u16) -> usize {
    const WORDS: u16 = flag::SOURCE_TIME | flag::PRODUCER_SEQUENCE | flag::PIECE;
    const BYTES: [u8; 8] = [0, 8, 8, 16, 8, 16, 16, 24];
    const _: () = assert!(WORDS == 0b111);
    usize::from(BYTES[usize::from(flags & WORDS)])
}

impl<'a> Record<'a> {
    /// Decodes the record at the start of `run`. Returns it and the bytes that it takes, including padding.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not a whole record of a known kind, or if its extensions do not fit into it.
    #[inline]
    pub fn decode(run: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let Some(head) = run.first_chunk::<HEAD_BYTES>() else {
            return Err(Malformed("less than a record's head"));
        };
        let length = u32_at(head, 0) as usize;
        let total = padded(HEAD_BYTES + length);
        if total > run.len() {
            return Err(Malformed("a record is longer than its run"));
        }
        let kind = match head[4] {
            1 => Kind::Event,
            2 => Kind::Source,
            3 => Kind::Loss,
            _ => return Err(Malformed("a record of unknown kind")),
        };
        let record = Self {
            kind,
            pri: head[5],
            flags: u16::from_le_bytes([head[6], head[7]]),
            time_ns: u64_at(head, 8),
            source: u32_at(head, 16),
            body: &run[HEAD_BYTES..HEAD_BYTES + length],
        };
        if record.flags != 0 {
            record.check_extensions()?;
        }
        Ok((record, total))
    }

    #[inline]
    fn check_extensions(&self) -> Result<(), Malformed> {
        // Only events have flags. What reads extensions relies on this check, and does not look at the kind.
        if self.kind != Kind::Event || self.flags & !flag::KNOWN != 0 {
            return Err(Malformed("a record with unknown flags"));
        }
        if self.is_lines() {
            let is_whole = self.flags == flag::LINES && self.body.ends_with(b"\n");
            return if is_whole {
                Ok(())
            } else {
                Err(Malformed("a record of lines that does not end with a newline, or has other flags"))
            };
        }
        let words = self.words_bytes();
        if words > self.body.len() {
            return Err(Malformed("a record is shorter than its extensions"));
        }
        if self.flags & flag::FIELDS != 0 {
            let rest = &self.body[words..];
            if rest.len() < 4 || padded(4 + u32_at(rest, 0) as usize) > rest.len() {
                return Err(Malformed("a record is shorter than its fields"));
            }
        }
        Ok(())
    }

    #[inline]
    fn words_bytes(&self) -> usize {
        bytes_of_words(self.flags)
    }

    #[inline]
    fn word(&self, which: u16) -> Option<u64> {
        (self.flags & which != 0).then(|| u64_at(self.body, bytes_of_words(self.flags & (which - 1))))
    }

    /// Whether this is a record of lines: several events under one head.
    #[inline]
    #[must_use]
    pub fn is_lines(&self) -> bool {
        self.flags & flag::LINES != 0 && self.kind == Kind::Event
    }

    /// Number of sequences that it takes: one for an event or the last piece of one, one for each line of a record of
    /// lines, none for any other record.
    #[inline]
    #[must_use]
    pub fn event_count(&self) -> usize {
        if self.is_lines() {
            newlines::count(self.body)
        } else {
            usize::from(self.kind == Kind::Event && self.flags & flag::CONTINUES == 0)
        }
    }

    /// Bytes of the payloads of its events.
    #[inline]
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let newlines = if self.is_lines() { self.event_count() } else { 0 };
        self.payload().len() - newlines
    }

    /// The position of each event of a record of lines in the payload, without its newline. Empty for any other record.
    #[inline]
    pub fn lines(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let mut start = 0;
        let body = if self.is_lines() { self.body } else { &[] };
        Newlines::new(body).map(move |newline| {
            let line = start..newline;
            start = newline + 1;
            line
        })
    }

    /// As [`Record::lines`], from the last line on.
    pub fn lines_backward(&self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let mut rest = if self.is_lines() { self.body } else { &[] };
        std::iter::from_fn(move || {
            // The body ends with a newline, as was checked, and so does everything before a line.
            let newline = rest.len().checked_sub(1)?;
            let start = memrchr(b'\n', &rest[..newline]).map_or(0, |newline| newline + 1);
            rest = &rest[..start];
            Some(start..newline)
        })
    }

    /// The event at this position of a record of lines, as a record by itself.
    #[inline]
    #[must_use]
    pub fn line(&self, at: Range<usize>) -> Self {
        Self { flags: self.flags & !flag::LINES, body: &self.body[at], ..*self }
    }

    /// The record itself; for a record of lines, one record for each line.
    pub fn singles(&self) -> impl Iterator<Item = Self> + use<'a> {
        let record = *self;
        let whole = (!record.is_lines()).then_some(record);
        whole.into_iter().chain(record.lines().map(move |at| record.line(at)))
    }

    /// Encodes it as it was read.
    pub fn encode(&self, to: &mut Vec<u8>) {
        put_head(to, self.body.len(), self.kind, self.pri, self.flags, self.time_ns, self.source);
        put_padded(to, self.body);
    }

    /// Priority, 0 (emergency) to 7 (debug).
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.pri & 7
    }

    /// Syslog facility.
    #[must_use]
    pub fn facility(&self) -> u8 {
        self.pri >> 3
    }

    /// The time that the sender stated, in nanoseconds of the wall clock.
    #[must_use]
    pub fn source_time_ns(&self) -> Option<u64> {
        self.word(flag::SOURCE_TIME)
    }

    /// The producer's own sequence.
    #[must_use]
    pub fn producer_sequence(&self) -> Option<u64> {
        self.word(flag::PRODUCER_SEQUENCE)
    }

    /// The event that this is a piece of; None if it is not a piece.
    #[must_use]
    pub fn piece(&self) -> Option<Piece> {
        self.word(flag::PIECE).map(|id| Piece {
            id,
            continued: self.flags & flag::CONTINUED != 0,
            continues: self.flags & flag::CONTINUES != 0,
        })
    }

    /// The payload of an event; for a record of lines all lines, each with its newline.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        if self.flags == 0 { self.body } else { self.payload_after_extensions() }
    }

    #[inline]
    fn payload_after_extensions(&self) -> &'a [u8] {
        let mut at = self.words_bytes();
        if self.flags & flag::FIELDS != 0 {
            at += padded(4 + u32_at(self.body, at) as usize);
        }
        &self.body[at..]
    }

    /// The fields of an event: name and value. Ends early if they are damaged.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let all: &'a [u8] = if self.flags & flag::FIELDS == 0 {
            &[]
        } else {
            let at = self.words_bytes();
            &self.body[at + 4..][..u32_at(self.body, at) as usize]
        };
        dbuf_wire::frames::fields(all)
    }

    /// The content of a source record.
    ///
    /// # Errors
    /// [`Malformed`] if this is not a whole source record.
    pub fn as_source(&self) -> Result<Source<'a>, Malformed> {
        let bad = Malformed("a source record that is truncated");
        if self.kind != Kind::Source {
            return Err(Malformed("not a source record"));
        }
        let (fixed, names) = self.body.split_at_checked(SOURCE_FIXED_BYTES).ok_or(bad)?;
        let (tag, names) = names.split_at_checked(usize::from(fixed[33])).ok_or(bad)?;
        let (comm, names) = names.split_at_checked(usize::from(fixed[34])).ok_or(bad)?;
        let (unit, _) = names.split_at_checked(usize::from(fixed[35])).ok_or(bad)?;
        Ok(Source {
            pid: u32_at(fixed, 0),
            uid: u32_at(fixed, 4),
            gid: u32_at(fixed, 8),
            claimed_pid: u32_at(fixed, 12),
            session: u128::from_le_bytes(fixed[16..32].try_into().expect("sixteen bytes")),
            transport: Transport::from_number(fixed[32]).ok_or(Malformed("a source of unknown transport"))?,
            tag,
            comm,
            unit,
        })
    }

    /// The content of a loss record.
    ///
    /// # Errors
    /// [`Malformed`] if this is not a whole loss record.
    pub fn as_loss(&self) -> Result<Loss, Malformed> {
        if self.kind != Kind::Loss || self.body.len() < LOSS_PAYLOAD_BYTES {
            return Err(Malformed("not a whole loss record"));
        }
        let cause = *Cause::ALL.get(usize::from(self.body[0])).ok_or(Malformed("a loss of unknown cause"))?;
        Ok(Loss {
            cause,
            events: u64_at(self.body, 8),
            bytes: u64_at(self.body, 16),
            first_ns: u64_at(self.body, 24),
            last_ns: u64_at(self.body, 32),
        })
    }
}
