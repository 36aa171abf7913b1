//! What a large folder costs: `cargo run --release -p kiln-data --example many -- FOLDER [PICTURES]`.
//!
//! Fills the folder with pictures of 64 x 64, half of them PNG and half JPEG, unless they are there; then opens it, checks
//! every picture as a training does, and serves batches of 64. Prints seconds, pictures a second and the most memory held.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kiln_core::random::Key;
use kiln_core::{Context, Error, Result};
use kiln_data::{Loader, Picture, PictureRule, Prepared, Split, open};

const SIDE: usize = 64;
const BATCHES: usize = 1000;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or_else(|| Error::usage("give a folder, and perhaps a number of pictures"))?;
    let count: usize = args.next().map_or(Ok(100_000), |n| n.parse()).context(|| "the number of pictures")?;
    fill(Path::new(&folder), count)?;
    println!("{:.0} MiB before", memory());
    let start = Instant::now();
    let set = open(&folder, Split::All, &PictureRule::default())?;
    let opened = start.elapsed().as_secs_f64();
    println!("opened {} pictures in {opened:.2} s; {:.0} MiB", set.len(), memory());
    let start = Instant::now();
    let prepared = Arc::new(Prepared::new(set, PictureRule::default())?);
    let seconds = start.elapsed().as_secs_f64();
    let rate = prepared.len() as f64 / seconds;
    println!("checked them in {seconds:.1} s, {rate:.0} pictures a second; {:.0} MiB", memory());
    let start = Instant::now();
    let mut loader = Loader::new(vec![prepared], 64, Key::new(0), 0)?;
    for _ in 0..BATCHES {
        loader.next()?;
    }
    let rate = (BATCHES * 64) as f64 / start.elapsed().as_secs_f64();
    println!("served {BATCHES} batches of 64, {rate:.0} pictures a second; {:.0} MiB", memory());
    Ok(())
}

/// Smooth pictures with some noise, so that they compress as photographs do.
fn fill(folder: &Path, count: usize) -> Result<()> {
    std::fs::create_dir_all(folder).context(|| folder.display())?;
    for i in (0..count).rev() {
        let path = folder.join(format!("{i:06}.{}", if i % 2 == 0 { "png" } else { "jpg" }));
        if path.exists() {
            break;
        }
        let coarse = Key::new(i as u64).below(0..8 * 8 * 3, 256).into_iter().map(|v| v as u8).collect();
        let mut picture = Picture::new(8, 8, 3, coarse)?.resize(SIDE, SIDE);
        let noise = Key::new(i as u64).purpose("noise").below(0..picture.pixels.len() as u64, 12);
        picture.pixels.iter_mut().zip(noise).for_each(|(p, n)| *p = p.saturating_add(n as u8));
        let image = image::RgbImage::from_raw(SIDE as u32, SIDE as u32, picture.pixels);
        image.ok_or_else(|| Error::new("no picture"))?.save(&path).context(|| path.display())?;
    }
    Ok(())
}

/// The most memory this process has held, in MiB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
    kib / 1024.0
}
