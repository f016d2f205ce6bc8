//! Defines the command line of `stats`.

use std::time::Duration;

use clap::Args;

use crate::ctl::values::period;

/// `stats`
#[derive(Clone, Copy, Debug, Args)]
pub struct StatsArgs {
    /// Print one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    pub json: bool,
    /// Print the Prometheus text format, version 0.0.4
    #[arg(long)]
    pub prometheus: bool,
    /// Print again and again, until Ctrl-C
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = period)]
    pub watch: Option<Duration>,
}
