//! More connections in one burst than notes that may wait for the manager.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::manager::{Manager, Pace, connect_named, unique};
use crate::support::wait_within;

const CONNECTIONS: usize = 3000;
/// Ours and the manager's, with some to spare. While the daemon is started, the copy of the test that becomes it has
/// as many.
const DESCRIPTORS: u64 = 3 * CONNECTIONS as u64;
/// The manager needs a part of a second to read what waits; a store that waits for nothing else is full by then.
const STORED_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_burst_of_three_thousand_connections_is_stored_once_the_manager_reads_again() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < DESCRIPTORS {
        eprintln!("skipped: {CONNECTIONS} connections need {DESCRIPTORS} descriptors, and {hard} are allowed");
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(DESCRIPTORS), hard).expect("a limit");
    let mut manager = Manager::new();
    manager.start(&[]);
    manager.refuse_all();
    let prefix = unique("burst-");
    let path = manager.home.socket("stream.sock");
    let connect = |number| connect_named(&path, &format!("{prefix}{number}")).expect("the daemon listens");
    let mut clients: Vec<UnixStream> = (0..CONNECTIONS).map(connect).collect();
    manager.home.wait_for_stats("all connections", |stats| stats["connections"]["open"] == CONNECTIONS);
    manager.set_pace(Pace::Prompt);
    let is_ours = |name: &str| name.starts_with(&prefix);
    wait_within(STORED_TIMEOUT, || (manager.count_taken(is_ours) >= CONNECTIONS).then_some(()));
    let (taken, stats) = (manager.count_taken(is_ours), manager.home.stats());
    assert_eq!(taken, CONNECTIONS, "of all connections these are stored: {}", stats["connections"]);
    assert_eq!(stats["connections"]["kept"], CONNECTIONS, "{}", stats["connections"]);
    let log = manager.log();
    assert!(!log.contains("FileDescriptorStoreMax"), "there is room in the store, so this is no advice: {log}");
    manager.kill();
    manager.start(&[]);
    for (number, client) in clients.iter_mut().enumerate() {
        writeln!(client, "line of {number}").unwrap_or_else(|error| panic!("connection {number} breaks: {error}"));
    }
    drop(clients);
    manager.home.wait_persisted(CONNECTIONS as u64);
    assert_eq!(manager.home.cat().lines().count(), CONNECTIONS);
}
