//! How far each kept connection has been read: memory that the store keeps beside the connections.
//!
//! Enters: at a connection's start who its peer is, later the part of a line that has come without its end. Leaves: the
//! same for a successor. Any writer thread, each for its own connections. What can fail: there is no memory; and what a
//! predecessor left may be of another version, or cut by its death. Then it says nothing, and is never trusted blindly.
//!
//! It is written with pwrite(2) and not mapped: most connections send whole lines and never need it, for the rest one
//! call a read is nothing beside the read, and a file needs no rules for memory that is shared.
//!
//! ```text
//! offset 0       head: magic 8, version 4, bytes a place 4, CRC-32C of these 4
//! offset 4096    place 0, then place 1 ...; the file is sparse
//!   0            peer: CRC-32C 4, length 4, pid 4, uid 4, gid 4, length of command 4, command, unit
//!   1024         mark: CRC-32C 4, in flux 4, length of carry 4, kind 1, pri 1, transport 1 (0: no pieces),
//!                length of tag 1, claimed pid 4, nothing 4, piece id 8, octets 8 (all ones: to the newline), tag 64, carry
//! ```
//!
//! The CRC covers what follows it, without the flux. All numbers are little-endian.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crc32c::{crc32c, crc32c_append};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};

use crate::pipeline::accept::lines::Until;
use crate::pipeline::counters::Identity;
use crate::pipeline::record::{COMM_BYTES_MAX, MAX_EVENT_BYTES_MAX, TAG_BYTES_MAX, Transport, UNIT_BYTES_MAX};

/// The most connections that are kept. Their names have to fit one environment variable of 128 KiB.
pub(super) const PLACES_MAX: usize = 16 << 10;

const MAGIC: [u8; 8] = *b"dbufmark";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const PAGE_BYTES: usize = 4096;
/// The largest carry, an octet count before it, and the heads.
const PLACE_BYTES: usize = MAX_EVENT_BYTES_MAX + (64 << 10);
const MARK_AT: usize = 1024;
const PEER_HEAD_BYTES: usize = 24;
const MARK_HEAD_BYTES: usize = 40 + TAG_BYTES_MAX;
/// Where the bytes begin that the mark's CRC covers.
const MARK_COVERED_AT: usize = 8;
/// Pages that a place may keep beyond what it needs now.
const SLACK_PAGES: u16 = 3;
/// More than a place has: nobody knows how many it has taken.
pub(super) const PAGES_UNKNOWN: u16 = u16::MAX;
const TO_NEWLINE: u64 = u64::MAX;

const _: () = assert!(PLACE_BYTES.is_multiple_of(PAGE_BYTES) && PLACE_BYTES / PAGE_BYTES < PAGES_UNKNOWN as usize);
const _: () = assert!(PEER_HEAD_BYTES + COMM_BYTES_MAX + UNIT_BYTES_MAX <= MARK_AT);

/// How an event goes on of which pieces were laid down already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pipeline::accept) struct Ongoing {
    pub(in crate::pipeline::accept) id: u64,
    pub(in crate::pipeline::accept) until: Until,
    pub(in crate::pipeline::accept) pri: u8,
    pub(in crate::pipeline::accept) transport: Transport,
    pub(in crate::pipeline::accept) claimed_pid: u32,
    pub(in crate::pipeline::accept) tag: Box<[u8]>,
}

/// How far a connection has been read.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline::accept) enum Mark<'a> {
    /// So little has come that it may be text or the framed protocol.
    Undecided { carry: &'a [u8] },
    /// Text, of which this has come without its end.
    Text { ongoing: Option<&'a Ongoing>, carry: &'a [u8] },
}

impl Mark<'_> {
    /// Whether nothing has come in part: then there is nothing that a successor would have to know.
    pub(in crate::pipeline::accept) fn is_line_start(&self) -> bool {
        match self {
            Self::Undecided { carry } => carry.is_empty(),
            Self::Text { ongoing, carry } => ongoing.is_none() && carry.is_empty(),
        }
    }
}

/// A [`Mark`] as a successor finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pipeline::accept) enum Bookmark {
    /// Nothing had come in part, or nothing had come at all.
    LineStart,
    /// This had come, and may be text or the framed protocol.
    Undecided { carry: Vec<u8> },
    /// This had come of a line.
    Text { ongoing: Option<Ongoing>, carry: Vec<u8> },
    /// Something had come of a line, and what became of it nobody knows: it was just being read, or its bookmark cannot
    /// be.
    Lost,
    /// The same of a connection that had not said yet what it is.
    LostGreeting,
}

/// The memory.
#[derive(Debug)]
pub(super) struct Bookmarks(File);

impl Bookmarks {
    /// Empty ones.
    pub(super) fn new() -> io::Result<Self> {
        let memory = memfd_create("dbufd-bookmarks", MemfdFlags::CLOEXEC)?;
        // Sparse: it takes what is written.
        ftruncate(&memory, (PAGE_BYTES + PLACES_MAX * PLACE_BYTES) as u64)?;
        let file = File::from(memory);
        file.write_all_at(&head(), 0)?;
        Ok(Self(file))
    }

    /// Those that a predecessor left; None if they are of another version, or none at all.
    pub(super) fn open(memory: OwnedFd) -> Option<Self> {
        let file = File::from(memory);
        let mut found = [0; HEAD_BYTES];
        file.read_exact_at(&mut found, 0).ok()?;
        (found == head()).then_some(Self(file))
    }

    pub(super) fn memory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A new connection, of which nothing has been read.
    pub(super) fn begin(&self, index: u32, peer: &Identity) -> io::Result<()> {
        let length = peer.comm.len() + peer.unit.len();
        let numbers = [length as u32, peer.pid, peer.uid, peer.gid, peer.comm.len() as u32];
        // The mark's head is among these bytes, as zeros.
        let mut bytes = [0; MARK_AT + MARK_HEAD_BYTES];
        for (at, number) in (4..).step_by(4).zip(numbers) {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let text = &mut bytes[PEER_HEAD_BYTES..PEER_HEAD_BYTES + length];
        text[..peer.comm.len()].copy_from_slice(&peer.comm);
        text[peer.comm.len()..].copy_from_slice(&peer.unit);
        let crc = crc32c(&bytes[4..PEER_HEAD_BYTES + length]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        self.0.write_all_at(&bytes, place(index))
    }

    /// What is written at this place will no longer be true.
    pub(super) fn in_flux(&self, index: u32) -> io::Result<()> {
        self.0.write_all_at(&1_u32.to_le_bytes(), place(index) + MARK_AT as u64 + 4)
    }

    /// Writes how far a connection has been read. `taken` pages of memory were taken before; returns how many are now.
    pub(super) fn write(&self, index: u32, mark: &Mark<'_>, taken: u16) -> io::Result<u16> {
        let (head, carry) = encode(mark);
        let at = place(index) + MARK_AT as u64;
        let needed = (MARK_AT + MARK_HEAD_BYTES + carry.len()).div_ceil(PAGE_BYTES) as u16;
        // The head last: a carry that is cut by this process's death must not look whole.
        self.0.write_all_at(carry, at + MARK_HEAD_BYTES as u64)?;
        self.0.write_all_at(&head, at)?;
        if taken <= needed + SLACK_PAGES {
            return Ok(needed.max(taken));
        }
        let keep = usize::from(needed) * PAGE_BYTES;
        self.punch(place(index) + keep as u64, PLACE_BYTES - keep)?;
        Ok(needed)
    }

    /// Nothing is at this place any more.
    pub(super) fn clear(&self, index: u32) {
        // If it cannot be freed it is still overwritten by whoever takes the place.
        let _ = self.punch(place(index), PLACE_BYTES);
    }

    fn punch(&self, at: u64, bytes: usize) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.0, flags, at, bytes as u64)?)
    }

    /// What a predecessor wrote at this place; what cannot be read is unknown.
    pub(super) fn read(&self, index: u32) -> (Identity, Bookmark) {
        let mut bytes = vec![0; MARK_AT + MARK_HEAD_BYTES];
        if self.0.read_exact_at(&mut bytes, place(index)).is_err() {
            return (Identity::default(), Bookmark::Lost);
        }
        let peer = decode_peer(&bytes[..MARK_AT]).unwrap_or_default();
        let head = &bytes[MARK_AT..];
        if head.iter().all(|byte| *byte == 0) {
            return (peer, Bookmark::LineStart);
        }
        let lost = if head[12] == KIND_UNDECIDED { Bookmark::LostGreeting } else { Bookmark::Lost };
        let length = number(head, 8) as usize;
        if length > PLACE_BYTES - MARK_AT - MARK_HEAD_BYTES {
            return (peer, lost);
        }
        let mut carry = vec![0; length];
        let carry_at = place(index) + (MARK_AT + MARK_HEAD_BYTES) as u64;
        let bookmark = self.0.read_exact_at(&mut carry, carry_at).ok().and_then(|()| decode_mark(head, carry));
        (peer, bookmark.unwrap_or(lost))
    }
}

fn place(index: u32) -> u64 {
    PAGE_BYTES as u64 + u64::from(index) * PLACE_BYTES as u64
}

fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(PLACE_BYTES as u32).to_le_bytes());
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

fn decode_peer(bytes: &[u8]) -> Option<Identity> {
    let (length, comm) = (number(bytes, 4) as usize, number(bytes, 20) as usize);
    let text = bytes.get(PEER_HEAD_BYTES..PEER_HEAD_BYTES.checked_add(length)?)?;
    if crc32c(&bytes[4..PEER_HEAD_BYTES + length]) != number(bytes, 0) || comm > length {
        return None;
    }
    let (pid, uid, gid) = (number(bytes, 8), number(bytes, 12), number(bytes, 16));
    Some(Identity { pid, uid, gid, comm: text[..comm].into(), unit: text[comm..].into(), ..Identity::default() })
}

const KIND_UNDECIDED: u8 = 1;
const KIND_TEXT: u8 = 2;

fn encode<'a>(mark: &Mark<'a>) -> ([u8; MARK_HEAD_BYTES], &'a [u8]) {
    let (kind, ongoing, carry) = match *mark {
        Mark::Undecided { carry } => (KIND_UNDECIDED, None, carry),
        Mark::Text { ongoing, carry } => (KIND_TEXT, ongoing, carry),
    };
    let mut head = [0; MARK_HEAD_BYTES];
    head[8..12].copy_from_slice(&(carry.len() as u32).to_le_bytes());
    head[12] = kind;
    if let Some(ongoing) = ongoing {
        let octets = match ongoing.until {
            Until::Newline => TO_NEWLINE,
            Until::Octets(octets) => octets as u64,
        };
        (head[13], head[14], head[15]) = (ongoing.pri, ongoing.transport as u8, ongoing.tag.len() as u8);
        head[16..20].copy_from_slice(&ongoing.claimed_pid.to_le_bytes());
        // At 20: four bytes of nothing, so that the long numbers are aligned in a dump.
        head[24..32].copy_from_slice(&ongoing.id.to_le_bytes());
        head[32..40].copy_from_slice(&octets.to_le_bytes());
        head[40..40 + ongoing.tag.len()].copy_from_slice(&ongoing.tag);
    }
    let crc = crc32c_append(crc32c(&head[MARK_COVERED_AT..]), carry);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    (head, carry)
}

fn decode_mark(head: &[u8], carry: Vec<u8>) -> Option<Bookmark> {
    let crc = crc32c_append(crc32c(&head[MARK_COVERED_AT..]), &carry);
    if number(head, 4) != 0 || crc != number(head, 0) {
        return None;
    }
    if head[12] == KIND_UNDECIDED {
        return Some(if carry.is_empty() { Bookmark::LineStart } else { Bookmark::Undecided { carry } });
    }
    let ongoing = if head[14] == 0 {
        None
    } else {
        let until = match long(head, 32) {
            TO_NEWLINE => Until::Newline,
            octets => Until::Octets(usize::try_from(octets).ok()?),
        };
        let tag = head.get(40..40 + usize::from(head[15]))?.into();
        let transport = Transport::from_number(head[14])?;
        Some(Ongoing { id: long(head, 24), until, pri: head[13], transport, claimed_pid: number(head, 16), tag })
    };
    (head[12] == KIND_TEXT).then_some(Bookmark::Text { ongoing, carry })
}
