//! Every system, one file a paper
