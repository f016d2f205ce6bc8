//! The one table of commands: parser, help, man pages and completions come from it.
//!
//! Enters: words of a command line. Leaves: [`Cli`]. What can fail: the words; see [`parse`].

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::bench::BenchArgs;
use super::completions::CompletionsArgs;
use super::context::When;
use super::failure::complain;
use super::pages::ManArgs;
use super::select::{Cursor, priority, when};
use super::send::SendArgs;

/// The heading of what every command understands.
const COMMON: &str = "Common options";
/// For what follows the filters and is none: their heading would go on.
const NO_HEADING: Option<&str> = None;

/// dbufctl
#[derive(Debug, Parser)]
#[command(
    name = "dbufctl",
    version,
    about = "Read what dbufd has stored, and ask the daemon",
    after_help = "Examples:\n  dbufctl tail                        the last events, then new ones\n  \
                  dbufctl cat --since -1h -p warning  warnings and worse, last hour\n  \
                  dbufctl stats                       what the daemon counts\n\n\
                  Without --directory, commands that read files take the directory that the running daemon names, \
                  and without a daemon the default one.\n\n\
                  Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 damage or loss in the data read, 4 no daemon answers.",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Where the daemon's sockets are
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub runtime: Option<PathBuf>,
    /// Where the segments are
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
    /// Whether to use colors
    #[arg(long, global = true, help_heading = COMMON, value_name = "WHEN", value_enum, default_value_t)]
    pub color: When,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What dbufctl can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print events, oldest first
    #[command(
        after_help = "Examples:\n  dbufctl cat -n 100 -t backup\n  dbufctl cat --since today --until -10min -p err -o json\n  \
                            dbufctl cat -r -g 'time.?out' -u nginx\n  dbufctl cat ORDER=17 _UID=1000\n  dbufctl cat old.segment\n\n\
                            FIELD=VALUE is any name that -o json prints; different names must all be there, of one that is \
                            given more than once any value may."
    )]
    Cat(CatArgs),
    /// Print the last events, then new ones as they come, until Ctrl-C
    #[command(after_help = "Example:\n  dbufctl tail -n 50 -u nginx -p warning")]
    Tail(TailArgs),
    /// List the files: what they hold and in which state they are
    #[command(after_help = "Example:\n  dbufctl segments --json | jq '.[] | select(.state == \"torn\")'")]
    Segments(JsonArgs),
    /// Check every byte of every file
    #[command(
        after_help = "Example:\n  dbufctl verify && echo all is well\n\nExit code 3 if anything is damaged, torn or missing, or if the files tell of lost events."
    )]
    Verify(VerifyArgs),
    /// Prove what became of every event: for each producer, sent = stored + lost + in memory
    #[command(
        after_help = "Examples:\n  dbufctl account\n  dbufctl account --json | jq '.producers[] | select(.lost_total > 0)'\n\n\
                      Every event in the files is counted, and held against what the daemon has counted when the events \
                      came in and when they were written. Without a daemon the files speak alone.\n\n\
                      Exit code 3 if events were lost, if anything is damaged or missing, or if it does not add up."
    )]
    Account(ObjectArgs),
    /// Send one event, or one for each line of standard input
    #[command(after_help = "Examples:\n  dbufctl send -t backup -p notice 'done after 3 h'\n  \
                      dbufctl send -F ORDER=17 -F CUSTOMER=4711 'card refused'\n  \
                      journalctl -o cat -n 1000 | dbufctl send -t old --sync")]
    Send(SendArgs),
    /// Measure: send seeded blocks, and prove that each arrived once
    #[command(
        after_help = "Examples:\n  dbufctl bench                                  in this process, no daemon\n  \
                            dbufctl bench --via lines --writers 2 --size 100..100 --events 1000000\n  \
                            dbufctl bench --via ring --writers 2 --size 100..100\n  \
                            dbufctl bench --via frames --rate 5000 --duration 30s --json\n\n\
                            Exit code 1 if the proof fails."
    )]
    Bench(BenchArgs),
    /// Show what the daemon counts
    #[command(after_help = "Examples:\n  dbufctl stats --watch\n  dbufctl stats --json | jq .events\n  \
                            dbufctl stats --prometheus >/var/lib/prometheus/node-exporter/dbufd.prom")]
    Stats(StatsArgs),
    /// Seal the active file and begin a new one
    #[command(after_help = "Example:\n  dbufctl rotate && dbufctl segments")]
    Rotate,
    /// Return when all that was accepted before is durable
    #[command(after_help = "Example:\n  myprogram | logger -u /run/dbufd/dgram.sock && dbufctl sync")]
    Sync,
    /// Read the configuration again
    #[command(after_help = "Example:\n  dbufd --check-config && dbufctl reload")]
    Reload,
    /// Ask whether the daemon is there
    #[command(after_help = "Example:\n  dbufctl ping || systemctl start dbufd")]
    Ping,
    /// Show the configuration in force
    #[command(after_help = "Example:\n  dbufctl config --defaults >dbufd.toml")]
    Config(ConfigArgs),
    /// Print what makes a shell complete commands, options and their values
    #[command(after_help = "Examples:\n  source <(dbufctl completions bash)    in this shell, until it ends\n  \
                            cd ~/.local/share/bash-completion/completions\n  \
                            dbufctl completions bash >dbufctl\n  \
                            dbufctl completions bash --program dbufd >dbufd\n\n\
                            Each program has a script of its own, since shells load them by the program's name.")]
    Completions(CompletionsArgs),
    /// Print the manual page of dbufctl, or write the pages of everything into a directory
    #[command(after_help = "Examples:\n  dbufctl man | man -l -\n  dbufctl man pages && man -l pages/dbufd.toml.5\n\n\
                            There is a page for dbufctl and for each of its commands, dbufd(8), dbufd.toml(5) and \
                            dbuf-format(5). They are plain roff; a file that is there already is replaced.")]
    Man(ManArgs),
}

/// `cat`
#[derive(Debug, Args)]
pub struct CatArgs {
    /// At most so many events: the newest of those that match; a number or all
    #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
    pub lines: Option<u64>,
    /// Go on with new events as they come, until Ctrl-C
    #[arg(short, long, conflicts_with_all = ["reverse", "files"])]
    pub follow: bool,
    /// Newest first
    #[arg(short, long)]
    pub reverse: bool,
    /// Which events
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How to print them
    #[command(flatten)]
    pub format: FormatArgs,
    /// Events with this field, and these files instead of the directory
    #[arg(help_heading = NO_HEADING, value_name = "FIELD=VALUE|FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
}

/// `tail`
#[derive(Debug, Args)]
pub struct TailArgs {
    /// So many events that are there already; a number or all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = lines)]
    pub lines: u64,
    /// What tail does anyway; understood because fingers type it
    #[arg(short, long, hide = true)]
    pub follow: bool,
    /// Which events
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How to print them
    #[command(flatten)]
    pub format: FormatArgs,
    /// Events with this field
    #[arg(help_heading = NO_HEADING, value_name = "FIELD=VALUE", value_parser = field)]
    pub fields: Vec<(String, Vec<u8>)>,
}

/// Which events. Different filters must all hold; of one that is given more than once any may.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct SelectionArgs {
    /// Not older than this: '2026-11-23 11:12', '11:12', -10min, '2 days ago', today, yesterday, @1395716396
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Not newer than this
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// A priority and all that are more important (err, 3), or a range (warning..err)
    #[arg(short, long, value_name = "PRIO", value_parser = priority::parse_range)]
    pub priority: Option<RangeInclusive<u8>>,
    /// Events with this tag
    #[arg(short = 't', long, visible_alias = "identifier", value_name = "TAG")]
    pub tag: Vec<OsString>,
    /// Events of this systemd unit; .service may be left out, * and ? match any
    #[arg(short, long, value_name = "UNIT")]
    pub unit: Vec<String>,
    /// Text that matches this regular expression; without capitals in it, case does not matter
    #[arg(short, long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Events of this process
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Events of this user id
    #[arg(long, value_name = "UID")]
    pub uid: Vec<u32>,
    /// Events after this sequence
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Events from this cursor on; see __CURSOR of '-o json'
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<Cursor>,
    /// Events of the current boot, or of the one with this id
    #[arg(short, long, value_name = "ID", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = boot)]
    pub boot: Option<Boot>,
    /// Fields that must be there; values of one name are alternatives.
    #[arg(skip)]
    pub fields: Vec<(String, Vec<u8>)>,
}

/// A field as journalctl has it: a name of capital letters, digits and underscores, and the value that it must have.
pub(crate) fn field(text: &str) -> Result<(String, Vec<u8>), String> {
    as_field(text.as_bytes()).ok_or_else(|| {
        format!("'{}' is no FIELD=VALUE; a field's name has capitals, digits and _", text.escape_default())
    })
}

fn as_field(text: &[u8]) -> Option<(String, Vec<u8>)> {
    let equals = memchr::memchr(b'=', text)?;
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let name = std::str::from_utf8(&text[..equals])
        .ok()
        .filter(|name| !name.is_empty() && name.bytes().all(|b| is_plain(&b)))?;
    Some((name.to_owned(), text[equals + 1..].to_vec()))
}

impl CatArgs {
    /// Takes the fields from among the files. A file of such a name is to be written as `./FIELD=VALUE`.
    fn sort_out(&mut self) {
        let fields = self.files.extract_if(.., |file| as_field(file.as_os_str().as_bytes()).is_some());
        self.selection.fields = fields.filter_map(|file| as_field(file.as_os_str().as_bytes())).collect();
    }
}

/// A boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The one that runs.
    Current,
    /// The one with this id.
    Id(u128),
}

/// As journalctl reads it.
fn lines(text: &str) -> Result<u64, String> {
    let all = (text == "all").then_some(u64::MAX);
    all.or_else(|| text.parse().ok()).ok_or_else(|| "it is a number of events, or all".to_owned())
}

fn boot(text: &str) -> Result<Boot, String> {
    if text.is_empty() || text == "0" {
        return Ok(Boot::Current);
    }
    parse_id(text).map(Boot::Id).ok_or_else(|| format!("'{}' is no boot id of 32 hex digits", text.escape_default()))
}

/// An id of 128 bits in hexadecimal, with or without hyphens.
pub(crate) fn parse_id(text: &str) -> Option<u128> {
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let right = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

/// How to print events.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct FormatArgs {
    /// How to print each event
    #[arg(
        short = 'o',
        long = "output",
        help_heading = NO_HEADING,
        visible_alias = "format",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub format: Format,
}

/// The formats of `cat` and `tail`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text of --help, not a link")]
    /// Time, tag[pid]: text
    #[default]
    Short,
    /// As short, with the time in ISO 8601
    ShortIso,
    /// As short, with microseconds
    ShortPrecise,
    /// The text and a line feed
    Cat,
    /// The bytes of the payload and nothing else
    Raw,
    /// One JSON object a line, with journalctl's names
    Json,
    /// All that is known, a line for each
    Verbose,
    /// The Journal Export Format; on a terminal made readable
    Export,
}

/// A command that can print JSON.
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonArgs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// `account`
#[derive(Clone, Copy, Debug, Args)]
pub struct ObjectArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Check these files instead of the directory
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
}

/// `stats`
#[derive(Clone, Copy, Debug, Args)]
pub struct StatsArgs {
    /// Print one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    pub json: bool,
    /// Print the Prometheus text format, version 0.0.4
    #[arg(long)]
    pub prometheus: bool,
    /// Print again and again, until Ctrl-C
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = period)]
    pub watch: Option<Duration>,
}

fn period(text: &str) -> Result<Duration, String> {
    let span = when::parse_span(text).and_then(|span| Duration::try_from(span).ok());
    span.filter(|span| (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(span))
        .ok_or_else(|| format!("'{}' is no period from 0.1 to 86400 seconds", text.escape_default()))
}

/// `config`
#[derive(Clone, Copy, Debug, Args)]
pub struct ConfigArgs {
    /// Print every key with its default instead; needs no daemon
    #[arg(long)]
    pub defaults: bool,
}

/// Parses a command line. What is wrong with it, or the help that it asks for, is printed here.
///
/// # Errors
/// The exit code to end with.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let parsed = Cli::try_parse_from(words).map(|mut cli| {
        if let Command::Cat(args) = &mut cli.command {
            args.sort_out();
        }
        cli
    });
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone (`dbufctl --help | head`) is nothing to complain about.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            complain(&one_line(&error.render().to_string()));
            ExitCode::from(2)
        }
    })
}

/// clap's text, which is made for several lines, in one: what, why, what to do.
fn one_line(rendered: &str) -> String {
    let mut parts = Vec::new();
    for line in rendered.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        let line = line.strip_prefix("error: ").or_else(|| line.strip_prefix("tip: ")).unwrap_or(line);
        if !line.is_empty() {
            parts.push(line);
        }
    }
    parts.push("see 'dbufctl --help'");
    parts.join("; ").replace(":;", ":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(format!("dbufctl {line}").split_whitespace())
    }

    #[test]
    fn the_table_is_sound_and_every_command_has_an_example() {
        let table = Cli::command();
        table.clone().debug_assert();
        for command in table.get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example") && after.contains("dbufctl"), "{}", command.get_name());
        }
    }

    #[test]
    fn filters_are_read_as_journalctl_reads_them() {
        let cli = parsed("cat -n 5 -r -S -10min --until=-5min -p warning..err -t a -t b -u x -g foo --boot x.segment")
            .unwrap();
        let Command::Cat(cat) = cli.command else { panic!("not cat") };
        assert_eq!((cat.lines, cat.reverse, cat.files.len()), (Some(5), true, 1));
        let selection = cat.selection;
        assert_eq!((selection.since.as_deref(), selection.until.as_deref()), (Some("-10min"), Some("-5min")));
        assert_eq!((selection.priority, selection.tag.len(), selection.boot), (Some(3..=4), 2, Some(Boot::Current)));
        assert!(parsed("cat -f -r").is_err() && parsed("cat -f x.segment").is_err());
        assert!(parsed("tail -f -n 3 -t x").is_ok());
        assert!(parsed("tail -n all").is_ok() && parsed("cat -n all -b").is_ok());
        assert!(parsed("cat --boot=xyz").is_err());
        let id = "0123456789abcdef0123456789abcdef";
        assert!(parsed(&format!("cat --boot={id}")).is_ok());
        assert_eq!(parse_id("01234567-89ab-cdef-0123-456789abcdef"), parse_id(id));
    }

    #[test]
    fn a_wrong_command_line_is_answered_in_one_line() {
        for (line, has) in [
            ("cat --folow", "--follow"),
            ("cat -p loud", "emerg"),
            ("stats --json --prometheus", "--prometheus"),
            ("nonsense", "nonsense"),
            ("stats --watch=0", "0.1"),
            ("cat -n some", "or all"),
        ] {
            let text = one_line(&parsed(line).unwrap_err().render().to_string());
            assert!(text.contains(has) && !text.contains('\n') && !text.contains("error:"), "{line}: {text}");
        }
    }
}
