//! An event that is written where it will lie: a place in the memory, filled bit by bit, published at once.
//!
//! Enters: bytes. Leaves: an event of as many bytes as there were. The producer's thread; there is one claim at a time,
//! for it borrows the producer. What can fail: more bytes than were claimed.

use std::io;

use super::options::SendError;
use super::state::{CLOSED, Producer};
use super::waiting::record_length;
use crate::sys;
use crate::wire::Event;
use dbuf_wire::ring::record::{RecordHead, Stamp, kind};
use dbuf_wire::ring::{Bell, NoRoom, Reserved};

/// A place for one event. What is written to it lies in the ring, and is an event once it is
/// [published](Claim::publish); a claim that is dropped has never been.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut producer = dbuf_client::Producer::open(dbuf_client::ProducerOptions::default())?;
/// use std::io::Write;
/// let mut claim = producer.claim(6, 100)?;
/// write!(claim, "{} orders in {:?}", 17, std::time::Duration::from_secs(2))?;
/// claim.publish()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a claim that is not published is no event"]
pub struct Claim<'a> {
    producer: &'a mut Producer,
    /// Taken when it is published.
    place: Option<Reserved>,
    head: RecordHead,
    /// Bytes between the record's head and the payload.
    before: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Producer {
    /// A place for an event of at most this many bytes, to be written into the memory itself: see [`Claim`].
    ///
    /// # Errors
    /// As [`Producer::send`]; the room that is sought is that for `payload_bytes_max`.
    #[inline]
    pub fn claim(&mut self, pri: u8, payload_bytes_max: usize) -> Result<Claim<'_>, SendError> {
        self.claim_event(&Event { pri, ..Event::default() }, payload_bytes_max)
    }

    /// The same with a tag, fields, or a time; the payload of `event` is not looked at.
    ///
    /// # Errors
    /// As [`Producer::claim`].
    #[inline]
    pub fn claim_event(&mut self, event: &Event<'_>, payload_bytes_max: usize) -> Result<Claim<'_>, SendError> {
        Claim::begin(self, event, payload_bytes_max)
    }
}

impl<'a> Claim<'a> {
    #[inline]
    pub(super) fn begin(
        producer: &'a mut Producer,
        event: &Event<'_>,
        payload_bytes_max: usize,
    ) -> Result<Self, SendError> {
        let before = record_length(event, 0);
        let is_fast = producer.fast_for == sys::forks() && producer.is_fine(event, payload_bytes_max);
        let stamp = if is_fast { producer.stamp_fast(event.time_ns) } else { None };
        let reserved = match stamp {
            Some(stamp) => producer.ring.claim(before + payload_bytes_max).map(|place| (place, stamp)),
            None => Err(NoRoom),
        };
        let (place, stamp) = match reserved {
            Ok(reserved) => reserved,
            Err(NoRoom) => slowly(producer, event, before, payload_bytes_max)?,
        };
        let kind = if event.fields.is_empty() { kind::EVENT } else { kind::EVENT_WITH_FIELDS };
        let head = RecordHead { length: 0, kind, pri: event.pri, tag_length: event.tag.len() as u8, stamp };
        if before > 0 {
            producer.ring.fill(&place, 0, event.tag);
        }
        if !event.fields.is_empty() {
            let length = (event.fields.len() as u32).to_le_bytes();
            producer.ring.fill(&place, event.tag.len(), &length);
            producer.ring.fill(&place, event.tag.len() + length.len(), event.fields);
        }
        Ok(Self { producer, place: Some(place), head, before, bytes: 0, bytes_max: payload_bytes_max })
    }

    /// Bytes that can still be written.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes_max - self.bytes
    }

    /// Publishes it: it is an event now, of what was written.
    ///
    /// # Errors
    /// [`SendError::Invalid`] if nothing was; or in a forked child, of which this is not the claim.
    #[inline]
    pub fn publish(mut self) -> Result<(), SendError> {
        if self.bytes == 0 {
            return Err(SendError::Invalid("the payload is empty"));
        }
        if self.producer.forks != sys::forks() {
            return Err(SendError::Invalid("a claim of the parent of this process"));
        }
        let Some(place) = self.place.take() else { return Ok(()) };
        self.head.length = (self.before + self.bytes) as u32;
        let bell = self.producer.ring.publish_claim(place, self.head);
        self.producer.bytes += self.bytes as u64;
        if self.producer.fast_for == CLOSED || bell == Bell::Ring {
            self.producer.after_publish(bell);
        }
        Ok(())
    }
}

#[cold]
fn slowly(
    producer: &mut Producer,
    event: &Event<'_>,
    before: usize,
    payload_bytes_max: usize,
) -> Result<(Reserved, Stamp), SendError> {
    let timeout = producer.timeout();
    producer.make_room(event, payload_bytes_max, timeout, true)?;
    let stamp = if event.time_ns == 0 { producer.stamp_slow() } else { Stamp::Nanoseconds(event.time_ns) };
    let place = producer.ring.claim(before + payload_bytes_max).map_err(|NoRoom| SendError::Full)?;
    Ok((place, stamp))
}

impl io::Write for Claim<'_> {
    /// Takes as many bytes as there is room for; none, when there is no room.
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.producer.forks != sys::forks() {
            return Err(io::Error::other("a claim of the parent of this process"));
        }
        let bytes = &bytes[..bytes.len().min(self.room())];
        if let Some(place) = &self.place {
            self.producer.ring.fill(place, self.before + self.bytes, bytes);
            self.bytes += bytes.len();
        }
        Ok(bytes.len())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take()
            && self.producer.forks == sys::forks()
        {
            self.producer.ring.give_back(place);
        }
    }
}
