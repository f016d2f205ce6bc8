//! A soak test: everything at once, for any length of time.
//!
//! In a systemd of the test's own, producers of every kind send to one daemon. Meanwhile the daemon is killed,
//! restarted, reloaded and rotated, and its disk gets full or does not answer. From time to time all producers pause,
//! and what they sent is compared with what is in the files.
//!
//! `DBUF_SOAK_MINUTES` says how long; without it, the test runs two short epochs. `DBUF_SEED` repeats the disturbances
//! of a run, in their order.

mod account;
mod check;
mod daemon;
mod disturb;
mod epoch;
mod frames;
mod loads;
#[path = "../service/machine.rs"]
#[allow(dead_code, reason = "the tests of the service use the rest")]
mod machine;
mod payload;
mod rings;
mod senders;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::io::Write;
use std::time::{Duration, Instant};

use daemon::{DISK, Settings};
use disturb::Disturber;
use epoch::{Length, Soak};
use machine::Machine;

/// Epochs of a short run.
const SHORT_EPOCHS: u64 = 2;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn everything_at_once_for_long_loses_nothing_and_bends_nothing() {
    let Some(machine) = Machine::boot_with_disk(DISK) else { return };
    let minutes: Option<f64> = from_environment("DBUF_SOAK_MINUTES");
    let seed = from_environment("DBUF_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    // Past the harness, so that a run that hangs can be played again.
    let _ = writeln!(std::io::stderr(), "soak: DBUF_SEED={seed}");
    machine.write_settings(&Settings::first());
    machine.run(&["systemctl", "start", "dbufd"]);
    let begun = Instant::now();
    let mut soak = Soak::new(&machine, Disturber::new(&machine, seed));
    match minutes {
        None => (0..SHORT_EPOCHS).for_each(|_| soak.epoch(Length::OneRound)),
        Some(minutes) => {
            let end = begun + Duration::from_secs_f64(minutes * 60.0);
            while Instant::now() < end {
                soak.epoch(Length::Until(end));
            }
        }
    }
    println!("{}", soak.table(begun.elapsed()));
    assert!(soak.wrong.is_empty(), "DBUF_SEED={seed}\n{}", soak.wrong.join("\n"));
}
