//! GPU backends take the default bodies, made of Burn's own operations.

impl crate::ops::KernelOps for burn_cubecl::CubeBackend {}
