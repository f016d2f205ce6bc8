//! Names the formats that events are printed in.

use clap::{Args, ValueEnum};

/// How to print events.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct FormatArgs {
    /// How to print each event
    #[arg(
        short = 'o',
        long = "output",
        help_heading = None::<&str>,
        visible_alias = "format",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub format: Format,
}

/// The formats of `cat` and `tail`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text of --help, not a link")]
    /// Time, tag[pid]: text
    #[default]
    Short,
    /// As short, with the time in ISO 8601
    ShortIso,
    /// As short, with microseconds
    ShortPrecise,
    /// The text and a line feed
    Cat,
    /// The bytes of the payload and nothing else
    Raw,
    /// One JSON object a line, with journalctl's names
    Json,
    /// All that is known, one line for each field
    Verbose,
    /// The Journal Export Format; readable on a terminal
    Export,
}
