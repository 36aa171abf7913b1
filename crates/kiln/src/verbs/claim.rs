//! `kiln claim`.

use clap::Args;
use kiln_core::Result;

use crate::Common;
use crate::output::Output;

#[derive(Args)]
pub struct ClaimArgs {
    /// The system
    system: String,
}

pub fn run(_args: &ClaimArgs, _common: &Common, _out: &Output) -> Result<()> {
    Ok(())
}
