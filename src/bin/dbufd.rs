//! Starts `dbufd`, the daemon. Everything it does is in the library.

fn main() -> std::process::ExitCode {
    dbufd::daemon::main()
}
