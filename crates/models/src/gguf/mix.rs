//! Which type each tensor of a quantised file has. The mixtures of types are those of llama.cpp, so that a file of one name
//! is the same kind of file.

use longreach_gguf::TensorType;

/// A mixture of types: what a file is called after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// The type of most matrices; `None` for the type in which each is stored.
    base: Option<TensorType>,
    /// The type of the matrices that lose most, in the layers that need more bits.
    more: Option<More>,
    /// `general.file_type`
    number: u32,
}

/// Matrices of another type than most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    /// Values and the last matrix of feed-forward layers, in the first and last eighth of the layers and in every third
    /// between; joined queries, keys and values everywhere.
    Medium { kind: TensorType, joined: TensorType },
    /// Values in the first four layers, and the last matrix of feed-forward layers in the first eighth.
    Small(TensorType),
}

use TensorType as T;

/// Each matrix in the type in which it is stored.
pub const AS_STORED: Mix = Mix { name: "stored", base: None, more: None, number: 0 };

/// All mixtures.
pub const MIXES: &[Mix] = &[
    Mix { name: "f32", base: Some(T::F32), more: None, number: 0 },
    Mix { name: "f16", base: Some(T::F16), more: None, number: 1 },
    Mix { name: "bf16", base: Some(T::BF16), more: None, number: 32 },
    Mix { name: "q8_0", base: Some(T::Q8_0), more: None, number: 7 },
    Mix { name: "q6_k", base: Some(T::Q6_K), more: None, number: 18 },
    Mix {
        name: "q5_k_m",
        base: Some(T::Q5_K),
        more: Some(More::Medium { kind: T::Q6_K, joined: T::Q6_K }),
        number: 17,
    },
    Mix { name: "q5_k_s", base: Some(T::Q5_K), more: None, number: 16 },
    Mix {
        name: "q4_k_m",
        base: Some(T::Q4_K),
        more: Some(More::Medium { kind: T::Q6_K, joined: T::Q5_K }),
        number: 15,
    },
    Mix { name: "q4_k_s", base: Some(T::Q4_K), more: Some(More::Small(T::Q5_K)), number: 14 },
    Mix { name: "q5_1", base: Some(T::Q5_1), more: None, number: 9 },
    Mix { name: "q5_0", base: Some(T::Q5_0), more: None, number: 8 },
    Mix { name: "q4_1", base: Some(T::Q4_1), more: None, number: 3 },
    Mix { name: "q4_0", base: Some(T::Q4_0), more: None, number: 2 },
    Mix { name: "iq4_nl", base: Some(T::IQ4_NL), more: None, number: 25 },
    Mix { name: "iq4_xs", base: Some(T::IQ4_XS), more: None, number: 30 },
    Mix { name: "mxfp4", base: Some(T::MXFP4), more: None, number: 38 },
];

/// Ends of the names of tensors that are never quantised: norms, routers, convolutions, decay rates, positions.
const FLOATS: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "ssm_conv1d.weight",
    "shortconv.conv.weight",
    "ssm_a",
    "ssm_d",
    "position_embd.weight",
    "token_types.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
];

impl Mix {
    /// The mixture of a name; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        MIXES.iter().copied().find(|mix| mix.name.eq_ignore_ascii_case(name))
    }

    /// The same with one type for all matrices.
    pub(super) fn pure(self) -> Self {
        Self { more: None, ..self }
    }

    /// `general.file_type` of such a file, whose largest tensor has the type `largest`.
    pub(super) fn number(self, largest: Option<TensorType>) -> u32 {
        let same = |mix: &&Mix| self.base.is_none() && mix.more.is_none() && mix.base == largest;
        MIXES.iter().find(same).map_or(self.number, |mix| mix.number)
    }

    /// The type of a tensor `name` of a shape, of a model of `layers` layers, whose output layer is the embedding table
    /// if `tied`. It is stored as `stored`.
    pub(super) fn type_of(
        self,
        name: &str,
        shape: &[usize],
        layers: usize,
        tied: bool,
        stored: TensorType,
    ) -> TensorType {
        let width = shape.last().copied().unwrap_or(1);
        if shape.len() < 2 || FLOATS.iter().any(|end| name.ends_with(end)) || !name.ends_with(".weight") {
            return T::F32;
        }
        let Some(base) = self.base else { return fitting(stored, width) };
        let quantised = base.block_elements() > 1;
        if quantised && (name == "output.weight" || tied && name == "token_embd.weight") {
            let plain = base == T::Q8_0 || !width.is_multiple_of(T::Q6_K.block_elements());
            return fitting(if plain { T::Q8_0 } else { T::Q6_K }, width);
        }
        fitting(self.in_layer(name, layers).unwrap_or(base), width)
    }

    /// The type of a matrix that does not have that of most.
    fn in_layer(self, name: &str, layers: usize) -> Option<TensorType> {
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        let value = part == "attn_v.weight";
        let down = part == "ffn_down.weight" || part == "ffn_down_exps.weight";
        match self.more? {
            More::Medium { joined, .. } if part == "attn_qkv.weight" => Some(joined),
            More::Medium { kind, .. } => {
                let eighth = layers / 8;
                let more = layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
                ((value || down) && more).then_some(kind)
            }
            More::Small(kind) => (value && layer < 4 || down && layer < layers / 8).then_some(kind),
        }
    }
}

/// The type, or another of about as many bits whose blocks a row is a whole number of.
pub(super) fn fitting(of: TensorType, width: usize) -> TensorType {
    if width.is_multiple_of(of.block_elements()) {
        return of;
    }
    let other = match of {
        T::Q4_K => T::Q5_0,
        T::Q5_K => T::Q5_1,
        T::Q6_K => T::Q8_0,
        T::Q2_K | T::Q3_K => T::Q4_0,
        T::IQ4_XS => T::IQ4_NL,
        _ => T::F16,
    };
    if width.is_multiple_of(other.block_elements()) { other } else { T::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_is_that_of_llama_cpp() {
        let mix = Mix::named("Q4_K_M").expect("a mixture");
        let of = |name: &str| mix.type_of(name, &[512, 256], 32, false, T::F32);
        assert_eq!(of("blk.5.attn_q.weight"), T::Q4_K);
        // Eight layers at each end, and every third of those between.
        let more: Vec<usize> = (0..32).filter(|i| of(&format!("blk.{i}.attn_v.weight")) == T::Q6_K).collect();
        assert_eq!(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(of("blk.4.ffn_down.weight"), T::Q4_K);
        assert_eq!(of("blk.0.ffn_down_exps.weight"), T::Q6_K);
        assert_eq!(of("blk.9.attn_qkv.weight"), T::Q5_K);
        assert_eq!(of("output.weight"), T::Q6_K);
        assert_eq!(of("token_embd.weight"), T::Q4_K);
        assert_eq!(mix.type_of("token_embd.weight", &[512, 256], 32, true, T::F32), T::Q6_K);
        assert_eq!(mix.type_of("output.weight", &[512, 576], 32, false, T::F32), T::Q8_0);
        assert_eq!(of("blk.0.attn_norm.weight"), T::F32);
        assert_eq!(of("blk.0.ffn_gate_inp.weight"), T::F32);
        assert_eq!(mix.type_of("blk.0.attn_q.weight", &[512, 96], 32, false, T::F32), T::Q5_0);
        assert_eq!(mix.type_of("blk.0.ssm_dt.weight", &[512, 48], 32, false, T::F32), T::F16);
    }
}
