//! Domain adaptation: a labelled source, an unlabelled target.

pub mod dann;
