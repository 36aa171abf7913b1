//! Measures of generated pictures, in 64-bit arithmetic and without an engine.
//!
//! Every measure is a function of plain numbers: [`Features`] that some network gave for two sets of
//! pictures, the pictures themselves, or their classes. Which network and how many pictures is part
//! of the result, a [`Measure`], because a figure without them cannot be compared.
//!
//! | question | file |
//! |---|---|
//! | how far apart are two sets, as Gaussians (FID)? | [`frechet`] |
//! | how far apart, by a kernel (KID)? | [`kernel`] |
//! | how far apart, at a scale of one's own (MMD), and is it chance? | [`mmd`] |
//! | are the pictures good, and are all kinds there? | [`prdc`] |
//! | does a classifier see distinct and varied things (IS)? | [`inception_score`] |
//! | how near is each picture to the one it should be? | [`pairs`] |
//! | which classes are there, and are they right? | [`classes`] |
//! | is each pixel given the right class (mIoU)? | [`segmentation`] |
//! | does each kind come as often as it should (NDB)? | [`ndb`], its kinds by [`kmeans`] |
//! | on a known density, which modes are reached? | [`modes`] |
//! | are pictures copies of training pictures? | [`neighbours`] |
//! | does a score tell other pictures from one's own (AUROC)? | [`outliers`] |
//! | how different are pictures from each other? | [`diversity`] |
//! | does each factor live in one latent (MIG)? | [`mig`] |
//! | how much of each factor does each latent tell? | [`factors`] |
//! | do attributes lie on either side of planes in latent space? | [`separability`] |
//! | how much does a step in latent space change (PPL)? | [`path_length`] |
//! | can a plane tell classes apart in a network's features? | [`svm`] |
//! | can it tell domains apart (A-distance)? | [`adaptation`] |
//! | how far would a figure move on other pictures? | [`bootstrap`] |

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
pub mod segmentation;
pub mod separability;
pub mod svm;

pub use features::Features;
pub use measure::{Measure, Spread};
