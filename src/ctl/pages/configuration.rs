//! Writes dbufd.toml(5), from the table of keys that the configuration is read by.
//!
//! Input: the table. Output: a page. Pure. Nothing can fail.

use super::page::Page;
use crate::config::keys::{KEYS, Key, UNITS};
use crate::config::paths::SYSTEM_CONFIG_DIR;

/// A typical configuration, for the page's EXAMPLES.
const EXAMPLE: &str = "\
[ingest]
max_event = \"256KiB\"

[storage]
retain_bytes = \"20GiB\"
retain_age = \"30d\"
sync = \"batch\"
when_full = \"wait\"
";

/// dbufd.toml(5).
pub(super) fn dbufd_toml() -> Page {
    let mut page = Page::new("dbufd.toml", 5, "Configuration of dbufd");
    page.section("SYNOPSIS");
    for path in [
        &format!("{SYSTEM_CONFIG_DIR}/dbufd.toml"),
        &format!("{SYSTEM_CONFIG_DIR}/dbufd.toml.d/*.toml"),
        "$XDG_CONFIG_HOME/dbufd/dbufd.toml",
        "$XDG_CONFIG_HOME/dbufd/dbufd.toml.d/*.toml",
    ] {
        page.paragraph(&format!("`{path}`"));
    }
    page.section("DESCRIPTION");
    page.paragraph(
        "dbufd(8) reads this TOML file when it starts and when it reloads. No key is needed, and neither is the \
         file. The files in `dbufd.toml.d` are read after it, in the order of their names, and \
         `--set section.key=value` comes last. If a key is given more than once, the last value counts.",
    );
    page.paragraph(
        "An unknown key and a value that is not allowed are errors. The message names file, line and column, what is \
         allowed, and the nearest right key. dbufd then does not start; at a reload it keeps its configuration. \
         `dbufd --check-config` checks without starting anything, `dbufctl config` shows the configuration in force, \
         and `systemctl reload dbufd` or `dbufctl reload` applies every change that needs no restart.",
    );
    page.paragraph(UNITS);
    page.section("KEYS");
    let mut open = "";
    for key in KEYS {
        let (section, _) = key.parts();
        if section != open {
            page.subsection(&format!("[{section}]"));
            open = section;
        }
        describe(&mut page, key);
    }
    page.section("EXAMPLES");
    page.paragraph("Larger events. A full disk loses nothing, and a power failure little:");
    page.example(EXAMPLE.lines());
    page.paragraph("With systemd's units, only a group may send (`systemctl edit dbufd.socket`):");
    page.example(["[Socket]", "SocketMode=0660", "SocketGroup=adm"]);
    page.paragraph("That holds from the next start of dbufd.socket on. For the sockets that are there, also:");
    page.example([
        "chgrp adm /run/dbufd/stream.sock /run/dbufd/dgram.sock",
        "chmod 0660 /run/dbufd/stream.sock /run/dbufd/dgram.sock",
    ]);
    page.section("SEE ALSO").paragraph("dbufd(8), dbufctl(1), dbufctl-config(1), dbufctl-reload(1)");
    page
}

fn describe(page: &mut Page, key: &Key) {
    let default = key.default_or_example();
    page.item(
        &format!("`{}`", key.parts().1),
        &format!(
            "{}\n\n{default} `{}`. Allowed: {}. A change takes effect {}.",
            key.meaning.join(" "),
            key.shown,
            key.bounds,
            key.applies.when()
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_example_of_the_page_is_a_configuration_that_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("dbufd.toml");
        std::fs::write(&file, EXAMPLE).unwrap();
        let config = Sources { file: Some(file), ..Sources::default() }.load().unwrap();
        assert_eq!(config.ingest.max_event_bytes, 256 << 10);
    }
}
