//! A description of this machine's processor.

use std::fs;

/// Threads and, where the system tells, the processor.
pub fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.trim().to_string()));
    let threads = rayon::current_num_threads();
    let plural = if threads == 1 { "" } else { "s" };
    format!("{threads} thread{plural}, {}", model.unwrap_or_else(|| std::env::consts::ARCH.into()))
}
