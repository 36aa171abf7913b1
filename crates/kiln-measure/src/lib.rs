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
//! | can a plane tell classes apart in a network's features? | [`svm`] |

pub mod classes;
pub mod features;
pub mod frechet;
pub mod inception_score;
pub mod kernel;
pub mod measure;
pub mod mmd;
pub mod pairs;
pub mod prdc;
pub mod svm;

pub use features::Features;
pub use measure::{Measure, Spread};
