//! The bits of a few models on each instruction set of this machine, so that no order of sums changes unnoticed: states that are
//! kept, and seeds, rest on it.

use std::sync::Arc;

use longreach_burn::with_context;
use longreach_nn::ARITHMETIC;
use longreach_simd::{Cx, Isa};

use crate::{bits, goldens, load, text};

/// Models whose mixers together have every kernel of recurrences, attention and products.
const MODELS: &[&str] = &[
    "llama-a",
    "gemma3_text-a",
    "mamba-a",
    "mamba2-a",
    "mamba2-a-bf16",
    "rwkv6-a",
    "rwkv7-a",
    "gla-a",
    "gated_deltanet-a",
    "jamba-a",
    "qwen3_next-a",
    "recurrent_gemma-a",
];

/// The hash of the bits of each instruction set, with the version of the arithmetic. If a change of a kernel makes this test fail,
/// raise [`ARITHMETIC`] and put down the new hashes, which the failure prints.
const HASHES: (u32, &[(&str, u64)]) = (
    1,
    &[
        ("scalar", 0x753f_43d0_58ef_854c),
        ("avx2", 0x884c_70d6_5fe0_d32b),
        ("avx512-bf16", 0xb7b9_b55f_1d6e_ebf7),
        ("amx-bf16", 0xbca0_32e8_44aa_e499),
        ("avx512", 0x100d_3b70_13fa_90ac),
        ("amx", 0x100d_3b70_13fa_90ac),
    ],
);

/// FNV-1a.
fn hash(of: impl Iterator<Item = u32>) -> u64 {
    let bytes = of.flat_map(u32::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn the_arithmetic_of_each_instruction_set_is_the_one_of_this_version() {
    assert_eq!(ARITHMETIC, HASHES.0, "the hashes are those of another version");
    let models: Vec<_> = MODELS.iter().map(|name| load(&goldens().join(name), None)).collect();
    let mut wrong = Vec::new();
    for isa in Isa::available() {
        let all = with_context(&Arc::new(Cx::with_isa(isa, 1)), || {
            let mut all = Vec::new();
            for model in &models {
                let ids = text(model, 150);
                let mut cache = model.decoder.start(1);
                for call in model.decoder.cut().calls(0..ids.len(), 512) {
                    all.extend(bits(model.decoder.logits(model.decoder.forward(&ids[call], &mut cache, None))));
                }
                for id in [3, 5] {
                    all.extend(bits(model.decoder.logits(model.decoder.forward(&[id], &mut cache, None))));
                }
            }
            hash(all.into_iter())
        });
        match HASHES.1.iter().find(|(name, _)| *name == isa.name()) {
            Some((_, want)) if *want == all => {}
            Some((_, want)) => wrong.push(format!("({:?}, {all:#018x}): the hash was {want:#018x}", isa.name())),
            // An instruction set of another machine, whose hash is not known.
            None => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
