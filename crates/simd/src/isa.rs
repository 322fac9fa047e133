//! Detects the instruction sets of this machine and dispatches kernels to them.

use std::fmt;
use std::str::FromStr;

use crate::lanes::{Lanes, Scalar};
#[cfg(target_arch = "x86_64")]
use crate::tile::{amx::Amx, dots::Dots};

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
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Dots),
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    #[cfg(target_arch = "x86_64")]
    AmxBf16(Amx),
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

    /// Every instruction set of this machine for which kernels are compiled, slowest first. Where the CPU has AMX, the
    /// operating system is asked once to let this process use it.
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
                    // Intel's instruction on pairs of bf16 takes four times as long as a multiply-add of f32 (measured
                    // on Emerald Rapids), so it is not chosen unless it is named. Nor are tiles of bf16, which are fast
                    // but round the left factor: see [`Isa::rounding`].
                    list.extend(Dots::detect().map(|dots| Isa(Kind::Avx512Bf16(dots))));
                    list.extend(Amx::detect().map(|amx| Isa(Kind::AmxBf16(amx))));
                    list.push(Isa(Kind::Avx512));
                    list.extend(Amx::detect().map(|amx| Isa(Kind::Amx(amx))));
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        list.push(Isa(Kind::Neon));
        list
    }

    /// The same instruction set with products of many rows and bf16 weights in bf16, where that is fast: for users who
    /// ask for bf16. Without it, bf16 weights are multiplied by f32.
    #[must_use]
    pub fn rounding(self) -> Self {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(amx) => Self(Kind::AmxBf16(amx)),
            _ => self,
        }
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
            // SAFETY: an `Isa` of these kinds is constructed only after the CPU reported AVX-512 F, BW, DQ and VL.
            Kind::Avx512 | Kind::Avx512Bf16(_) | Kind::Amx(_) | Kind::AmxBf16(_) => unsafe { avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: NEON is part of the aarch64 baseline.
            Kind::Neon => unsafe { neon(kernel) },
        }
    }

    /// Whether the CPU has AVX-512 VNNI, which multiplies and accumulates bytes in one instruction.
    pub fn has_vnni(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if matches!(self.0, Kind::Avx512 | Kind::Avx512Bf16(_) | Kind::Amx(_) | Kind::AmxBf16(_)) {
            return is_x86_feature_detected!("avx512vnni");
        }
        false
    }

    /// Whether the CPU has AVX2, FMA and the conversions of half-precision numbers.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_avx2(self) -> bool {
        self.0 != Kind::Scalar && is_x86_feature_detected!("f16c")
    }

    /// Whether the product of many rows and bf16 weights rounds its left factor to bf16: on `avx512-bf16` and `amx-bf16`,
    /// which multiply in bf16.
    pub fn rounds_to_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Kind::Avx512Bf16(_) | Kind::AmxBf16(_));
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// The tile registers, on `amx` and `amx-bf16`.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn amx(self) -> Option<Amx> {
        if let Kind::Amx(amx) | Kind::AmxBf16(amx) = self.0 { Some(amx) } else { None }
    }

    /// The products of pairs of bf16 in vector lanes, on `avx512-bf16`.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn dots(self) -> Option<Dots> {
        if let Kind::Avx512Bf16(dots) = self.0 { Some(dots) } else { None }
    }

    /// Its name: `scalar`, `avx2`, `avx512`, `avx512-bf16`, `amx`, `amx-bf16` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16(_) => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(_) => "amx",
            #[cfg(target_arch = "x86_64")]
            Kind::AmxBf16(_) => "amx-bf16",
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
