//! The mechanism as an operation with named tensors.

use std::collections::BTreeMap;

use longreach_simd::Cx;
use ndarray::{Array4, ArrayD, ArrayView4, Axis, Ix1, Ix4, s};
use serde::Deserialize;

use super::{Inputs, OP, State, backward, chunk, naive, step};
use crate::operation::{
    Argument, Arguments, Axes, Call, Exact, Number, Operation, Parameter, Shapes, Tensor, Tensors, choice, parameter,
    tensors,
};
use crate::{Error, Form, Mechanism, error};

pub(crate) struct Op;

/// The mechanism's entry in the list.
pub(crate) const MECHANISM: Mechanism = Mechanism {
    name: "infini",
    family: "memory",
    forms: &[Form::Naive, Form::Chunk, Form::Step],
    cost: "O(T s H K + T H K V)",
    state: "G K (V + 1) + s G (K + V)",
    paper: "Munkhdalai et al. 2024, Infini-attention",
    note: "a memory without a token is not read and has no gate, so that the first segment is plain attention; by the equation alone its output would be (1 - sigmoid(gate)) times that",
    example: r#"{"segment": 64}"#,
    operation: &Op,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    segment: usize,
    delta: bool,
    epsilon: f64,
    scale: Option<f64>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { segment: 2048, delta: false, epsilon: 1e-10, scale: None }
    }
}

/// The tensors and parameters of a call.
struct Read<'a, F> {
    qkv: [Tensor<'a, F, Ix4>; 3],
    local: Option<[Tensor<'a, F, Ix4>; 2]>,
    gate: Tensor<'a, F, Ix1>,
    parameters: Parameters,
    scale: f64,
}

impl<'a, F: Number> Read<'a, F> {
    /// The tensors and parameters, and the state, copied.
    fn of(call: &mut Call<'a>) -> Result<(Self, State<F>), Error> {
        let read = Self::without_state(call)?;
        let [(b, _, _, k), _, (_, _, g, width)] = read.qkv.each_ref().map(Tensor::dim);
        let mut state = State::new(b, g, k, width);
        let State { memory, pending, keys, values } = &mut state;
        for (name, to) in CARRIED.into_iter().zip([memory, pending, keys, values]) {
            if let Some(given) = call.optional(name)? {
                *to = given.view().as_standard_layout().into_owned();
            }
        }
        Ok((read, state))
    }

    fn without_state(call: &mut Call<'a>) -> Result<Self, Error> {
        let qkv: [Tensor<'a, F, Ix4>; 3] = [call.tensor("q")?, call.tensor("k")?, call.tensor("v")?];
        let local = match (call.optional("ql")?, call.optional("kl")?) {
            (Some(ql), Some(kl)) => Some([ql, kl]),
            (None, None) => None,
            (ql, _) => {
                error::parameter(OP, "ql and kl", false, if ql.is_some() { "ql" } else { "kl" }, "both or none")?;
                None
            }
        };
        let parameters: Parameters = call.read()?;
        let scale = parameters.scale.unwrap_or((qkv[0].dim().3 as f64).powf(-0.5));
        Ok(Self { qkv, local, gate: call.tensor("gate")?, parameters, scale })
    }

    fn inputs(&self) -> Inputs<'_, F> {
        let ([q, k, v], Parameters { segment, delta, epsilon, .. }) = (&self.qkv, &self.parameters);
        Inputs {
            q: q.view(),
            k: k.view(),
            v: v.view(),
            local: self.local.as_ref().map(|local| local.each_ref().map(Tensor::view)),
            gate: self.gate.view(),
            segment: *segment,
            delta: *delta,
            epsilon: F::nearest(*epsilon),
            scale: F::nearest(self.scale),
        }
    }
}

/// The tensors of the state, by name.
const CARRIED: [&str; 4] = ["state", "pending", "keys", "values"];

/// The output and the state, by name.
fn results<F>(o: Array4<F>, state: State<F>) -> BTreeMap<String, ArrayD<F>> {
    let State { memory, pending, keys, values } = state;
    let of_state = CARRIED.into_iter().zip([memory, pending, keys, values]);
    [("o", o)].into_iter().chain(of_state).map(|(name, x)| (name.to_string(), x.into_dyn())).collect()
}

const PARAMETERS: &[Parameter] = &[
    parameter("segment", "2048", "tokens of a segment"),
    parameter("delta", "false", "write only what the memory does not have")
        .one_of(&[choice("false").with(SHORT), choice("true").with(SHORT)]),
    parameter("epsilon", "1e-10", "the least that the memory's sums are divided by"),
    parameter("scale", "null", "times which scores inside the segment are taken; 1 / √K if null")
        .such_as(&[choice("0.3")]),
];

/// The memory is updated only where a segment ends.
const SHORT: &str = r#"{"segment": 64}"#;

impl Operation for Op {
    fn arguments(&self) -> Arguments {
        let memory = &["B", "G", "K", "V + 1"];
        let (keys, values) = (&["B", "n", "G", "K"], &["B", "n", "G", "V"]);
        Arguments {
            inputs: vec![
                Argument::input("q", &["B", "T", "H", "K"], "queries"),
                Argument::input("k", &["B", "T", "G", "K"], "keys; head h reads group h / (H / G)"),
                Argument::input("v", &["B", "T", "G", "V"], "values"),
                Argument::input("gate", &["H"], "how much of the memory a head takes, before the sigmoid"),
                Argument::optional("ql", &["B", "T", "H", "K"], "queries inside the segment, if they are others")
                    .with(&["kl"]),
                Argument::optional("kl", &["B", "T", "G", "K"], "keys inside the segment, if they are others")
                    .with(&["ql"]),
                Argument::optional(
                    "state",
                    memory,
                    "the memory before the first token, sums of keys as its last column; zero if absent",
                ),
                Argument::optional("pending", memory, "what the segment under way will add to it; zero if absent"),
                Argument::optional("keys", keys, "keys of the segment under way; none if absent").with(&["values"]),
                Argument::optional("values", values, "their values").with(&["keys"]),
            ],
            parameters: PARAMETERS.to_vec(),
            outputs: vec![
                Argument::output("o", &["B", "T", "H", "V"], "the output"),
                Argument::output("state", memory, "the memory after the last token"),
                Argument::output("pending", memory, "what the segment under way will add to it"),
                Argument::output("keys", keys, "keys of the segment under way").constant(),
                Argument::output("values", values, "their values").constant(),
            ],
            saved: &[],
        }
    }

    fn naive(&self, call: &mut Call<'_>, _: &Cx) -> Result<Exact, Error> {
        let (read, mut state) = Read::of(call)?;
        let o = naive(&read.inputs(), &mut state)?;
        Ok(results(o, state))
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let (read, mut state) = Read::of(call)?;
        let x = read.inputs();
        if form != Form::Step || x.q.dim().1 == 0 {
            let o = chunk(&x, &mut state, cx)?;
            return Ok(results(o, state));
        }
        let mut out = Array4::zeros((x.q.dim().0, x.q.dim().1, x.q.dim().2, x.v.dim().3));
        for (t, mut row) in out.axis_chunks_iter_mut(Axis(1), 1).enumerate() {
            let of = s![.., t..t + 1, .., ..];
            let local = x.local.map(|local| local.map(|x| x.slice_move(of)));
            let one = Inputs { q: x.q.slice(of), k: x.k.slice(of), v: x.v.slice(of), local, ..x };
            row.assign(&step(&one, &mut state, cx)?);
        }
        Ok(results(out, state))
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d_o = call.tensor("do")?;
        let (d_state, d_pending) = (call.optional("dstate")?, call.optional("dpending")?);
        let (read, state) = Read::of(call)?;
        let none = Array4::zeros(state.memory.dim());
        let [d_state, d_pending]: [ArrayView4<'_, f32>; 2] =
            [&d_state, &d_pending].map(|d| d.as_ref().map_or(none.view(), Tensor::view));
        let g = backward(&read.inputs(), &state, d_o.view(), d_state, d_pending, cx)?;
        let mut gradients = tensors([
            ("dq", g.q.into_dyn()),
            ("dk", g.k.into_dyn()),
            ("dv", g.v.into_dyn()),
            ("dgate", g.gate.into_dyn()),
            ("dstate", g.state.memory.into_dyn()),
        ]);
        let carried = [("pending", g.state.pending), ("keys", g.state.keys), ("values", g.state.values)];
        for (name, g) in carried.into_iter().filter(|(name, _)| call.gives(name)) {
            gradients.insert(format!("d{name}"), g.into_dyn());
        }
        if let Some([ql, kl]) = g.local {
            gradients.extend(tensors([("dql", ql.into_dyn()), ("dkl", kl.into_dyn())]));
        }
        Ok(gradients)
    }

    fn shapes(&self, call: &mut Call<'_>, axes: &Axes<'_>) -> Result<Shapes, Error> {
        let read: Read<'_, f32> = Read::without_state(call)?;
        let [(b, t, h, k), _, (_, _, g, v)] = read.qkv.each_ref().map(Tensor::dim);
        let (segment, seen) = (read.parameters.segment, axes.input("keys").map_or(0, |keys| keys[1]));
        error::parameter(OP, "segment", segment > 0, segment, "at least 1 token")?;
        let (memory, under_way) = (vec![b, g, k, v + 1], (seen + t) % segment);
        let shapes = [
            ("o", vec![b, t, h, v]),
            ("state", memory.clone()),
            ("pending", memory),
            ("keys", vec![b, under_way, g, k]),
            ("values", vec![b, under_way, g, v]),
        ];
        Ok(shapes.map(|(name, shape)| (name.to_owned(), shape)).into())
    }
}
