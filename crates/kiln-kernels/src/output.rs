//! Output buffers that parallel tasks fill, each task its own elements, without zeroing them first.

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

/// A buffer being filled by several tasks at once. All access is through `unsafe` methods whose
/// contract is that no two tasks touch the same element.
pub(crate) struct Output<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only used through methods that require disjoint elements per task, and
// `f32` may be written from any thread.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Shares `buffer` between tasks until the borrow ends.
    pub(crate) fn new(buffer: &'a mut [f32]) -> Self {
        Output { start: buffer.as_mut_ptr(), len: buffer.len(), borrow: PhantomData }
    }

    /// The elements of `range`, which may be uninitialised.
    ///
    /// # Safety
    /// While the result lives nothing else may touch an element of `range`.
    #[allow(clippy::mut_from_ref)] // exclusive by the contract above
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [MaybeUninit<f32>] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the buffer by the assertion, exclusive by the caller's promise, and
        // `MaybeUninit` allows unwritten elements.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start).cast(), range.len()) }
    }

    /// A pointer to element `at`, the first of `len` that are inside the buffer.
    pub(crate) fn pointer(&self, at: usize, len: usize) -> *mut f32 {
        assert!(at + len <= self.len);
        self.start.wrapping_add(at)
    }

    /// Writes `values[i]` to element `at + i * step` for every `i`.
    ///
    /// # Safety
    /// Nothing else may touch these elements during the call.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, at: usize, step: usize, values: &[f32]) {
        let Some(last) = values.len().checked_sub(1) else {
            return;
        };
        assert!(at + last * step < self.len);
        // SAFETY: the largest index is inside the buffer by the assertion; exclusive by contract.
        unsafe {
            let start = self.start.add(at);
            if step == 1 {
                for (i, value) in values.iter().enumerate() {
                    start.add(i).write(*value);
                }
            } else {
                for (i, value) in values.iter().enumerate() {
                    start.add(i * step).write(*value);
                }
            }
        }
    }
}

/// A new vector of `len` elements that `fill` writes.
///
/// # Safety
/// `fill` must write every element.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(&Output<'_>)) -> Vec<f32> {
    // SAFETY: the caller's promise.
    let [vector] = unsafe { filled_all([len], |[output]| fill(output)) };
    vector
}

/// The same of several vectors.
///
/// # Safety
/// `fill` must write every element of each.
pub(crate) unsafe fn filled_all<const N: usize>(
    lens: [usize; N],
    fill: impl FnOnce([&Output<'_>; N]),
) -> [Vec<f32>; N] {
    let mut vectors = lens.map(Vec::<f32>::with_capacity);
    let outputs: [Output<'_>; N] =
        std::array::from_fn(|i| Output { start: vectors[i].as_mut_ptr(), len: lens[i], borrow: PhantomData });
    fill(outputs.each_ref());
    for (vector, len) in vectors.iter_mut().zip(lens) {
        // SAFETY: the capacity is at least `len` and `fill` wrote every element.
        unsafe { vector.set_len(len) };
    }
    vectors
}
