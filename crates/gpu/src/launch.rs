//! Launches, the only unsafe code of the crate: kernels are compiled without checks of their indices.
//!
//! Buffers are passed by [`buffer`] and [`words`], whose lengths are those that were allocated. Each use of [`launch!`]
//! says why all indices are within them.

use cubecl::prelude::{BufferArg, CubeCount, CubeDim};

use crate::device::Device;
use crate::error::{Error, most as at_most};
use crate::view::{View, Words};

/// A tensor as an argument of a kernel.
#[allow(unsafe_code, reason = "a buffer with its length")]
pub fn buffer(device: &Device, view: &View) -> BufferArg {
    // SAFETY: a view's buffer has the bytes of its shape, rounded up to words and at least one.
    unsafe { BufferArg::from_raw_parts(view.handle().clone(), view.elements(device)) }
}

/// Words as an argument of a kernel.
#[allow(unsafe_code, reason = "a buffer with its length")]
pub fn words(words: &Words) -> BufferArg {
    // SAFETY: as many words were allocated, and at least one.
    unsafe { BufferArg::from_raw_parts(words.handle().clone(), words.len().max(1)) }
}

/// Launches a kernel whose launcher is unsafe, `launch!("reason", kernel on device, cubes, units, arguments…)`; the reason
/// says why each index is within its buffer. A device that [records](Device::recording) keeps the kernel instead.
macro_rules! launch {
    ($reason:literal, $($kernel:ident)::+ on $device:expr, $cubes:expr, $units:expr, $($argument:expr),* $(,)?) => {{
        const _: &str = $reason;
        let (device, cubes, units): (&$crate::Device, _, _) = ($device, $cubes, $units);
        match device.recorder() {
            Some(recorder) => {
                let (properties, target) = recorder.properties();
                let kernel = $($kernel)::+::create_dummy_kernel(properties, target, cubes, units, $($argument),*);
                recorder.record(kernel);
            }
            None => {
                #[allow(unsafe_code, reason = "the launcher does not check indices")]
                // SAFETY: the reason is the first argument of the macro.
                let () = unsafe { $($kernel)::+::launch_unchecked(device.client(), cubes, units, $($argument),*) };
            }
        }
    }};
}

pub(crate) use launch;

/// The numbers of cubes of a launch: an error where the device has fewer.
pub(crate) fn cubes(op: &'static str, device: &Device, count: [usize; 3]) -> Result<CubeCount, Error> {
    let (x, y, z) = device.facts().cubes;
    for (axis, (count, most)) in count.iter().zip([x, y, z]).enumerate() {
        at_most(op, ["cubes along x", "cubes along y", "cubes along z"][axis], most as usize, *count)?;
    }
    Ok(CubeCount::Static(count[0] as u32, count[1] as u32, count[2] as u32))
}

/// A cube for each of `rows` rows, in two axes where one is too short: kernels compare `CUBE_POS` with the number of rows.
pub(crate) fn row_cubes(op: &'static str, device: &Device, rows: usize) -> Result<CubeCount, Error> {
    let across = rows.min(device.facts().cubes.0 as usize).max(1);
    cubes(op, device, [across, rows.div_ceil(across), 1])
}

/// Cubes of [`UNITS`](crate::tile::row::UNITS) units, one unit for each of `n` elements: kernels compare `ABSOLUTE_POS` with
/// their number.
pub(crate) fn elementwise(device: &Device, n: usize) -> CubeCount {
    cubecl::calculate_cube_count_elemwise(device.client(), n, CubeDim::new_1d(crate::tile::row::UNITS))
}
