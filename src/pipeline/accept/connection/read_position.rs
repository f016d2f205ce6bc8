//! Records how far each stored connection has been read, in memory that systemd's descriptor store keeps with the
//! connections.
//!
//! Input: the peer's identity when a connection starts, and later the part of a line that has arrived without its end.
//! Output: the same for the next process. Thread: any writer, each for its own connections. Failure: there is no
//! memory; or the previous process left another version, or died while it wrote. Such a position is recognized and not
//! used.
//!
//! It is written with pwrite(2), not mapped, because a file needs no rules for shared memory. A connection whose reads
//! end with a line writes its position once, to say that it speaks text. One whose reads end within a line pays one
//! call for each read.
//!
//! ```text
//! offset 0        head: magic 8, version 4, bytes a slot 4, CRC-32C of these 4
//! offset 4096     slot 0, then slot 1 ...; the file is sparse
//!   0             peer: CRC-32C 4, length 2, listener's kind 2, pid 4, uid 4, gid 4, length of command 4, command,
//!                 unit
//!   1024          one copy of the position
//!   1115136       the other copy; they are written in turn, and the later one that is whole counts
//!
//! position        CRC-32C 4, length of carry 4, kind 1, pri 1, transport 1 (0: no pieces), length of tag 1,
//!                 claimed pid 4, piece id 8, octets 8 (all ones: to the newline), read 8, turn 8, tag 64, carry
//! ```
//!
//! The CRC covers the bytes after it. All numbers are little-endian. The read is the number of the last read of the
//! receive buffer (`publish::receive_buffer`) that the position includes.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crc32c::{crc32c, crc32c_append};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};

use crate::pipeline::account::Identity;
use crate::pipeline::record::{COMM_BYTES_MAX, MAX_EVENT_BYTES_MAX, TAG_BYTES_MAX, Transport, UNIT_BYTES_MAX};

/// Connections that are stored at most. Their names must fit into one environment variable of 128 KiB.
pub(crate) const SLOTS_MAX: usize = 16 << 10;

const MAGIC: [u8; 8] = *b"dbufmark";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const PAGE_BYTES: usize = 4096;
/// Room for the largest carry, an octet count before it, and the heads.
const HALF_BYTES: usize = MAX_EVENT_BYTES_MAX + (64 << 10);
const SLOT_BYTES: usize = 2 * HALF_BYTES;
const POSITION_AT: usize = 1024;
const PEER_HEAD_BYTES: usize = 24;
const POSITION_HEAD_BYTES: usize = 48 + TAG_BYTES_MAX;
/// Pages that a slot may keep beyond what it needs now.
const SLACK_PAGES: u16 = 3;
/// More than a slot has: the number of its pages is not known.
pub(crate) const PAGES_UNKNOWN: u16 = u16::MAX;
const TO_NEWLINE: u64 = u64::MAX;

const _: () = assert!(HALF_BYTES.is_multiple_of(PAGE_BYTES) && HALF_BYTES / PAGE_BYTES < PAGES_UNKNOWN as usize);
const _: () = assert!(PEER_HEAD_BYTES + COMM_BYTES_MAX + UNIT_BYTES_MAX <= POSITION_AT);

/// Where the rest of an event ends of which pieces were published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// At the next newline.
    Newline,
    /// After this many bytes.
    Octets(usize),
}

/// An event of which pieces were published and the rest has not arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenLine {
    pub(crate) id: u64,
    pub(crate) until: Until,
    pub(crate) pri: u8,
    pub(crate) transport: Transport,
    pub(crate) claimed_pid: u32,
    pub(crate) tag: Box<[u8]>,
}

/// How far a connection has been read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadPosition<'a> {
    /// Too few bytes have come to tell text from the framed protocol.
    Undecided { carry: &'a [u8] },
    /// Text. The carry is the part of a line that has come without its end.
    Text { open_line: Option<&'a OpenLine>, carry: &'a [u8] },
}

impl ReadPosition<'_> {
    /// Whether no part of an event has come. Then the next process needs to know nothing.
    pub(crate) fn is_line_start(&self) -> bool {
        match self {
            Self::Undecided { carry } => carry.is_empty(),
            Self::Text { open_line, carry } => open_line.is_none() && carry.is_empty(),
        }
    }
}

/// A [`ReadPosition`] as the next process finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InheritedPosition {
    /// No byte had come.
    LineStart,
    /// These bytes had come. They may be text or the framed protocol.
    Undecided { carry: Vec<u8> },
    /// This part of a line had come.
    Text { open_line: Option<OpenLine>, carry: Vec<u8> },
    /// A part of a line had come, but its position cannot be read, so what became of it is unknown.
    Lost,
    /// As `Lost`, for a connection whose protocol was not known yet.
    LostHandshake,
    /// The connection has no read position, because it cannot be resumed, for example because it speaks frames.
    Unknown,
}

/// The memory of all read positions.
#[derive(Debug)]
pub(crate) struct ReadPositions(File);

impl ReadPositions {
    /// Creates empty memory.
    pub(crate) fn new() -> io::Result<Self> {
        let memory = memfd_create("dbufd-positions", MemfdFlags::CLOEXEC)?;
        // Sparse: it takes only the pages that are written.
        ftruncate(&memory, (PAGE_BYTES + SLOTS_MAX * SLOT_BYTES) as u64)?;
        let file = File::from(memory);
        file.write_all_at(&head(), 0)?;
        Ok(Self(file))
    }

    /// Opens the memory that the previous process left. None if it has another version or another format.
    pub(crate) fn open(memory: OwnedFd) -> Option<Self> {
        let file = File::from(memory);
        let mut found = [0; HEAD_BYTES];
        file.read_exact_at(&mut found, 0).ok()?;
        (found == head()).then_some(Self(file))
    }

    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Records a new connection from a listener of this kind. Nothing has been read of it yet.
    pub(crate) fn begin(&self, index: u32, kind: u16, peer: &Identity) -> io::Result<()> {
        // These bytes include the head of mark 0, as zeros. The head of mark 1 is elsewhere.
        let mut bytes = [0; POSITION_AT + POSITION_HEAD_BYTES];
        encode_peer(kind, peer, &mut bytes);
        self.0.write_all_at(&bytes, slot(index))?;
        // A place that was given back has no memory, so this is usually free.
        if !matches!(self.read_at(index, 1), Ok(None)) {
            self.0.write_all_at(&[0; POSITION_HEAD_BYTES], position_at(index, 1))?;
        }
        Ok(())
    }

    /// Records that another process sends from here on, or one with other names.
    pub(crate) fn set_peer(&self, index: u32, kind: u16, peer: &Identity) -> io::Result<()> {
        let mut bytes = [0; POSITION_AT];
        let length = encode_peer(kind, peer, &mut bytes);
        self.0.write_all_at(&bytes[..length], slot(index))
    }

    /// Writes how far a connection has been read, including read number `read`. `turn` is one more than the last one.
    /// The slot had `taken` pages of memory before; returns how many it has now.
    pub(crate) fn write(
        &self,
        index: u32,
        position: &ReadPosition<'_>,
        read: u64,
        turn: u64,
        taken: u16,
    ) -> io::Result<u16> {
        let (head, carry) = encode(position, read, turn);
        let at = position_at(index, turn);
        let needed = (POSITION_AT + POSITION_HEAD_BYTES + carry.len()).div_ceil(PAGE_BYTES) as u16;
        // The other mark stays whole, whatever happens to this one.
        let written = rustix::io::pwritev(&self.0, &[IoSlice::new(&head), IoSlice::new(carry)], at)?;
        if written < head.len() + carry.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if taken <= needed + SLACK_PAGES {
            return Ok(needed.max(taken));
        }
        let keep = usize::from(needed) * PAGE_BYTES;
        for half in [0, HALF_BYTES as u64] {
            self.punch(slot(index) + half + keep as u64, HALF_BYTES - keep)?;
        }
        Ok(needed)
    }

    /// Empties the slot. An error says that the position may still be there.
    pub(crate) fn clear(&self, index: u32) -> io::Result<()> {
        // A peer of zeros has a wrong checksum. The page exists already, so this takes no memory.
        self.0.write_all_at(&[0; PEER_HEAD_BYTES], slot(index))?;
        // If the memory cannot be freed, the next connection in this slot still overwrites it.
        let _ = self.punch(slot(index), SLOT_BYTES);
        Ok(())
    }

    fn punch(&self, at: u64, bytes: usize) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.0, flags, at, bytes as u64)?)
    }

    /// Reads what the previous process wrote into this slot. What cannot be read is unknown.
    pub(crate) fn read(&self, index: u32) -> FoundPosition {
        let mut bytes = [0; POSITION_AT];
        let peer = self.0.read_exact_at(&mut bytes, slot(index)).ok().and_then(|()| decode_peer(&bytes));
        let Some((kind, peer)) = peer else {
            let (kind, peer) = (0, Identity::default());
            return FoundPosition { kind, peer, position: InheritedPosition::Unknown, read: 0, turn: 0 };
        };
        let found = |position| FoundPosition { kind, peer: peer.clone(), position, read: 0, turn: 0 };
        // A damaged mark is one that was being written. The receive buffer holds what it was to say.
        match [0, 1].map(|turn| self.read_at(index, turn)) {
            [Err(KIND_UNDECIDED), Err(KIND_UNDECIDED)] => found(InheritedPosition::LostHandshake),
            [Err(_), Err(_)] => found(InheritedPosition::Lost),
            positions => match positions.into_iter().flatten().flatten().max_by_key(|position| position.turn) {
                Some(Decoded { position, read, turn }) => FoundPosition { kind, peer, position, read, turn },
                None => found(InheritedPosition::LineStart),
            },
        }
    }

    /// None if nothing was written there. If the mark is damaged, the kind that it appears to have.
    fn read_at(&self, index: u32, turn: u64) -> Result<Option<Decoded>, u8> {
        let (mut head, at) = ([0; POSITION_HEAD_BYTES], position_at(index, turn));
        self.0.read_exact_at(&mut head, at).map_err(|_| 0)?;
        if head.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let kind = head[8];
        let length = number(&head, 4) as usize;
        if length > HALF_BYTES - POSITION_AT - POSITION_HEAD_BYTES {
            return Err(kind);
        }
        let mut carry = vec![0; length];
        self.0.read_exact_at(&mut carry, at + POSITION_HEAD_BYTES as u64).map_err(|_| kind)?;
        decode_position(&head, carry).ok_or(kind).map(Some)
    }
}

/// The contents of a slot.
#[derive(Debug)]
pub(crate) struct FoundPosition {
    /// The kind of listener that accepted the connection.
    pub(crate) kind: u16,
    pub(crate) peer: Identity,
    pub(crate) position: InheritedPosition,
    /// The last read that the position includes.
    pub(crate) read: u64,
    pub(crate) turn: u64,
}

#[derive(Debug)]
struct Decoded {
    position: InheritedPosition,
    read: u64,
    turn: u64,
}

fn slot(index: u32) -> u64 {
    PAGE_BYTES as u64 + u64::from(index) * SLOT_BYTES as u64
}

/// The offset of the mark of this turn.
fn position_at(index: u32, turn: u64) -> u64 {
    slot(index) + POSITION_AT as u64 + (turn % 2) * HALF_BYTES as u64
}

fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(SLOT_BYTES as u32).to_le_bytes());
    let crc = crc32c(&head[..16]);
    head[16..].copy_from_slice(&crc.to_le_bytes());
    head
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Writes the peer to the front of `bytes`, which are zeros. Returns its number of bytes.
fn encode_peer(kind: u16, peer: &Identity, bytes: &mut [u8]) -> usize {
    let length = peer.comm.len() + peer.unit.len();
    let numbers = [u32::from(kind) << 16 | length as u32, peer.pid, peer.uid, peer.gid, peer.comm.len() as u32];
    for (at, number) in (4..).step_by(4).zip(numbers) {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    let text = &mut bytes[PEER_HEAD_BYTES..PEER_HEAD_BYTES + length];
    text[..peer.comm.len()].copy_from_slice(&peer.comm);
    text[peer.comm.len()..].copy_from_slice(&peer.unit);
    let crc = crc32c(&bytes[4..PEER_HEAD_BYTES + length]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    PEER_HEAD_BYTES + length
}

fn decode_peer(bytes: &[u8]) -> Option<(u16, Identity)> {
    let (kind, length) = ((number(bytes, 4) >> 16) as u16, number(bytes, 4) as usize & 0xffff);
    let comm = number(bytes, 20) as usize;
    let text = bytes.get(PEER_HEAD_BYTES..PEER_HEAD_BYTES.checked_add(length)?)?;
    if crc32c(&bytes[4..PEER_HEAD_BYTES + length]) != number(bytes, 0) || comm > length {
        return None;
    }
    let (pid, uid, gid) = (number(bytes, 8), number(bytes, 12), number(bytes, 16));
    let (comm, unit) = text.split_at(comm);
    Some((kind, Identity { pid, uid, gid, comm: comm.into(), unit: unit.into(), ..Identity::default() }))
}

const KIND_UNDECIDED: u8 = 1;
const KIND_TEXT: u8 = 2;

fn encode<'a>(position: &ReadPosition<'a>, read: u64, turn: u64) -> ([u8; POSITION_HEAD_BYTES], &'a [u8]) {
    let (kind, open_line, carry) = match *position {
        ReadPosition::Undecided { carry } => (KIND_UNDECIDED, None, carry),
        ReadPosition::Text { open_line, carry } => (KIND_TEXT, open_line, carry),
    };
    let mut head = [0; POSITION_HEAD_BYTES];
    head[4..8].copy_from_slice(&(carry.len() as u32).to_le_bytes());
    head[8] = kind;
    if let Some(open_line) = open_line {
        let octets = match open_line.until {
            Until::Newline => TO_NEWLINE,
            Until::Octets(octets) => octets as u64,
        };
        (head[9], head[10], head[11]) = (open_line.pri, open_line.transport as u8, open_line.tag.len() as u8);
        head[12..16].copy_from_slice(&open_line.claimed_pid.to_le_bytes());
        head[16..24].copy_from_slice(&open_line.id.to_le_bytes());
        head[24..32].copy_from_slice(&octets.to_le_bytes());
        head[48..48 + open_line.tag.len()].copy_from_slice(&open_line.tag);
    }
    head[32..40].copy_from_slice(&read.to_le_bytes());
    head[40..48].copy_from_slice(&turn.to_le_bytes());
    let crc = crc32c_append(crc32c(&head[4..]), carry);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    (head, carry)
}

fn decode_position(head: &[u8], carry: Vec<u8>) -> Option<Decoded> {
    if crc32c_append(crc32c(&head[4..]), &carry) != number(head, 0) {
        return None;
    }
    let decoded = |position| Some(Decoded { position, read: long(head, 32), turn: long(head, 40) });
    let open_line = if head[10] == 0 {
        None
    } else {
        let until = match long(head, 24) {
            TO_NEWLINE => Until::Newline,
            octets => Until::Octets(usize::try_from(octets).ok()?),
        };
        let tag = head.get(48..48 + usize::from(head[11]))?.into();
        let transport = Transport::from_number(head[10])?;
        Some(OpenLine { id: long(head, 16), until, pri: head[9], transport, claimed_pid: number(head, 12), tag })
    };
    match head[8] {
        KIND_UNDECIDED if carry.is_empty() => decoded(InheritedPosition::LineStart),
        KIND_UNDECIDED => decoded(InheritedPosition::Undecided { carry }),
        KIND_TEXT => decoded(InheritedPosition::Text { open_line, carry }),
        _ => None,
    }
}

/// Makes both marks of a slot unreadable.
#[cfg(test)]
pub(crate) fn damage(memory: &OwnedFd, index: u32) {
    let file = File::from(memory.try_clone().expect("a descriptor"));
    for turn in 0..2 {
        let at = position_at(index, turn) + 64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a position");
        file.write_all_at(&[!byte[0]], at).expect("a position");
    }
}
