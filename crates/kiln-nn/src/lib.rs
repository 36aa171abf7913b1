//! Layers, blocks and losses that the systems are built from.
//!
//! Every convolution, linear, normalisation and attention layer of Kiln comes from here, so that
//! kernels can change beneath without touching a system. Parameters carry PyTorch's names and
//! layouts (`weight` of a linear layer is `[out, in]`), so a state dict is a state dict.
//!
//! Layers are made eagerly by an [`Init`], which draws each parameter from its own keyed stream.
//! A network on an autodiff device is in training mode; on a plain device it is in inference mode
//! (batch normalisation then uses its running statistics).

pub mod activation;
pub mod attention;
pub mod augment;
pub mod condition;
pub mod conv;
pub mod cost;
pub mod discriminator;
pub mod domain_norm;
pub mod dual;
pub mod encoder;
pub mod fir;
pub mod first_stage;
pub mod init;
pub mod linear;
pub mod loss;
pub mod masked;
pub mod modulated;
pub mod norm;
pub mod orthogonal;
pub mod parametrization;
pub mod penalty;
pub mod resample;
pub mod spatial_norm;
pub mod tensor;
pub mod time;
pub mod transformer;
pub mod unet;

pub use activation::{Activation, activate, add_activate, concat};
pub use augment::Augmentation;
pub use condition::Condition;
pub use conv::{Conv2d, Conv2dConfig, ConvTranspose2d};
pub use domain_norm::DomainNorm2d;
pub use dual::{Differentiable, Dual, Signal};
pub use init::{Init, WeightInit};
pub use kiln_kernels::{ScanDirection, gate, recur};
pub use linear::{Embedding, Linear, LinearConfig};
pub use masked::{MaskedConv2d, MaskedConv2dConfig};
pub use norm::{BatchNorm2d, ConditionalBatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm};
pub use parametrization::Parametrization;
pub use spatial_norm::SpatialNorm2d;
