//! Metrics of generated images, in 64-bit arithmetic and independent of the tensor engine.
//!
//! Every metric is a function of plain numbers: [`Features`] of two sets of images from some network, the
//! images themselves, or their classes. The network and the number of images are part of the result, a
//! [`MetricValue`], because values are not comparable without them.
//!
//! | metric | file |
//! |---|---|
//! | Fréchet distance of two sets (FID) | [`frechet`] |
//! | kernel distance of two sets (KID) | [`kernel`] |
//! | maximum mean discrepancy (MMD) with its significance test | [`mmd`] |
//! | precision, recall, density, coverage | [`prdc`] |
//! | inception score (IS) | [`inception_score`] |
//! | differences of image pairs: L1, PSNR, SSIM | [`pairs`] |
//! | accuracy, confusion matrix, class coverage | [`classes`] |
//! | pixel accuracy and mIoU of segmentations | [`segmentation`] |
//! | number of statistically different bins (NDB) | [`ndb`], with bins by [`kmeans`] |
//! | modes covered on a known density | [`modes`] |
//! | memorisation of training images | [`neighbours`] |
//! | outlier detection (AUROC) | [`outliers`] |
//! | diversity | [`diversity`] |
//! | mutual information gap (MIG) of latents and factors | [`mig`] |
//! | R² of factors by latents | [`factors`] |
//! | linear separability of attributes in latent space | [`separability`] |
//! | perceptual path length (PPL) | [`path_length`] |
//! | linear SVM on features | [`svm`] |
//! | proxy A-distance of two domains | [`adaptation`] |
//! | a classifier on a target without labels | [`selection`] |
//! | a map of features in the plane (t-SNE) | [`tsne`] |
//! | bootstrap intervals | [`bootstrap`] |

pub mod adaptation;
pub mod bootstrap;
pub mod classes;
mod distances;
pub mod diversity;
pub mod factors;
pub mod features;
pub mod frechet;
pub mod inception_score;
pub mod kernel;
pub mod kmeans;
pub mod measure;
pub mod mig;
pub mod mmd;
pub mod modes;
pub mod ndb;
pub mod neighbours;
pub mod outliers;
pub mod pairs;
pub mod path_length;
pub mod prdc;
pub mod principal;
pub mod segmentation;
pub mod selection;
pub mod separability;
pub mod svm;
pub mod tsne;

pub use features::Features;
pub use measure::{MetricValue, Spread};
