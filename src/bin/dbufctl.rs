//! Starts `dbufctl`, the command that people type. Everything it does is in the library.

#![deny(unsafe_code)]

fn main() -> std::process::ExitCode {
    dbufd::ctl::main(std::env::args_os())
}
