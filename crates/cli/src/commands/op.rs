//! `longreach op`

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::builder::PossibleValuesParser;
use longreach_attention::Form;
use longreach_attention::operation::{Named, Tensors, View, Views, named};
use longreach_cluster::{Ranks, call};
use longreach_models::{check_writable, write_atomically};
use ndarray::{ArrayD, IxDyn};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::failure::Failure;
use crate::parameters::ParameterArgs;
use crate::ranks;

/// Run one mechanism on tensors from a file
///
/// Use it to compare a mechanism with another implementation. `longreach list NAME` prints the names and shapes of its tensors, such as `q` of shape
/// `[B, T, H, D]`; the file may store them in any numeric dtype. Outputs are f32: `o` and, where the mechanism has them, `lse` and `state`, the state after the
/// last token.
///
/// With --grad the file must also hold `do`, the gradient of the loss with respect to `o`, and may hold those of other outputs that `list NAME` names. The
/// gradient of each input `x` that was given is written as `dx`; `dstate` is the gradient of the initial state and is written even if none was given.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  longreach list window
  longreach op window --params '{\"left\": 128, \"right\": 128}' --inputs qkv.safetensors --out o.safetensors
  longreach op gla --form naive --grad --inputs in.safetensors --out out.safetensors")]
pub(crate) struct Args {
    /// Mechanism, as named by `longreach list`
    name: String,
    /// File with the input tensors
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: PathBuf,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// Form of the computation: the f64 definition (naive), chunks of tokens (chunk), token by token in one call (recurrent), or one call per token (step)
    /// [default: the first of `longreach list NAME` other than naive]
    #[arg(long, value_name = "FORM", value_parser = PossibleValuesParser::new(Form::ALL.map(Form::name)))]
    form: Option<String>,
    /// Also compute gradients
    #[arg(long)]
    grad: bool,
    /// File to write outputs and gradients to
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let operation = named(&args.name)?;
    let forms = operation.signature().forms;
    let form = match &args.form {
        Some(name) => Form::ALL.into_iter().find(|form| form.name() == name).unwrap_or(Form::Naive),
        None => forms.iter().copied().find(|form| *form != Form::Naive).unwrap_or(Form::Naive),
    };
    if ranks::leads() {
        check_writable(&args.out, &[&args.inputs])?;
    }
    if let Some(ranks) = ranks::job() {
        return together(&args, operation, form, ranks);
    }
    let inputs = read(&args.inputs)?;
    let mut inputs: Views<'_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let parameters = args.parameters.read()?.unwrap_or_default();
    let cx = &*longreach_burn::context();
    let start = Instant::now();
    let mut results = operation.forward(&inputs, &parameters, form, cx)?;
    let forward = start.elapsed();
    let mut said = format!("{} {} in {:.1} ms", args.name, form.name(), 1e3 * forward.as_secs_f64());
    if args.grad {
        // The gradient does not compute again what it reads of the forward pass.
        for (name, output) in results.iter().filter(|(name, _)| operation.signature().saved.contains(&name.as_str())) {
            inputs.insert(name, output);
        }
        let start = Instant::now();
        let gradients = operation.backward(&inputs, &parameters, cx)?;
        said += &format!(", backward in {:.1} ms", 1e3 * start.elapsed().as_secs_f64());
        results.extend(gradients);
    }
    for (name, x) in &results {
        super::forward::note_not_finite(name, x.iter());
    }
    write(&args.out, &results)?;
    let shapes: Vec<String> = results.iter().map(|(name, x)| format!("{name} {:?}", x.shape())).collect();
    eprintln!("{said}: {}", shapes.join(", "));
    Ok(())
}

/// Computes it with all ranks. Each reads the file and takes its part of the tokens.
fn together(args: &Args, op: Named, form: Form, ranks: &dyn Ranks) -> Result<(), Failure> {
    let parameters = args.parameters.read()?.unwrap_or_default();
    let numbers = |(name, tensor)| match tensor {
        Stored::Numbers(x) => (name, x),
        Stored::Integers(x) => (name, x.mapv(|x| x as f32)),
        Stored::Flags(x) => (name, x.mapv(|x| f32::from(u8::from(x)))),
    };
    let inputs: Tensors = read(&args.inputs)?.into_iter().map(numbers).collect();
    let asked = call::Asked { op, parameters: &parameters, form, gradients: args.grad };
    let start = Instant::now();
    let results = call::run(&asked, &inputs, ranks, &longreach_burn::context())?;
    let sent = ranks::sent(ranks)?;
    if !ranks::leads() {
        return Ok(());
    }
    for (name, x) in &results {
        super::forward::note_not_finite(name, x.iter());
    }
    write(&args.out, &results)?;
    let shapes: Vec<String> = results.iter().map(|(name, x)| format!("{name} {:?}", x.shape())).collect();
    let (time, n) = (1e3 * start.elapsed().as_secs_f64(), ranks.size());
    let sent = super::generate::megabytes(sent);
    eprintln!("{} {} on {n} ranks in {time:.1} ms, sent {sent}: {}", args.name, form.name(), shapes.join(", "));
    Ok(())
}

/// A tensor of a file: floating-point numbers in f32, integers and flags in their own types.
enum Stored {
    Numbers(ArrayD<f32>),
    Integers(ArrayD<i64>),
    Flags(ArrayD<bool>),
}

impl Stored {
    fn view(&self) -> View<'_> {
        match self {
            Stored::Numbers(x) => x.into(),
            Stored::Integers(x) => x.into(),
            Stored::Flags(x) => x.into(),
        }
    }
}

/// The tensors of a safetensors file.
fn read(file: &Path) -> Result<BTreeMap<String, Stored>, Failure> {
    let wrong = |message: String| Failure::new(format!("{}: {message}", file.display()));
    let bytes = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let mut read = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        let stored = stored(&view).map_err(|e| wrong(format!("`{name}`: {e}")))?;
        read.insert(name, stored);
    }
    Ok(read)
}

/// Reads a tensor; an error for a dtype that is not supported.
fn stored(view: &TensorView<'_>) -> Result<Stored, String> {
    macro_rules! each {
        ($of:ident, $type:ty, $x:ident => $number:expr) => {{
            let elements = view
                .data()
                .chunks_exact(size_of::<$type>())
                .map(|bytes| {
                    let $x = <$type>::from_le_bytes(bytes.try_into().expect("chunks of this size"));
                    $number
                })
                .collect();
            Stored::$of(ArrayD::from_shape_vec(IxDyn(view.shape()), elements).map_err(|e| e.to_string())?)
        }};
    }
    Ok(match view.dtype() {
        Dtype::F32 => each!(Numbers, f32, x => x),
        Dtype::F64 => each!(Numbers, f64, x => x as f32),
        Dtype::F16 => each!(Numbers, half::f16, x => x.to_f32()),
        Dtype::BF16 => each!(Numbers, half::bf16, x => x.to_f32()),
        Dtype::I64 => each!(Integers, i64, x => x),
        Dtype::U64 => each!(Integers, u64, x => i64::try_from(x).unwrap_or(i64::MAX)),
        Dtype::I32 => each!(Integers, i32, x => x.into()),
        Dtype::U32 => each!(Integers, u32, x => x.into()),
        Dtype::I16 => each!(Integers, i16, x => x.into()),
        Dtype::U16 => each!(Integers, u16, x => x.into()),
        Dtype::I8 => each!(Integers, i8, x => x.into()),
        Dtype::U8 => each!(Integers, u8, x => x.into()),
        Dtype::BOOL => each!(Flags, u8, x => x != 0),
        dtype => return Err(format!("dtype {dtype:?} is not supported")),
    })
}

fn write(file: &Path, tensors: &Tensors) -> Result<(), Failure> {
    let flat: Vec<_> = tensors
        .iter()
        .map(|(name, x)| (name, x.shape().to_vec(), x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        .collect();
    let mut views = Vec::new();
    for (name, shape, bytes) in &flat {
        views.push((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?));
    }
    let bytes = safetensors::serialize(views, None::<HashMap<String, String>>)?;
    Ok(write_atomically(file, |out| out.write_all(&bytes))?)
}
