//! The command people type. Everything it does is in the library.
fn main() {}
