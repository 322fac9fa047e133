//! The mechanism as an operation with named tensors.

use longreach_simd::Cx;
use ndarray::{Array4, ArrayD, ArrayView1, ArrayView4, Axis, s};
use serde::Deserialize;

use super::{Inputs, OP, State, backward, chunk, naive, step};
use crate::operation::{Argument, Call, Operation, Parameter, Signature, Tensors, choice, exact, parameter, rounded};
use crate::{Error, Form, error};

pub(crate) struct Op;

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
struct Read<'a> {
    qkv: [ArrayView4<'a, f32>; 3],
    local: Option<[ArrayView4<'a, f32>; 2]>,
    gate: ArrayView1<'a, f32>,
    parameters: Parameters,
    scale: f64,
    state: State,
    /// The names of the state's tensors that were given.
    given: Vec<&'static str>,
}

impl<'a> Read<'a> {
    fn of(call: &mut Call<'a>) -> Result<Self, Error> {
        let (q, v): (ArrayView4<'a, f32>, ArrayView4<'a, f32>) = (call.tensor("q")?, call.tensor("v")?);
        let ((b, _, _, k), (_, _, g, width)) = (q.dim(), v.dim());
        let local = match (call.optional("ql")?, call.optional("kl")?) {
            (Some(ql), Some(kl)) => Some([ql, kl]),
            (None, None) => None,
            (ql, _) => {
                error::parameter(OP, "ql and kl", false, if ql.is_some() { "ql" } else { "kl" }, "both or none")?;
                None
            }
        };
        let (mut state, mut parts) = (State::new(b, g, k, width), Vec::new());
        for (name, to) in [
            ("state", &mut state.memory),
            ("pending", &mut state.pending),
            ("keys", &mut state.keys),
            ("values", &mut state.values),
        ] {
            if let Some(given) = call.optional(name)? {
                *to = given.as_standard_layout().into_owned();
                parts.push(name);
            }
        }
        let (k, gate) = (call.tensor("k")?, call.tensor("gate")?);
        let parameters: Parameters = call.read()?;
        let scale = parameters.scale.unwrap_or((q.dim().3 as f64).powf(-0.5));
        Ok(Self { qkv: [q, k, v], local, gate, parameters, scale, state, given: parts })
    }

    fn inputs(&self) -> Inputs<'_> {
        let ([q, k, v], Parameters { segment, delta, epsilon, .. }) = (self.qkv, &self.parameters);
        let (epsilon, scale) = (*epsilon as f32, self.scale as f32);
        Inputs { q, k, v, local: self.local, gate: self.gate, segment: *segment, delta: *delta, epsilon, scale }
    }
}

/// The output and the state, by name.
fn named(o: ArrayD<f32>, state: State) -> Tensors {
    let State { memory, pending, keys, values } = state;
    let of_state = [("state", memory), ("pending", pending), ("keys", keys), ("values", values)];
    let of_state = of_state.map(|(name, x)| (name.to_string(), x.into_dyn()));
    of_state.into_iter().chain([("o".to_string(), o)]).collect()
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
    fn signature(&self) -> Signature {
        let memory = &["B", "G", "K", "V + 1"];
        let (keys, values) = (&["B", "n", "G", "K"], &["B", "n", "G", "V"]);
        Signature {
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
            forms: &[Form::Naive, Form::Chunk, Form::Step],
            example: r#"{"segment": 64}"#,
        }
    }

    fn run(&self, call: &mut Call<'_>, form: Form, cx: &Cx) -> Result<Tensors, Error> {
        let read = Read::of(call)?;
        let mut state = read.state.clone();
        match form {
            Form::Naive => {
                let ([q, k, v], local) = (read.qkv.map(exact), read.local.map(|local| local.map(exact)));
                let gate = exact(read.gate);
                let x = read.inputs();
                let x = Inputs {
                    q: q.view(),
                    k: k.view(),
                    v: v.view(),
                    local: local.as_ref().map(|local| local.each_ref().map(|x| x.view())),
                    gate: gate.view(),
                    segment: x.segment,
                    delta: x.delta,
                    epsilon: read.parameters.epsilon,
                    scale: read.scale,
                };
                let wide = |x: &Array4<f32>| x.mapv(f64::from);
                let mut exact_state = State {
                    memory: wide(&state.memory),
                    pending: wide(&state.pending),
                    keys: wide(&state.keys),
                    values: wide(&state.values),
                };
                let o = naive(&x, &mut exact_state)?;
                let State { memory, pending, keys, values } = exact_state;
                let [memory, pending, keys, values] = [memory, pending, keys, values].map(|x| x.mapv(|x| x as f32));
                Ok(named(rounded(o), State { memory, pending, keys, values }))
            }
            Form::Step if read.qkv[0].dim().1 > 0 => {
                let x = read.inputs();
                let mut out = Array4::zeros((x.q.dim().0, x.q.dim().1, x.q.dim().2, x.v.dim().3));
                for (t, mut row) in out.axis_chunks_iter_mut(Axis(1), 1).enumerate() {
                    let of = s![.., t..t + 1, .., ..];
                    let local = x.local.map(|local| local.map(|x| x.slice_move(of)));
                    let one = Inputs { q: x.q.slice(of), k: x.k.slice(of), v: x.v.slice(of), local, ..x };
                    row.assign(&step(&one, &mut state, cx)?);
                }
                Ok(named(out.into_dyn(), state))
            }
            _ => {
                let o = chunk(&read.inputs(), &mut state, cx)?;
                Ok(named(o.into_dyn(), state))
            }
        }
    }

    fn gradient(&self, call: &mut Call<'_>, cx: &Cx) -> Result<Tensors, Error> {
        let d_o = call.tensor("do")?;
        let (d_state, d_pending) = (call.optional("dstate")?, call.optional("dpending")?);
        let read = Read::of(call)?;
        let none = Array4::zeros(read.state.memory.dim());
        let (d_state, d_pending) = (d_state.unwrap_or(none.view()), d_pending.unwrap_or(none.view()));
        let g = backward(&read.inputs(), &read.state, d_o, d_state, d_pending, cx)?;
        let mut gradients: Vec<(&str, ArrayD<f32>)> = vec![
            ("dq", g.q.into_dyn()),
            ("dk", g.k.into_dyn()),
            ("dv", g.v.into_dyn()),
            ("dgate", g.gate.into_dyn()),
            ("dstate", g.state.memory.into_dyn()),
        ];
        let carried = [("pending", g.state.pending), ("keys", g.state.keys), ("values", g.state.values)];
        for ((name, g), known) in carried.into_iter().zip(["dpending", "dkeys", "dvalues"]) {
            gradients.extend(read.given.contains(&name).then(|| (known, g.into_dyn())));
        }
        if let Some([ql, kl]) = g.local {
            gradients.extend([("dql", ql.into_dyn()), ("dkl", kl.into_dyn())]);
        }
        Ok(gradients.into_iter().map(|(name, g)| (name.to_string(), g)).collect())
    }
}
