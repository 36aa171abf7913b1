//! The memory use of this process.

/// Peak resident memory of this process in bytes (Linux's `VmHWM`); `None` where the operating system does
/// not report it.
pub fn peak() -> Option<u64> {
    high_water(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_linux_is_read() {
        assert_eq!(high_water("VmPeak:\t  9999 kB\nVmHWM:\t  204800 kB\nVmRSS:\t 1 kB\n"), Some(200 << 20));
        assert_eq!(high_water("VmRSS:\t 1 kB\n"), None);
    }
}
