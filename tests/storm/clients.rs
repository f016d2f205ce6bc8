//! What all clients of the storm share: where to send, until when, and where to say what became of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::event::Random;
use crate::manager::View;
use crate::promise::Book;

/// A client that hears neither an answer nor the end of its connection for this long never will. No life of a
/// daemon, and no time without one, is as long.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
pub(crate) const BLACK_HOLE: &str = "black hole: neither an answer nor an end";

/// What a client has.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) stream: PathBuf,
    pub(crate) datagram: PathBuf,
    pub(crate) book: Book,
    pub(crate) taken: View,
    pub(crate) seed: u64,
    is_over: Arc<AtomicBool>,
}

impl Place {
    pub(crate) fn new(run: &Path, taken: View, seed: u64) -> Self {
        let (stream, datagram) = (run.join("stream.sock"), run.join("dgram.sock"));
        Self { stream, datagram, book: Book::default(), taken, seed, is_over: Arc::default() }
    }

    pub(crate) fn is_over(&self) -> bool {
        // Relaxed: a flag, and nothing that it would publish.
        self.is_over.load(Relaxed)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// A client in a thread of its own, with its own numbers from the seed.
    pub(crate) fn spawn(&self, name: &str, run: impl FnOnce(&Self, &str, Random) + Send + 'static) -> JoinHandle<()> {
        let (place, name) = (self.clone(), name.to_owned());
        thread::spawn(move || {
            let random = Random::new(place.seed, &name);
            run(&place, &name, random);
        })
    }
}

/// Rests for a part of `max` that the seed decides. Clients have a rate, or the files would grow with the machine's
/// speed.
pub(crate) fn rest(random: &mut Random, max: Duration) {
    thread::sleep(Duration::from_nanos(random.below(max.as_nanos() as u64 + 1)));
}
