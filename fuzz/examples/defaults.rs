//! Writes the default recipe of every system as seeds of the targets `recipe` and `set`: `defaults FOLDER`.

use std::path::PathBuf;

use toml::{Table, Value};

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("usage: defaults FOLDER"));
    for system in kiln_systems::registry() {
        let mut recipe = system.defaults().expect("the tests check every default");
        let mut assignments = vec![system.id().to_string()];
        list("", &recipe, &mut assignments);
        if let Some(Value::Table(data)) = recipe.get_mut("data") {
            data.insert("shape".into(), Value::Array([1, 28, 28].map(Value::Integer).to_vec()));
        }
        for (target, text) in [("recipe", recipe.to_string()), ("set", assignments.join("\n"))] {
            std::fs::create_dir_all(folder.join(target)).expect("a folder that can be written");
            std::fs::write(folder.join(target).join(system.id()), text).expect("a folder that can be written");
        }
    }
}

/// Every setting below `table` as `key=value`.
fn list(prefix: &str, table: &Table, out: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            Value::Table(inside) => list(&format!("{prefix}{key}."), inside, out),
            value => out.push(format!("{prefix}{key}={value}")),
        }
    }
}
