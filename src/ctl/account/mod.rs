//! Proves from the files, for each producer: *sent = stored + lost, by cause + in memory*. This is `dbufctl account`.
//!
//! Input: the daemon's account, counted where events come in and where they are written; and every event in the files.
//! Output: a table or JSON, and a verdict. Failures: listing the files and writing the output. What does not add up is
//! a finding, not a failure.
//!
//! Four comparisons:
//! 1. Each producer has sent at least what is stored and lost of it; the rest is in memory.
//! 2. The events counted as stored, over all producers, are the sequences assigned since the account began.
//! 3. Each of these sequences is in the files once, or retention has deleted it, because it is older than the oldest
//!    file, or a failed sync has withdrawn it, and that is counted.
//!    What retention has deleted of each producer is the daemon's count: the files are gone.
//! 4. The files hold no more events and no more losses of a producer than were counted.

mod balance;
mod claims;
mod files;
mod print;

use std::process::ExitCode;

use clap::Args;
use jiff::Zoned;

use super::context::Context;
use super::daemon::{self, ANSWER_TIMEOUT};
use super::directory;
use super::failure::{DAMAGE_EXIT, Failure};
use super::output::print_out;
use crate::escape::json_line;
use balance::Balance;
use claims::Claims;
use files::Files;

/// `account`
#[derive(Clone, Copy, Debug, Args)]
pub struct AccountArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How often the daemon is asked again if a count was caught in the middle of a step.
const ASKS_MAX: usize = 5;

/// Runs the command.
///
/// # Errors
/// The files cannot be listed, or the output cannot be written.
pub(super) fn run(args: AccountArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut directory = directory::open(&[], &context.directory)?;
    let (claims, silence) = match ask(context) {
        Ok(claims) => {
            // Everything that was stored before that answer is in the files by now.
            directory = directory::open(&[], &context.directory)?;
            (Some(claims), None)
        }
        Err(why) => (None, Some(why)),
    };
    let files = Files::count(&directory, claims.as_ref());
    let mut balance = Balance::new(claims.as_ref(), files);
    if balance.has_late_losses() && claims.is_some() {
        // The files were read after the daemon was asked. Losses in between are in its next answer.
        if let Ok(later) = ask(context) {
            balance.excuse_late_losses(&later);
        }
    }
    if args.json {
        print_out(&json_line(&print::as_json(&balance, context, silence.as_deref())))?;
    } else {
        print_out(&print::table(&balance, context, silence.as_deref(), Zoned::now().time_zone()))?;
    }
    let is_well = balance.findings().is_empty() && balance.lost_total() == 0;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(DAMAGE_EXIT) })
}

/// What the daemon claims, or why only the files are used.
fn ask(context: &Context) -> Result<Claims, String> {
    let mut last = Err("it was not asked".to_owned());
    for _ in 0..ASKS_MAX {
        let data = daemon::ask(&context.runtime, "account", ANSWER_TIMEOUT).map_err(|error| {
            match error.downcast_ref::<Failure>() {
                Some(Failure::NoDaemon(why)) => why.clone(),
                _ => format!("{error:#}"),
            }
        })?;
        let claims =
            Claims::of_json(&data).ok_or("the daemon's answer is not an account; is the daemon of another version?")?;
        // A writer counts just after its publish, so the reader may be slightly ahead.
        let is_settled = claims.rows.iter().all(|row| row.sent >= row.stored.saturating_add(row.lost_total()));
        last = Ok(claims);
        if is_settled {
            break;
        }
    }
    last
}
