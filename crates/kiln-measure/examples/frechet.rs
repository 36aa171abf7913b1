//! `frechet A.safetensors B.safetensors`: the Fréchet distance of two tables `features` `[n, d]` (f32), the
//! seconds it took after reading them, and the process's largest resident size before and after, as JSON.
//! `benches/peers/measures.py` runs it beside its peers.

use std::time::Instant;

use kiln_measure::Features;
use kiln_measure::frechet::between;
use safetensors::SafeTensors;

fn read(path: &str) -> Result<(Vec<f32>, usize), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let table = file.tensor("features")?;
    let [_, width] = table.shape() else { return Err(format!("{path}: `features` is no table").into()) };
    let (numbers, _) = table.data().as_chunks::<4>();
    Ok((numbers.iter().map(|b| f32::from_le_bytes(*b)).collect(), *width))
}

/// The largest resident size so far, in MiB; on Linux.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = &arguments[..] else { return Err("frechet A.safetensors B.safetensors".into()) };
    let ((x, width), (y, _)) = (read(a)?, read(b)?);
    let before = peak();
    let start = Instant::now();
    let value = between(Features::new(a, &x, width)?, Features::new(b, &y, width)?)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"value": value, "seconds": seconds, "loaded": before, "peak": peak()}));
    Ok(())
}
