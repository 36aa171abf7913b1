//! Ctrl-C: a training ends with its step and is saved, anything else ends at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use kiln_core::{Context, INTERRUPTED, Result, output, tell};

/// Trainings that are under way.
static TRAININGS: AtomicUsize = AtomicUsize::new(0);

/// Makes Ctrl-C exit with status 130, where no training is under way.
///
/// # Errors
/// If the system takes no handler.
pub fn install() -> Result<()> {
    flag().map(drop)
}

/// What Ctrl-C sets; it can be installed but once, and whoever comes second waits for the first's outcome.
fn flag() -> Result<Arc<AtomicBool>> {
    static FLAG: OnceLock<std::result::Result<Arc<AtomicBool>, String>> = OnceLock::new();
    let install = || {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let handler = move || {
            // The second one ends a training at once.
            if TRAININGS.load(Ordering::SeqCst) == 0 || seen.swap(true, Ordering::SeqCst) {
                tell!("kiln: stopped");
                output::settle();
                std::process::exit(INTERRUPTED.into());
            }
            tell!("stopping after this step; once more to stop at once");
        };
        ctrlc::set_handler(handler).map(|()| flag).map_err(|e| e.to_string())
    };
    FLAG.get_or_init(install).clone().context(|| "installing the Ctrl-C handler")
}

/// A training that Ctrl-C stops after its step, while this lives.
pub(crate) struct Interruptible(Arc<AtomicBool>);

impl Interruptible {
    pub(crate) fn new() -> Result<Self> {
        let flag = flag()?;
        TRAININGS.fetch_add(1, Ordering::SeqCst);
        Ok(Self(flag))
    }

    /// Whether Ctrl-C was pressed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        TRAININGS.fetch_sub(1, Ordering::SeqCst);
    }
}
