//! What a process uses, as the kernel counts it.

#![allow(dead_code, reason = "each test and benchmark uses its own part")]

use std::fs;

/// Processor time in user and system mode.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    // utime and stime, in the kernel's ticks of 10 ms.
    fields[11..13].iter().map(|n| n.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
}

/// The most memory that it had, shared memory included.
pub(crate) fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    peak.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
