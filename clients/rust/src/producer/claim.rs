//! Lets a program write an event in place: it claims room in the memory, fills it bit by bit, and publishes it at once.
//!
//! Input: bytes. Output: an event of those bytes. The producer's thread; there is one claim at a time, because it
//! borrows the producer. Failures: more bytes than were claimed.

use std::io;

use super::options::SendError;
use super::state::{CLOSED, Producer};
use super::waiting::record_length;
use crate::sys;
use crate::wire::Event;
use dbuf_wire::ring::record::{RecordHead, Stamp, kind};
use dbuf_wire::ring::{Bell, NoRoom, Reserved};

/// Room for one event in the producer's memory. What is written to it becomes an event when it is
/// [published](Claim::publish); a claim that is dropped leaves nothing.
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
    /// Claims room for an event of at most `payload_bytes_max` bytes, to be written in place: see [`Claim`].
    ///
    /// # Errors
    /// As [`Producer::send`], for an event of `payload_bytes_max` bytes.
    ///
    /// ```no_run
    /// use std::io::Write;
    ///
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// let mut claim = producer.claim(3, 200)?;
    /// write!(claim, "card of customer {} refused", 17)?;
    /// claim.publish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn claim(&mut self, pri: u8, payload_bytes_max: usize) -> Result<Claim<'_>, SendError> {
        self.claim_event(&Event { pri, ..Event::default() }, payload_bytes_max)
    }

    /// The same with a tag, fields, or a time; the payload of `event` is ignored.
    ///
    /// # Errors
    /// As [`Producer::claim`].
    ///
    /// ```no_run
    /// use dbuf_client::wire::Event;
    /// use std::io::Write;
    ///
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// let mut claim = producer.claim_event(&Event { pri: 3, tag: b"billing", ..Event::default() }, 200)?;
    /// write!(claim, "card of customer {} refused", 17)?;
    /// claim.publish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// ```no_run
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// assert_eq!(producer.claim(6, 100)?.room(), 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes_max - self.bytes
    }

    /// Publishes what was written as an event.
    ///
    /// # Errors
    /// [`SendError::Invalid`] if nothing was written, or in a forked child: the claim is its parent's.
    ///
    /// ```no_run
    /// use std::io::Write;
    ///
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// let mut claim = producer.claim(6, 100)?;
    /// claim.write_all(b"order 17 accepted")?;
    /// claim.publish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
