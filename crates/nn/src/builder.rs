//! Building modules from named weights.

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use longreach_simd::product::Quantised;

use crate::{Inputs, LowRank, Weight};

/// Errors while a model is built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A required tensor is missing.
    #[error("{origin}: tensor `{name}` is missing; {there}")]
    Missing {
        /// The file or other origin.
        origin: String,
        /// The tensor.
        name: String,
        /// What the origin contains instead, as a sentence.
        there: String,
    },
    /// A tensor has another shape.
    #[error("{origin}: tensor `{name}`: want {want:?}, found {found:?}")]
    Shape {
        /// The file or other origin.
        origin: String,
        /// The tensor.
        name: String,
        /// The shape the configuration asks for.
        want: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A tensor has a dtype that weights cannot have.
    #[error("{origin}: tensor `{name}` has dtype {found}, want one of {want}")]
    Dtype {
        /// The file or other origin.
        origin: String,
        /// The tensor.
        name: String,
        /// The accepted dtypes.
        want: &'static str,
        /// The dtype it has.
        found: String,
    },
    /// Any other error of the origin, with its message.
    #[error("{origin}: {message}")]
    Origin {
        /// The file or other origin.
        origin: String,
        /// The message.
        message: String,
    },
}

/// How a weight is stored in the file relative to its layout in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The same as in the file.
    Same,
    /// `[r, c]` in memory is `[c, r]` in the file.
    Transposed,
    /// Taps of a depthwise convolution: `[W, D]` in memory is `[D, 1, W]` in the file.
    Taps,
    /// `[D]` in memory is `[1, 1, D]` in the file.
    Wide,
    /// Filters along one of two axes: `[H, W]` in memory is `[H, 1, W, 1]` in the file.
    Filters,
}

impl Layout {
    /// The shape in the file of a weight with shape `shape` in memory.
    pub fn on_disk(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Layout::Transposed, [r, c]) => vec![*c, *r],
            (Layout::Taps, [w, d]) => vec![*d, 1, *w],
            (Layout::Wide, [d]) => vec![1, 1, *d],
            (Layout::Filters, [h, w]) => vec![*h, 1, *w, 1],
            _ => shape.to_vec(),
        }
    }

    /// Converts a weight of shape `shape` in memory from the order of the file to the order of memory.
    pub fn to_memory(self, shape: &[usize], data: Vec<f32>) -> Vec<f32> {
        match (self, shape) {
            (Layout::Transposed | Layout::Taps, [r, c]) => transpose(&data, *c, *r),
            _ => data,
        }
    }

    /// Converts a weight of shape `shape` in memory from the order of memory to the order of the file.
    pub fn to_disk(self, shape: &[usize], data: Vec<f32>) -> Vec<f32> {
        match (self, shape) {
            (Layout::Transposed | Layout::Taps, [r, c]) => transpose(&data, *r, *c),
            _ => data,
        }
    }
}

/// The transpose of `[rows, columns]`.
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}

/// The precision of a weight in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// That of the model's matrices: f32, bf16 or quantised.
    Matrix,
    /// That of the model's matrices, unless they are quantised when loaded: an embedding table.
    Table,
    /// That of the model's floats: f32 or bf16.
    Float,
    /// Always f32: norms, biases, decay rates.
    Full,
}

/// The initial distribution of a weight that is trained from scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element has this value.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform between the two bounds.
    Uniform(f32, f32),
    /// `ln u`, with `u` uniform between the two bounds.
    LogUniform(f32, f32),
    /// Linearly spaced from the first value at the first element to the second value at the last.
    Ramp(f32, f32),
    /// Orthogonal rows with the lengths of normal vectors: the random features of a Performer.
    OrthogonalRows,
    /// `ln(1 + row)`: the diagonal of S4D-Real (Gu et al. 2022), which Mamba starts from.
    LogOfRow,
    /// The inverse softplus of a step drawn log-uniformly between the two, at least 1e-4 (Gu and Dao 2023, §3.6).
    InverseSoftplusStep(f32, f32),
}

/// A module's request for a weight of a [`Source`].
#[derive(Clone, Debug)]
pub struct Spec {
    /// The tensor's full name.
    pub name: String,
    /// Its shape in memory.
    pub shape: Vec<usize>,
    /// Its layout in the file.
    pub layout: Layout,
    /// Its precision in memory.
    pub precision: Precision,
    /// Its initial distribution.
    pub init: Init,
}

/// Provides weights by name: a checkpoint or an initialisation.
pub trait Source {
    /// The values of the weight in the layout of memory, as f32 or bf16.
    fn get(&mut self, spec: &Spec) -> Result<TensorData, Error>;

    /// Whether the source has a weight of this name.
    fn has(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// The weight as a quantised matrix, if the source has it so or is to quantise it.
    fn quantised(&mut self, spec: &Spec) -> Result<Option<Quantised>, Error> {
        let _ = spec;
        Ok(None)
    }

    /// Where the inputs of a matrix in floats are to be added up, if they are wanted.
    fn inputs(&mut self, spec: &Spec) -> Option<Inputs> {
        let _ = spec;
        None
    }

    /// Whether the weight is trained; a frozen one gets no gradient. Asked on autodiff devices only.
    fn learns(&self, spec: &Spec) -> bool {
        let _ = spec;
        true
    }

    /// The low-rank update of a matrix `[out, in]`, if it has one.
    fn update(&mut self, spec: &Spec) -> Result<Option<Update>, Error> {
        let _ = spec;
        Ok(None)
    }
}

/// A low-rank update `scale · B A` of a matrix. Hu et al. 2022 (LoRA).
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The names of `A` and `B`.
    pub names: [String; 2],
    /// The number of rows of `A` and of columns of `B`.
    pub rank: usize,
    /// The factor of the product.
    pub scale: f32,
    /// `A: [rank, in]`
    pub a: Vec<f32>,
    /// `B: [out, rank]`
    pub b: Vec<f32>,
}

/// The names and layouts of a built model's weights, which are needed to save them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    params: Vec<(ParamId, String, Layout)>,
    quantised: usize,
}

impl Names {
    /// The name and layout of a parameter.
    pub fn get(&self, id: ParamId) -> Option<(&str, Layout)> {
        self.params.iter().find(|(i, ..)| *i == id).map(|(_, name, layout)| (name.as_str(), *layout))
    }

    /// The names of all parameters, in the order in which they were built.
    pub fn all(&self) -> impl Iterator<Item = (ParamId, &str)> {
        self.params.iter().map(|(id, name, _)| (*id, name.as_str()))
    }

    /// The number of weights in quantised matrices, which are no parameters.
    pub fn quantised(&self) -> usize {
        self.quantised
    }

    /// The parameters whose names end with `end`.
    pub fn ending(&self, end: &str) -> impl Iterator<Item = ParamId> {
        self.params.iter().filter(move |(_, name, _)| name.ends_with(end)).map(|(id, ..)| *id)
    }
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

/// Builds modules from a [`Source`] and records the names of their weights.
pub struct Builder<'s> {
    source: &'s mut dyn Source,
    device: Device,
    prefix: String,
    names: Names,
    in_floats: bool,
}

impl<'s> Builder<'s> {
    /// Builds from `source` on `device`. On an autodiff device the weights can be trained.
    pub fn new(source: &'s mut dyn Source, device: &Device) -> Self {
        Self { source, device: device.clone(), prefix: String::new(), names: Names::default(), in_floats: false }
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs `build` with the scope extended by `part`: names get the prefix `part` and a dot. If `part` is empty,
    /// names get no prefix.
    pub fn scope<T>(&mut self, part: impl std::fmt::Display, build: impl FnOnce(&mut Self) -> T) -> T {
        let (outer, part) = (self.prefix.len(), part.to_string());
        if !part.is_empty() {
            self.prefix.push_str(&part);
            self.prefix.push('.');
        }
        let built = build(self);
        self.prefix.truncate(outer);
        built
    }

    /// An error that names the current scope.
    pub fn error(&self, message: impl Into<String>) -> Error {
        let origin = self.prefix.trim_end_matches('.');
        Error::Origin {
            origin: if origin.is_empty() { "model".into() } else { origin.into() },
            message: message.into(),
        }
    }

    /// The parameter `name` within the scope. Errors if the source has no such tensor or if its shape differs.
    pub fn param<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        layout: Layout,
        precision: Precision,
        init: Init,
    ) -> Result<Param<Tensor<D>>, Error> {
        let name = format!("{}{name}", self.prefix);
        let spec = Spec { name, shape: shape.to_vec(), layout, precision, init };
        let data = self.source.get(&spec)?;
        let learns = self.device.is_autodiff() && self.source.learns(&spec);
        Ok(self.named(spec.name, data, layout, learns))
    }

    /// The parameter with these values, under its name.
    fn named<const D: usize>(
        &mut self,
        name: String,
        data: TensorData,
        layout: Layout,
        learns: bool,
    ) -> Param<Tensor<D>> {
        let dtype = if data.dtype() == DType::BF16 { DType::BF16 } else { DType::F32 };
        // The id is derived from the name, so that saved optimiser state can be matched to its parameter.
        let id = ParamId::from(hash(&name));
        let value = Tensor::from_data(data, (&self.device, dtype));
        let param = Param::initialized(id, value.set_require_grad(learns));
        self.names.params.push((param.id, name, layout));
        param
    }

    /// The low-rank update of a matrix, which is trained on an autodiff device.
    fn low_rank(&mut self, spec: &Spec) -> Result<Option<LowRank>, Error> {
        let Some(Update { names: [first, second], rank, scale, a, b }) = self.source.update(spec)? else {
            return Ok(None);
        };
        let [out, inputs] = [spec.shape[0], spec.shape[1]];
        for (name, found, want) in [(&first, a.len(), [rank, inputs]), (&second, b.len(), [out, rank])] {
            if found != want[0] * want[1] {
                let message = format!("tensor `{name}`: want the shape {want:?}, found {found} numbers");
                return Err(self.error(message));
            }
        }
        let learns = self.device.is_autodiff();
        let a = self.named(first, TensorData::new(a, [rank, inputs]), Layout::Same, learns);
        let b = self.named(second, TensorData::new(b, [out, rank]), Layout::Same, learns);
        Ok(Some(LowRank::new(a, b, scale)))
    }

    /// Whether the source has a weight `name` within the scope.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&format!("{}{name}", self.prefix))
    }

    /// Runs `build` with matrices in floats, whatever the source has or is to make: used for task heads, whose outputs are
    /// the results, and for routers.
    pub fn in_floats<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.in_floats, true);
        let built = build(self);
        self.in_floats = outer;
        built
    }

    /// A matrix to multiply by. Errors if the weight is missing or has another shape.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
        init: Init,
    ) -> Result<Weight, Error> {
        let precision = if self.in_floats { Precision::Float } else { Precision::Matrix };
        self.weight(name, shape, layout, precision, init)
    }

    /// A table whose rows are looked up, and that may be multiplied by. Errors if the weight is missing or has another
    /// shape.
    pub(crate) fn table(&mut self, name: &str, shape: [usize; 2], init: Init) -> Result<Weight, Error> {
        self.weight(name, shape, Layout::Same, Precision::Table, init)
    }

    fn weight(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
        precision: Precision,
        init: Init,
    ) -> Result<Weight, Error> {
        let spec = Spec { name: format!("{}{name}", self.prefix), shape: shape.to_vec(), layout, precision, init };
        if let Some(quantised) = self.source.quantised(&spec)? {
            self.names.quantised += shape[0] * shape[1];
            let update = self.low_rank(&spec)?;
            return Ok(Weight::quantised(quantised, &self.device).updated(update));
        }
        let inputs = self.source.inputs(&spec);
        let weight = Weight::observed(self.param(name, shape, layout, precision, init)?, inputs);
        Ok(weight.updated(self.low_rank(&spec)?))
    }

    /// A vector, kept in f32. Errors if the weight is missing or has another shape.
    pub fn vector(&mut self, name: &str, n: usize, init: Init) -> Result<Param<Tensor<1>>, Error> {
        self.param(name, [n], Layout::Same, Precision::Full, init)
    }

    /// The names of all parameters that were built.
    pub fn into_names(self) -> Names {
        self.names
    }
}
