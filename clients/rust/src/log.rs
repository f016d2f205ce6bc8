//! Sends the records of the crate `log` to dbufd, with their values as fields.
//!
//! Input: records of any thread. Output: an event for each, by a producer of that thread. Failures: those of
//! [`crate::Producer`]; `log` has no way to return them, so they are counted ([`Logger::missed`]) and reported in the
//! data. It never panics.
//!
//! The text is the payload, the level the priority. Values are fields, named as journald names them:
//! `order_id = 17` is found by `dbufctl cat ORDER_ID=17`. TARGET, CODE_FILE and CODE_LINE say where the record comes
//! from. FIELDS_LEFT_OUT names the fields for which there was no room: an event has at most 16 KiB of them.
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
///
/// ```
/// use dbuf_client::ProducerOptions;
/// use dbuf_client::log::LogOptions;
///
/// let producer = ProducerOptions { name: "shop".into(), ..ProducerOptions::default() };
/// let options = LogOptions { producer, level: log::LevelFilter::Debug, ..LogOptions::default() };
/// assert!(options.location);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The options of the producers, one for each thread.
    pub producer: ProducerOptions,
    /// Records beyond this level are not sent.
    pub level: LevelFilter,
    /// Whether the fields TARGET, CODE_FILE and CODE_LINE say where a record comes from.
    pub location: bool,
    /// A prefix of the names of all other fields.
    pub prefix: String,
}

impl Default for LogOptions {
    fn default() -> Self {
        let (producer, prefix) = (ProducerOptions::default(), String::new());
        Self { producer, level: LevelFilter::Info, location: true, prefix }
    }
}

/// Sends each record to dbufd.
///
/// ```no_run
/// use dbuf_client::log::{LogOptions, Logger};
/// use log::{Level, Log, Record};
///
/// let logger = Logger::new(LogOptions::default());
/// logger.log(&Record::builder().level(Level::Info).args(format_args!("order 17 accepted")).build());
/// ```
#[derive(Debug)]
pub struct Logger {
    handles: Handles,
    options: LogOptions,
}

/// Installs a [`Logger`] with these options as the program's logger.
///
/// # Errors
/// When the program has a logger already.
///
/// ```no_run
/// dbuf_client::log::init(dbuf_client::log::LogOptions::default())?;
/// log::warn!(order = 17; "card refused");
/// # Ok::<(), log::SetLoggerError>(())
/// ```
pub fn init(options: LogOptions) -> Result<(), SetLoggerError> {
    let level = options.level;
    ::log::set_boxed_logger(Box::new(Logger::new(options)))?;
    ::log::set_max_level(level);
    Ok(())
}

impl Logger {
    /// A logger to be installed, or to be called by another one.
    ///
    /// ```
    /// use dbuf_client::log::{LogOptions, Logger};
    /// use log::Log;
    ///
    /// let logger = Logger::new(LogOptions::default());
    /// assert!(logger.enabled(&log::Metadata::builder().level(log::Level::Info).build()));
    /// ```
    #[must_use]
    pub fn new(options: LogOptions) -> Self {
        Self { handles: Handles::new(options.producer.clone()), options }
    }

    /// Records that could not be sent for another reason than a full ring, which the producers count. The next event
    /// reports them.
    ///
    /// ```
    /// let logger = dbuf_client::log::Logger::new(dbuf_client::log::LogOptions::default());
    /// assert_eq!(logger.missed(), 0);
    /// ```
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
        // If formatting fails, what came before the failure is the text.
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
