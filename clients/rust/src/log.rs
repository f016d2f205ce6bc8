//! Records of `log`, sent to dbufd with their values: a backend.
//!
//! Enters: records of any thread. Leaves: an event for each, by a producer of that thread. What can fail: what
//! [`crate::Producer`] can; nobody is told, but it is counted. It never panics, and sends nothing of its own.
//!
//! The text is the payload, the level the priority. Values are fields, named as journald would have them:
//! `order_id = 17` is found by `dbufctl cat ORDER_ID=17`. Next to them stand TARGET, CODE_FILE and CODE_LINE.
//!
//! ```no_run
//! dbuf_client::log::init(dbuf_client::log::LogOptions::default()).expect("the first");
//! log::info!(order = 17; "accepted");
//! ```

use std::fmt::Write;

use ::log::kv::{self, Key, Value, VisitSource};
use ::log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::backend::{self, Scratch};
use crate::local::Handles;
use crate::{ProducerOptions, wire};

/// What a [`Logger`] is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// What the producers are to be, one for each thread.
    pub producer: ProducerOptions,
    /// Records beyond this level are not sent.
    pub level: LevelFilter,
    /// Whether TARGET, CODE_FILE and CODE_LINE say where a record comes from.
    pub location: bool,
    /// What the names of all fields but those begin with.
    pub prefix: String,
}

impl Default for LogOptions {
    fn default() -> Self {
        let (producer, prefix) = (ProducerOptions::default(), String::new());
        Self { producer, level: LevelFilter::Info, location: true, prefix }
    }
}

/// Sends each record to dbufd.
#[derive(Debug)]
pub struct Logger {
    handles: Handles,
    options: LogOptions,
}

/// Makes a [`Logger`] with these options the program's.
///
/// # Errors
/// When the program has one already.
pub fn init(options: LogOptions) -> Result<(), SetLoggerError> {
    let level = options.level;
    ::log::set_boxed_logger(Box::new(Logger::new(options)))?;
    ::log::set_max_level(level);
    Ok(())
}

impl Logger {
    /// One that is to be handed to `log`, or to something in front of that.
    #[must_use]
    pub fn new(options: LogOptions) -> Self {
        Self { handles: Handles::new(options.producer.clone()), options }
    }

    /// Records that could not be sent for another reason than a full ring, which the producers count.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.handles.missed()
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.options.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut scratch = Scratch::take();
        // What cannot be formatted is as far as it came.
        let _ = write!(scratch.text, "{}", record.args());
        // The visitor takes every value.
        let _ = record.key_values().visit(&mut Values { scratch: &mut scratch, prefix: &self.options.prefix });
        if scratch.text.is_empty() {
            scratch.text.push_str(record.target());
        }
        if self.options.location {
            scratch.put("", "TARGET", record.target());
            if let Some(file) = record.file() {
                scratch.put("", "CODE_FILE", file);
            }
            if let Some(line) = record.line() {
                scratch.put("", "CODE_LINE", line);
            }
        }
        scratch.finish();
        let pri = priority(record.level());
        let payload = scratch.text.as_bytes();
        backend::deliver(&self.handles, &wire::Event { pri, fields: &scratch.fields, payload, ..Default::default() });
        scratch.give();
    }

    /// Does what this thread's producer can do without waiting.
    fn flush(&self) {
        self.handles.with(crate::Producer::tend);
    }
}

/// The priority of a level, as sd-daemon(3) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

struct Values<'a> {
    scratch: &'a mut Scratch,
    prefix: &'a str,
}

impl<'a> VisitSource<'a> for Values<'_> {
    fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), kv::Error> {
        self.scratch.put(self.prefix, key.as_str(), value);
        Ok(())
    }
}
