//! A mechanism by name over ranks: tensors of the whole text in, results of the whole text out on rank 0.

use longreach_attention::Form;
use longreach_attention::operation::{Named, Tensors};
use longreach_attention::softmax::{self, Cotangent, Inputs, OutputView, Sizes};
use longreach_simd::Cx;
use ndarray::{ArrayD, ArrayView, Dimension, Ix3, Ix4};
use serde_json::Value;

use crate::layout::Spread;
use crate::ring::Over;
use crate::{Channel, Error, Layout, Ranks, bytes_of, exchange, numbers_of, ring, scan};

/// Softmax mechanisms that are computed over ranks: their keys do not depend on the content.
const PATTERNS: &[&str] =
    &["dense", "window", "dilated", "longformer", "bigbird", "sparse_transformer", "deepspeed", "streaming"];

/// What is computed.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The mechanism.
    pub op: Named,
    /// Its parameters.
    pub parameters: &'a Value,
    /// The form that each rank runs.
    pub form: Form,
    /// Whether gradients are computed too.
    pub gradients: bool,
}

fn unsupported(op: &Named, message: &str) -> Error {
    Error::Unsupported { name: op.name().to_owned(), message: message.to_owned() }
}

/// Runs a mechanism with all ranks. Every rank is given all `inputs`, computes its own part of the tokens, and sends it to rank 0, which
/// returns the outputs and, if asked, the gradients; other ranks return nothing. Errors as the mechanism's, for one that is not computed over
/// ranks, and if a rank fails.
pub fn run(asked: &Asked<'_>, inputs: &Tensors, ranks: &dyn Ranks, cx: &Cx) -> Result<Tensors, Error> {
    let name = asked.op.name();
    if PATTERNS.contains(&name) {
        return attention(asked, inputs, ranks, cx);
    }
    let passing = scan::passing(&asked.op).map_err(|_| {
        unsupported(&asked.op, "it is neither a pattern of keys that is known before the keys are, nor has it a state")
    })?;
    let tokens = tokens(&asked.op, inputs)?;
    let layout = Layout::new(Spread::Contiguous, tokens, ranks.size());
    let by_token = |name: &str| is_by_token(&asked.op, name);
    let own = |cotangents: bool| -> Tensors {
        let kept = inputs.iter().filter(|(name, _)| cotangents || is_input(&asked.op, name));
        let cut = |(name, x): (&String, &ArrayD<f32>)| {
            let x = if by_token(name) { layout.split(x.view(), 1, ranks.rank()) } else { x.clone() };
            (name.clone(), x)
        };
        kept.map(cut).collect()
    };
    let call = scan::Call { op: asked.op, parameters: asked.parameters, form: asked.form, passing, ranks };
    let mut results = scan::forward(&call, &own(false), cx)?;
    if asked.gradients {
        results.extend(scan::backward(&call, &own(true), cx)?);
    }
    collect(results, &layout, ranks, |name| match name.strip_prefix('d') {
        _ if name == "o" => true,
        Some(of) => asked.op.signature().inputs.iter().any(|input| input.name == of && input.axes.get(1) == Some(&"T")),
        None => false,
    })
}

fn is_input(op: &Named, name: &str) -> bool {
    op.signature().inputs.iter().any(|input| input.name == name)
}

fn is_by_token(op: &Named, name: &str) -> bool {
    name == "do" || op.signature().inputs.iter().any(|input| input.name == name && input.axes.get(1) == Some(&"T"))
}

/// The number of tokens; an error if tensors differ in it.
fn tokens(op: &Named, inputs: &Tensors) -> Result<usize, Error> {
    let mut found: Option<(&str, &[usize])> = None;
    for (name, x) in inputs.iter().filter(|(name, x)| x.ndim() > 1 && is_by_token(op, name)) {
        match found {
            Some((_, first)) if first[1] != x.shape()[1] => {
                let input = op.signature().inputs.iter().map(|i| i.name).find(|known| known == name).unwrap_or("do");
                let (want, found) = (first.to_vec(), x.shape().to_vec());
                return Err(longreach_attention::Error::Shape { op: op.name(), input, want, found }.into());
            }
            Some(_) => {}
            None => found = Some((name, x.shape())),
        }
    }
    found.map(|(_, shape)| shape[1]).ok_or_else(|| unsupported(op, "none of its tensors has tokens"))
}

fn view<'a, D: Dimension>(op: &Named, inputs: &'a Tensors, name: &'static str) -> Result<ArrayView<'a, f32, D>, Error> {
    let found = inputs.get(name);
    let array = found.and_then(|x| x.view().into_dimensionality().ok());
    array.ok_or_else(|| {
        let found = found.map_or_else(|| "none".to_owned(), |x| format!("a tensor of shape {:?}", x.shape()));
        let want = format!("a tensor of {} axes", D::NDIM.unwrap_or(0));
        longreach_attention::Error::Parameter { op: op.name(), parameter: name, want, found }.into()
    })
}

fn attention(asked: &Asked<'_>, inputs: &Tensors, ranks: &dyn Ranks, cx: &Cx) -> Result<Tensors, Error> {
    let op = &asked.op;
    let known = |name: &str| matches!(name, "q" | "k" | "v" | "do" | "dlse");
    if let Some(name) = inputs.keys().find(|name| !known(name)) {
        return Err(unsupported(
            op,
            &format!("`{name}` is given: over ranks, attention takes q, k, v, a scale and a soft-cap"),
        ));
    }
    let (b, tokens, h, width) = view::<Ix4>(op, inputs, "q")?.dim();
    let mut parameters = asked.parameters.clone();
    let mut take =
        |name: &str| parameters.as_object_mut().and_then(|fields| fields.remove(name)).filter(|x| !x.is_null());
    let scale = take("scale").and_then(|x| x.as_f64()).unwrap_or((width as f64).powf(-0.5)) as f32;
    let softcap = take("softcap").and_then(|x| x.as_f64()).map(|x| x as f32);
    if take("offset").is_some_and(|x| x != 0) || take("cu_seqlens").is_some() {
        return Err(unsupported(op, "`offset` and `cu_seqlens` are those of one process"));
    }
    let of = Sizes { batch: b, heads: h, queries: 0..tokens, keys: tokens };
    let parameters = if parameters.is_null() { Value::Object(serde_json::Map::new()) } else { parameters };
    let pattern = softmax::named(op.name(), &parameters, &of)?;
    let ring = op.name() == "dense";
    let layout = Layout::new(if ring { Spread::Zigzag } else { Spread::Contiguous }, tokens, ranks.size());
    let own: Tensors = inputs.iter().map(|(name, x)| (name.clone(), layout.split(x.view(), 1, ranks.rank()))).collect();
    let [q, k, v] = [view::<Ix4>(op, &own, "q")?, view::<Ix4>(op, &own, "k")?, view::<Ix4>(op, &own, "v")?];
    let x = Inputs { softcap, ..Inputs::scaled(q, k, v, scale) };
    let over = Over { layout: &layout, pattern: &*pattern, ranks };
    let output = if ring { ring::forward(&x, &over, cx)? } else { exchange::forward(&x, &over, cx)? };
    let mut results = Tensors::new();
    if asked.gradients {
        let lse = if own.contains_key("dlse") { Some(view::<Ix3>(op, &own, "dlse")?) } else { None };
        let d = Cotangent { out: view::<Ix4>(op, &own, "do")?, lse };
        let of_output: OutputView<'_> = output.view();
        let g = match ring {
            true => ring::backward(&x, of_output, &d, &over, cx)?,
            false => exchange::backward(&x, of_output, &d, &over, cx)?,
        };
        for (name, x) in [("dq", g.q), ("dk", g.k), ("dv", g.v)] {
            results.insert(name.to_owned(), x.into_dyn());
        }
    }
    results.insert("o".to_owned(), output.out.into_dyn());
    results.insert("lse".to_owned(), output.lse.into_dyn());
    collect(results, &layout, ranks, |_| true)
}

/// Sends the parts of results to rank 0, which joins those that have tokens.
fn collect(
    results: Tensors,
    layout: &Layout,
    ranks: &dyn Ranks,
    by_token: impl Fn(&str) -> bool,
) -> Result<Tensors, Error> {
    let mut whole = Tensors::new();
    for (name, own) in results {
        if !by_token(&name) {
            whole.insert(name, own);
            continue;
        }
        if ranks.rank() > 0 {
            ranks.send(0, Channel::Result, bytes_of(&own))?;
            continue;
        }
        let mut shape = own.shape().to_vec();
        let mut parts = vec![own];
        for from in 1..ranks.size() {
            shape[1] = layout.own(from);
            let numbers = numbers_of(&ranks.receive(from, Channel::Result)?, shape.iter().product(), from)?;
            parts.push(ArrayD::from_shape_vec(&shape[..], numbers).expect("as many numbers as the shape has"));
        }
        whole.insert(name, layout.join(&parts, 1)?);
    }
    Ok(if ranks.rank() == 0 { whole } else { Tensors::new() })
}
