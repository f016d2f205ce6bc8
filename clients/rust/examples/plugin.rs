//! Builds a plug-in: a shared object that sends events by a producer for each thread. A program may load and unload it.
//!
//! `cargo build -p dbuf-client --example plugin` makes `libplugin.so`; `clients/rust/tests/life.rs` loads it.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

use dbuf_client::{ProducerOptions, local};

/// Sends an event of the calling thread to the daemon whose `stream.sock` is named. Returns 0, or -1.
///
/// # Safety
/// `socket` is a string that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plugin_say(socket: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    let socket = unsafe { CStr::from_ptr(socket) };
    let path = Some(OsStr::from_bytes(socket.to_bytes()).into());
    // The first call decides.
    local::configure(ProducerOptions { name: "plugin".into(), path, ..ProducerOptions::default() });
    match dbuf_client::log(6, b"the plug-in is at work") {
        Ok(()) => 0,
        Err(_) => -1,
    }
}
