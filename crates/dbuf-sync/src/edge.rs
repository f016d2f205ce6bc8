//! Names the orderings that publish something between threads, so that a test can weaken each of them.
//!
//! Input: a name. Output: the orderings of both ends, and barriers for edges that a single ordering cannot express.
//! Thread: any. Failures: none.

use crate::atomic::{self, Ordering};

/// A named edge between threads: what one thread releases, the other acquires.
///
/// Outside the models these are the constants `Release` and `Acquire`. In a model, `DBUF_WEAKEN=name:release` or
/// `DBUF_WEAKEN=name:acquire` makes that end `Relaxed` at run time. So `.ci/weaken` can see a model fail for each end
/// of each edge without building again.
#[derive(Clone, Copy, Debug)]
pub struct Edge(&'static str);

impl Edge {
    /// The edge with this name. The table at the head of the module that owns it must list the name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// The ordering of the releasing site.
    #[cfg(not(dbuf_loom))]
    #[inline(always)]
    #[must_use]
    pub const fn release(self) -> Ordering {
        Ordering::Release
    }

    /// The ordering of the acquiring site.
    #[cfg(not(dbuf_loom))]
    #[inline(always)]
    #[must_use]
    pub const fn acquire(self) -> Ordering {
        Ordering::Acquire
    }

    /// The ordering of a site that acquires this edge and releases `other`.
    #[cfg(not(dbuf_loom))]
    #[inline(always)]
    #[must_use]
    pub const fn acquire_and_release(self, _other: Self) -> Ordering {
        Ordering::AcqRel
    }

    /// The cheap half of an asymmetric barrier. For a thread that has run the other half (membarrier(2)), this thread's
    /// earlier stores come before its later loads. It compiles to no instruction: membarrier(2) makes the kernel put a
    /// barrier into this thread.
    #[cfg(not(dbuf_loom))]
    #[inline(always)]
    pub fn light(self) {
        atomic::compiler_fence(Ordering::SeqCst);
    }

    /// A full barrier for the releasing side of an edge whose other side passes one as well. If two threads each store
    /// and then load what the other stores, at least one sees the other's store.
    #[cfg(not(dbuf_loom))]
    #[inline(always)]
    pub fn full_releasing(self) {
        atomic::fence(Ordering::SeqCst);
    }

    /// The same for the acquiring side.
    #[cfg(not(dbuf_loom))]
    #[inline(always)]
    pub fn full_acquiring(self) {
        atomic::fence(Ordering::SeqCst);
    }

    /// The ordering of the releasing site, unless this run weakens it.
    #[cfg(dbuf_loom)]
    #[must_use]
    pub fn release(self) -> Ordering {
        if self.is_weakened("release") { Ordering::Relaxed } else { Ordering::Release }
    }

    /// The ordering of the acquiring site, unless this run weakens it.
    #[cfg(dbuf_loom)]
    #[must_use]
    pub fn acquire(self) -> Ordering {
        if self.is_weakened("acquire") { Ordering::Relaxed } else { Ordering::Acquire }
    }

    /// The ordering of a site that acquires this edge and releases `other`, unless this run weakens either.
    #[cfg(dbuf_loom)]
    #[must_use]
    pub fn acquire_and_release(self, other: Self) -> Ordering {
        match (self.acquire(), other.release()) {
            (Ordering::Acquire, Ordering::Release) => Ordering::AcqRel,
            (Ordering::Acquire, _) => Ordering::Acquire,
            (_, release) => release,
        }
    }

    /// As [`Edge::full_releasing`], because a model has no membarrier(2).
    #[cfg(dbuf_loom)]
    pub fn light(self) {
        self.full_releasing();
    }

    /// The barrier of the releasing side, unless this run weakens it.
    #[cfg(dbuf_loom)]
    pub fn full_releasing(self) {
        if !self.is_weakened("release") {
            atomic::fence(Ordering::SeqCst);
        }
    }

    /// The barrier of the acquiring side, unless this run weakens it.
    #[cfg(dbuf_loom)]
    pub fn full_acquiring(self) {
        if !self.is_weakened("acquire") {
            atomic::fence(Ordering::SeqCst);
        }
    }

    #[cfg(dbuf_loom)]
    fn is_weakened(self, end: &str) -> bool {
        static WEAKENED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let weakened = WEAKENED.get_or_init(|| std::env::var("DBUF_WEAKEN").unwrap_or_default());
        weakened.split_once(':') == Some((self.0, end))
    }
}
