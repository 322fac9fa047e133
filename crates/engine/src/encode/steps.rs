//! The steps after the pooling: the modules `Dense`, `LayerNorm` and `Normalize` of sentence-transformers.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use longreach_models::{Checkpoint, Fields};
use longreach_nn::{Activation, Bias, Builder, Init, Linear};

use super::normalize;
use crate::Error;

/// `φ(W x + b)`, optionally with a residual: `x`, or a projection of it.
#[derive(Debug)]
pub(crate) struct Dense {
    linear: Linear,
    activation: Option<Activation>,
    sigmoid: bool,
    residual: Option<Option<Linear>>,
    device: Device,
}

impl Dense {
    fn load(directory: &Path, fields: &Fields, device: &Device) -> Result<Self, Error> {
        let (inputs, outputs) = (fields.size("in_features", 1)?, fields.size("out_features", 1)?);
        let named = fields.text("activation_function")?.unwrap_or("torch.nn.modules.activation.Tanh");
        let (mut activation, mut sigmoid) = (None, false);
        match named.rsplit('.').next().unwrap_or_default() {
            "Tanh" => activation = Some(Activation::Tanh),
            "Identity" => {}
            "ReLU" => activation = Some(Activation::Relu),
            "GELU" => activation = Some(Activation::Gelu),
            "SiLU" => activation = Some(Activation::Silu),
            "Sigmoid" => sigmoid = true,
            _ => {
                let message = format!("field `activation_function`: `{named}` is not supported");
                return Err(fields.error(message).into());
            }
        }
        let mut checkpoint = Checkpoint::open(directory)?;
        let mut builder = Builder::new(&mut checkpoint, device);
        let wrong = |e: longreach_nn::Error| Error::from(longreach_models::Error::from(e));
        let bias = Bias::from(fields.flag("bias", true)?);
        let linear = Linear::new(&mut builder, "linear", inputs, outputs, bias).map_err(wrong)?;
        let residual = if !fields.flag("use_residual", false)? {
            None
        } else if inputs == outputs {
            Some(None)
        } else {
            Some(Some(Linear::new(&mut builder, "residual", inputs, outputs, Bias::No).map_err(wrong)?))
        };
        Ok(Self { linear, activation, sigmoid, residual, device: device.clone() })
    }

    /// The projection that Stanford's ColBERT stores with the weights of its encoder.
    fn of_stanford(directory: &Path, width: usize, device: &Device) -> Result<Self, Error> {
        let mut checkpoint = Checkpoint::open(directory)?;
        let outputs = checkpoint.shape(STANFORD).and_then(|shape| shape.first().copied()).unwrap_or(width);
        let mut builder = Builder::new(&mut checkpoint, device);
        let linear = Linear::new(&mut builder, "linear", width, outputs, Bias::No);
        let linear = linear.map_err(|e| Error::from(longreach_models::Error::from(e)))?;
        Ok(Self { linear, activation: None, sigmoid: false, residual: None, device: device.clone() })
    }

    /// Output width.
    fn outputs(&self) -> usize {
        self.linear.weight.dims()[0]
    }

    /// `[n, in]` → `[n, out]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mut y = self.linear.forward(x.clone());
        if let Some(activation) = self.activation {
            y = longreach_burn::activate(y, activation);
        }
        if self.sigmoid {
            y = burn::tensor::activation::sigmoid(y);
        }
        match &self.residual {
            None => y,
            Some(None) => y + x,
            Some(Some(map)) => y + map.forward(x),
        }
    }
}

/// The tensor name of that projection.
pub(crate) const STANFORD: &str = "linear.weight";

/// A step after the pooling.
#[derive(Debug)]
pub(crate) enum Step {
    /// A dense layer.
    Dense(Box<Dense>),
    /// Normalisation to unit length.
    Normalize,
    /// Layer normalisation with an affine transform, each `[width]`.
    LayerNorm { weight: Vec<f32>, bias: Vec<f32> },
}

impl Step {
    /// Loads the module `name` of a folder; `f` are the fields of its `config.json`.
    pub(crate) fn load(name: &str, at: &Path, f: &Fields, device: &Device) -> Result<Self, Error> {
        Ok(match name {
            "Dense" => Step::Dense(Box::new(Dense::load(at, f, device)?)),
            "Normalize" => Step::Normalize,
            _ => {
                let n = f.size("dimension", 1)?;
                let mut checkpoint = Checkpoint::open(at)?;
                let mut builder = Builder::new(&mut checkpoint, device);
                let mut vector = |name: &str| {
                    let vector = builder.vector(name, n, Init::Constant(1.0));
                    let vector = vector.map_err(|e| Error::from(longreach_models::Error::from(e)))?;
                    Ok::<Vec<f32>, Error>(vector.val().into_data().try_into_vec().unwrap_or_default())
                };
                Step::LayerNorm { weight: vector("norm.weight")?, bias: vector("norm.bias")? }
            }
        })
    }

    /// The projection of Stanford's ColBERT; hidden states have `width`.
    pub(crate) fn of_stanford(directory: &Path, width: usize, device: &Device) -> Result<Self, Error> {
        Ok(Step::Dense(Box::new(Dense::of_stanford(directory, width, device)?)))
    }

    /// A short description.
    pub(crate) fn about(&self) -> String {
        match self {
            Step::Dense(dense) => format!("projected to {} dimensions", dense.outputs()),
            Step::Normalize => "normalised".into(),
            Step::LayerNorm { .. } => "LayerNorm".into(),
        }
    }

    /// Feeds its parameters to `part`, for hashing.
    pub(crate) fn contents(&self, part: &mut impl FnMut(&[u8])) {
        let mut numbers = |name: &str, x: &[f32]| {
            part(name.as_bytes());
            part(&x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        };
        match self {
            Step::Dense(dense) => {
                let name = format!("{:?} {} {:?}", dense.activation, dense.sigmoid, dense.residual.is_some());
                let residual = dense.residual.iter().flatten();
                for linear in std::iter::once(&dense.linear).chain(residual) {
                    let data = |x: TensorData| x.iter::<f32>().collect::<Vec<f32>>();
                    numbers(&name, &data(linear.weight.full().into_data()));
                    linear.bias.iter().for_each(|bias| numbers(&name, &data(bias.val().into_data())));
                }
            }
            Step::Normalize => numbers("normalize", &[]),
            Step::LayerNorm { weight, bias } => {
                numbers("norm", weight);
                numbers("norm", bias);
            }
        }
    }

    /// Input width; `None` if any width is accepted.
    pub(crate) fn inputs(&self) -> Option<usize> {
        match self {
            Step::Dense(dense) => Some(dense.linear.weight.dims()[1]),
            Step::Normalize => None,
            Step::LayerNorm { weight, .. } => Some(weight.len()),
        }
    }

    /// Applies the step to `[n, in]`, row-major; returns `[n, out]`.
    pub(crate) fn apply(&self, mut x: Vec<f32>, width: usize) -> Vec<f32> {
        match self {
            Step::Dense(dense) => {
                let rows = x.len() / width.max(1);
                let x = Tensor::<1>::from_data(&x[..], &dense.device).reshape([rows, width]);
                dense.forward(x).into_data().try_into_vec().unwrap_or_default()
            }
            Step::Normalize => {
                normalize(&mut x, width);
                x
            }
            Step::LayerNorm { weight, bias } => {
                // The default of PyTorch's LayerNorm.
                const EPS: f64 = 1e-5;
                for row in x.chunks_mut(width.max(1)) {
                    let n = row.len() as f64;
                    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                    let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
                    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                        *x = ((f64::from(*x) - mean) / (variance + EPS).sqrt() * f64::from(*w) + f64::from(*b)) as f32;
                    }
                }
                x
            }
        }
    }

    /// Output width; `None` if it equals the input width.
    pub(crate) fn outputs(&self) -> Option<usize> {
        match self {
            Step::Dense(dense) => Some(dense.outputs()),
            Step::Normalize | Step::LayerNorm { .. } => None,
        }
    }
}
