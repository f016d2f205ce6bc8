//! Sends the events of `tracing` to dbufd, with their fields and those of their spans: a layer of `tracing_subscriber`.
//!
//! Input: events and spans of any thread. Output: an event of dbufd for each, by a producer of that thread. Failures:
//! those of [`crate::Producer`]; a layer has no way to return them, so they are counted ([`DbufLayer::missed`]) and
//! reported in the data. It never panics.
//!
//! The text is the payload, the level the priority. Fields are named as journald names them: `order.id = 17` is
//! found by `dbufctl cat ORDER_ID=17`. After them come TARGET, CODE_FILE and CODE_LINE, then SPAN for each span that
//! the event is in, from the outermost, each with its own fields. Records of `log` that come through the crate
//! `tracing-log` have their own target, file and line there. FIELDS_LEFT_OUT names the fields for which there was no
//! room: an event has at most 16 KiB of them.
//!
//! ```no_run
//! use tracing_subscriber::layer::SubscriberExt;
//!
//! let subscriber = tracing_subscriber::registry().with(dbuf_client::tracing::DbufLayer::new());
//! tracing::subscriber::set_global_default(subscriber).expect("the first");
//! tracing::info!(order = 17, "accepted");
//! ```

use std::fmt::{self, Debug, Write};

use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::backend::{self, Scratch};
use crate::local::Handles;
use crate::{ProducerOptions, wire};

/// What a [`DbufLayer`] is to do.
///
/// ```
/// use dbuf_client::tracing::{DbufLayer, LayerOptions};
///
/// let layer = DbufLayer::with_options(LayerOptions { prefix: "app_".into(), ..LayerOptions::default() });
/// # let _ = layer;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    /// The options of the producers, one for each thread.
    pub producer: ProducerOptions,
    /// Whether the fields TARGET, CODE_FILE and CODE_LINE say where an event comes from.
    pub location: bool,
    /// Whether SPAN and the fields of spans come after those of an event.
    pub spans: bool,
    /// A prefix of the names of all other fields.
    pub prefix: String,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { producer: ProducerOptions::default(), location: true, spans: true, prefix: String::new() }
    }
}

/// Sends each event to dbufd.
///
/// ```
/// use tracing_subscriber::layer::SubscriberExt;
///
/// let subscriber = tracing_subscriber::registry().with(dbuf_client::tracing::DbufLayer::new());
/// # let _ = subscriber;
/// ```
#[derive(Debug)]
pub struct DbufLayer {
    handles: Handles,
    options: LayerOptions,
}

/// The fields of a span, for each layer that has some.
#[derive(Debug, Default)]
struct SpanFields(Vec<(u64, Vec<u8>)>);

impl DbufLayer {
    /// A layer with the default options: the daemon that `dbufctl` finds, and the program's name as the tag.
    ///
    /// ```
    /// let layer = dbuf_client::tracing::DbufLayer::new();
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(LayerOptions::default())
    }

    /// A layer with these options.
    ///
    /// ```
    /// use dbuf_client::ProducerOptions;
    /// use dbuf_client::tracing::{DbufLayer, LayerOptions};
    ///
    /// let producer = ProducerOptions { name: "shop".into(), ..ProducerOptions::default() };
    /// let layer = DbufLayer::with_options(LayerOptions { producer, ..LayerOptions::default() });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn with_options(options: LayerOptions) -> Self {
        Self { handles: Handles::new(options.producer.clone()), options }
    }

    /// Events that could not be sent for another reason than a full ring, which the producers count. The next event
    /// reports them.
    ///
    /// ```
    /// assert_eq!(dbuf_client::tracing::DbufLayer::new().missed(), 0);
    /// ```
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.handles.missed()
    }

    fn keep<S>(&self, id: &Id, context: &Context<'_, S>, record: impl FnOnce(&mut dyn Visit))
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        if !self.options.spans {
            return;
        }
        let Some(span) = context.span(id) else { return };
        // First the values, whose formatting may do anything, then the span's lock.
        let mut scratch = Scratch::take();
        record(&mut Visitor { scratch: &mut scratch, prefix: &self.options.prefix, text: Text::IsField });
        if !scratch.fields.is_empty() {
            let mut extensions = span.extensions_mut();
            if extensions.get_mut::<SpanFields>().is_none() {
                extensions.insert(SpanFields::default());
            }
            if let Some(SpanFields(all)) = extensions.get_mut() {
                match all.iter_mut().find(|(id, _)| *id == self.handles.id()) {
                    Some((_, fields)) => {
                        // The last value counts, and a span that records for as long as a program runs stays small.
                        *fields = Scratch::without(fields, &scratch.fields);
                        fields.extend_from_slice(&scratch.fields);
                    }
                    None => all.push((self.handles.id(), scratch.fields.clone())),
                }
            }
        }
        scratch.give();
    }
}

impl Default for DbufLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for DbufLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.keep(id, &context, |visitor| attributes.record(visitor));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.keep(id, &context, |visitor| values.record(visitor));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut scratch = Scratch::take();
        let metadata = event.metadata();
        let is_bridged = bridge::is_bridged(metadata);
        let text = if is_bridged { Text::OfBridge } else { Text::IsPayload };
        event.record(&mut Visitor { scratch: &mut scratch, prefix: &self.options.prefix, text });
        if scratch.text.is_empty() {
            scratch.text.push_str(metadata.name());
        }
        if self.options.location && is_bridged {
            event.record(&mut bridge::Location(&mut scratch));
        } else if self.options.location {
            scratch.put("", "TARGET", metadata.target());
            if let Some(file) = metadata.file() {
                scratch.put("", "CODE_FILE", file);
            }
            if let Some(line) = metadata.line() {
                scratch.put("", "CODE_LINE", line);
            }
        }
        if self.options.spans
            && let Some(scope) = context.event_scope(event)
        {
            for span in scope.from_root() {
                scratch.put("", "SPAN", span.name());
                let extensions = span.extensions();
                let kept = extensions.get::<SpanFields>().map_or(&[][..], |SpanFields(all)| all);
                let own = kept.iter().filter(|(id, _)| *id == self.handles.id());
                for (name, value) in own.flat_map(|(_, fields)| wire::fields(fields)) {
                    scratch.put_bytes(name, value);
                }
            }
        }
        scratch.finish();
        let pri = priority(metadata.level());
        let payload = scratch.text.as_bytes();
        backend::deliver(&self.handles, &wire::Event { pri, fields: &scratch.fields, payload, ..Default::default() });
        scratch.give();
    }
}

/// The priority of a level, as sd-daemon(3) numbers them.
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What becomes of the value that is called `message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    IsPayload,
    IsField,
    /// As `IsPayload`; and what the bridge from `log` says of the record's place is not repeated as fields.
    OfBridge,
}

#[derive(Debug)]
struct Visitor<'a> {
    scratch: &'a mut Scratch,
    prefix: &'a str,
    text: Text,
}

impl Visitor<'_> {
    fn put(&mut self, field: &Field, value: impl fmt::Display) {
        if self.text == Text::OfBridge && field.name().starts_with(bridge::PREFIX) {
            return;
        }
        if self.text != Text::IsField && field.name() == "message" {
            // If formatting fails, what came before the failure is the text.
            let _ = write!(self.scratch.text, "{value}");
        } else {
            self.scratch.put(self.prefix, field.name(), value);
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value);
    }
}

/// Records of `log` that come through the crate `tracing-log`: each is an event of one place in that crate, with the
/// record's own place as fields. Known by their names, so that this crate need not depend on that one.
mod bridge {
    use std::fmt::Debug;

    use tracing_core::Metadata;
    use tracing_core::field::{Field, Visit};

    use crate::backend::Scratch;

    /// What the names of its fields begin with.
    pub(super) const PREFIX: &str = "log.";

    pub(super) fn is_bridged(metadata: &Metadata<'_>) -> bool {
        metadata.name() == "log event" && metadata.target() == "log" && metadata.fields().field("log.target").is_some()
    }

    /// Puts the record's place where that of an event stands.
    pub(super) struct Location<'a>(pub(super) &'a mut Scratch);

    impl Visit for Location<'_> {
        fn record_str(&mut self, field: &Field, value: &str) {
            match field.name() {
                "log.target" => self.0.put("", "TARGET", value),
                "log.file" => self.0.put("", "CODE_FILE", value),
                _ => {}
            }
        }

        fn record_u64(&mut self, field: &Field, value: u64) {
            if field.name() == "log.line" {
                self.0.put("", "CODE_LINE", value);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    }
}
