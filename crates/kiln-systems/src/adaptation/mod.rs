//! Domain adaptation: a labelled source, an unlabelled target.
