//! `clients/c/dbuf.h`: its compilers, its bytes, and its behaviour. Most tests play the daemon themselves, and some use
//! the real one. The client is mostly `clients/c/tests/driver.c`, which obeys commands, one a line.

#[path = "../support/mod.rs"]
mod support;

mod behaviour;
mod ends;
mod harness;
mod header;
mod life;
