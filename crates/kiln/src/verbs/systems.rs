//! `kiln systems`.

use kiln_core::Result;
use kiln_systems::registry;
use kiln_train::Ability;
use serde::Serialize;

use crate::output::Output;

#[derive(Serialize)]
struct Row {
    id: &'static str,
    abilities: Vec<Ability>,
    data_kind: kiln_data::DataKind,
    paper: &'static str,
}

pub fn run(out: &Output) -> Result<()> {
    for system in registry() {
        let row = Row {
            id: system.id(),
            abilities: system.abilities()?,
            data_kind: system.data_kind(),
            paper: system.paper(),
        };
        let line = || {
            let verbs: Vec<&str> = row.abilities.iter().map(|a| a.verb()).collect();
            format!("{:12} {:?}\n{:12} {}\n{:12} can: {}", row.id, row.data_kind, "", row.paper, "", verbs.join(", "))
        };
        out.say(line, &row);
    }
    Ok(())
}
