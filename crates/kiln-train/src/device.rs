//! The choice of a compute device.

use burn::tensor::Device;
use kiln_core::{Error, Result};

/// The device named by a `--device` flag: `cpu`, or `wgpu` or `cuda` in builds with that feature.
///
/// # Errors
/// Says how to build a device in, or which there are.
pub fn by_name(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[allow(unreachable_patterns)] // what is built in has its arm above
        "wgpu" | "cuda" => Err(Error::usage(format!(
            "--device {name}: not built in; build Kiln with `cargo build --release --features {name}`"
        ))),
        _ => Err(Error::usage(format!("--device {name}: unknown; there are cpu, wgpu and cuda"))),
    }
}
