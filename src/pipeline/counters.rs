//! Counts what the threads see, apart from the account of events.
//!
//! Input: increments from the writers and the reader. Output: figures for the control plane. Thread: each counter has
//! one thread that adds to it; any thread may read. The counters start at 0 with the process. Nothing here can fail.
//!
//! All of them are Relaxed: a counter publishes nothing except itself.

use std::io;

use super::account::Account;
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Arc, CacheLine};

/// The counters of one writer thread.
#[derive(Debug, Default)]
pub struct WriterCounters {
    /// Events that a producer sent again after they were accepted: neither received nor lost.
    pub duplicates: AtomicU64,
    /// Connections that are open now.
    pub connections: AtomicU64,
    /// Connections that were turned away: their user has its share of them, or the kernel watches no more.
    pub refused_connections: AtomicU64,
    /// Connections that are open now and are to be stored later: there is no room in the store, or systemd is to be
    /// spared.
    pub unkept_connections: AtomicU64,
    /// The core that the thread is pinned to, plus one; 0 if it is not pinned.
    pub cpu_plus_one: AtomicU32,
}

/// All counters of a daemon, or of a benchmark in one process.
#[derive(Debug)]
pub struct Counters {
    /// One for each writer thread, each on its own cache line.
    pub writers: Box<[CacheLine<WriterCounters>]>,
    /// Events that a sync has covered.
    pub durable_events: AtomicU64,
    /// What became of each event.
    pub account: Arc<Account>,
}

impl Counters {
    /// Creates counters at zero for this number of writers, with an account that ends with the process.
    ///
    /// # Errors
    /// If there is no memory for the account.
    pub fn new(writers: usize) -> io::Result<Self> {
        Ok(Self::with_account(writers, Account::new(writers)?))
    }

    /// The same with this account, which must be for the same number of writers.
    #[must_use]
    pub fn with_account(writers: usize, account: Account) -> Self {
        Self {
            writers: (0..writers).map(|_| CacheLine::default()).collect(),
            durable_events: AtomicU64::new(0),
            account: Arc::new(account),
        }
    }
}
