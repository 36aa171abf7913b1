//! Running independent tasks on the thread pool, and the scratch memory they use.

use rayon::prelude::*;
use std::cell::RefCell;

/// Work (in multiply-adds or elements) below which waking other threads costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// Runs `task(0) .. task(count - 1)`, in parallel when `work`, the total, is worth it. Which thread
/// runs what is not fixed, so tasks must not depend on one another.
pub(crate) fn each(count: usize, work: usize, task: impl Fn(usize) + Sync + Send) {
    if count <= 1 || work < WORTH_SHARING {
        (0..count).for_each(task);
    } else {
        let least = (WORTH_SHARING * count / work.max(1)).max(1);
        (0..count).into_par_iter().with_min_len(least).for_each(task);
    }
}

/// Threads tasks may run on.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `work` with `len` floats of this thread's scratch memory, holding anything finite or not.
pub(crate) fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        /// Buffers not in use: one for every depth of nested calls there has been.
        static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if scratch.len() < len {
        scratch = vec![0.0; len];
    }
    let result = work(&mut scratch[..len]);
    SCRATCH.with_borrow_mut(|unused| unused.push(scratch));
    result
}
