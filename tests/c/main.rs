//! `clients/c/dbuf.h`: its compilers, its bytes, and how it behaves towards a daemon. The daemon is played here, but
//! for a few tests with the real one; the program is `clients/c/tests/driver.c`, which does what it is told line by
//! line.

#[path = "../support/mod.rs"]
mod support;

mod behaviour;
mod ends;
mod harness;
mod header;
mod life;
