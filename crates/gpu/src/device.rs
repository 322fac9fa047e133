//! A device, and what it can do.

use std::sync::Arc;

use cubecl::Device as Kind;
use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use crate::error::Error;
use crate::record::Recorder;
use crate::tile::Limits;
use crate::view::DType;

/// A device that kernels run on. Clones share its queue.
#[derive(Clone)]
pub struct Device {
    client: Client,
    facts: Facts,
    recorder: Option<Arc<Recorder>>,
}

/// What kernels and plans ask of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name, as the driver has it.
    pub name: String,
    /// Shared memory and units of a cube.
    pub limits: Limits,
    /// The smallest and the largest plane: units that run in lockstep.
    pub planes: (u32, u32),
    /// The largest numbers of cubes along x, y and z.
    pub cubes: (u32, u32, u32),
    /// Whether buffers can have f16.
    pub f16: bool,
    /// Whether buffers can have bf16. Otherwise kernels read it by shifts.
    pub bf16: bool,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Device {
    /// The devices of all runtimes that this build has, by the names that they report. Empty where no driver is found.
    pub fn all() -> Vec<Self> {
        Kind::enumerate_all().iter().map(|kind| Self::of(kind.client())).collect()
    }

    /// The device of a client of CubeCL.
    pub fn of(client: Client) -> Self {
        let facts = Facts::of(client.properties());
        Self { client, facts, recorder: None }
    }

    /// The same device with smaller limits than it has, for tests of plans that other devices need.
    pub fn limited(&self, limits: Limits) -> Self {
        let least = |a: usize, b: usize| a.min(b);
        let has = self.facts.limits;
        let limits = Limits { shared: least(has.shared, limits.shared), units: least(has.units, limits.units) };
        Self { facts: Facts { limits, ..self.facts.clone() }, ..self.clone() }
    }

    /// A device that launches nothing: buffers are this one's, and kernels, made for the recorder's device, are kept by
    /// it. What is read back is not set.
    pub fn recording(&self, recorder: &Arc<Recorder>) -> Self {
        let facts = Facts::of(&recorder.properties().0);
        Self { client: self.client.clone(), facts, recorder: Some(recorder.clone()) }
    }

    /// What it can do.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The client of CubeCL that launches on it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    /// Waits until all launches are done. An error if one of them failed.
    pub fn wait(&self) -> Result<(), Error> {
        let failed = |e| Error::Device { op: "wait", message: format!("{e:?}") };
        cubecl::future::block_on(self.client.sync()).map_err(failed)
    }
}

impl Facts {
    fn of(properties: &DeviceProperties) -> Self {
        let hardware = &properties.hardware;
        let buffer = |kind| properties.type_usage(ElemType::Float(kind)).contains(TypeUsage::Buffer);
        Self {
            name: properties.identity.name.clone(),
            limits: Limits { shared: hardware.max_shared_memory_size, units: hardware.max_units_per_cube as usize },
            planes: (hardware.plane_size_min, hardware.plane_size_max),
            cubes: hardware.max_cube_count,
            f16: buffer(FloatKind::F16),
            bf16: buffer(FloatKind::BF16),
        }
    }

    /// An error if buffers cannot have this type in any form.
    pub(crate) fn check(&self, op: &'static str, input: &'static str, dtype: DType) -> Result<(), Error> {
        if dtype == DType::F16 && !self.f16 {
            return Err(Error::Type { op, input, want: "f32 or bf16 on this device", found: "f16" });
        }
        Ok(())
    }
}
