//! The memory use of this process, and what there is.

use kiln_core::{Result, refuse_if};
use kiln_nn::Init;

use crate::system::System;

/// Copies of every weight while a network trains: itself, its gradient, two moments of the optimiser, the average.
pub(crate) const TRAINING: u128 = 5;

/// Copies of every weight while a network is opened: itself, and what the file holds.
pub(crate) const OPENING: u128 = 2;

/// Bytes taken for the memory of a machine that does not say how much it has.
const UNKNOWN: u64 = 64 << 30;

/// Refuses networks that this machine's memory cannot hold, before they are made.
///
/// # Errors
/// A usage error with their size.
pub(crate) fn check<S: System>(system: &S, copies: u128) -> Result<()> {
    let mut init = Init::counting();
    drop(system.networks(&mut init));
    let (numbers, most) = (init.counted().unwrap_or_default(), total().unwrap_or(UNKNOWN));
    let bytes = 4 * numbers * copies;
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    refuse_if!(
        bytes > u128::from(most),
        "[model]: networks of {numbers} numbers take {:.1} GiB in {copies} copies, and this machine has {:.1} GiB; make them \
         smaller",
        gib(bytes as f64),
        gib(most as f64)
    );
    Ok(())
}

/// Bytes of memory that this machine has, or its container may use, where Linux tells.
fn total() -> Option<u64> {
    let machine = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(container.unwrap_or(machine).min(machine))
}

/// Peak resident memory of this process in bytes (Linux's `VmHWM`); `None` where the operating system does
/// not report it.
pub fn peak() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The bytes of a line such as `VmHWM: 5 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_linux_is_read() {
        let status = "VmPeak:\t  9999 kB\nVmHWM:\t  204800 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(kilobytes(status, "VmHWM:"), Some(200 << 20));
        assert_eq!(kilobytes("VmRSS:\t 1 kB\n", "VmHWM:"), None);
    }
}
