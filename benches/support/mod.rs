//! What the benchmarks of the whole daemon share.

#[path = "../../tests/support/usage.rs"]
pub(crate) mod usage;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts the daemon with its runtime directory and its segments below `folder`, and returns when it is ready.
pub(crate) fn start(folder: &Path, settings: &[&str]) -> Child {
    let notify = folder.join("notify.sock");
    let ready = UnixDatagram::bind(&notify).expect("a socket");
    let daemon = Command::new(env!("CARGO_BIN_EXE_dbufd"))
        .arg("--runtime")
        .arg(folder.join("run"))
        .arg("--directory")
        .arg(folder.join("segments"))
        .args(["--config", "/dev/null"])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dbufd starts");
    let mut notice = [0; 1024];
    loop {
        let n = ready.recv(&mut notice).expect("a notice");
        if notice[..n].windows(7).any(|w| w == b"READY=1") {
            break;
        }
    }
    fs::remove_file(&notify).expect("a socket");
    daemon
}
