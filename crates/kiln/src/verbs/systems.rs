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
    sizes: String,
    paper: &'static str,
}

pub fn run(out: &Output) -> Result<()> {
    for system in registry() {
        let row = Row {
            id: system.id(),
            abilities: system.abilities()?,
            data_kind: system.data_kind(),
            sizes: system.sizes().to_string(),
            paper: system.paper(),
        };
        let line = || {
            let verbs: Vec<&str> = row.abilities.iter().map(|a| a.verb()).collect();
            let (kind, sizes, paper) = (row.data_kind, &row.sizes, row.paper);
            format!("{:12} {kind:?}, {sizes}\n{:12} {paper}\n{:12} can: {}", row.id, "", "", verbs.join(", "))
        };
        out.say(line, &row);
    }
    Ok(())
}
