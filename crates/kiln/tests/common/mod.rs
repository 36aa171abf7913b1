//! Commands as people type them.

use std::path::Path;
use std::process::{Command, Output};

fn kiln(folder: &Path, args: &str) -> Output {
    let args: Vec<&str> = args.split_whitespace().collect();
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(folder).args(args).arg("--quiet").output().unwrap()
}

/// What a command prints that succeeds.
pub fn done(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The line of a command that is refused.
pub fn refused(folder: &Path, args: &str) -> String {
    let output = kiln(folder, args);
    assert!(!output.status.success(), "{args}");
    String::from_utf8(output.stderr).unwrap()
}
