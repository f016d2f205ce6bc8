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
        "It runs in the foreground until a signal stops it. On a terminal it prints where it listens, and how to send \
         and read a first event. Under systemd(1) it uses the sockets that systemd passes, notifies systemd \
         when it is ready, and feeds the watchdog while its threads make progress. No configuration is needed. \
         dbufctl(1) reads the stored events, also while no daemon runs.",
    );
    page.paragraph(
        "Under systemd, `systemctl stop dbufd` stops the daemon until the next event or the next request of \
         dbufctl(1), because systemd keeps the sockets open. `systemctl stop dbufd.socket` stops both \
         the daemon and its sockets.",
    );
    commands::options(&mut page, &table);
    disk_space(&mut page);
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

fn disk_space(page: &mut Page) {
    page.section("DISK SPACE");
    page.paragraph(
        "dbufd deletes its oldest segments, and the events in them, to keep within its bounds. By default all \
         segments together take at most 10 % of their file system (`storage.retain_bytes`), 5 % of the file system \
         stay free (`storage.min_free`), and age is no reason for deletion (`storage.retain_age`). A segment is \
         sealed at 256 MiB (`storage.segment_size`) or when it is one day old (`storage.segment_age`), and is deleted \
         as a whole.",
    );
    page.paragraph(
        "Deleted events do not count as lost; `dbufctl account` shows their number. If the disk is full all the same, \
         `storage.when_full` decides: dbufd deletes its oldest segments (the default), makes senders wait, or drops \
         new events and counts them as lost.",
    );
}

fn signals(page: &mut Page) {
    page.section("SIGNALS");
    page.item(
        "`SIGTERM`, `SIGINT`",
        "Stop: read what the kernel still holds, persist it, print the final report and exit. A second signal, at \
         least 0.3 s later, ends the daemon at once, and events that are only in memory are lost. While the daemon \
         starts, the first signal ends it, because nothing has been accepted yet.",
    );
    page.item("`SIGHUP`", "Read the configuration again. A wrong file changes nothing; the log says what is wrong.");
    page.item("`SIGUSR1`", "Seal the active segment and begin a new one.");
    page.item("`SIGUSR2`", "Write a report to the log.");
}

fn exit_status(page: &mut Page) {
    page.section("EXIT STATUS");
    page.item("`0`", "A signal stopped it, or `--check-config` or `--print-config` was given and succeeded.");
    page.item(
        "`1`",
        "It could not start, something failed while it stopped, or a second signal ended it. One line on standard \
         error says what failed.",
    );
    page.item(
        "`2`",
        "The command line or the configuration is wrong; nothing was opened or changed. Under systemd the unit tries \
         again about every second until the file is right; events wait in the sockets meanwhile. So run \
         `dbufd --check-config` before `systemctl restart dbufd`, or use `systemctl reload dbufd`, which keeps the \
         old configuration if the new one is wrong.",
    );
}

fn environment(page: &mut Page) {
    page.section("ENVIRONMENT");
    page.item(
        "`RUNTIME_DIRECTORY`, `LOGS_DIRECTORY`, `CONFIGURATION_DIRECTORY`",
        "Directories of the sockets, the segments and the configuration; systemd sets them from the unit. In a list \
         separated by colons, the first entry counts. They override the defaults, and are overridden by `--runtime`, \
         `--directory`, `--config` and `storage.directory`.",
    );
    page.item(
        "`XDG_RUNTIME_DIR`, `XDG_STATE_HOME`, `XDG_CONFIG_HOME`, `HOME`, `TMPDIR`",
        "The same directories for an ordinary user, if systemd's variables are not set; see FILES.",
    );
    page.item(
        "`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`",
        "Sockets that systemd has opened, as in sd_listen_fds(3): the daemon uses them instead of new ones. Also \
         connections and memory that a previous process of the daemon stored with systemd.",
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
        "How often systemd expects a sign of life. The daemon gives it while all its threads make progress or are \
         idle, but not when one of them hangs. A stalled disk is not a hang.",
    );
    page.item(
        "`JOURNAL_STREAM`",
        "Says whether standard error is the journal; if it is, the daemon's own log goes there with its fields.",
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
        "For an ordinary user the sockets are in `$XDG_RUNTIME_DIR/dbufd`, or without that variable in the private \
         folder `dbufd-UID` in `$TMPDIR` or `/tmp`.",
    );
    page.item(
        &format!("`{SYSTEM_SEGMENTS_DIR}`"),
        "The segments, see dbuf-format(5). For an ordinary user they are in `$XDG_STATE_HOME/dbufd` \
         (`~/.local/state/dbufd`). There is no other state.",
    );
}
