//! Where weights come from, and under which names.

use std::sync::Arc;

use burn::module::{Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use longreach_simd::product::Int8;

/// What can go wrong while a model is built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor that should be there is not.
    #[error("{origin}: tensor `{name}` is missing; {there}")]
    Missing {
        /// The file or other origin.
        origin: String,
        /// The tensor.
        name: String,
        /// What there is instead, as a sentence.
        there: String,
    },
    /// A tensor of another shape.
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
    /// A tensor of a type that cannot be a weight.
    #[error("{origin}: tensor `{name}` has dtype {found}, want one of {want}")]
    Dtype {
        /// The file or other origin.
        origin: String,
        /// The tensor.
        name: String,
        /// What can be read.
        want: &'static str,
        /// What it is.
        found: String,
    },
    /// Anything else about the origin, in its own words.
    #[error("{origin}: {message}")]
    Origin {
        /// The file or other origin.
        origin: String,
        /// What is wrong.
        message: String,
    },
}

/// How a weight lies in memory relative to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in the file.
    Same,
    /// `[r, c]` here is `[c, r]` in the file.
    Transposed,
    /// Taps of a depthwise convolution: `[W, D]` here is `[D, 1, W]` in the file.
    Taps,
    /// `[D]` here is `[1, 1, D]` in the file.
    Wide,
    /// Filters along one of two axes: `[H, W]` here is `[H, 1, W, 1]` in the file.
    Filters,
}

impl Layout {
    /// The shape in the file of a weight that has `shape` in memory.
    pub fn on_disk(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Layout::Transposed, [r, c]) => vec![*c, *r],
            (Layout::Taps, [w, d]) => vec![*d, 1, *w],
            (Layout::Wide, [d]) => vec![1, 1, *d],
            (Layout::Filters, [h, w]) => vec![*h, 1, *w, 1],
            _ => shape.to_vec(),
        }
    }

    /// Turns numbers in the file's order into memory's (`shape` is memory's).
    pub fn to_memory(self, shape: &[usize], data: Vec<f32>) -> Vec<f32> {
        match (self, shape) {
            (Layout::Transposed | Layout::Taps, [r, c]) => transpose(&data, *c, *r),
            _ => data,
        }
    }

    /// Turns numbers in memory's order into the file's (`shape` is memory's).
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

/// In which precision a weight is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// That of the model: f32 or bf16.
    Model,
    /// Always f32: norms, biases, decay rates.
    Full,
}

/// How a weight starts when a model is trained from nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element this.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform between the two.
    Uniform(f32, f32),
    /// `ln u`, with `u` uniform between the two.
    LogUniform(f32, f32),
    /// Rising or falling evenly from the first element to the last.
    Ramp(f32, f32),
    /// Orthogonal rows as long as normal ones: the random features of a Performer.
    OrthogonalRows,
    /// `ln(1 + row)`: the diagonal of S4D-Real (Gu et al. 2022), which Mamba starts from.
    LogOfRow,
    /// The inverse softplus of a step drawn log-uniformly between the two, at least 1e-4 (Gu and Dao 2023, §3.6).
    InverseSoftplusStep(f32, f32),
}

/// What a module asks of a [`Source`].
#[derive(Clone, Debug)]
pub struct Spec {
    /// The tensor's full name.
    pub name: String,
    /// Its shape in memory.
    pub shape: Vec<usize>,
    /// How it lies in the file.
    pub layout: Layout,
    /// How it is kept.
    pub precision: Precision,
    /// How it starts.
    pub init: Init,
}

/// Where weights come from.
pub trait Source {
    /// The weight's numbers, in memory's layout, as f32 or bf16.
    fn get(&mut self, spec: &Spec) -> Result<TensorData, Error>;

    /// Whether there is a weight of this name.
    fn has(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// Whether matrices are to be rounded to 8 bits: then [`Source::get`] gives them in f32, and [`Source::release`] is told when they have been read.
    fn rounds(&self) -> bool {
        false
    }

    /// Gives the memory of a weight back that has been read.
    fn release(&self, name: &str) {
        let _ = name;
    }
}

/// The names of a built model's weights, for writing them back.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(ParamId, String, Layout)>);

impl Names {
    /// The name and layout of a parameter.
    pub fn get(&self, id: ParamId) -> Option<(&str, Layout)> {
        self.0.iter().find(|(i, ..)| *i == id).map(|(_, name, layout)| (name.as_str(), *layout))
    }

    /// The parameters whose names end so.
    pub fn ending(&self, end: &str) -> impl Iterator<Item = ParamId> {
        self.0.iter().filter(move |(_, name, _)| name.ends_with(end)).map(|(id, ..)| *id)
    }
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

/// Builds modules from a [`Source`], keeping track of names.
pub struct Builder<'s> {
    source: &'s mut dyn Source,
    device: Device,
    prefix: String,
    names: Names,
    unrounded: bool,
}

impl<'s> Builder<'s> {
    /// Builds from `source` on `device`; on an autodiff device the weights can be trained.
    pub fn new(source: &'s mut dyn Source, device: &Device) -> Self {
        Self { source, device: device.clone(), prefix: String::new(), names: Names::default(), unrounded: false }
    }

    /// Builds a part whose names begin with `part` and a dot, or with nothing more where it is empty.
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

    /// An error about what is being built, naming it.
    pub fn error(&self, message: impl Into<String>) -> Error {
        let origin = self.prefix.trim_end_matches('.');
        Error::Origin {
            origin: if origin.is_empty() { "model".into() } else { origin.into() },
            message: message.into(),
        }
    }

    /// A parameter by its name within the scope.
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
        let dtype = if data.dtype() == DType::BF16 { DType::BF16 } else { DType::F32 };
        // An id from the name: an optimiser's saved state finds its parameter again.
        let id = ParamId::from(hash(&spec.name));
        let value = Tensor::from_data(data, (&self.device, dtype));
        let param = Param::initialized(id, value.set_require_grad(self.device.is_autodiff()));
        self.names.0.push((param.id, spec.name, layout));
        Ok(param)
    }

    /// Whether the source has a weight of this name within the scope.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&format!("{}{name}", self.prefix))
    }

    /// Builds a part whose matrices stay as they are, whatever the source says: heads, whose outputs are what is looked at.
    pub fn unrounded<T>(&mut self, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.unrounded, true);
        let built = build(self);
        self.unrounded = outer;
        built
    }

    /// A matrix to multiply by, and the same in 8 bits where the source wants that.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        layout: Layout,
        init: Init,
    ) -> Result<(Param<Tensor<2>>, Option<Arc<Int8>>), Error> {
        let weight = self.param(name, shape, layout, Precision::Model, init)?;
        if self.unrounded || !self.source.rounds() || shape[1] > Int8::MAX_WIDTH {
            return Ok((weight, None));
        }
        let data = weight.val().into_data();
        let rounded = match data.as_slice::<f32>() {
            Ok(numbers) => Int8::new(&longreach_burn::context(), numbers, shape[1]),
            Err(_) => Int8::new(&longreach_burn::context(), &data.iter::<f32>().collect::<Vec<_>>(), shape[1]),
        };
        drop(data);
        self.source.release(&format!("{}{name}", self.prefix));
        Ok((weight, Some(Arc::new(rounded))))
    }

    /// A vector kept in f32.
    pub fn vector(&mut self, name: &str, n: usize, init: Init) -> Result<Param<Tensor<1>>, Error> {
        self.param(name, [n], Layout::Same, Precision::Full, init)
    }

    /// The names of all that was built.
    pub fn into_names(self) -> Names {
        self.names
    }
}
