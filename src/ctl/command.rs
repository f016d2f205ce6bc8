//! Runs the commands that are one request to the daemon: `rotate`, `sync`, `reload`, `ping`, `config`.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::context::Context;
use super::daemon::{self, ANSWER_TIMEOUT, DISK_TIMEOUT};
use super::output::print_out;
use crate::config::keys;

/// `config`
#[derive(Clone, Copy, Debug, Args)]
pub struct ConfigArgs {
    /// Print every key with its default instead; needs no daemon
    #[arg(long)]
    pub defaults: bool,
}

/// `rotate` and `sync`: they end when the daemon has answered, and print nothing.
pub(super) fn run_command(command: &str, context: &Context) -> anyhow::Result<ExitCode> {
    daemon::ask(&context.runtime, command, DISK_TIMEOUT)?;
    Ok(ExitCode::SUCCESS)
}

/// `reload`: prints the daemon's answer, such as keys that need a restart.
pub(super) fn reload(context: &Context) -> anyhow::Result<ExitCode> {
    let data = daemon::ask(&context.runtime, "reload", DISK_TIMEOUT)?;
    print_out(&described(&data))?;
    Ok(ExitCode::SUCCESS)
}

/// `ping`: prints which daemon answers.
pub(super) fn ping(context: &Context) -> anyhow::Result<ExitCode> {
    let data = daemon::ask(&context.runtime, "ping", ANSWER_TIMEOUT)?;
    print_out(&described(&data))?;
    Ok(ExitCode::SUCCESS)
}

/// `config`: prints the configuration in force, or all keys.
pub(super) fn config(args: ConfigArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let text = if args.defaults {
        keys::documented()
    } else {
        let data = daemon::ask(&context.runtime, "config", ANSWER_TIMEOUT)?;
        data.get("toml").and_then(Value::as_str).map_or_else(|| described(&data), str::to_owned)
    };
    print_out(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// An object as `name: value` lines; null as nothing.
fn described(data: &Value) -> String {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    match data {
        Value::Null => String::new(),
        Value::Object(members) => {
            let line = |(name, value): (&String, &Value)| format!("{}: {}\n", name.replace('_', " "), shown(value));
            let said = members.iter().filter(|(_, value)| !value.is_null() && **value != Value::Array(Vec::new()));
            said.map(line).collect()
        }
        other => format!("{}\n", shown(other)),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_daemon_says_is_shown_line_by_line_and_nothing_as_nothing() {
        assert_eq!(described(&Value::Null), "");
        let data = json!({ "pid": 7, "version": "0.1.0", "needs_restart": [], "error": null });
        assert_eq!(described(&data), "pid: 7\nversion: 0.1.0\n");
        assert_eq!(
            described(&json!({ "needs_restart": ["buffer.capacity", "reader.cpu"] })),
            "needs restart: buffer.capacity, reader.cpu\n"
        );
    }
}
