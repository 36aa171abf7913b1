//! Published networks whose inner maps are compared, by the words that name them.

use std::path::Path;

use burn::tensor::Device;
use kiln_core::{Error, Result};
use kiln_features::vgg::Depth;
use kiln_features::{LayerNet, WeightsFile};

/// `vgg16-hed`, `mobilenetv2` and `efficientnet-lite0` from `kiln data fetch weights:NAME`; `vgg19:FILE` and `vgg16:FILE` from
/// torchvision's weights. Errors begin with `asked`, where the name was given.
///
/// # Errors
/// If there is no such network, its file is not there or holds another network.
pub fn layer_net(asked: &str, spec: &str, device: &Device) -> Result<LayerNet> {
    let fetched = || WeightsFile::open(&kiln_data::trained_file(&format!("weights:{spec}"))?);
    match spec.split_once(':') {
        None if spec == "vgg16-hed" => LayerNet::vgg16_hed(&fetched()?, device),
        None if spec == "mobilenetv2" => LayerNet::mobilenetv2(&fetched()?, device),
        None if spec == "efficientnet-lite0" => LayerNet::efficientnet_lite0(&fetched()?, device),
        Some(("vgg19", file)) => LayerNet::vgg(&WeightsFile::open(Path::new(file))?, Depth::Vgg19, device),
        Some(("vgg16", file)) => LayerNet::vgg(&WeightsFile::open(Path::new(file))?, Depth::Vgg16, device),
        _ => Err(Error::usage(format!(
            "{asked} {spec}: give vgg16-hed, mobilenetv2 or efficientnet-lite0, or vgg19:FILE or vgg16:FILE with torchvision's weights"
        ))),
    }
}
