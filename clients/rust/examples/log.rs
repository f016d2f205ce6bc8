//! Sends records of `log`, with their values.
//!
//! ```sh
//! cargo run -p dbuf-client --features log --example log
//! dbufctl cat -o json ORDER=17
//! ```

use dbuf_client::ProducerOptions;
use dbuf_client::log::{LogOptions, init};

fn main() -> Result<(), log::SetLoggerError> {
    let producer = ProducerOptions { name: "shop".into(), ..ProducerOptions::default() };
    init(LogOptions { producer, level: log::LevelFilter::Debug, ..LogOptions::default() })?;
    log::info!(order = 17, customer = "ann"; "accepted");
    log::warn!(order = 17, attempts = 3; "card refused");
    Ok(())
}
