//! Shows everything that a producer can do: fields, claims, waiting for room, a sync, statistics.
//!
//! ```sh
//! cargo run --release -p dbuf-client --example producer [stream.sock]
//! dbufctl cat ORDER=17
//! ```

use std::io::Write;
use std::time::Duration;

use dbuf_client::wire::{Event, put_field};
use dbuf_client::{Producer, ProducerOptions, SendError, WhenFull};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut producer = Producer::open(ProducerOptions {
        name: "shop".into(),
        path: std::env::args_os().nth(1).map(Into::into),
        when_full: WhenFull::Wait(Duration::from_millis(50)),
        ..ProducerOptions::default()
    })?;
    producer.send(6, b"the shop is open")?;

    let mut fields = Vec::new();
    put_field(&mut fields, b"ORDER", b"17");
    put_field(&mut fields, b"CUSTOMER", b"ann");
    producer.send_event(&Event { pri: 6, fields: &fields, payload: b"order accepted", ..Event::default() })?;

    // Formatted where the daemon will read it, without a copy.
    let mut claim = producer.claim(4, 200)?;
    write!(claim, "{} of {} cards refused", 1, 17)?;
    claim.publish()?;

    // A million more, as fast as they come; those that find no room in 50 ms are counted.
    let begun = std::time::Instant::now();
    for _ in 0..1_000_000 {
        match producer.send(7, b"one of very many events that say nothing") {
            Ok(()) | Err(SendError::Full) => {}
            Err(error) => return Err(error.into()),
        }
    }
    println!("a million in {:?}", begun.elapsed());
    match producer.sync(Duration::from_secs(10)) {
        Ok(()) => println!("all that was sent is durable"),
        Err(error) => println!("not known to be durable: {error}"),
    }
    println!("{:#?}", producer.statistics());
    Ok(())
}
