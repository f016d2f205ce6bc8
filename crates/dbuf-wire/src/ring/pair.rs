//! Makes a ring with both of its ends in this process.
//!
//! Input: a capacity. Output: the two ends. Any thread. Failures: there is no memory.

use super::consumer::{Position, RingConsumer};
use super::memory::Memory;
use super::producer::RingProducer;

/// Both ends of a new ring in this process, as a test of either end needs them.
///
/// ```
/// use dbuf_wire::frames::Event;
/// use dbuf_wire::ring::record::Stamp;
///
/// let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// let _ = producer.push(&Event { pri: 6, payload: b"order 17 accepted", ..Event::default() }, Stamp::None).unwrap();
/// assert_eq!(consumer.look(), Ok(48));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When there is no memory, or no ring can have this capacity.
pub fn pair(capacity: u64) -> std::io::Result<(RingProducer, RingConsumer)> {
    let (memory, file) = Memory::create(capacity, 0)?;
    let consumer = RingConsumer::new(memory, &Position::default());
    Ok((RingProducer::new(Memory::of_file(&file)?, false), consumer))
}
