//! Options for the device, threads and instruction set, shared by all subcommands.

use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use clap::Args;
use longreach_burn::DeviceName;
use longreach_burn::bridge::{Fallback, on_fallback};
use longreach_models::DType;
use longreach_simd::{Cx, Isa};

use crate::failure::Failure;
use crate::ranks::Together;

#[derive(Args)]
pub(crate) struct MachineArgs {
    /// Number of threads; results do not depend on it [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Device that computes: cpu, or a GPU as cuda[:N], vulkan[:N], metal[:N] or webgpu[:N] if the program was built for it
    ///
    /// `longreach devices` lists those of this machine.
    #[arg(long, global = true, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// Whether the processes that mpirun has started read one text together, with a program built with MPI
    #[arg(long, global = true, value_name = "WHICH", value_enum, default_value_t)]
    pub(crate) ranks: Together,
}

/// The device of this process, which [`MachineArgs::configure`] sets.
static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

/// The device that models are loaded on.
pub(crate) fn device() -> Device {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(longreach_burn::cpu)
}

/// An error if a precision is asked for that models do not have on the device of this process.
pub(crate) fn check_dtype(dtype: Option<DType>) -> Result<(), Failure> {
    match dtype {
        Some(DType::Bf16 | DType::Int8) if !longreach_burn::is_host(&device()) => {
            Err(Failure::new("--dtype: want f32 on a GPU: models are in f32 there, whatever their file has"))
        }
        _ => Ok(()),
    }
}

/// Says that a device computes less than was asked of it.
fn note(of: &Fallback) {
    let what = if of.gradient { "the gradient of `" } else { "`" };
    eprintln!("note: {what}{}` is computed on the CPU: there is no kernel for {}", of.operator, of.backend);
}

impl MachineArgs {
    /// Configures the device, the thread count and the instruction set (`LONGREACH_ISA`) of this process; an error if the program was not built for the
    /// device or the CPU lacks the instruction set.
    pub(crate) fn configure(&self) -> Result<(), Failure> {
        let device = self.device.open().map_err(|e| Failure::new(format!("--device: {e}")))?;
        *DEVICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
        on_fallback(note);
        let isa = match std::env::var("LONGREACH_ISA") {
            Ok(name) => name.parse().map_err(|e| Failure::new(format!("LONGREACH_ISA: {e}")))?,
            Err(_) => Isa::detect(),
        };
        let all = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = self.threads.map_or(all, usize::from);
        longreach_burn::reconfigure(Cx::with_isa(isa, threads));
        Ok(())
    }
}

/// Peak resident memory of this process in bytes; `None` where `/proc` does not report it.
pub(crate) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
