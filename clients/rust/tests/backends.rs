//! Tests the producers that threads have of their own: `local`, behind `tracing`, behind `log`.

mod daemon;

use std::sync::Arc;

use daemon::{Came, Daemon, TIMEOUT, texts};
use dbuf_client::local::{self, Handles};
use dbuf_client::wire::{Event, feature};
use dbuf_client::{LinkKind, ProducerOptions, SendError, WithoutDaemon};

fn by_frames(daemon: &Daemon) -> ProducerOptions {
    ProducerOptions { ring: false, close_wait: TIMEOUT, ..daemon.options() }
}

/// What comes of `work`, which a thread of its own does; that thread's end is the end of its producer.
fn events_of(daemon: &Daemon, work: impl FnOnce() + Send) -> Vec<Came> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        let mut talk = daemon.accept();
        talk.welcome(0, feature::FIELDS);
        let came = talk.events_until_bye();
        worker.join().unwrap();
        came
    })
}

#[test]
fn each_thread_has_its_own_producer_which_ends_with_it() {
    let daemon = Daemon::new();
    assert!(local::configure(by_frames(&daemon)));
    for thread in ["one", "two"] {
        let came = events_of(&daemon, || {
            dbuf_client::log(3, thread.as_bytes()).unwrap();
            local::with(|producer| producer.send(4, b"again")).unwrap().unwrap();
        });
        assert_eq!((texts(&came), came[0].pri, came[1].sequence), (vec![thread, "again"], 3, 2));
    }
    assert!(!local::configure(ProducerOptions::default()), "they are in use");
}

#[test]
fn a_producer_that_is_in_use_or_cannot_be_opened_is_no_panic() {
    let daemon = Daemon::absent();
    let handles = Handles::new(daemon.options());
    let event = Event { pri: 6, payload: b"x", ..Event::default() };
    let within = handles.with(|_| (handles.send(&event), handles.with(|_| ())));
    assert_eq!(within, Some((Err(SendError::NoProducer), None)));
    assert_eq!(handles.with(|producer| producer.statistics().link), Some(LinkKind::None));
    let failing = Handles::new(ProducerOptions { without_daemon: WithoutDaemon::Fail, ..daemon.options() });
    assert_eq!((failing.send(&event), failing.send(&event)), (Err(SendError::NoProducer), Err(SendError::NoProducer)));
}

#[test]
fn handles_that_are_dropped_close_the_producers_of_all_threads() {
    let daemon = Daemon::new();
    let handles = Arc::new(Handles::new(by_frames(&daemon)));
    let others = Handles::new(daemon.options());
    let event = Event { pri: 6, payload: b"x", ..Event::default() };
    std::thread::scope(|scope| {
        // Here, so that a test that fails lets its thread go.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (own, others) = (Arc::clone(&handles), &others);
        scope.spawn(move || {
            own.send(&event).unwrap();
            drop(own);
            wait.recv().unwrap();
            others.send(&event).unwrap();
            // The thread lives on, until the test has seen that its first producer has ended.
            wait.recv().unwrap();
        });
        let mut of_worker = daemon.accept();
        of_worker.welcome(0, feature::FIELDS);
        assert_eq!(texts(&of_worker.events(1)), ["x"]);
        let player = scope.spawn(|| {
            let mut talk = daemon.accept();
            talk.welcome(0, feature::FIELDS);
            talk.events_until_bye()
        });
        handles.send(&event).unwrap();
        while Arc::strong_count(&handles) > 1 {
            std::thread::yield_now();
        }
        drop(handles);
        assert_eq!(texts(&player.join().unwrap()), ["x"], "this thread's at once");
        go.send(()).unwrap();
        assert!(of_worker.events_until_bye().is_empty(), "the other thread's at its next event");
        go.send(()).unwrap();
    });
}

#[cfg(feature = "tracing")]
mod with_tracing {
    use super::*;
    use dbuf_client::tracing::{DbufLayer, LayerOptions};
    use tracing_subscriber::layer::SubscriberExt;

    fn events_with(options: LayerOptions, daemon: &Daemon, work: impl FnOnce() + Send) -> Vec<Came> {
        let producer = by_frames(daemon);
        let layer = DbufLayer::with_options(LayerOptions { producer, ..options });
        let subscriber = tracing_subscriber::registry().with(layer);
        events_of(daemon, || tracing::subscriber::with_default(subscriber, work))
    }

    #[test]
    fn an_event_has_its_text_its_level_and_its_fields() {
        let daemon = Daemon::new();
        let came = events_with(LayerOptions::default(), &daemon, || {
            let error = std::io::Error::other("no paper");
            let error: &dyn std::error::Error = &error;
            let who = "ann";
            tracing::error!(order.id = 17, ok = false, share = 0.5, ?who, name = "bob", error, "card of {} refused", 3);
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
            tracing::trace!("t");
        });
        assert_eq!(texts(&came), ["card of 3 refused", "w", "i", "d", "t"]);
        assert_eq!(came.iter().map(|came| came.pri).collect::<Vec<_>>(), [3, 4, 6, 7, 7]);
        let fields = [
            ("ORDER_ID", "17"),
            ("OK", "false"),
            ("SHARE", "0.5"),
            ("WHO", "\"ann\""),
            ("NAME", "bob"),
            ("ERROR", "no paper"),
            ("TARGET", "backends::with_tracing"),
        ];
        for (name, value) in fields {
            assert_eq!(came[0].field(name), Some(value), "{name}");
        }
        assert!(came[0].field("CODE_FILE").unwrap().ends_with("backends.rs"));
        assert!(came[0].field("CODE_LINE").unwrap().parse::<u32>().unwrap() > 50);
        assert_eq!(came[0].field("MESSAGE"), None);
    }

    #[test]
    fn an_event_has_the_names_and_fields_of_its_spans_from_the_outermost() {
        let daemon = Daemon::new();
        let came = events_with(LayerOptions::default(), &daemon, || {
            let outer = tracing::info_span!("request", id = 7, user = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("user", "ann");
            tracing::info_span!("query", table = "orders").in_scope(|| tracing::info!(rows = 3, "done"));
            tracing::info!("outside");
        });
        let of = |came: &Came| {
            let own = came.fields.iter().filter(|(name, _)| !name.starts_with("CODE") && name != "TARGET");
            own.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(of(&came[0]), ["ROWS=3", "SPAN=request", "ID=7", "USER=ann", "SPAN=query", "TABLE=orders"]);
        assert_eq!(of(&came[1]), ["SPAN=request", "ID=7", "USER=ann"]);
    }

    #[test]
    fn a_field_that_a_span_records_again_and_again_stands_once_with_its_last_value() {
        let daemon = Daemon::new();
        let came = events_with(LayerOptions::default(), &daemon, || {
            let span = tracing::info_span!("request", step = 0, user = tracing::field::Empty);
            let _span = span.enter();
            for step in 1..10_000 {
                span.record("step", step);
            }
            span.record("user", "ann");
            tracing::info!("done");
        });
        let of_span = came[0].fields.iter().skip_while(|(name, _)| name != "SPAN").map(|(_, value)| value.as_str());
        assert_eq!(of_span.collect::<Vec<_>>(), ["request", "9999", "ann"]);
    }

    #[test]
    fn a_record_of_log_says_where_it_comes_from_and_not_that_it_came_through_a_bridge() {
        let daemon = Daemon::new();
        let came = events_with(LayerOptions::default(), &daemon, || {
            let record = |location: bool| {
                let mut record = log::Record::builder();
                record.level(log::Level::Warn).target("shop::orders").args(format_args!("card refused"));
                if location {
                    record.module_path(Some("shop")).file(Some("orders.rs")).line(Some(9));
                }
                tracing_log::format_trace(&record.build()).unwrap();
            };
            record(true);
            record(false);
            tracing::info!(target: "log", { log.target = "own" }, "of the program");
        });
        let fields =
            |came: &Came| came.fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!((came[0].text(), came[0].pri), ("card refused", 4));
        assert_eq!(fields(&came[0]), ["TARGET=shop::orders", "CODE_FILE=orders.rs", "CODE_LINE=9"]);
        assert_eq!(fields(&came[1]), ["TARGET=shop::orders"]);
        assert_eq!((came[2].field("TARGET"), came[2].field("LOG_TARGET")), (Some("log"), Some("own")));
    }

    #[test]
    fn options_say_what_stands_beside_the_text() {
        let daemon = Daemon::new();
        let options = LayerOptions { location: false, spans: false, prefix: "app_".into(), ..LayerOptions::default() };
        let came = events_with(options, &daemon, || {
            tracing::info_span!("request", id = 7).in_scope(|| tracing::info!(rows = 3, "done"));
            tracing::info!(rows = 4);
        });
        assert_eq!(came[0].fields, [("APP_ROWS".into(), "3".into())]);
        assert!(came[1].text().starts_with("event "), "an event without text has its place: {}", came[1].text());
    }

    #[test]
    fn what_is_too_large_is_cut_and_says_so() {
        let daemon = Daemon::new();
        let came = events_with(LayerOptions::default(), &daemon, || {
            tracing::info!(large = "x".repeat(20_000), small = 1, "{}", "\u{e4}".repeat(50_000));
            tracing::info!("y{}", "\u{e4}".repeat(50_000));
        });
        assert!(came.iter().all(|came| !came.text().contains('\u{fffd}')), "and not in the middle of a character");
        let text = came[0].text();
        assert!(
            text.len() <= 32 << 10 && text.starts_with('\u{e4}') && text.ends_with(" bytes cut]"),
            "{}",
            text.len()
        );
        assert_eq!((came[0].field("LARGE"), came[0].field("SMALL")), (None, Some("1")));
        assert_eq!((came[0].field("FIELDS_LEFT_OUT"), came[1].field("FIELDS_LEFT_OUT")), (Some("LARGE"), None));
    }

    #[test]
    fn a_value_that_sends_events_while_it_is_formatted_disturbs_nothing() {
        struct Talker;
        impl std::fmt::Debug for Talker {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                tracing::info!("within");
                f.write_str("talker")
            }
        }
        let daemon = Daemon::new();
        let came =
            events_with(LayerOptions::default(), &daemon, || tracing::info!(a = 1, who = ?Talker, b = 2, "outer"));
        let outer = came.iter().find(|came| came.text() == "outer").unwrap();
        assert_eq!((outer.field("A"), outer.field("WHO"), outer.field("B")), (Some("1"), Some("talker"), Some("2")));
    }
}

#[cfg(feature = "log")]
mod with_log {
    use super::*;
    use dbuf_client::log::{LogOptions, Logger};
    use log::{Level, LevelFilter, Log, Record};

    #[test]
    fn a_record_has_its_text_its_level_and_its_values() {
        let daemon = Daemon::new();
        let producer = by_frames(&daemon);
        let logger = Logger::new(LogOptions { producer, level: LevelFilter::Debug, ..LogOptions::default() });
        let came = events_of(&daemon, || {
            let values = [("order.id", 17), ("attempts", 3)];
            for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
                logger.log(
                    &Record::builder()
                        .level(level)
                        .target("shop::orders")
                        .file(Some("orders.rs"))
                        .line(Some(9))
                        .key_values(&values)
                        .args(format_args!("card of {} refused", 3))
                        .build(),
                );
            }
            logger.log(&Record::builder().level(Level::Info).target("shop").build());
            logger.flush();
        });
        assert_eq!(came.iter().map(|came| came.pri).collect::<Vec<_>>(), [3, 4, 6, 7, 6], "trace is beyond the level");
        assert_eq!(texts(&came)[3..], ["card of 3 refused", "shop"]);
        let fields = came[0].fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        assert_eq!(fields, ["ORDER_ID=17", "ATTEMPTS=3", "TARGET=shop::orders", "CODE_FILE=orders.rs", "CODE_LINE=9"]);
        assert_eq!(logger.missed(), 0);
    }

    #[test]
    fn a_record_that_cannot_be_sent_is_counted() {
        let daemon = Daemon::absent();
        let producer = ProducerOptions { without_daemon: WithoutDaemon::Fail, ..daemon.options() };
        let logger = Logger::new(LogOptions { producer, ..LogOptions::default() });
        logger.log(&Record::builder().level(Level::Info).args(format_args!("x")).build());
        assert_eq!(logger.missed(), 1);
    }

    #[test]
    fn a_record_that_could_not_be_sent_is_reported_in_the_data() {
        let daemon = Daemon::new();
        let logger = Logger::new(LogOptions { producer: by_frames(&daemon), ..LogOptions::default() });
        let came = events_of(&daemon, || {
            logger.log(&Record::builder().level(Level::Info).target("").args(format_args!("")).build());
            logger.log(&Record::builder().level(Level::Info).args(format_args!("next")).build());
        });
        let report = came.iter().find(|came| came.field("LOST_EVENTS").is_some()).expect("a report");
        assert_eq!(report.text(), "1 event (0 bytes) was lost before it reached dbufd");
        assert_eq!((came.len(), logger.missed()), (2, 1));
    }
}
