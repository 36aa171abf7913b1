//! A test system whose output is larger than its input: it repeats each pixel, times a gain that it learns.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use kiln_core::Result;
use kiln_data::DataKind;
use kiln_nn::Init;
use kiln_nn::resample::upsample_nearest;
use kiln_train::{
    Abilities, DataConfig, Loss, OptimizerConfig, Phase, Pictures, Request, SizeRule, System, TrainConfig, Translate,
};

pub struct Doubler;

#[derive(Module, Debug)]
pub struct Networks {
    gain: Param<Tensor<1>>,
}

impl Networks {
    fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        upsample_nearest(images * self.gain.val().reshape([1, 1, 1, 1]), 2)
    }
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Config {}

impl System for Doubler {
    const ID: &'static str = "doubler";
    const PAPER: &'static str = "a test";
    const DATA: DataKind = DataKind::Images;
    type Config = Config;
    type Networks = Networks;

    fn defaults() -> (DataConfig, TrainConfig) {
        (DataConfig::default(), TrainConfig::default())
    }

    fn new(_: Config, _: &Pictures) -> Result<Self> {
        Ok(Self)
    }

    fn networks(&self, init: &mut Init) -> Networks {
        Networks { gain: init.constant([1], 1.0) }
    }

    fn phases(&self) -> Vec<Phase<Self>> {
        vec![Phase::new("gain", &["gain"], OptimizerConfig::adam(1e-3), |_, networks: &Networks, batch| {
            let images = batch.images();
            let target = upsample_nearest(images.clone(), 2);
            Ok(Some(Loss::new("mse", (networks.forward(images) - target).square().mean())))
        })]
    }

    fn abilities(&self) -> Abilities<'_, Networks> {
        Abilities { translate: Some(self), ..Abilities::default() }
    }
}

impl Translate<Networks> for Doubler {
    fn directions(&self) -> Vec<&'static str> {
        vec!["larger"]
    }

    fn own_sizes(&self) -> Option<SizeRule> {
        Some(SizeRule::multiple_of(2, Self::ID).at_least(4))
    }

    fn scale(&self) -> usize {
        2
    }

    fn translate(&self, networks: &Networks, images: Tensor<4>, _: &Request) -> Result<Tensor<4>> {
        Ok(networks.forward(images))
    }
}
