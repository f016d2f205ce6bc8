//! dbufd as a service: the units, on a systemd of the test's own.
//!
//! Each test boots the machine's systemd in namespaces (`tests/systemd/box`), puts both programs and everything in
//! `systemd/` where a package would, and goes by what systemd, the journal and dbufctl say. Where that cannot work, one
//! line says why and the tests are skipped.

mod account;
mod activation;
mod configuration;
mod identity;
mod journal;
mod kill_recovery;
mod load;
mod machine;
mod package;
#[path = "../support/program.rs"]
mod program;
mod restarts;
mod rings;
#[path = "../support/mod.rs"]
mod support;
mod units;
mod watchdog;
