//! What an event says: its sender, its number, noise that follows from both, and a checksum of all that.

use crc32c::crc32c;

/// `ingest.max_event` of the storm, so that long lines are stored in pieces.
pub(crate) const MAX_EVENT: usize = 4 << 10;
const CHECKSUM_DIGITS: usize = 8;

/// Numbers that a seed decides (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of one part of the storm.
    pub(crate) fn new(seed: u64, part: &str) -> Self {
        Self(part.bytes().fold(seed, |sum, byte| mixed(sum ^ u64::from(byte))))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True this many times of a hundred.
    pub(crate) fn percent(&mut self, times: u64) -> bool {
        self.below(100) < times
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn mixed(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Event `number` of `sender`, with noise up to this many bytes. It has no newline, and begins neither as a priority
/// nor as frames.
pub(crate) fn text(sender: &str, number: u64, noise_max: usize) -> Vec<u8> {
    let mut random = Random::new(number, sender);
    let mut text = format!("{sender} {number} ").into_bytes();
    for _ in 0..random.below(noise_max as u64 + 1) {
        text.push(b'a' + random.below(26) as u8);
    }
    text.push(b' ');
    let checksum = format!("{:0width$x}", crc32c(&text), width = CHECKSUM_DIGITS);
    text.extend_from_slice(checksum.as_bytes());
    text
}

/// Whose event this is, and which; None if it is none, or not as it was sent.
pub(crate) fn parse(text: &[u8]) -> Option<(&str, u64)> {
    let (rest, checksum) = text.split_at(text.len().checked_sub(CHECKSUM_DIGITS)?);
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    if checksum != crc32c(rest) {
        return None;
    }
    let mut words = rest.splitn(3, |byte| *byte == b' ').map(std::str::from_utf8);
    let (sender, number) = (words.next()?.ok()?, words.next()?.ok()?);
    Some((sender, number.parse().ok()?))
}

#[test]
fn an_event_says_whose_it_is_and_a_changed_one_says_nothing() {
    let mut made = text("long3.0", 17, 300);
    assert_eq!(parse(&made), Some(("long3.0", 17)));
    assert!(!made.contains(&b'\n'));
    for at in 0..made.len() {
        made[at] ^= 1;
        assert_eq!(parse(&made), None);
        made[at] ^= 1;
    }
    assert_eq!(parse(&made[..made.len() - 1]), None);
}
