//! Sends an event by the thread's own producer, which is opened for it and closed when the thread ends.
//!
//! ```sh
//! cargo run --release -p dbuf-client --example hello
//! dbufctl tail
//! ```

fn main() {
    if let Err(error) = dbuf_client::log(6, b"hello") {
        eprintln!("hello: {error}");
    }
    let sent = std::thread::spawn(|| dbuf_client::log(4, b"hello from another thread")).join();
    assert!(matches!(sent, Ok(Ok(()))), "there is room for one event");
    let statistics = dbuf_client::local::with(|producer| producer.statistics()).expect("this thread's producer");
    println!("sent by {:?}; {}", statistics.link, statistics.last_error.unwrap_or_else(|| "no error".into()));
}
