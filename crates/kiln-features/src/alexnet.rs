//! AlexNet's convolutions (Krizhevsky 2014, "one weird trick"), in torchvision's layout.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use kiln_core::{Error, Result};

use crate::WeightsFile;
use crate::layers::{Conv, Loader, Window, max_pool};

/// The smallest side that still reaches the last convolution.
const SMALLEST: usize = 31;

/// Five convolutions; a maximum pooling stands before the second and the third.
#[derive(Debug)]
pub struct AlexNet {
    convs: [Conv; 5],
}

impl AlexNet {
    /// Reads the convolutions (`features.N`); a file may hold the classifier or not.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn load(file: &WeightsFile, device: &Device) -> Result<Self> {
        let loader = Loader { file, net: "alexnet", device, eps: 0.0 };
        Ok(Self {
            convs: [
                loader.conv("features.0", [3, 64], Window::square(11, 4, 2))?,
                loader.conv("features.3", [64, 192], Window::same(5, 5))?,
                loader.conv("features.6", [192, 384], Window::same(3, 3))?,
                loader.conv("features.8", [384, 256], Window::same(3, 3))?,
                loader.conv("features.10", [256, 256], Window::same(3, 3))?,
            ],
        })
    }

    /// The activation of each convolution, of pictures on the scale of [`crate::pixels::imagenet`]:
    /// 64, 192, 384, 256 and 256 channels.
    ///
    /// # Errors
    /// If a side of the pictures is shorter than 31.
    pub fn activations(&self, x: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        let [.., h, w] = x.dims();
        if h.min(w) < SMALLEST {
            return Err(Error::new(format!("alexnet: pictures of {w}×{h} are too small; sides of {SMALLEST} do")));
        }
        let mut x = x;
        let mut activations = Vec::with_capacity(self.convs.len());
        for (i, conv) in self.convs.iter().enumerate() {
            if i == 1 || i == 2 {
                x = max_pool(x, 3, 2);
            }
            x = relu(conv.forward(x));
            activations.push(x.clone());
        }
        Ok(activations)
    }
}
