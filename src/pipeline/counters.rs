//! What the threads count of themselves, beside the account of events.
//!
//! Enters: increments from the writers and the reader. Leaves: figures for the control plane. Each counter has one
//! thread that adds to it; anyone may read. They begin with the process. Nothing here can fail.
//!
//! All of them are Relaxed: a counter publishes nothing but itself.

use std::io;

use super::account::Account;
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Arc, CacheLine};

/// What one writer thread has seen.
#[derive(Debug, Default)]
pub struct WriterCounters {
    /// Events that a producer sent again after they had been accepted: neither received nor lost.
    pub duplicates: AtomicU64,
    /// Connections that are open now.
    pub connections: AtomicU64,
    /// Connections that were turned away because a limit was reached.
    pub refused_connections: AtomicU64,
    /// The core that the thread is pinned to, plus one; 0 if it is not pinned.
    pub cpu_plus_one: AtomicU32,
}

/// All counters of a daemon, or of a benchmark in one process.
#[derive(Debug)]
pub struct Counters {
    /// One for each writer thread, each on a line of its own.
    pub writers: Box<[CacheLine<WriterCounters>]>,
    /// Events that a sync has covered.
    pub durable_events: AtomicU64,
    /// What became of each event.
    pub account: Arc<Account>,
}

impl Counters {
    /// Counters at zero for this many writers, with an account that ends with the process.
    ///
    /// # Errors
    /// When there is no memory for the account.
    pub fn new(writers: usize) -> io::Result<Self> {
        Ok(Self::with_account(writers, Account::new(writers)?))
    }

    /// The same with this account, which is for as many writers.
    #[must_use]
    pub fn with_account(writers: usize, account: Account) -> Self {
        Self {
            writers: (0..writers).map(|_| CacheLine::default()).collect(),
            durable_events: AtomicU64::new(0),
            account: Arc::new(account),
        }
    }
}
