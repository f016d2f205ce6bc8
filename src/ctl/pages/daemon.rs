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
        "It runs in the foreground until it is told to stop. On a terminal it says where it listens, how to send a \
         first event and how to look at it; under systemd(1) it takes the sockets that it is passed, says when it is \
         ready, and feeds the watchdog for as long as its threads get on. No configuration is needed. What it has \
         stored is read with dbufctl(1), which needs no running daemon for that.",
    );
    commands::options(&mut page, &table);
    signals(&mut page);
    exit_status(&mut page);
    environment(&mut page);
    files(&mut page);
    commands::examples(&mut page, &table);
    page.paragraph("What would be in force, and whether a file is right:");
    page.example(["dbufd --print-config", "dbufd --config ./dbufd.toml --check-config"]);
    page.paragraph("A first event, with nothing installed:");
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
         second later or more, ends the daemon at once: what is only in memory is gone. While the daemon starts, \
         nothing has been accepted yet, and the first one ends it.",
    );
    page.item(
        "`SIGHUP`",
        "Read the configuration again. A file that is wrong changes nothing, and the log says what is wrong with it.",
    );
    page.item("`SIGUSR1`", "Seal the active segment and begin a new one.");
    page.item("`SIGUSR2`", "Write a report to the log.");
}

fn exit_status(page: &mut Page) {
    page.section("EXIT STATUS");
    page.item(
        "`0`",
        "It stopped because it was told to, or it did what `--check-config` or `--print-config` asks for.",
    );
    page.item(
        "`1`",
        "It could not start, or something failed while it stopped: one line on standard error says what. Or a second \
         signal ended it.",
    );
    page.item(
        "`2`",
        "The command line or the configuration is wrong; nothing was opened or changed. The unit does not start it \
         again then.",
    );
}

fn environment(page: &mut Page) {
    page.section("ENVIRONMENT");
    page.item(
        "`RUNTIME_DIRECTORY`, `LOGS_DIRECTORY`, `CONFIGURATION_DIRECTORY`",
        "Where the sockets, the segments and the configuration are; systemd sets them from the unit. Of a list \
         separated by colons the first counts. They win over the defaults; `--runtime`, `--directory`, `--config` \
         and `storage.directory` win over them.",
    );
    page.item(
        "`XDG_RUNTIME_DIR`, `XDG_STATE_HOME`, `XDG_CONFIG_HOME`, `HOME`, `TMPDIR`",
        "The same for an ordinary user, where systemd says nothing; see FILES.",
    );
    page.item(
        "`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`",
        "Sockets that systemd has opened already, as in sd_listen_fds(3), which are taken instead of new ones; and \
         connections that an earlier life of the daemon left in its keeping.",
    );
    page.item(
        "`FDSTORE`",
        "The number of descriptors that systemd's file-descriptor store takes for this unit. Connections are kept \
         there, and the memory through which events go, so that they outlive the daemon, however it ends; \
         connections that the store has no room for end with it. \
         systemd 254 and later sets it; for older ones the unit does.",
    );
    page.item("`NOTIFY_SOCKET`", "Where systemd wants to hear of the daemon's state, as in sd_notify(3).");
    page.item(
        "`WATCHDOG_USEC`, `WATCHDOG_PID`",
        "How often systemd wants to hear that the daemon is alive. It is told so because the threads get on, and not \
         once one of them hangs. A disk that stalls is a state and not a hang.",
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
