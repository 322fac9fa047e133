//! One query against a KV cache in f32, bf16 and blocks of Q8_0, in turn: seconds, and how much faster than in f32.
//!
//! `cargo run --release -p longreach-bench --bin caches -- [LONGEST] [WIDTH] [GROUPS] [THREADS]`

use half::bf16;
use longreach_attention::softmax::{self, Inputs, Segment, dense::Dense};
use longreach_bench::{Memory, Times};
use longreach_simd::Cx;
use longreach_simd::product::Q8;
use ndarray::{Array4, s};

/// Query heads that read one group of keys.
const SHARING: usize = 4;
/// Layers whose caches are walked, so that none is in the CPU's cache when its turn comes again.
const LAYERS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| args.next().map_or(Ok(default), |n| n.parse());
    let (longest, width, groups, threads) = (number(32768)?, number(128)?, number(8)?, number(2)?);
    if width == 0 || !width.is_multiple_of(Q8::BLOCK) || groups == 0 {
        return Err(format!("want a width that is a multiple of {} and at least one group", Q8::BLOCK).into());
    }
    let cx = Cx::new(threads);
    println!("{} query heads, {groups} groups of {width}, {threads} threads, {}; medians", SHARING * groups, cx.isa);
    println!("| keys | type | MB a layer | ms a layer | GB/s | of reading | times f32 |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut length = 8192;
    while length <= longest {
        measure(length, (groups, width), &cx);
        length *= 4;
    }
    Ok(())
}

/// The keys and values of a layer in the three types.
struct Layer {
    floats: [Array4<f32>; 2],
    halves: [Array4<bf16>; 2],
    blocks: [Array4<Q8>; 2],
}

impl Layer {
    fn new(length: usize, (groups, width): (usize, usize), layer: usize) -> Self {
        let wave = |seed: f32| {
            Array4::from_shape_fn((1, length, groups, width), |(_, t, g, d)| {
                ((t * 31 + g * 7 + d + layer * 17) as f32 * seed).sin()
            })
        };
        let floats = [wave(0.713), wave(0.317)];
        let blocks = floats.each_ref().map(|x| {
            let blocks = x.as_slice().expect("contiguous").chunks(Q8::BLOCK).map(Q8::round).collect();
            Array4::from_shape_vec((1, length, groups, width / Q8::BLOCK), blocks).expect("whole blocks")
        });
        Self { halves: floats.each_ref().map(|x| x.mapv(bf16::from_f32)), blocks, floats }
    }

    fn segment(&self, kind: usize) -> [Segment<'_>; 2] {
        match kind {
            0 => self.floats.each_ref().map(|x| Segment::F32(x.view())),
            1 => self.halves.each_ref().map(|x| Segment::Bf16(x.view())),
            _ => self.blocks.each_ref().map(|x| Segment::Q8(x.view())),
        }
    }
}

/// Prints the rows of one length; each type is measured in turn with f32, and with reading as many bytes as it has.
fn measure(length: usize, (groups, width): (usize, usize), cx: &Cx) {
    let layers: Vec<Layer> = (0..LAYERS).map(|layer| Layer::new(length, (groups, width), layer)).collect();
    let q = Array4::from_shape_fn((1, 1, SHARING * groups, width), |(.., h, d)| ((h * 7 + d) as f32 * 0.531).sin());
    let none = Array4::zeros((1, 0, groups, width));
    let token = |kind: usize| {
        for layer in &layers {
            let earlier = [layer.segment(kind)];
            let none = || none.slice(s![.., .., .., ..]);
            let x = Inputs { earlier: &earlier, offset: length - 1, ..Inputs::new(q.view(), none(), none()) };
            softmax::step(&x, &Dense { causal: true }, cx).expect("valid inputs");
        }
    };
    let numbers = 2 * length * groups * width;
    for (kind, (name, bytes)) in
        [("f32", 4 * numbers), ("bf16", 2 * numbers), ("q8_0", numbers / Q8::BLOCK * size_of::<Q8>())]
            .into_iter()
            .enumerate()
    {
        let memory = Memory::new(bytes * LAYERS);
        let runs = (1 << 18) / length + 5;
        let (floats, times) = Times::in_turn(runs, || token(0), || token(kind));
        let (again, reads) = Times::in_turn(runs, || token(kind), || memory.read(cx));
        println!(
            "| {length} | {name} | {:.1} | {:.3} | {:.1} | {:.2} | {:.2} |",
            bytes as f64 / 1e6,
            1e3 * times.median() / LAYERS as f64,
            (bytes * LAYERS) as f64 / again.median() / 1e9,
            reads.median() / again.median(),
            floats.median() / times.median(),
        );
    }
}
