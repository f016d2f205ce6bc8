//! Defines the filters of `cat` and `tail` on the command line.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use clap::Args;

use super::{Cursor, priority};
use crate::ctl::values::{Boot, boot};

/// Which events. Different filters must all match; of one filter that is given more than once, any may match.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct SelectionArgs {
    /// Events at or after this time: '2026-11-23 11:12', '11:12', -10min, '2 days ago', today, yesterday, @1395716396
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Events at or before this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Events of this priority or a more important one (err, 3), or of a range (warning..err)
    #[arg(short, long, value_name = "PRIO", value_parser = priority::parse_range)]
    pub priority: Option<RangeInclusive<u8>>,
    /// Events with this tag
    #[arg(short = 't', long, visible_alias = "identifier", value_name = "TAG")]
    pub tag: Vec<OsString>,
    /// Events of this systemd unit; .service may be omitted, * and ? match anything
    #[arg(short, long, value_name = "UNIT")]
    pub unit: Vec<String>,
    /// Events whose text matches this regular expression; case is ignored if the expression has no capitals
    #[arg(short, long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Events of this process
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Events of this user id
    #[arg(long, value_name = "UID")]
    pub uid: Vec<u32>,
    /// Events after this sequence
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Events from this cursor on; take one from __CURSOR of -o json
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<Cursor>,
    /// Events of the current boot, or of the boot with this id: -b=ID, without a space
    #[arg(
        short,
        long,
        value_name = "ID",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = boot
    )]
    pub boot: Option<Boot>,
    /// Fields that must be there; values of one name are alternatives.
    #[arg(skip)]
    pub fields: Vec<(String, Vec<u8>)>,
}
