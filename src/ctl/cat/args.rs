//! Defines the command lines of `cat` and `tail`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::ctl::print::FormatArgs;
use crate::ctl::select::SelectionArgs;
use crate::ctl::values::{as_field, field, lines};

/// For arguments after the filters. Without it, help would list them under the filters' heading.
const NO_HEADING: Option<&str> = None;

/// `cat`
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Print only the newest N matching events ("all": no limit)
    #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
    pub lines: Option<u64>,
    /// Then print new events as they arrive, until Ctrl-C; without -n or a start, begin with the newest 10
    #[arg(short, long, conflicts_with_all = ["reverse", "files"])]
    pub follow: bool,
    /// Print the newest event first
    #[arg(short, long)]
    pub reverse: bool,
    /// Which events
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How to print them
    #[command(flatten)]
    pub format: FormatArgs,
    /// FIELD=VALUE: only events with this field. FILE: read this file instead of the directory
    #[arg(help_heading = NO_HEADING, value_name = "FIELD=VALUE|FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
}

/// `tail`
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Begin with the newest N matching events ("all": no limit)
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = lines)]
    pub lines: u64,
    /// Accepted and ignored: tail always follows
    #[arg(short, long, hide = true)]
    pub follow: bool,
    /// Which events
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// How to print them
    #[command(flatten)]
    pub format: FormatArgs,
    /// Events with this field
    #[arg(help_heading = NO_HEADING, value_name = "FIELD=VALUE", value_parser = field)]
    pub fields: Vec<(String, Vec<u8>)>,
}

impl CatArgs {
    /// Takes the fields out of the files. A file of such a name must be written as `./FIELD=VALUE`.
    pub(crate) fn sort_out(&mut self) {
        let fields = self.files.extract_if(.., |file| as_field(file.as_os_str().as_bytes()).is_some());
        self.selection.fields = fields.filter_map(|file| as_field(file.as_os_str().as_bytes())).collect();
    }
}

impl From<TailArgs> for CatArgs {
    fn from(tail: TailArgs) -> Self {
        let TailArgs { lines, follow: _, mut selection, format, fields } = tail;
        selection.fields = fields;
        Self { lines: Some(lines), follow: true, reverse: false, selection, format, files: Vec::new() }
    }
}
