//! Starts `dbufd`, the daemon. Everything it does is in the library.

#![deny(unsafe_code)]

fn main() -> std::process::ExitCode {
    dbufd::daemon::main()
}
