//! What a run decides by its pictures before it begins: the distribution over pixels, and the mean that a decoder puts out.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

use std::path::Path;

use burn::tensor::Device;
use kiln_data::Picture;
use kiln_nn::tensor::to_values;
use kiln_systems::find;
use kiln_train::recipe::{assignment, merge};
use kiln_train::{Options, Request, Run, WeightSet};

/// Twenty pictures of one colour.
fn folder(root: &Path, colour: &[u8]) {
    std::fs::create_dir_all(root).unwrap();
    for i in 0..20 {
        let pixels = colour.iter().copied().cycle().take(64 * colour.len()).collect();
        let picture = Picture::new(8, 8, colour.len(), pixels).unwrap();
        picture.write_png(&root.join(format!("{i}.png")), &[]).unwrap();
    }
}

#[test]
fn a_run_begins_with_what_suits_its_pictures_and_at_their_mean() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for (name, colour, decoder) in
        [("colour", &[200, 100, 50][..], "gaussian-learned"), ("grey", &[180][..], "bernoulli")]
    {
        folder(&dir.path().join(name), colour);
        for (id, network) in [("vae", "conv"), ("iwae", "mlp"), ("aae", "mlp")] {
            let system = find(id).unwrap();
            let mut recipe = system.defaults().unwrap();
            let set = [
                format!("data.set={}", dir.path().join(name).display()),
                format!("model.network={network}"),
                "model.hidden=[16]".into(),
                "model.channels=4".into(),
                "train.batch=4".into(),
                "model.optimizer.learning_rate=1e-9".into(),
            ];
            for text in set {
                merge(&mut recipe, &assignment(&text).unwrap(), id).unwrap();
            }
            let root = dir.path().join(format!("{name}-{id}"));
            let options = Options { steps: Some(1), quiet: true, ..Options::on(device.clone()) };
            system.train(recipe, &root, &options).unwrap();
            let run = Run::open(&root).unwrap();
            assert_eq!(run.recipe().unwrap()["model"]["decoder"].as_str(), Some(decoder), "{name} {id}");
            let model = system.open(&run, WeightSet::Ema, &device).unwrap();
            let mut request = Request::new(0..1, 0, &device);
            request.sampler.insert("truncation_psi".into(), 0.0.into());
            let picture = to_values(model.generate(&request).unwrap());
            for (at, value) in picture.iter().enumerate() {
                let wanted = f32::from(colour[at / 64]) / 127.5 - 1.0;
                assert!((value - wanted).abs() < 0.02, "{name} {id} {at}: {value} is not {wanted}");
            }
        }
    }
}
