//! Writes the manual pages of both programs, of the configuration file and of the segments. This is `dbufctl man`.
//!
//! Input: the directory to write to. Output: pages in roff(7), the same bytes for the same version at any time and
//! place. One thread. Failures: writing them.
//!
//! Nothing is written twice: commands and options come from the tables that the command lines are parsed
//! by ([`commands`], [`daemon`]), keys from the table of the configuration ([`configuration`]), the format from its
//! page in `docs` ([`format`]). [`page`] knows roff.

mod commands;
mod configuration;
mod daemon;
mod format;
mod page;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueHint};

use super::output::print_out;
use page::Page;

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write all pages into this directory, which is created if it is missing; without it, print dbufctl(1) as roff,
    /// for man(1) to show
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub into: Option<PathBuf>,
}

/// Runs `man`. `table` is dbufctl's command line.
///
/// # Errors
/// A page could not be written.
pub(super) fn run(args: &ManArgs, table: clap::Command) -> anyhow::Result<ExitCode> {
    let table = commands::built(table);
    match &args.into {
        Some(directory) => write_into(directory, &table)?,
        None => print_out(&commands::dbufctl(&table).text())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_into(directory: &Path, table: &clap::Command) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for page in all(table) {
        let path = directory.join(page.file_name());
        std::fs::write(&path, page.text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Every page.
fn all(table: &clap::Command) -> Vec<Page> {
    let mut pages = vec![commands::dbufctl(table)];
    pages.extend(commands::each(table));
    pages.extend([daemon::dbufd(), configuration::dbufd_toml(), format::dbuf_format()]);
    pages
}
