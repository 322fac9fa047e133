//! The devices that tensors are on, by the names that users give them.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};

/// The host: its memory, and the kernels of this crate.
pub fn cpu() -> Device {
    Device::flex()
}

/// Whether a device is the host, whose kernels compute in every precision that weights may have.
pub fn is_host(device: &Device) -> bool {
    *device == cpu()
}

/// Whether the kernels of the host can read a tensor where it is.
pub(crate) fn is_on_host<const D: usize>(x: &Tensor<D>) -> bool {
    is_host(&x.device())
}

/// A device by name: `cpu`, or a kind of accelerator with the number of the device, as in `cuda:1`.
///
/// ```
/// use longreach_burn::DeviceName;
///
/// let name: DeviceName = "cpu".parse()?;
/// assert_eq!(name.open()?, longreach_burn::cpu());
/// assert!("gpu".parse::<DeviceName>().is_err());
/// # Ok::<(), longreach_burn::DeviceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceName {
    kind: &'static str,
    index: usize,
}

/// The kinds of accelerators, each of which is a feature to build with.
const ACCELERATORS: &[&str] = &["cuda", "vulkan", "metal", "webgpu"];

impl Default for DeviceName {
    /// The CPU.
    fn default() -> Self {
        Self { kind: "cpu", index: 0 }
    }
}

impl DeviceName {
    /// The device. An error if this build cannot compute on it.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self.kind {
            "cpu" => Ok(cpu()),
            #[cfg(feature = "gpu")]
            kind if kind != "cuda" => gpus(kind)
                .into_iter()
                .nth(self.index)
                .ok_or_else(|| DeviceError::Missing { name: self.to_string(), found: gpus(kind).len() }),
            "cuda" => Err(DeviceError::NotBuilt { name: self.to_string(), feature: "cuda" }),
            _ => Err(DeviceError::NotBuilt { name: self.to_string(), feature: "gpu" }),
        }
    }
}

impl DeviceName {
    /// What a GPU is called by its driver, software included; `None` for the CPU, and where there is no such device.
    pub fn adapter(self) -> Option<String> {
        #[cfg(feature = "gpu")]
        return self.open().ok().filter(|device| !is_host(device)).and_then(|device| Some(device.identity()?.name));
        #[cfg(not(feature = "gpu"))]
        None
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => f.write_str(self.kind),
            index => write!(f, "{}:{index}", self.kind),
        }
    }
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown { name: text.to_owned() };
        if text == "cpu" {
            return Ok(Self::default());
        }
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        let kind = ACCELERATORS.iter().copied().find(|kind| *kind == name).ok_or_else(unknown)?;
        // A sign or a leading zero would be another name for the same device.
        let index = index.parse().ok().filter(|n: &usize| n.to_string() == index).ok_or_else(unknown)?;
        Ok(Self { kind, index })
    }
}

/// The devices that this build can compute on, the CPU first.
pub fn devices() -> Vec<DeviceName> {
    let kind = if cfg!(target_vendor = "apple") { "metal" } else { "vulkan" };
    let gpus = (0..gpus(kind).len()).map(|index| DeviceName { kind, index });
    std::iter::once(DeviceName::default()).chain(gpus).collect()
}

/// The GPUs that the graphics interface of this name has, in its order.
#[cfg(feature = "gpu")]
fn gpus(kind: &str) -> Vec<Device> {
    crate::gpu::devices(kind)
}

#[cfg(not(feature = "gpu"))]
fn gpus(_: &str) -> Vec<Device> {
    Vec::new()
}

/// Why there is no device of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No device is called so.
    #[error("device `{name}` is unknown; known are cpu, {}", ACCELERATORS.join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// This machine has fewer devices of the kind.
    #[error("device `{name}`: {found} of this kind are there; `longreach devices` lists all")]
    Missing {
        /// The name.
        name: String,
        /// How many there are.
        found: usize,
    },
    /// The kind of device is left out of this build.
    #[error("device `{name}`: this program was built without the feature `{feature}`")]
    NotBuilt {
        /// The name.
        name: String,
        /// The feature of the build that has it.
        feature: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for text in ["cpu", "cuda", "cuda:1", "vulkan:12", "metal", "webgpu"] {
            assert_eq!(text.parse::<DeviceName>().expect("a device").to_string(), text);
        }
        for text in
            ["", "cpu:1", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:01", "cuda:0:0", "cuda:99999999999999999999"]
        {
            let error = text.parse::<DeviceName>().expect_err("no device").to_string();
            assert!(error.starts_with(&format!("device `{text}` is unknown; known are cpu, cuda")), "{error}");
        }
    }

    #[test]
    fn a_device_that_was_not_built_names_its_feature() {
        let name: DeviceName = "cuda:1".parse().expect("a device");
        let error = name.open().expect_err("not built").to_string();
        assert!(error.starts_with("device `cuda:1`: ") && error.ends_with("the feature `cuda`"), "{error}");
        assert!(devices().into_iter().all(|name| name.open().is_ok()));
    }
}
