//! Kernels that are kept instead of launched: so that a compiler can be given every kernel that a call would run, for a
//! device that is not there.

use std::sync::{Arc, Mutex, PoisonError};

use cubecl::prelude::*;

/// Keeps the kernels of calls.
pub struct Recorder {
    properties: Arc<DeviceProperties>,
    target: Arc<TargetProperties>,
    kernels: Mutex<Vec<Arc<dyn CubeKernel>>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// For a device of these properties.
    pub fn new(properties: DeviceProperties, target: TargetProperties) -> Arc<Self> {
        let (properties, target) = (Arc::new(properties), Arc::new(target));
        Arc::new(Self { properties, target, kernels: Mutex::new(Vec::new()) })
    }

    /// The kernels so far, each once, in the order of their first calls.
    pub fn take(&self) -> Vec<Arc<dyn CubeKernel>> {
        std::mem::take(&mut *self.kernels.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn properties(&self) -> (Arc<DeviceProperties>, Arc<TargetProperties>) {
        (self.properties.clone(), self.target.clone())
    }

    pub(crate) fn record(&self, kernel: impl CubeKernel) {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if kernels.iter().all(|known| known.id() != kernel.id()) {
            kernels.push(Arc::new(kernel));
        }
    }
}
