//! Assembles the pipeline: double buffer, counters, progress and the reader thread, in the order of their dependencies.
//!
//! Input: the memory that events pass through, new or inherited, and the settings. Output: a running reader, and what
//! writers need to send to it. Thread: the caller's. Failure: [`AssemblyError`]; nothing runs then.
//!
//! The daemon and `dbufctl bench --via buffer` both start here, so a benchmark measures the daemon's own pipeline.

use std::io;

use thiserror::Error;

use super::accept::limits;
use super::buffer::{self, DoubleBuffer};
use super::counters::Counters;
use super::drain::{self, Drain, Old, Settings};
use super::progress::Progress;
use super::record;
use super::shares::front_half::FrontBudget;
use super::store::{RealDisk, Recovery};
use crate::options;
use crate::sync::Arc;

// The configuration must not allow more than the pipeline can do.
const _: () = assert!(options::EVENT_BYTES_MAX == record::MAX_EVENT_BYTES_MAX);
const _: () = assert!(options::RINGS_MAX == limits::RINGS_MAX);

/// The memory that events pass through.
pub struct Memory {
    /// The writing end of the double buffer.
    pub buffer: DoubleBuffer,
    /// The reading end.
    pub reader: buffer::Reader,
    /// The account of events and the counters.
    pub counters: Arc<Counters>,
    /// How far events are stored and durable.
    pub progress: Arc<Progress>,
    /// Buffers of previous processes. The reader persists them first.
    pub old: Vec<Old>,
    /// Whether a previous process has left anything. If so, its last writes may not be durable yet.
    pub has_previous: bool,
    /// Whether this memory outlives the process.
    pub outlives: bool,
    /// Where the reader says how much of the front half the users may fill.
    pub front_budget: Arc<FrontBudget>,
}

impl Memory {
    /// Creates memory that ends with the process.
    ///
    /// # Errors
    /// The options make no sense, or there is no memory.
    pub fn new(options: &buffer::Options) -> Result<Self, AssemblyError> {
        let (buffer, reader) = DoubleBuffer::new(options)?;
        let writers = options.writers_max;
        let counters = Arc::new(Counters::new(writers).map_err(AssemblyError::Counters)?);
        let progress = Arc::new(Progress::new(writers).map_err(AssemblyError::Progress)?);
        Ok(Self {
            buffer,
            reader,
            counters,
            progress,
            old: Vec::new(),
            has_previous: false,
            outlives: false,
            front_budget: Arc::default(),
        })
    }
}

/// Why the pipeline could not be assembled.
#[derive(Debug, Error)]
pub enum AssemblyError {
    /// The double buffer.
    #[error(transparent)]
    Buffer(#[from] buffer::BuildError),
    /// The memory of the counters.
    #[error("cannot allocate the counters: {0}; free some memory, or lower writers.count")]
    Counters(#[source] io::Error),
    /// The descriptors that wake writers, and the memory of what is lost.
    #[error("cannot create the eventfds of the writers: {0}; free some memory, or raise LimitNOFILE= (ulimit -n)")]
    Progress(#[source] io::Error),
    /// The reader.
    #[error(transparent)]
    Reader(#[from] drain::DrainError),
}

/// A pipeline whose reader runs.
pub struct Pipeline {
    /// The double buffer, which writers publish to.
    pub buffer: DoubleBuffer,
    /// The account of events and the counters.
    pub counters: Arc<Counters>,
    /// How far events are stored and durable.
    pub progress: Arc<Progress>,
    /// The reader.
    pub drain: Drain,
}

impl Pipeline {
    /// Recovers the segments and starts the reader on `memory`, pinned to the core `cpu` if there is one.
    ///
    /// # Errors
    /// There are no descriptors, no thread, or the directory of segments cannot be used.
    pub fn start(memory: Memory, settings: Settings, cpu: Option<usize>) -> Result<(Self, Recovery), AssemblyError> {
        let Memory { buffer, reader, counters, progress, old, has_previous, outlives, front_budget } = memory;
        let (drain, recovery) = Drain::start(drain::DrainOptions {
            reader,
            waker: buffer.waker(),
            old,
            has_previous,
            outlives,
            disk: Arc::new(RealDisk),
            counters: Arc::clone(&counters),
            progress: Arc::clone(&progress),
            front_budget,
            settings,
            cpu,
        })?;
        Ok((Self { buffer, counters, progress, drain }, recovery))
    }
}
