//! Fetches data sets by name into the cache: `cargo run --release -p kiln-data --example fetch NAME...`

fn main() -> kiln_core::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    for name in &names {
        let folder = kiln_data::fetch(name, None, &mut |line| eprintln!("{name}: {line}"))?;
        println!("{name}: {}", folder.display());
    }
    if names.is_empty() {
        for entry in kiln_data::catalogue() {
            let state = if entry.cached { "here" } else { "" };
            println!("{:<16} {state:<5} {} [{}]", entry.name, entry.about, entry.licence);
        }
    }
    Ok(())
}
