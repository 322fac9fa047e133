//! Detects the instruction sets of this machine and dispatches kernels to them.

use std::fmt;
use std::str::FromStr;

use crate::lanes::{Lanes, Scalar};

/// An instruction set for which kernels are compiled. A value of this type proves that the machine supports it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// A computation written once with [`Lanes`] and compiled for every instruction set.
///
/// `run` must be `#[inline(always)]`: only then is its body compiled inside the function that enables the instructions.
pub trait Kernel {
    /// What the kernel returns.
    type Output;
    /// The computation.
    fn run<S: Lanes>(self, s: S) -> Self::Output;
}

impl Isa {
    /// Plain Rust on arrays, which the compiler may vectorise; runs on every machine.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::SCALAR)
    }

    /// Every instruction set of this machine for which kernels are compiled, slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "mutated only on architectures with vector kernels")]
        let mut list = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                list.push(Isa(Kind::Avx2));
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    list.push(Isa(Kind::Avx512));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        list.push(Isa(Kind::Neon));
        list
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // Only scalar lanes count, so builds that count need not compile the other instruction sets.
        if cfg!(feature = "count") {
            return scalar(kernel);
        }
        match self.0 {
            Kind::Scalar => scalar(kernel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is constructed only after the CPU reported AVX2 and FMA.
            Kind::Avx2 => unsafe { avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind is constructed only after the CPU reported AVX-512 F, BW, DQ and VL.
            Kind::Avx512 => unsafe { avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: NEON is part of the aarch64 baseline.
            Kind::Neon => unsafe { neon(kernel) },
        }
    }

    /// Whether the CPU has AVX-512 VNNI, which multiplies and accumulates bytes in one instruction.
    pub fn has_vnni(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.0 == Kind::Avx512 {
            return is_x86_feature_detected!("avx512vnni");
        }
        false
    }

    /// Its name: `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }
}

/// A function of its own, as for the other instruction sets: inlined into callers of [`Isa::run`], a kernel would be compiled once for each of them.
#[inline(never)]
fn scalar<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Scalar)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is only called on a CPU with AVX2 and FMA.
    kernel.run(unsafe { crate::lanes::avx2::Avx2::assume() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function is only called on a CPU with AVX-512 F, BW, DQ and VL.
    kernel.run(unsafe { crate::lanes::avx512::Avx512::assume() })
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: NEON is part of the aarch64 baseline.
    kernel.run(unsafe { crate::lanes::neon::Neon::assume() })
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The requested instruction set is not available on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(String);

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
        write!(f, "instruction set `{}` is not available here; this machine has {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownIsa {}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::available().into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}
