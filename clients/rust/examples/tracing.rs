//! Sends events of `tracing`, with the fields of their spans.
//!
//! ```sh
//! cargo run -p dbuf-client --features tracing --example tracing
//! dbufctl cat -o json ORDER=17
//! ```

use dbuf_client::ProducerOptions;
use dbuf_client::tracing::{DbufLayer, LayerOptions};
use tracing_subscriber::layer::SubscriberExt;

fn main() {
    let producer = ProducerOptions { name: "shop".into(), ..ProducerOptions::default() };
    let layer = DbufLayer::with_options(LayerOptions { producer, ..LayerOptions::default() });
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).expect("the first");
    let span = tracing::info_span!("order", order = 17, customer = "ann");
    span.in_scope(|| {
        tracing::info!("accepted");
        tracing::warn!(attempts = 3, "card refused");
    });
}
