//! Writes dbufd(8), from the table of its command line, and what a table cannot say: signals, places, variables.
//!
//! Input: the table. Output: a page. Pure. Nothing can fail.

use super::commands;
use super::page::Page;
use crate::config::paths::{
    CONTROL_SOCKET, DATAGRAM_SOCKET, STREAM_SOCKET, SYSTEM_CONFIG_DIR, SYSTEM_RUNTIME_DIR, SYSTEM_SEGMENTS_DIR,
};
use crate::daemon_args;

/// dbufd(8).
pub(super) fn dbufd() -> Page {
    let mut table = daemon_args::command();
    table.build();
    let mut page = Page::new("dbufd", 8, "A logging daemon with a lock-free double buffer");
    commands::head(&mut page, &table);
    page.paragraph(
        "It runs in the foreground until a signal stops it. On a terminal it prints where it listens, how to send a \
         first event and how to look at it. Under systemd(1) it uses the sockets that systemd passes, notifies \
         systemd when it is ready, and feeds the watchdog while its threads make progress. No configuration is \
         needed. dbufctl(1) reads what it has stored, and needs no running daemon for that.",
    );
    commands::options(&mut page, &table);
    signals(&mut page);
    exit_status(&mut page);
    environment(&mut page);
    files(&mut page);
    commands::examples(&mut page, &table);
    page.paragraph("Show the configuration that would be in force, and check a file:");
    page.example(["dbufd --print-config", "dbufd --config ./dbufd.toml --check-config"]);
    page.paragraph("Send a first event without any client:");
    page.example([
        format!("echo 'hello' | nc -UN {SYSTEM_RUNTIME_DIR}/{STREAM_SOCKET}").as_str(),
        format!("logger -u {SYSTEM_RUNTIME_DIR}/{DATAGRAM_SOCKET} 'hello'").as_str(),
    ]);
    let also = ["dbufctl(1)", "dbufd.toml(5)", "dbuf-format(5)", "systemd.service(5)", "sd_notify(3)", "logger(1)"];
    page.section("SEE ALSO").paragraph(&also.join(", "));
    page
}

fn signals(page: &mut Page) {
    page.section("SIGNALS");
    page.item(
        "`SIGTERM`, `SIGINT`",
        "Stop: take what the kernel still holds, persist it, print the final report, end. A second one, a third of a \
         second later or more, ends the daemon at once, and events that are only in memory are lost. While the \
         daemon starts, nothing has been accepted yet, and the first one ends it.",
    );
    page.item(
        "`SIGHUP`",
        "Read the configuration again. A wrong file changes nothing, and the log says what is wrong.",
    );
    page.item("`SIGUSR1`", "Seal the active segment and begin a new one.");
    page.item("`SIGUSR2`", "Write a report to the log.");
}

fn exit_status(page: &mut Page) {
    page.section("EXIT STATUS");
    page.item("`0`", "A signal stopped it, or it did what `--check-config` or `--print-config` asks for.");
    page.item(
        "`1`",
        "It could not start, or something failed while it stopped: one line on standard error says what. Or a second \
         signal ended it.",
    );
    page.item(
        "`2`",
        "The command line or the configuration is wrong; nothing was opened or changed. systemd then does not \
         restart the unit.",
    );
}

fn environment(page: &mut Page) {
    page.section("ENVIRONMENT");
    page.item(
        "`RUNTIME_DIRECTORY`, `LOGS_DIRECTORY`, `CONFIGURATION_DIRECTORY`",
        "Where the sockets, the segments and the configuration are; systemd sets them from the unit. In a list \
         separated by colons, the first entry counts. They win over the defaults; `--runtime`, `--directory`, \
         `--config` and `storage.directory` win over them.",
    );
    page.item(
        "`XDG_RUNTIME_DIR`, `XDG_STATE_HOME`, `XDG_CONFIG_HOME`, `HOME`, `TMPDIR`",
        "The same for an ordinary user without systemd's variables; see FILES.",
    );
    page.item(
        "`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`",
        "Sockets that systemd has opened, as in sd_listen_fds(3), which the daemon uses instead of new ones; and \
         connections that a previous process of the daemon has stored with systemd.",
    );
    page.item(
        "`FDSTORE`",
        "The number of descriptors that systemd's file-descriptor store holds for this unit. The daemon stores its \
         connections and its event memory there, so that they survive the process, even if it is killed. \
         Connections beyond that number end with the process. systemd 254 and later sets it; for older versions \
         the unit does.",
    );
    page.item("`NOTIFY_SOCKET`", "The socket for notifications to systemd, as in sd_notify(3).");
    page.item(
        "`WATCHDOG_USEC`, `WATCHDOG_PID`",
        "How often systemd expects a sign of life. The daemon gives it while all its threads make progress, and \
         stops if one of them hangs. A stalled disk is a state and not a hang.",
    );
    page.item(
        "`JOURNAL_STREAM`",
        "Whether standard error is the journal; the daemon's own log then goes there with its fields.",
    );
}

fn files(page: &mut Page) {
    page.section("FILES");
    page.item(
        &format!("`{SYSTEM_CONFIG_DIR}/dbufd.toml`, `{SYSTEM_CONFIG_DIR}/dbufd.toml.d/*.toml`"),
        "The configuration, see dbufd.toml(5). For an ordinary user it is in `$XDG_CONFIG_HOME/dbufd` \
         (`~/.config/dbufd`).",
    );
    for (socket, carries) in [
        (STREAM_SOCKET, "Takes text lines, one event each, and the framed protocol."),
        (DATAGRAM_SOCKET, "Takes one event a datagram, plain or syslog."),
        (CONTROL_SOCKET, "Answers dbufctl(1)."),
    ] {
        page.item(&format!("`{SYSTEM_RUNTIME_DIR}/{socket}`"), carries);
    }
    page.paragraph(
        "For an ordinary user the sockets are in `$XDG_RUNTIME_DIR/dbufd`, and without that in a private folder in \
         the temporary directory.",
    );
    page.item(
        &format!("`{SYSTEM_SEGMENTS_DIR}`"),
        "The segments, see dbuf-format(5). For an ordinary user they are in `$XDG_STATE_HOME/dbufd` \
         (`~/.local/state/dbufd`). There is no other state.",
    );
}
