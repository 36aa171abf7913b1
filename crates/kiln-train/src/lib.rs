//! The training loop, checkpoints and runs
