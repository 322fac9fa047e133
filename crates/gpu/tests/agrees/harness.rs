//! The device under test, and comparisons with the definitions.

use std::io::Write;
use std::sync::OnceLock;

use half::{bf16, f16};
use longreach_gpu::tile::Limits;
use longreach_gpu::{DType, Device, View};
use longreach_testkit::tolerance::{FORWARD, GRADIENT, ROUNDED_BF16, ROUNDED_F16, assert_close};
use ndarray::ArrayD;

/// The types of numbers.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The device with the limits of its driver, and with the smallest that WebGPU permits. None where no driver is found,
/// which is an error if the variable `LONGREACH_GPU_REQUIRED` is set, as in continuous integration.
pub(crate) fn devices() -> Option<&'static [Device; 2]> {
    static DEVICES: OnceLock<Option<[Device; 2]>> = OnceLock::new();
    let found = DEVICES.get_or_init(|| {
        let device = Device::all().into_iter().next()?;
        let least = device.limited(Limits::LEAST);
        Some([device, least])
    });
    if found.is_none() {
        assert!(std::env::var_os("LONGREACH_GPU_REQUIRED").is_none(), "no GPU and no software Vulkan was found");
        let _ = writeln!(std::io::stderr(), "SKIPPED: no GPU and no software Vulkan was found (mesa-vulkan-drivers)");
    }
    found.as_ref()
}

/// Numbers as a tensor of this type has them.
pub(crate) fn rounded(x: &ArrayD<f32>, dtype: DType) -> ArrayD<f32> {
    match dtype {
        DType::F32 => x.clone(),
        DType::F16 => x.mapv(|x| f16::from_f32(x).to_f32()),
        DType::BF16 => x.mapv(|x| bf16::from_f32(x).to_f32()),
    }
}

/// A copy on the device.
pub(crate) fn upload(device: &Device, x: &ArrayD<f32>, dtype: DType) -> View {
    let numbers: Vec<f32> = x.iter().copied().collect();
    View::upload(device, &numbers, x.shape(), dtype)
}

/// Fails unless `found` is near `want`, by the tolerance of its type for outputs.
#[track_caller]
pub(crate) fn agrees(what: &str, device: &Device, found: &View, want: &ArrayD<f64>) {
    let tolerance = match found.dtype() {
        DType::F32 => FORWARD,
        DType::F16 => ROUNDED_F16,
        DType::BF16 => ROUNDED_BF16,
    };
    compare(what, device, found, want, tolerance);
}

/// As [`agrees`] for gradients, against those in f32.
#[track_caller]
pub(crate) fn gradient_agrees(what: &str, device: &Device, found: &View, want: &ArrayD<f32>) {
    let tolerance = match found.dtype() {
        DType::F32 => GRADIENT,
        DType::F16 => GRADIENT + ROUNDED_F16,
        DType::BF16 => GRADIENT + ROUNDED_BF16,
    };
    compare(what, device, found, &want.mapv(f64::from), tolerance);
}

#[track_caller]
fn compare(what: &str, device: &Device, found: &View, want: &ArrayD<f64>, tolerance: f64) {
    assert_eq!(found.shape(), want.shape(), "{what}: shape");
    let numbers = found.read(device).expect("the device computes");
    // Infinities are equal or not; differences of them are not numbers.
    let pairs = numbers.iter().map(|x| f64::from(*x)).zip(want.iter().copied());
    let (numbers, wanted): (Vec<f64>, Vec<f64>) =
        pairs.map(|(x, want)| if x == want && x.is_infinite() { (0.0, 0.0) } else { (x, want) }).unzip();
    assert_close(what, &numbers, &wanted, tolerance);
}
