//! Training in closed form: principal components as an autoencoder.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use common::{options, recipe, train, write_pictures};
use faer::{Mat, Side};
use kiln_core::{Error, Result};
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::tensor::{from_values, to_values};
use kiln_train::checkpoint::{self, Checkpoint};
use kiln_train::{
    Abilities, DataConfig, FitData, Phase, Pictures, Reconstruct, Run, System, TrainConfig, WeightSet, entry,
};
use serde::{Deserialize, Serialize};

struct Pca(Config, Pictures);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Config {
    components: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { components: 3 }
    }
}

#[derive(Module, Debug)]
struct Networks {
    /// `[1, pixels]`.
    mean: Param<Tensor<2>>,
    /// `[components, pixels]`, orthonormal.
    components: Param<Tensor<2>>,
}

impl System for Pca {
    const ID: &'static str = "pca";
    const PAPER: &'static str = "a test";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig::default())
    }

    fn new(config: Config, pictures: &Pictures) -> Result<Self> {
        Ok(Self(config, pictures.clone()))
    }

    fn networks(&self, init: &mut Init) -> Networks {
        let pixels = self.1.shape.iter().product();
        Networks { mean: init.constant([1, pixels], 0.0), components: init.constant([self.0.components, pixels], 0.0) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        Vec::new()
    }

    fn fit(&self, fresh: Networks, data: &FitData<'_>) -> Result<Option<Networks>> {
        let (k, pixels) = (self.0.components, self.1.shape.iter().product::<usize>());
        if data.len(0) <= k {
            return Err(Error::usage(format!("{} pictures do not determine {k} components", data.len(0))));
        }
        let (mut sum, mut squares) = (vec![0.0; pixels], Mat::<f64>::zeros(pixels, pixels));
        for batch in data.batches(0) {
            for row in to_values(batch?.images).chunks(pixels) {
                for (i, &x) in row.iter().enumerate() {
                    sum[i] += f64::from(x);
                    row.iter().enumerate().for_each(|(j, &y)| squares[(i, j)] += f64::from(x) * f64::from(y));
                }
            }
        }
        let n = data.len(0) as f64;
        let scatter = Mat::from_fn(pixels, pixels, |i, j| squares[(i, j)] - sum[i] * sum[j] / n);
        let eigen = scatter.self_adjoint_eigen(Side::Lower).map_err(|e| Error::new(format!("{e:?}")))?;
        // The largest come last.
        let component = |c: usize| (0..pixels).map(move |i| (i, pixels - 1 - c));
        let components = (0..k).flat_map(component).map(|at| eigen.U()[at] as f32).collect();
        let mean = sum.iter().map(|x| (x / n) as f32).collect();
        let filled = |old: Param<Tensor<2>>, values| {
            let shape = old.val().dims();
            old.map(|_| from_values(values, shape, data.device()))
        };
        Ok(Some(Networks { mean: filled(fresh.mean, mean), components: filled(fresh.components, components) }))
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { reconstruct: Some(self), ..Abilities::default() }
    }
}

impl Reconstruct<Networks> for Pca {
    fn reconstruct(&self, networks: &Networks, images: Tensor<4>) -> Result<Tensor<4>> {
        let shape = images.dims();
        let (mean, components) = (networks.mean.val(), networks.components.val());
        let centred = images.reshape([shape[0], shape[1] * shape[2] * shape[3]]) - mean.clone();
        Ok((centred.matmul(components.clone().transpose()).matmul(components) + mean).reshape(shape))
    }
}

#[test]
fn principal_components_are_fitted_saved_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (data, root) = (dir.path().join("data"), dir.path().join("run"));
    write_pictures(&data, 30);
    let pca = entry::<Pca>();
    // However many steps are asked for: it is done in one.
    let summary = pca.train(recipe(pca.defaults().unwrap(), &data, &[]), &root, &options(7)).unwrap();
    let run = Run::open(&root).unwrap();
    let pictures = summary.images;
    assert!(summary.complete && summary.steps == 1 && pictures > 20, "{summary:?}");
    assert_eq!(checkpoint::list(&run.checkpoints()), [pictures]);
    let report = std::fs::read(root.join("report.json")).unwrap();
    let saved = Checkpoint::newest(&run.checkpoints(), &mut |_| ()).unwrap().unwrap();
    assert!(saved.ema.is_empty() && saved.optimizer.is_empty() && saved.network.len() == 2);
    assert_eq!(std::fs::read_dir(run.previews()).unwrap().count(), 1);

    // Orthonormal, and all there is to the pictures, which are sums of three patterns; but for a half level of rounding.
    let components = &saved.network["components"];
    for (i, a) in components.values.chunks(25).enumerate() {
        for (j, b) in components.values.chunks(25).enumerate() {
            let product: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!((product - f32::from(u8::from(i == j))).abs() < 1e-5, "{i} {j}: {product}");
        }
    }
    let error = |root: &std::path::Path| {
        let model = pca.open(&Run::open(root).unwrap(), WeightSet::Ema, &Device::flex()).unwrap();
        let set = kiln_data::open(&data.display().to_string(), kiln_data::Split::All, &Default::default()).unwrap();
        let values: Vec<f32> = (0..30).flat_map(|i| set.get(i).unwrap().picture.to_unit()).collect();
        let images = from_values::<4>(values, [30, 1, 5, 5], &Device::flex());
        let off = (model.reconstruct(images.clone()).unwrap() - images).abs();
        f64::from(off.mean().into_scalar::<f32>()) * 127.5
    };
    assert!(error(&root) < 0.5, "{}", error(&root));
    let few = dir.path().join("few");
    train(&*pca, &data, &few, 1, &["model.components=1"]).unwrap();
    assert!(error(&few) > 2.0, "{}", error(&few));

    // There is nothing to go on with.
    let again = pca.resume(&run, &options(9)).unwrap();
    assert!(again.complete && again.images == pictures && again.steps == 1);
    assert_eq!(std::fs::read(root.join("report.json")).unwrap(), report);
    // What cannot be fitted leaves no run behind, so that the same folder serves the next try.
    let no = dir.path().join("no");
    let said = train(&*pca, &data, &no, 1, &["model.components=60"]).unwrap_err();
    assert!(said.is_usage() && said.to_string().contains("do not determine 60 components"), "{said}");
    assert!(!no.exists());
    train(&*pca, &data, &no, 1, &["model.components=2"]).unwrap();
}
