//! What a producer's events say: its name, a number, and noise that follows from both.
//!
//! A program that reads an event can make it again and compare it byte for byte, without having been told anything.

use std::sync::OnceLock;

/// `ingest.max_event` of the soak: above the largest event that is sent as one, so that others are pieces or refused.
pub(crate) const MAX_EVENT: usize = 16 << 10;
/// The longest line that is sent; it is stored in pieces.
const LINE_BYTES_MAX: usize = 4 * MAX_EVENT;
/// Of the lines of a producer of this kind, one in [`LONG_ONE_IN`] is longer than [`MAX_EVENT`].
pub(crate) const PIECES: &str = "pieces";
/// Short connections are producers of this kind.
pub(crate) const SHORT: &str = "short";
const LONG_ONE_IN: u64 = 16;
const SIZE_MIN: f64 = 10.0;
const SIZE_MAX: f64 = 10_000.0;

/// Numbers that a seed decides (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn mixed(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Letters: no payload may hold what ends a line, or be taken for syslog.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut random = Random::new(1);
        (0..2 * LINE_BYTES_MAX).map(|_| b'a' + random.below(26) as u8).collect()
    })
}

/// The kind of producer that a name tells: its letters.
pub(crate) fn kind(name: &str) -> &str {
    name.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default()
}

/// Appends event `number` of a producer: small ones are the most, as in real logs.
pub(crate) fn put(to: &mut Vec<u8>, name: &str, number: u64) {
    let start = to.len();
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(format!(" {number} ").as_bytes());
    let draw = mixed(name.bytes().fold(number, |sum, byte| mixed(sum ^ u64::from(byte))));
    let bytes = if kind(name) == PIECES && draw.is_multiple_of(LONG_ONE_IN) {
        MAX_EVENT + (draw >> 8) as usize % (LINE_BYTES_MAX - MAX_EVENT)
    } else {
        let part = (draw >> 11) as f64 / (1u64 << 53) as f64;
        (SIZE_MIN * (SIZE_MAX / SIZE_MIN).powf(part)) as usize
    };
    // The end tells a whole event from one that was cut.
    let rest = bytes.saturating_sub(to.len() - start + 1);
    let from = (draw >> 5) as usize % LINE_BYTES_MAX;
    to.extend_from_slice(&noise()[from..from + rest]);
    to.push(b'.');
}

/// As [`put`], but as a vector of its own.
pub(crate) fn text(name: &str, number: u64) -> Vec<u8> {
    let mut to = Vec::new();
    put(&mut to, name, number);
    to
}

/// Whose event this says it is, and which.
pub(crate) fn parse(text: &[u8]) -> Option<(&str, u64)> {
    let mut words = text.splitn(3, |byte| *byte == b' ').map(std::str::from_utf8);
    let (name, number) = (words.next()?.ok()?, words.next()?.ok()?);
    Some((name, number.parse().ok()?))
}

#[test]
fn an_event_can_be_told_and_made_again_from_its_text() {
    for number in 0..2000 {
        let made = text("pieces3.7", number);
        assert_eq!(parse(&made), Some(("pieces3.7", number)));
        assert!(made.len() <= LINE_BYTES_MAX && !made.contains(&b'\n'));
        assert_eq!(text("pieces3.7", number), made);
    }
    let long = (0..2000).filter(|number| text("pieces3.7", *number).len() > MAX_EVENT).count();
    assert!((60..250).contains(&long), "{long}");
    assert!((0..2000).all(|number| text("lines1", number).len() <= SIZE_MAX as usize));
}
