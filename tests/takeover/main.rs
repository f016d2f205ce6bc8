//! What one daemon leaves to the next, with a service manager that takes notifications late or not at all.
//!
//! The manager is a stand-in (`support/manager.rs`), so none of this needs root or systemd. `tests/storm` mixes all
//! of it at random; here each fault is by itself.

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/framed.rs"]
mod framed;
#[path = "../support/manager.rs"]
mod manager;
#[path = "../support/mod.rs"]
mod support;

mod burst;
mod greeting;
mod halves;
mod losses;
mod retention;
mod stop;
