//! `dbufctl account`: for each producer, *sent = stored + lost, by cause + in memory*, proved from the files.
//!
//! Enters: the daemon's account, which was counted where events came in and where they were written; and every event in
//! the files. Leaves: a table, or JSON, and a verdict. What can fail: listing the files and writing the output; what does
//! not add up is a finding, not a failure.
//!
//! What is held against what:
//! 1. Each producer has sent at least what is stored and lost of it; the rest is in memory.
//! 2. What is counted as stored, over all producers, are the sequences given out since the account began.
//! 3. Each of these sequences is in the files, once; or retention has deleted it, for it is older than the oldest file; or
//!    a failed sync has taken it back, and that is counted.
//! 4. The files hold no more of a producer, and tell of no more losses, than was counted.

mod balance;
mod files;
mod print;

use std::process::ExitCode;

use jiff::Zoned;

use super::args::ObjectArgs;
use super::cat;
use super::context::Context;
use super::daemon::{self, ANSWER_TIMEOUT};
use super::failure::{DAMAGE_EXIT, Failure};
use super::output::say;
use crate::escape::json_line;
use balance::{Balance, Claims};
use files::Files;

/// How often the daemon is asked again because a count was caught in the middle of a step.
const ASKS_MAX: usize = 5;

/// Runs the command.
///
/// # Errors
/// When the files cannot be listed or the output cannot be written.
pub(super) fn run(args: ObjectArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut directory = cat::open(&[], &context.directory)?;
    let (claims, silence) = match ask(context) {
        Ok(claims) => {
            // What was stored until that answer is in the files by now.
            directory = cat::open(&[], &context.directory)?;
            (Some(claims), None)
        }
        Err(why) => (None, Some(why)),
    };
    let files = Files::count(&directory, claims.as_ref());
    let mut balance = Balance::new(claims.as_ref(), files);
    if balance.has_late_losses() && claims.is_some() {
        // The files were read after the daemon was asked; losses that came between them are in its next answer.
        if let Ok(later) = ask(context) {
            balance.excuse_late_losses(&later);
        }
    }
    if args.json {
        say(&json_line(&print::as_json(&balance, context, silence.as_deref())))?;
    } else {
        say(&print::table(&balance, context, silence.as_deref(), Zoned::now().time_zone()))?;
    }
    let is_well = balance.findings().is_empty() && balance.lost_total() == 0;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(DAMAGE_EXIT) })
}

/// What the daemon claims, or why the files speak alone.
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
            Claims::of_json(&data).ok_or("the daemon's answer is not understood; is it of another version?")?;
        // A writer counts right after its publish: the reader may be faster by a moment.
        let is_settled = claims.rows.iter().all(|row| row.sent >= row.stored + row.lost_total());
        last = Ok(claims);
        if is_settled {
            break;
        }
    }
    last
}
