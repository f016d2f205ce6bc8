//! Names the edges between the threads of a buffer: both ends of an edge take their order from the one name.
//!
//! Input and output: none, these are constants. Thread: any. Failures: none.
//!
//! `.ci/weaken` weakens each end of each edge in turn, and must see a model of `models.rs` fail.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `swap` | `Reader::swap`: exchange of the gate | `Writer::take`: addition to the gate | recycled words; that reader and late writers are done with the bytes | a copy runs into bytes that are still read |
//! | `publish` | `Claim::publish`: compare-exchange of the word | `Reader::seal`: RMW of the word | the bytes that count | the reader sees older bytes |
//! | `seal` | `Reader::seal`: RMW of the word | a claim or publish that fails, `Writer::let_go` | the gate's new generation (or CLOSED) | a claim is redone in the same generation |
//! | `recycle` | `Writer::let_go`: BUSY is cleared | `Reader::recycle`: exchange of the word | that a late copy is over | it runs into the next owner's copy |
//! | `bell` | `Waker::wake`, `Shared::wake_reader` | `Shared::listen`, `Shared::take_wake` | what the waking thread did before | the reader wakes, sees an old state, and sleeps on |
//!
//! Everything else on the gate, the words and `turn` is Relaxed: the order of one word's modifications decides which
//! step comes first, and each site says so.

use dbuf_sync::Edge;

pub(super) const SWAP: Edge = Edge::new("swap");
pub(super) const PUBLISH: Edge = Edge::new("publish");
pub(super) const SEAL: Edge = Edge::new("seal");
pub(super) const RECYCLE: Edge = Edge::new("recycle");
pub(super) const BELL: Edge = Edge::new("bell");
