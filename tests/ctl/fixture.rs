//! Segments made from events, and dbufctl run over them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dbufd::config::settings::{Config, Storage, SyncPolicy};
use dbufd::pipeline::record::{Event, Kind, Loss, PerSource, Piece, Record, Source, encode_loss, encode_source};
use dbufd::pipeline::store::{BatchView, RealDisk, RunView, Store, StoreOptions};
use dbufd::sync::Arc;

/// 2026-11-23 05:13:16 UTC, in nanoseconds.
pub(crate) const START_NS: u64 = 1_795_410_796_000_000_000;
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// A directory of segments in the making, with the places that a daemon would have.
pub(crate) struct Fixture {
    root: tempfile::TempDir,
    store: Option<Store>,
    generation: u64,
    piece: u64,
}

/// One run of a batch in the making.
pub(crate) struct Run {
    bytes: Vec<u8>,
    piece: u64,
}

impl Run {
    fn new(source: &Source<'_>, piece: u64) -> Self {
        let mut bytes = Vec::new();
        encode_source(&mut bytes, 0, START_NS, source);
        Self { bytes, piece }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>) -> &mut Self {
        event.encode(&mut self.bytes);
        self
    }

    pub(crate) fn text(&mut self, second: u64, text: &str) -> &mut Self {
        let time_ns = START_NS + second * SECOND_NS;
        self.event(&Event { time_ns, pri: 6, payload: text.as_bytes(), ..Event::default() })
    }

    pub(crate) fn loss(&mut self, second: u64, loss: &Loss) -> &mut Self {
        encode_loss(&mut self.bytes, 0, START_NS + second * SECOND_NS, loss);
        self
    }

    /// An event in pieces.
    pub(crate) fn pieces(&mut self, second: u64, pieces: &[&str]) -> &mut Self {
        for (index, text) in pieces.iter().enumerate() {
            self.piece(second, self.piece, (index == 0, index + 1 == pieces.len()), text);
        }
        self
    }

    /// A piece; whether it is the first and the last of its event.
    pub(crate) fn piece(&mut self, second: u64, id: u64, (first, last): (bool, bool), text: &str) -> &mut Self {
        let time_ns = START_NS + second * SECOND_NS;
        let piece = Some(Piece { id, continued: !first, continues: !last });
        self.event(&Event { time_ns, pri: 6, piece, payload: text.as_bytes(), ..Event::default() })
    }
}

pub(crate) fn source(tag: &str, pid: u32) -> Source<'_> {
    Source { pid, uid: 1000, gid: 1000, tag: tag.as_bytes(), comm: b"prog", unit: b"app.service", ..Source::default() }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut fixture = Self { root, store: None, generation: 0, piece: 0 };
        fixture.open();
        fixture
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.root.path().join("segments")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.path().join("run")
    }

    pub(crate) fn open(&mut self) {
        std::fs::create_dir_all(self.runtime()).unwrap();
        let defaults = Config::default().storage;
        let storage =
            Storage { directory: self.directory(), retain: None, min_free: None, sync: SyncPolicy::Never, ..defaults };
        let options = StoreOptions {
            storage,
            on_durable: Box::new(|_| ()),
            on_broken: Box::new(|_| ()),
            on_delete: Box::new(|_| ()),
        };
        self.store = Some(Store::open(options, Arc::new(RealDisk)).unwrap().0);
    }

    /// Appends one batch of one run.
    pub(crate) fn batch(&mut self, source: &Source<'_>, fill: impl FnOnce(&mut Run)) -> &mut Self {
        self.generation += 1;
        self.piece += 1;
        let mut run = Run::new(source, self.piece);
        fill(&mut run);
        let slices = [&run.bytes[..]];
        let (mut events, mut payload_bytes) = (0, 0);
        let (mut time_min_ns, mut time_max_ns) = (u64::MAX, 0);
        let mut sources = PerSource::default();
        let mut rest = slices[0];
        while !rest.is_empty() {
            let (record, bytes) = Record::decode(rest).unwrap();
            events += record.event_count() as u32;
            payload_bytes += if record.event_count() > 0 { record.payload().len() as u64 } else { 0 };
            if record.kind == Kind::Source {
                sources.introduce(record);
            } else {
                if record.kind == Kind::Event {
                    sources.add(record.source, record.event_count() as u64, record.payload_bytes() as u64);
                }
                time_min_ns = time_min_ns.min(record.time_ns);
                time_max_ns = time_max_ns.max(record.time_ns);
            }
            rest = &rest[bytes..];
        }
        let runs = [RunView { writer: 0, events, slices: &slices }];
        let generation = self.generation;
        let (sources, runs, content_crc) = (sources.all(), &runs, crc32c::crc32c(slices[0]));
        let view = BatchView {
            generation,
            events,
            payload_bytes,
            time_min_ns,
            time_max_ns,
            content_crc,
            incompat: 0,
            runs,
            sources,
        };
        self.store().append(&view).unwrap();
        self
    }

    /// One event a second, with these texts.
    pub(crate) fn texts(&mut self, tag: &str, first_second: u64, texts: &[&str]) -> &mut Self {
        self.batch(&source(tag, 7), |run| {
            for (second, text) in (first_second..).zip(texts) {
                run.text(second, text);
            }
        })
    }

    pub(crate) fn rotate(&mut self) -> &mut Self {
        self.store().rotate().unwrap();
        self
    }

    pub(crate) fn close(&mut self) -> &mut Self {
        self.store.take().unwrap().close().unwrap();
        self
    }

    /// The stream of the segments, as the daemon writes it.
    pub(crate) fn stream(&mut self) -> String {
        format!("{:032x}", self.store().stream_id())
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// The files, by name.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(self.directory())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('0'))
            .collect();
        files.sort();
        files
    }

    /// A dbufctl that looks at this directory and at no other daemon.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = command(self.root.path(), line);
        command.arg("--directory").arg(self.directory()).arg("--runtime").arg(self.runtime());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line).output().unwrap())
    }

    /// The same as a user to whom the modes of files apply: this one, or `nobody` in place of root.
    pub(crate) fn run_without_privileges(&self, line: &str) -> Ran {
        let mut command = self.command(line);
        if is_root() {
            // A copy, because the user may not enter the directory that the program was built in. Made by another
            // process: a child that this one forks meanwhile would hold it open for writing, and then it cannot run.
            let copy = self.root.path().join("dbufctl");
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_dbufctl")).arg(&copy).status().unwrap();
            assert!(copied.success());
            std::fs::set_permissions(self.root.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            command = Command::new(copy);
            command.env_clear().args(arguments).uid(NOBODY).gid(NOBODY);
        }
        Ran::of(command.output().unwrap())
    }
}

/// The number of `nobody`, and of its group.
const NOBODY: u32 = 65_534;

pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// A dbufctl that sees nothing of the machine it runs on.
pub(crate) fn command(home: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
    command.env_clear().env("TZ", "UTC").env("HOME", home).env("XDG_RUNTIME_DIR", home).args(line.split_whitespace());
    command
}

/// What dbufctl said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Standard output of a run that went well.
    #[track_caller]
    pub(crate) fn fine(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// Standard error, one line, of a run that ended with `code`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{} {}", self.out, self.err);
        assert!(self.err.starts_with("dbufctl: ") && self.err.lines().count() == 1, "{:?}", self.err);
        self.err
    }
}

/// Answers one question after the other with `answer`, until the test ends.
pub(crate) fn serve(runtime: &Path, answer: impl Fn(&str) -> String + Send + 'static) {
    let listener = UnixListener::bind(runtime.join("control.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request: serde_json::Value = serde_json::from_str(&line).unwrap();
            stream.write_all(format!("{}\n", answer(request["command"].as_str().unwrap())).as_bytes()).unwrap();
        }
    });
}
