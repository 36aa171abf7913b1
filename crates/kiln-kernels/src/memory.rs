//! What happens to memory that is freed and soon wanted again.

use std::ffi::c_int;

/// `mi_option_purge_delay` of mimalloc's `mi_option_t`.
const PURGE_DELAY: c_int = 15;

/// Tells mimalloc to keep freed memory instead of giving it back to the system after a while: a
/// training step frees most of what the next one takes, and each page the system gives is cleared
/// first. Of no effect in a program with another allocator; `MIMALLOC_PURGE_DELAY` in the
/// environment goes before it.
pub fn keep_freed() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: the function takes any number for an option, stores one integer, and is meant to
        // be called at any time.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_meant() {
        // Its default, which no neighbour shares.
        // SAFETY: as above; only an integer is read.
        let before = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        keep_freed();
        // SAFETY: as above.
        let after = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!((before, after), (1000, -1));
    }
}
