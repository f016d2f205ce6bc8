//! Lists the commands of dbufctl: the one table that parser, help, man pages and completions come from.
//!
//! Each command defines its own arguments in its own files. This file imports them, so no command imports this file.

use clap::Subcommand;

use super::account::AccountArgs;
use super::bench::BenchArgs;
use super::cat::{CatArgs, TailArgs};
use super::command::ConfigArgs;
use super::completions::CompletionsArgs;
use super::pages::ManArgs;
use super::segments::SegmentsArgs;
use super::send::SendArgs;
use super::stats::StatsArgs;
use super::verify::VerifyArgs;

/// What dbufctl can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print events, oldest first
    #[command(after_help = "Examples:\n  dbufctl cat -n 100 -t backup\n  \
                      dbufctl cat --since today --until -10min -p err -o json\n  \
                      dbufctl cat -r -g 'time.?out' -u nginx\n  dbufctl cat ORDER=17 _UID=1000\n  \
                      dbufctl cat old.segment\n\n\
                      FIELD is any name that -o json prints. An event must match each field that is named, \
                      and one of the values of a field that is named more than once, as in journalctl. \
                      docs/JSON.md in share/doc/dbufd describes the fields.\n\n\
                      Times are read and printed in the time zone TZ, else in that of the machine: \
                      TZ=UTC dbufctl cat.")]
    Cat(CatArgs),
    /// Print the newest events, then new ones as they arrive, until Ctrl-C
    #[command(after_help = "Example:\n  dbufctl tail -n 50 -u nginx -p warning")]
    Tail(TailArgs),
    /// List the segments: state, events, bytes and times of each
    #[command(after_help = "Example:\n  dbufctl segments --json | jq '.[] | select(.state == \"torn\")'\n\n\
                      docs/JSON.md in share/doc/dbufd describes the fields of --json.")]
    Segments(SegmentsArgs),
    /// Check every byte of every segment
    #[command(after_help = "Example:\n  dbufctl verify && echo 'no damage, no gap, no loss'\n\n\
                      Exit code 3 if anything is damaged, torn or missing, or if events were lost before they reached \
                      a file. docs/JSON.md in share/doc/dbufd describes the fields of --json.")]
    Verify(VerifyArgs),
    /// Show what became of every event: for each producer, sent = stored + lost + in memory
    #[command(after_help = "Examples:\n  dbufctl account\n  \
                      dbufctl account --json | jq '.producers[] | select(.lost_total > 0)'\n\n\
                      Counts every event in the files, and compares the counts with those that the daemon made when it \
                      accepted and wrote the events. Without a daemon the number of sent events is unknown: \
                      SENT is then only the sum of STORED and LOST, and only gaps, damage and recorded losses can be \
                      found.\n\n\
                      Under systemd the account covers all restarts, also after kill -9. The account begins anew when \
                      the daemon is stopped and started ('systemctl stop', then 'start'), and at a boot. Earlier \
                      events are listed as older than the account.\n\n\
                      Exit code 3 if events were lost, if data is damaged or missing, or if the account does not \
                      add up. docs/JSON.md in share/doc/dbufd describes the fields of --json.")]
    Account(AccountArgs),
    /// Send one event, or one for each line of standard input
    #[command(after_help = "Examples:\n  dbufctl send -t backup -p notice 'done after 3 h'\n  \
                      dbufctl send -F ORDER=17 -F CUSTOMER=4711 'card refused'\n  \
                      journalctl -o cat -n 1000 | dbufctl send -t old --sync\n\n\
                      Text is stored as it is: a leading <3> is not a priority here, as it is on stream.sock. Use -p.")]
    Send(SendArgs),
    /// Measure the throughput with generated events, and prove that each is stored once
    #[command(
        after_help = "Examples:\n  dbufctl bench                                  in this process, no daemon\n  \
                            dbufctl bench --via lines --writers 2 --size 100..100 --events 1000000\n  \
                            dbufctl bench --via ring --writers 2 --size 100..100\n  \
                            dbufctl bench --via frames --rate 5000 --duration 30s --json\n\n\
                            Exit code 1 if the proof fails."
    )]
    Bench(BenchArgs),
    /// Show the daemon's counters, latencies and producers
    #[command(after_help = "Examples:\n  dbufctl stats --watch\n  dbufctl stats --json | jq .events\n  \
                            dbufctl stats --prometheus --output dbufd.prom\n\n\
                            Causes of loss:\n  \
                            full       the disk was full (storage.when_full = \"drop\"), or a ring had no room\n  \
                            too_big    the event was larger than ingest.max_event\n  \
                            malformed  the event's frame or record broke the protocol\n  \
                            disk       the disk failed\n  \
                            abandoned  the sender left in the middle of the event, or the daemon ended before it \
                            was written\n  \
                            limited    a datagram's user sent more than limits.* or storage.keep_at_least allow\n\n\
                            Prometheus: 'systemctl enable --now dbufd-metrics.timer' writes the metrics for the \
                            textfile collector of the node exporter, every 15 seconds while the daemon runs. With \
                            another directory than /var/lib/prometheus/node-exporter: 'systemctl edit \
                            dbufd-metrics.service'.\n\n\
                            Producers that differ only in their process share series. At most 100 such groups have \
                            series of their own; the others are '(all others)'. A sum can start anew when the \
                            daemon restarts. The counters \
                            of a ring end with it, so they need --with-pid; the counters of producers with the \
                            transport 'ring' include the same events.\n\n\
                            docs/JSON.md in share/doc/dbufd describes the fields of --json, docs/MONITORING.md \
                            the metrics.")]
    Stats(StatsArgs),
    /// Seal the active segment and begin a new one
    #[command(after_help = "Example:\n  dbufctl rotate && dbufctl segments\n\n\
                            Only root and the user that dbufd runs as may do this.")]
    Rotate,
    /// Wait until everything that the daemon has accepted so far is on the disk
    #[command(after_help = "Example:\n  myprogram | logger -u /run/dbufd/dgram.sock && dbufctl sync\n\n\
                            An event that still waits in a socket is not accepted yet. The daemon usually accepts it \
                            within milliseconds, but only 'dbufctl send --sync' and the acknowledgements of the \
                            clients are certain to cover an event.")]
    Sync,
    /// Read the configuration again, and apply every change that needs no restart
    #[command(after_help = "Example:\n  dbufd --check-config && dbufctl reload\n\n\
                            Only root and the user that dbufd runs as may do this. A wrong configuration changes \
                            nothing.")]
    Reload,
    /// Ask the daemon for its pid, version and directories
    #[command(after_help = "Example:\n  dbufctl ping\n\n\
                            Under systemd, ping starts a stopped daemon, as every request does. To find out whether \
                            it runs: 'systemctl is-active dbufd'.")]
    Ping,
    /// Show the configuration in force
    #[command(after_help = "Example:\n  dbufctl config --defaults >dbufd.toml")]
    Config(ConfigArgs),
    /// Print a script with which a shell completes commands, options and their values
    #[command(after_help = "Examples:\n  source <(dbufctl completions bash)    in this shell, until it ends\n  \
                            cd ~/.local/share/bash-completion/completions\n  \
                            dbufctl completions bash >dbufctl\n  \
                            dbufctl completions bash --program dbufd >dbufd\n\n\
                            Each program has its own script, because shells load them by the program's name.")]
    Completions(CompletionsArgs),
    /// Print the manual page of dbufctl, or write all manual pages into a directory
    #[command(after_help = "Examples:\n  dbufctl man | man -l -\n  dbufctl man pages && man -l pages/dbufd.toml.5\n\n\
                            There is a page for dbufctl and for each of its commands, dbufd(8), dbufd.toml(5) and \
                            dbuf-format(5). They are plain roff; existing files are replaced.")]
    Man(ManArgs),
}
