//! `mobilenetv2 FILE BATCH PASSES`: pictures a second of MobileNetV2's features at 224×224, median of the
//! passes, and the sum of the features, as JSON. `benches/peers/measures.py` runs it beside torchvision.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use kiln_features::WeightsFile;
use kiln_features::mobilenet::MobileNetV2;
use kiln_nn::tensor::{from_values, to_values};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, batch, passes] = &arguments[..] else { return Err("mobilenetv2 FILE BATCH PASSES".into()) };
    let (batch, passes): (usize, usize) = (batch.parse()?, passes.parse()?);
    let device = Device::flex();
    let net = MobileNetV2::load(&WeightsFile::open(Path::new(file))?, &device)?;
    // The same pixels as the peer's.
    let pixels = (0..batch * 3 * 224 * 224).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect();
    let images = from_values::<4>(pixels, [batch, 3, 224, 224], &device);
    let mut seconds = Vec::new();
    let mut sum = 0.0;
    for pass in 0..=passes {
        let start = Instant::now();
        sum = to_values(net.features(images.clone())).iter().map(|v| f64::from(*v)).sum();
        // The first pass warms up.
        if pass > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let rate = batch as f64 / seconds[seconds.len() / 2];
    println!("{}", serde_json::json!({"rate": rate, "sum": sum}));
    Ok(())
}
