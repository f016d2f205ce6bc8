//! Maps the memory of the double buffer: one mapping with a header, the chunks' words, and the bytes of both halves.
//!
//! ```text
//! offset 0        header: magic, version, sizes; gate, turn, bell and persisted, each on cache lines of its own
//!        4096     words: one a chunk, 128 bytes apart; the chunks of half 0, then those of half 1
//!        aligned  bytes of half 0, then of half 1
//! ```
//! The layout is fixed, has a version, and holds the whole state. So a mapping of a memfd says by itself what counts,
//! also to a process that finds it after the death of the one that wrote it (`takeover.rs`). Without a memfd the
//! mapping is anonymous. All of it is touched at the start, in huge pages where the kernel gives them: a first touch
//! later would cost an event 20 µs.
//!
//! Bytes are copied in through raw pointers. A reference exists only to bytes that no thread can write while it lives.
//! The invariants that the notes cite are those of [`crate`].
//!
//! Input: sizes, then bytes into a [`Window`]. Output: slices of sealed bytes. Thread: any; gate and words decide which
//! one may do what. Failure: the mapping, at the start.
//!
//! In the models (`cfg(dbuf_loom)`) the words are loom's, and each byte has a loom cell. The cell reports two threads
//! that use the byte without an edge between them.

#![allow(unsafe_code, reason = "memory that threads share")]

use std::io;
use std::ptr;

use dbuf_sync::atomic::AtomicU64;
use dbuf_sync::{CacheLine, Futex};

#[cfg(not(dbuf_loom))]
use super::error::Unreadable;
#[cfg(not(dbuf_loom))]
use mapped::Mapping;
#[cfg(not(dbuf_loom))]
pub(super) use mapped::Place;
#[cfg(dbuf_loom)]
use modelled::Mapping;
#[cfg(dbuf_loom)]
pub(super) use modelled::Place;

const MAGIC: [u8; 8] = *b"dbufhalf";
const VERSION: u32 = 1;
/// The offset of the words.
const HEADER_BYTES: usize = 4096;

/// The start of the mapping. The plain fields are written once, before any thread can see them.
#[derive(Debug)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    header_bytes: u32,
    chunk_bytes: u64,
    /// Chunks of each half.
    chunks: u64,
    gate: CacheLine<AtomicU64>,
    turn: CacheLine<Futex>,
    bell: CacheLine<Futex>,
    persisted: CacheLine<AtomicU64>,
}

#[cfg(not(dbuf_loom))]
const _: () = {
    assert!(size_of::<Header>() <= HEADER_BYTES && size_of::<CacheLine<AtomicU64>>() == 128);
    assert!(std::mem::offset_of!(Header, gate) == 128 && std::mem::offset_of!(Header, turn) == 256);
    assert!(std::mem::offset_of!(Header, bell) == 384 && std::mem::offset_of!(Header, persisted) == 512);
};

impl Header {
    fn new(chunk_bytes: usize, chunks: usize, gate: u64, generation: u64) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            header_bytes: HEADER_BYTES as u32,
            chunk_bytes: chunk_bytes as u64,
            chunks: chunks as u64,
            gate: CacheLine(AtomicU64::new(gate)),
            turn: CacheLine(Futex::new(generation as u32)),
            bell: CacheLine(Futex::new(0)),
            persisted: CacheLine(AtomicU64::new(generation)),
        }
    }
}

/// The header, the words and the halves.
#[derive(Debug)]
pub(super) struct Memory {
    mapping: Mapping,
    chunk_bytes: usize,
    chunks: usize,
}

impl Memory {
    /// Creates two halves of `chunks` chunks, with `generation` in front. `word` gives the first value of a half's
    /// words.
    pub(super) fn new(
        (chunk_bytes, chunks): (usize, usize),
        (gate, generation): (u64, u64),
        word: impl Fn(usize) -> u64,
        place: Place<'_>,
    ) -> io::Result<Self> {
        let words = (0..2 * chunks).map(|index| CacheLine(AtomicU64::new(word(index / chunks))));
        let header = Header::new(chunk_bytes, chunks, gate, generation);
        let mapping = Mapping::new(header, words, 2 * chunks * chunk_bytes, place)?;
        Ok(Self { mapping, chunk_bytes, chunks })
    }

    /// Opens what a dead process has left in a memfd. Gate and words are as that process left them.
    #[cfg(not(dbuf_loom))]
    pub(super) fn of_previous(memory: std::os::fd::BorrowedFd<'_>) -> Result<Self, Unreadable> {
        let (mapping, chunk_bytes, chunks) = Mapping::of_previous(memory)?;
        Ok(Self { mapping, chunk_bytes, chunks })
    }

    #[cfg(not(dbuf_loom))]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.chunk_bytes, self.chunks)
    }

    /// Every generation below this one is done: in a file, or counted as lost.
    pub(super) fn persisted(&self) -> &AtomicU64 {
        &self.mapping.header().persisted.0
    }

    #[inline]
    pub(super) fn gate(&self) -> &AtomicU64 {
        &self.mapping.header().gate.0
    }

    /// The low 32 bits of the generation, which writers sleep on.
    pub(super) fn turn(&self) -> &Futex {
        &self.mapping.header().turn.0
    }

    /// The word that the reader sleeps on.
    pub(super) fn bell(&self) -> &Futex {
        &self.mapping.header().bell.0
    }

    /// The word of a chunk, by [`Memory::word_index`].
    #[inline]
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        &self.mapping.words()[index].0
    }

    /// The index of a chunk's word among all words.
    pub(super) fn word_index(&self, half: usize, chunk: usize) -> usize {
        half * self.chunks + chunk
    }

    /// The words of a half.
    pub(super) fn words(&self, half: usize) -> &[CacheLine<AtomicU64>] {
        &self.mapping.words()[half * self.chunks..][..self.chunks]
    }

    /// The bytes of a chunk, or of a group of `len` bytes that starts there, for writing.
    ///
    /// Only for the chunk's owner (invariant 2).
    pub(super) fn window(&self, half: usize, chunk: usize, len: usize) -> Window {
        Window { start: self.offset(half, chunk, len), len }
    }

    /// Copies `bytes` into the window, after its first `filled` bytes. Only while its owner has set BUSY (invariant 2).
    #[inline(always)]
    pub(super) fn put(&self, window: &Window, filled: usize, bytes: &[u8]) {
        assert!(filled + bytes.len() <= window.len, "more bytes than the claim has room for");
        let at = window.start + filled;
        self.mapping.watch_write(at, bytes.len());
        // SAFETY: the window lies in the halves, as `offset` has checked when `window` made it, for a writer has
        // windows of one memory only; and `at` lies in the window (asserted above).
        let to = unsafe { self.mapping.bytes().add(at) };
        // SAFETY: the target has room (asserted above), and no other thread reads or writes it: the caller is the
        // chunk's owner, has set BUSY, and writes behind what it published (invariant 2). `bytes` is a slice, and no
        // slice covers these bytes, because slices of the halves cover sealed bytes only (invariant 5).
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// The `len` bytes of the window after its first `filled` ones, for writing. Their previous content has no meaning.
    /// Only while its owner has set BUSY (invariant 2), and for one borrower at a time: the claim is borrowed for as
    /// long.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the bytes are the owner's alone, whose claim is borrowed exclusively")]
    pub(super) fn open(&self, window: &Window, filled: usize, len: usize) -> &mut [u8] {
        assert!(filled + len <= window.len, "more bytes than the claim has room for");
        let at = window.start + filled;
        self.mapping.watch_write(at, len);
        // SAFETY: as in `put`.
        let start = unsafe { self.mapping.bytes().add(at) };
        // SAFETY: the bytes are there and initialised (the mapping starts as zeros), and no other thread reads or
        // writes them while the slice lives: as in `put`, and the slice ends before the claim is written to again or
        // published.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// The first `len` bytes of a chunk, or of the group that starts there.
    ///
    /// Only for the reader, and at most as many bytes as its seal has counted (invariant 5).
    pub(super) fn sealed(&self, half: usize, chunk: usize, len: usize) -> &[u8] {
        let at = self.offset(half, chunk, len);
        self.mapping.watch_read(at, len);
        // SAFETY: `offset` has checked that the range lies in the halves.
        let start = unsafe { self.mapping.bytes().add(at) };
        // SAFETY: the bytes are initialised (the mapping starts as zeros), and no thread writes them while the slice
        // lives: sealed bytes are final until their chunk is recycled (invariant 3), and the reader, from whose
        // exclusive borrow the caller's batch descends, does not recycle while a batch lives (invariant 4).
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The offset of a chunk in the bytes of the halves. Checks that `len` bytes from there lie in its half.
    fn offset(&self, half: usize, chunk: usize, len: usize) -> usize {
        let in_half = chunk * self.chunk_bytes;
        let half_bytes = self.chunks * self.chunk_bytes;
        assert!(half < 2 && in_half + len <= half_bytes, "a range outside its half");
        half * half_bytes + in_half
    }
}

/// The bytes of a chunk or group, as an offset in the halves, not an address.
#[derive(Debug, Default)]
pub(super) struct Window {
    start: usize,
    len: usize,
}

impl Window {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether the window is empty.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(not(dbuf_loom))]
mod mapped {
    use std::io;
    use std::os::fd::BorrowedFd;

    use super::super::chunk::GROUP_BYTES_MAX;
    use super::super::gate::CHUNKS_MAX;
    use super::{AtomicU64, CacheLine, HEADER_BYTES, Header, MAGIC, Unreadable, VERSION};
    use crate::mapping::{Mapping as Raw, fix_size, fixed_size};

    /// The halves start at a multiple of this many bytes.
    const ALIGN: usize = 4096;

    /// Where the memory comes from: a memfd that outlives the process, or anonymous memory.
    pub(in super::super) type Place<'a> = Option<BorrowedFd<'a>>;

    /// A mapping with a header in it. A memfd is shared only with systemd, which keeps it and does not read it.
    #[derive(Debug)]
    pub(super) struct Mapping {
        raw: Raw,
        words: usize,
        /// The offset of the bytes of the halves.
        bytes_at: usize,
    }

    /// The offset of the bytes of the halves, and the size of the whole mapping.
    fn extent(words: usize, bytes: usize) -> (usize, usize) {
        let bytes_at = (HEADER_BYTES + words * size_of::<CacheLine<AtomicU64>>()).next_multiple_of(ALIGN);
        (bytes_at, (bytes_at + bytes).next_multiple_of(ALIGN))
    }

    impl Mapping {
        pub(super) fn new(
            header: Header,
            words: impl ExactSizeIterator<Item = CacheLine<AtomicU64>>,
            bytes: usize,
            place: Place<'_>,
        ) -> io::Result<Self> {
            let (bytes_at, len) = extent(words.len(), bytes);
            let raw = match place {
                None => Raw::anonymous(len)?,
                Some(memory) => {
                    fix_size(memory, len)?;
                    Raw::of_memory(memory, 0, len)?
                }
            };
            raw.populate()?;
            let mapping = Self { raw, words: words.len(), bytes_at };
            // SAFETY: the header fits (asserted at compile time), the start of a mapping is aligned for it (mmap(2)),
            // and no other thread knows the mapping yet.
            unsafe { mapping.raw.base().cast::<Header>().write(header) };
            for (index, word) in words.enumerate() {
                // SAFETY: the bytes of the halves begin behind the last word.
                let to = unsafe { mapping.first_word().add(index) };
                // SAFETY: inside the mapping and aligned, as 4096 is a multiple of 128; no other thread knows it yet.
                unsafe { to.write(word) };
            }
            Ok(mapping)
        }

        /// Maps what a dead process has left. Also returns the size of a chunk and their number.
        pub(super) fn of_previous(memory: BorrowedFd<'_>) -> Result<(Self, usize, usize), Unreadable> {
            let file_bytes = fixed_size(memory).filter(|bytes| *bytes >= HEADER_BYTES);
            let file_bytes = file_bytes.ok_or(Unreadable("it is not a buffer"))?;
            let raw = Raw::of_memory(memory, 0, file_bytes).map_err(|_| Unreadable("it cannot be mapped"))?;
            // Without words and halves until the header is checked.
            let mut mapping = Self { raw, words: 0, bytes_at: HEADER_BYTES };
            let Header { magic, version, header_bytes, chunk_bytes, chunks, .. } = mapping.header();
            if *magic != MAGIC || *header_bytes as usize != HEADER_BYTES {
                return Err(Unreadable("it is not a buffer"));
            }
            if *version != VERSION {
                return Err(Unreadable("it has another version"));
            }
            let sane = |n: u64, max: usize| usize::try_from(n).ok().filter(|n| (1..=max).contains(n));
            let sizes = sane(*chunk_bytes, GROUP_BYTES_MAX).zip(sane(*chunks, CHUNKS_MAX));
            let Some((chunk_bytes, chunks)) = sizes else { return Err(Unreadable("its sizes are out of bounds")) };
            let (bytes_at, len) = extent(2 * chunks, 2 * chunks * chunk_bytes);
            if len != file_bytes {
                return Err(Unreadable("its sizes do not match its length"));
            }
            (mapping.words, mapping.bytes_at) = (2 * chunks, bytes_at);
            // The pages exist. This process only lacks its page table entries for them.
            mapping.raw.populate().map_err(|_| Unreadable("there is no memory for it"))?;
            Ok((mapping, chunk_bytes, chunks))
        }

        #[inline]
        pub(super) fn header(&self) -> &Header {
            // SAFETY: `new` has written the header there, in this process or in one that is dead (any bytes are a value
            // of its fields); it lives as long as the mapping, so as `self`; its plain fields are never written again
            // and the others are atomics.
            unsafe { &*self.raw.base().cast::<Header>() }
        }

        #[inline]
        pub(super) fn words(&self) -> &[CacheLine<AtomicU64>] {
            // SAFETY: `new` has written that many words there, in this process or in one that is dead; they live as
            // long as the mapping and are atomics.
            unsafe { std::slice::from_raw_parts(self.first_word(), self.words) }
        }

        /// The address of the bytes of the halves.
        #[inline]
        pub(super) fn bytes(&self) -> *mut u8 {
            // SAFETY: the halves lie in the mapping, behind the words.
            unsafe { self.raw.base().add(self.bytes_at) }
        }

        /// A model checks here that no thread writes these bytes.
        #[inline(always)]
        pub(super) fn watch_read(&self, _at: usize, _len: usize) {}

        /// A model checks here that no other thread uses these bytes.
        #[inline(always)]
        pub(super) fn watch_write(&self, _at: usize, _len: usize) {}

        #[inline]
        fn first_word(&self) -> *mut CacheLine<AtomicU64> {
            // SAFETY: the mapping is longer than its header.
            unsafe { self.raw.base().add(HEADER_BYTES).cast() }
        }
    }
}

#[cfg(dbuf_loom)]
mod modelled {
    use std::cell::UnsafeCell;
    use std::io;

    use super::{AtomicU64, CacheLine, Header};

    /// A model has no memory that outlives it.
    pub(in super::super) type Place<'a> = Option<&'a ()>;

    /// The same parts on the heap, with a loom cell for each byte.
    #[derive(Debug)]
    pub(super) struct Mapping {
        header: Header,
        words: Vec<CacheLine<AtomicU64>>,
        bytes: Box<[UnsafeCell<u8>]>,
        watches: Vec<dbuf_sync::cell::UnsafeCell<()>>,
    }

    // SAFETY: loom runs all threads of a model on one thread, one at a time.
    unsafe impl Send for Mapping {}
    // SAFETY: as above; what would be a race outside the model is reported by `watches`.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        #[allow(clippy::unnecessary_wraps, reason = "the mapping that this stands for can fail")]
        pub(super) fn new(
            header: Header,
            words: impl ExactSizeIterator<Item = CacheLine<AtomicU64>>,
            bytes: usize,
            _place: Place<'_>,
        ) -> io::Result<Self> {
            let watches = (0..bytes).map(|_| dbuf_sync::cell::UnsafeCell::new(())).collect();
            let bytes = (0..bytes).map(|_| UnsafeCell::new(0)).collect();
            Ok(Self { header, words: words.collect(), bytes, watches })
        }

        pub(super) fn header(&self) -> &Header {
            &self.header
        }

        pub(super) fn words(&self) -> &[CacheLine<AtomicU64>] {
            &self.words
        }

        pub(super) fn bytes(&self) -> *mut u8 {
            self.bytes.as_ptr().cast_mut().cast()
        }

        pub(super) fn watch_read(&self, at: usize, len: usize) {
            for watch in &self.watches[at..at + len] {
                watch.with(|_| ());
            }
        }

        pub(super) fn watch_write(&self, at: usize, len: usize) {
            for watch in &self.watches[at..at + len] {
                watch.with_mut(|_| ());
            }
        }
    }
}

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new((64, 4), (9, 8), |half| half as u64 + 1, None).unwrap()
    }

    #[test]
    fn the_header_says_how_to_read_the_rest() {
        let memory = memory();
        let header = memory.mapping.header();
        assert_eq!((header.magic, header.version, header.header_bytes), (*b"dbufhalf", 1, 4096));
        assert_eq!((header.chunk_bytes, header.chunks), (64, 4));
        let base = std::ptr::from_ref(header) as usize;
        assert_eq!(std::ptr::from_ref(memory.word(memory.word_index(1, 3))) as usize - base, 4096 + 7 * 128);
    }

    #[test]
    fn words_start_with_the_value_of_their_half() {
        use dbuf_sync::atomic::Ordering::Relaxed;
        let memory = memory();
        assert_eq!((memory.word(3).load(Relaxed), memory.word(4).load(Relaxed)), (1, 2));
        assert_eq!(memory.gate().load(Relaxed), 9);
        assert_eq!(memory.turn().load(Relaxed), 8);
    }

    #[test]
    fn what_was_put_in_a_window_is_read_at_its_place() {
        let memory = memory();
        let window = memory.window(1, 2, 64);
        memory.put(&window, 8, b"abc");
        memory.put(&window, 11, b"def");
        assert_eq!(memory.sealed(1, 2, 14), b"\0\0\0\0\0\0\0\0abcdef");
        assert_eq!(memory.sealed(1, 1, 64), [0; 64]);
    }

    #[test]
    #[should_panic(expected = "more bytes than the claim has room for")]
    fn a_window_cannot_be_overfilled() {
        let memory = memory();
        memory.put(&memory.window(0, 0, 16), 8, &[0; 9]);
    }

    #[test]
    #[should_panic(expected = "a range outside its half")]
    fn a_window_never_reaches_into_the_other_half() {
        let _ = memory().window(0, 3, 65);
    }
}
