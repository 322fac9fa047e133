//! The CUDA text of every kernel: that it is written, and how much shared memory it takes. With the variable
//! `LONGREACH_CUDA_TEXT`, the text is left in that folder, where `nvrtc.py` compiles it for sm_90a.
//!
//! The kernels are those that calls run, recorded for the properties of an H200. Buffers are those of any device that is
//! there, software Vulkan included.

use std::path::PathBuf;

use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, CppSupportedFeatures};
use cubecl_cpp::target::Cuda;
use longreach_attention::softmax::{self, Sizes};
use longreach_gpu::cubecl::Compiler;
use longreach_gpu::cubecl::ir::{
    DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties,
};
use longreach_gpu::cubecl::profile::TimingMethod;
use longreach_gpu::softmax::{Cotangent, Inputs, Listed, Within};
use longreach_gpu::{DType, Device, Recorder, View, activation, cross_entropy, linear, norm, rotary, rows};
use longreach_simd::activation::Activation;

/// Bytes of shared memory of a block on Hopper.
const SHARED: usize = 227 << 10;

/// An H200 as the CUDA runtime would describe it, as far as kernels and plans ask.
fn hopper() -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: SHARED,
        max_cube_count: (i32::MAX as u32, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(132),
        num_cpu_cores: None,
        last_level_cache_size: None,
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        max_vector_size: usize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let memory = MemoryDeviceProperties::new(35 << 30, 512);
    let identity = DeviceIdentity { name: "H200".into(), fingerprint: "ptx_sm90".into(), physical: None };
    let mut properties = DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::Device, identity);
    register_supported_types(&mut properties);
    properties
}

fn softmax_calls(device: &Device, dtype: DType) {
    for (width, value_width) in [(16, 16), (64, 64), (80, 48), (128, 128), (256, 256)] {
        let of = Sizes { batch: 1, heads: 4, queries: 0..70, keys: 70 };
        let dense = softmax::named("dense", &serde_json::json!({"causal": true}), &of).expect("valid");
        let listed = Listed::new(device, &*dense, &of, Within::default(), (width, value_width)).expect("valid");
        let tensor = |groups, width| View::empty(device, &[1, 70, groups, width], dtype);
        let plain = Inputs::new(tensor(4, width), tensor(2, width), tensor(2, value_width));
        let option = |shape: &[usize]| Some(View::empty(device, shape, DType::F32));
        let options = Inputs {
            softcap: Some(3.0),
            bias: option(&[1, 1, 70, 70]),
            alibi: option(&[4]),
            sinks: option(&[4]),
            weights: option(&[1, 70]),
            ..plain.clone()
        };
        for x in [plain.clone(), options] {
            let o = longreach_gpu::softmax::forward(device, &x, &listed).expect("valid");
            let d = Cotangent { out: o.out.clone(), lse: Some(o.lse.clone()) };
            longreach_gpu::softmax::backward(device, &x, &listed, &o, &d).expect("valid");
        }
        let one = Sizes { queries: 699..700, keys: 700, ..of };
        let listed = Listed::new(device, &*dense, &one, Within::default(), (width, value_width)).expect("valid");
        let long = |groups, width| View::empty(device, &[1, 700, groups, width], dtype);
        let few = Inputs {
            q: View::empty(device, &[1, 1, 4, width], dtype),
            k: long(1, width),
            v: long(1, value_width),
            ..plain
        };
        longreach_gpu::softmax::few(device, &few, &listed).expect("valid");
    }
}

fn small_calls(device: &Device, dtype: DType) {
    use Activation::{Gelu, GeluTanh, Relu, Relu2, Silu, Tanh};
    let x = View::empty(device, &[8, 64], dtype);
    for f in [Gelu, GeluTanh, Relu, Relu2, Silu, Tanh] {
        activation::forward(device, &x, f).expect("valid");
        activation::gated(device, &x, &x, f).expect("valid");
        activation::backward(device, &x, f, &x).expect("valid");
        activation::gated_backward(device, &x, &x, f, &x).expect("valid");
    }
    let f32s = |shape: &[usize]| View::empty(device, shape, DType::F32);
    for centred in [false, true] {
        let of = norm::Norm { centred, epsilon: 1e-5, weight: Some(f32s(&[64])), bias: Some(f32s(&[64])) };
        norm::forward(device, &x, &of).expect("valid");
        norm::backward(device, &x, &of, &x).expect("valid");
    }
    let heads = View::empty(device, &[1, 8, 4, 16], dtype);
    for interleaved in [false, true] {
        let angles = rotary::Angles { cos: f32s(&[1, 8, 8]), sin: f32s(&[1, 8, 8]), interleaved };
        rotary::forward(device, &heads, &angles).expect("valid");
        rotary::backward(device, &heads, &angles).expect("valid");
    }
    let indices = rows::Indices::new(device, &[1, 2, 1], 8).expect("below 8");
    rows::forward(device, &x, &indices).expect("valid");
    rows::backward(device, &View::empty(device, &[3, 64], dtype), &indices).expect("valid");
    let targets = cross_entropy::Targets::new(device, &[1; 8], 64).expect("below 64");
    cross_entropy::forward(device, &x, &targets, 1.0).expect("valid");
    linear::few_rows(device, &x, &View::empty(device, &[3, 64], dtype), Some(&f32s(&[3]))).expect("valid");
}

/// The rules of recurrences, for heads of 64, and of 128, whose columns units share.
fn recurrence_calls(device: &Device, dtype: DType) {
    use longreach_attention::Sequences::Batch as sequences;
    use longreach_gpu::mechanisms::{delta, diagonal, linear};
    let f32s = |shape: &[usize]| View::empty(device, shape, DType::F32);
    for width in [64, 128] {
        let x = View::empty(device, &[1, 200, 2, width], dtype);
        let (gates, keys, state) = (f32s(&[1, 200, 2]), f32s(&[1, 200, 2, width]), f32s(&[1, 2, width, width]));
        let (heads, u) = (f32s(&[2]), f32s(&[2, width]));
        let (q, k, v, g, beta, scale) = (&x, &x, &x, &keys, &gates, 1.0);
        let (scalar, skip) = (Some(&gates), Some(&heads));
        let scan = linear::scan::Inputs { q, k, v, g: scalar, beta: scalar, skip, scale, sequences };
        linear::scan::backward(device, &scan, &state, v, &state).expect("valid");
        linear::scan::forward(device, &scan, &state).expect("valid");
        let rwkv6 = linear::rwkv6::Inputs { q, k, v, g, u: &u, scale, sequences };
        linear::rwkv6::backward(device, &rwkv6, &state, v, &state).expect("valid");
        let gla = linear::gla::Inputs { q, k, v, g, scale, sequences };
        linear::gla::backward(device, &gla, &state, v, &state).expect("valid");
        let kda = delta::kda::Inputs { q, k, v, g, beta, scale, sequences };
        delta::kda::backward(device, &kda, &state, v, &state).expect("valid");
        delta::kda::step(device, &kda, &state, &[0]).expect("valid");
        let rwkv7 = delta::rwkv7::Inputs { q, k, v, g, kappa: &x, a: &x, scale, sequences };
        delta::rwkv7::backward(device, &rwkv7, &state, v, &state).expect("valid");
    }
    let (x, dt, n) = (View::empty(device, &[1, 200, 128], dtype), f32s(&[1, 200, 128]), f32s(&[1, 200, 16]));
    let (a, d, state) = (f32s(&[16, 128]), f32s(&[128]), f32s(&[1, 16, 128]));
    let mamba =
        diagonal::mamba::Inputs { x: &x, dt: &dt, dt_bias: &d, a: &a, b: &n, c: &n, d: &d, z: Some(&x), sequences };
    diagonal::mamba::forward(device, &mamba, &state).expect("valid");
    diagonal::mamba::backward(device, &mamba, &state, &x, &state).expect("valid");
    let (lru, wkv) = (f32s(&[1, 128]), f32s(&[1, 3, 128]));
    let rg_lru = diagonal::rg_lru::Inputs { x: &x, r: &x, i: &x, lambda: &d, reset: None, sequences };
    diagonal::rg_lru::backward(device, &rg_lru, &lru, &x, &lru).expect("valid");
    let rwkv4 = diagonal::rwkv4::Inputs { k: &x, v: &x, w: &d, u: &d, sequences };
    diagonal::rwkv4::backward(device, &rwkv4, &wkv, &x, &wkv).expect("valid");
}

#[test]
fn every_kernel_is_written_for_cuda() {
    let Some(real) = Device::all().into_iter().next() else {
        assert!(std::env::var_os("LONGREACH_GPU_REQUIRED").is_none(), "no GPU and no software Vulkan was found");
        return;
    };
    let recorder = Recorder::new(hopper(), TargetProperties::default());
    let device = real.recording(&recorder);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        softmax_calls(&device, dtype);
        small_calls(&device, dtype);
        recurrence_calls(&device, dtype);
    }
    let kernels = recorder.take();
    assert!(kernels.len() > 100, "{} kernels", kernels.len());
    let folder = std::env::var_os("LONGREACH_CUDA_TEXT").map(PathBuf::from);
    let options = CompilationOptions {
        supports_features: CppSupportedFeatures { grid_constants: true, dp4a: true, ..Default::default() },
        ..Default::default()
    };
    for (n, kernel) in kernels.iter().enumerate() {
        let name = kernel.name().rsplit("::").next().unwrap_or("kernel").to_owned();
        let compiled = CppCompiler::<Cuda>::default().compile(kernel.define(), &options);
        let compiled = compiled.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(
            compiled.shared_memory_size <= SHARED,
            "{name}: {} bytes of shared memory",
            compiled.shared_memory_size
        );
        assert!(compiled.source.contains("__global__"), "{name}: {}", compiled.source);
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).expect("the folder can be made");
            let text = format!("// shared {}\n{}", compiled.shared_memory_size, compiled.source);
            std::fs::write(folder.join(format!("{n:04}-{name}.cu")), text).expect("the folder can be written");
        }
    }
}
