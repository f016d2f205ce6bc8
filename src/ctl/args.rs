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
                      FIELD is any name that -o json prints. Different fields must all match; of one field that is \
                      given more than once, any value may match.")]
    Cat(CatArgs),
    /// Print the last events, then new ones as they arrive, until Ctrl-C
    #[command(after_help = "Example:\n  dbufctl tail -n 50 -u nginx -p warning")]
    Tail(TailArgs),
    /// List the files: what they hold, and their state
    #[command(after_help = "Example:\n  dbufctl segments --json | jq '.[] | select(.state == \"torn\")'")]
    Segments(SegmentsArgs),
    /// Check every byte of every file
    #[command(after_help = "Example:\n  dbufctl verify && echo all is well\n\n\
                      Exit code 3 if anything is damaged, torn or missing, or if the files report lost events.")]
    Verify(VerifyArgs),
    /// Prove what became of every event: for each producer, sent = stored + lost + in memory
    #[command(after_help = "Examples:\n  dbufctl account\n  \
                      dbufctl account --json | jq '.producers[] | select(.lost_total > 0)'\n\n\
                      Counts every event in the files, and compares the counts with those that the daemon made when it \
                      accepted and wrote the events. Without a daemon, only the files are counted.\n\n\
                      Exit code 3 if events were lost, if anything is damaged or missing, or if it does not add up.")]
    Account(AccountArgs),
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
                            dbufctl stats --prometheus --output dbufd.prom")]
    Stats(StatsArgs),
    /// Seal the active file and begin a new one
    #[command(after_help = "Example:\n  dbufctl rotate && dbufctl segments")]
    Rotate,
    /// Return when all events accepted before are durable
    #[command(after_help = "Example:\n  myprogram | logger -u /run/dbufd/dgram.sock && dbufctl sync")]
    Sync,
    /// Read the configuration again
    #[command(after_help = "Example:\n  dbufd --check-config && dbufctl reload")]
    Reload,
    /// Ask whether a daemon answers
    #[command(after_help = "Example:\n  dbufctl ping || systemctl start dbufd")]
    Ping,
    /// Show the configuration in force
    #[command(after_help = "Example:\n  dbufctl config --defaults >dbufd.toml")]
    Config(ConfigArgs),
    /// Print what a shell needs to complete commands, options and their values
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
