//! What programs know after an orderly stop.

use dbuf_client::{LinkKind, Producer, ProducerOptions};

use crate::manager::Manager;
use crate::support::{TIMEOUT, wait_for};

#[test]
fn after_an_orderly_stop_a_ring_knows_what_is_durable() {
    let mut manager = Manager::new();
    // By itself nothing becomes durable.
    manager.start(&["storage.sync=1h"]);
    let path = Some(manager.home.socket("stream.sock"));
    let mut producer = Producer::open(ProducerOptions { path, ..ProducerOptions::default() }).expect("a producer");
    wait_for("a ring", || {
        producer.tend();
        (producer.statistics().link == LinkKind::Ring).then_some(())
    });
    for event in 0..1000 {
        producer.send(6, format!("event {event}").as_bytes()).expect("no error");
    }
    manager.home.wait_persisted(1000);
    assert_eq!(producer.statistics().durable, 0);
    // The manager has the ring: it is not the end of its connection that tells the program anything.
    wait_for("the ring in the store", || manager.names().iter().any(|name| name.starts_with("ring0")).then_some(()));
    manager.stop_for_good();
    wait_for("the program to see the end", || {
        producer.tend();
        (producer.statistics().link == LinkKind::None).then_some(())
    });
    let told = producer.statistics();
    assert_eq!((told.durable, told.unconfirmed), (1000, 0), "all is durable, and it does not know: {told:?}");
    manager.start(&[]);
    producer.sync(TIMEOUT).expect("nothing is unconfirmed");
    assert_eq!(manager.home.cat().lines().count(), 1000);
}
