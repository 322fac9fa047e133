//! The state of a model: what it keeps of the sequences it has read, as named tensors with one row per sequence.
//!
//! A [`State`] belongs to one operation of a layer, a [`LayerState`] to a layer, a [`Cache`] to a whole model. Rows can
//! be selected, repeated and joined in any order, so that sequences enter and leave a batch. Selecting and cloning
//! share memory: a state is copied when one of its owners changes it, and cached keys and values, which are only
//! appended to, are never copied (see [`KvCache`]).

use burn::tensor::{DType, Device, Tensor, TensorData};

mod cache;
mod kv_cache;
mod kv_dtype;
mod layer;
mod mark;
mod rows;
mod sequence;

pub use cache::{Cache, OnTensors, StateError, StateTensor};
pub(crate) use cache::{Find, lookup};
pub use kv_cache::KvCache;
pub use kv_dtype::KvDtype;
pub use layer::{BranchState, LayerState};
pub use mark::Mark;
pub use rows::{KvRows, ROWS, first_row};

/// A named part of a state.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few per layer")]
enum Part {
    /// `[B, n, D]`: past inputs of a convolution, a token shift, or the rows of a memory.
    Rows(Tensor<3>),
    /// `[B, ..]`: a matrix state. Axes of length 1 are appended if it has fewer than four.
    Matrix(Tensor<4>),
    /// Cached keys and values.
    Keys(KvCache),
    /// Taken out by [`State::take`].
    Taken,
}

/// A type that a part of a state can have: `Tensor<3>`, `Tensor<4>` or [`KvCache`].
#[allow(private_bounds, private_interfaces, reason = "sealed")]
pub trait PartValue: Sized {
    #[doc(hidden)]
    fn into_part(self) -> Part;
    #[doc(hidden)]
    fn from_part(part: Part) -> Option<Self>;
}

macro_rules! part_value {
    ($type:ty, $variant:ident) => {
        #[allow(private_interfaces, reason = "sealed")]
        impl PartValue for $type {
            fn into_part(self) -> Part {
                Part::$variant(self)
            }
            fn from_part(part: Part) -> Option<Self> {
                match part {
                    Part::$variant(value) => Some(value),
                    _ => None,
                }
            }
        }
    };
}

part_value!(Tensor<3>, Rows);
part_value!(Tensor<4>, Matrix);
part_value!(KvCache, Keys);

/// The state of one operation for a batch of sequences: named parts, and the number of tokens read of each sequence.
#[derive(Clone, Debug)]
pub struct State {
    parts: Vec<(&'static str, Part)>,
    positions: Vec<usize>,
}

impl State {
    /// A state of `batch` sequences without parts.
    pub fn new(batch: usize) -> Self {
        Self { parts: Vec::new(), positions: vec![0; batch] }
    }

    /// Adds a part.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl PartValue) -> Self {
        self.parts.push((name, value.into_part()));
        self
    }

    /// Adds the part `name` of zeros, `[B, n, D]`.
    #[must_use]
    pub fn with_rows(self, name: &'static str, [n, d]: [usize; 2], device: &Device) -> Self {
        let zeros = Tensor::<3>::zeros([self.batch(), n, d], device);
        self.with(name, zeros)
    }

    /// Adds the part `name` of zeros, `[B, a, b, c]`.
    #[must_use]
    pub fn with_matrix(self, name: &'static str, [a, b, c]: [usize; 3], device: &Device) -> Self {
        let zeros = Tensor::<4>::zeros([self.batch(), a, b, c], device);
        self.with(name, zeros)
    }

    /// The number of sequences.
    pub fn batch(&self) -> usize {
        self.positions.len()
    }

    /// The number of tokens read of each sequence.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// Adds `tokens` to the position of every sequence.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.positions.iter_mut().for_each(|position| *position += tokens);
    }

    /// Adds to the position of each sequence the number of tokens that was read of it.
    pub(crate) fn advance_each(&mut self, tokens: impl Iterator<Item = usize>) {
        self.positions.iter_mut().zip(tokens).for_each(|(position, tokens)| *position += tokens);
    }

    fn slot(&mut self, name: &str) -> &mut Part {
        let found = self.parts.iter_mut().find(|(known, _)| *known == name);
        &mut found.unwrap_or_else(|| panic!("the state has no part `{name}`: it belongs to another model")).1
    }

    /// Takes the part `name` out, so that it can be changed in place; [`State::put`] puts it back. Panics if there is
    /// no part of this name and type.
    pub fn take<P: PartValue>(&mut self, name: &str) -> P {
        let part = std::mem::replace(self.slot(name), Part::Taken);
        P::from_part(part).unwrap_or_else(|| panic!("part `{name}` of the state has another type, or was taken"))
    }

    /// Replaces the part `name`. Panics if there is no part of this name.
    pub fn put(&mut self, name: &str, value: impl PartValue) {
        *self.slot(name) = value.into_part();
    }

    /// Replaces the part `name` by the second value that `f` returns for it; returns the first.
    pub fn update<P: PartValue, T>(&mut self, name: &str, f: impl FnOnce(P) -> (T, P)) -> T {
        let (out, value) = f(self.take(name));
        self.put(name, value);
        out
    }

    /// The states of the sequences `rows`, in this order; a sequence may be repeated.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let parts = self.parts.iter().map(|(name, part)| {
            let part = match part {
                Part::Rows(x) => Part::Rows(select(x, rows)),
                Part::Matrix(x) => Part::Matrix(select(x, rows)),
                Part::Keys(keys) => Part::Keys(keys.select(rows)),
                Part::Taken => Part::Taken,
            };
            (*name, part)
        });
        Self { parts: parts.collect(), positions: rows.iter().map(|i| self.positions[*i]).collect() }
    }

    /// Joins the sequences of several states of one operation. Panics if there are none, or if their parts differ.
    #[must_use]
    pub fn join(states: Vec<Self>) -> Self {
        if states.len() == 1 {
            return states.into_iter().next().expect("one state");
        }
        const OTHER: &str = "the states belong to different models";
        let positions = states.iter().flat_map(|state| state.positions.iter().copied()).collect();
        let mut columns: Vec<_> = states.into_iter().map(|state| state.parts.into_iter()).collect();
        let mut parts = Vec::new();
        while let Some((name, first)) = columns[0].next() {
            let rest = columns[1..].iter_mut().map(|column| column.next().expect(OTHER));
            let rest = rest.inspect(|(other, _)| assert_eq!(*other, name, "{OTHER}")).map(|(_, part)| part);
            let all = std::iter::once(first).chain(rest).collect();
            parts.push((name, joined(all).expect(OTHER)));
        }
        Self { parts, positions }
    }

    /// The number of bytes it holds; cached keys include unused capacity.
    pub(crate) fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|(_, part)| match part {
            Part::Rows(x) => 4 * x.shape().num_elements(),
            Part::Matrix(x) => 4 * x.shape().num_elements(),
            Part::Keys(keys) => keys.bytes(),
            Part::Taken => 0,
        });
        parts.sum()
    }

    /// The same state, whose cached keys and values are stored in `dtype`.
    pub(crate) fn with_keys_in(mut self, dtype: KvDtype) -> Self {
        for (_, part) in &mut self.parts {
            if let Part::Keys(keys) = part {
                *keys = keys.clone().stored_as(dtype);
            }
        }
        self
    }

    /// Applies `f` to every tensor.
    pub(crate) fn map(self, f: &mut impl OnTensors) -> Self {
        let parts = self.parts.into_iter().map(|(name, part)| {
            let part = match part {
                Part::Rows(x) => Part::Rows(f.tensor(x)),
                Part::Matrix(x) => Part::Matrix(f.tensor(x)),
                Part::Keys(keys) => Part::Keys(keys.map(f)),
                Part::Taken => Part::Taken,
            };
            (name, part)
        });
        Self { parts: parts.collect(), positions: self.positions }
    }

    /// Appends the tensors of a single sequence; `path` is the prefix of their names.
    pub(crate) fn tensors(&self, path: &str, to: &mut Vec<StateTensor>) {
        for (name, part) in &self.parts {
            let name = format!("{path}{name}");
            match part {
                Part::Rows(x) => to.push(StateTensor::of(name, x.clone())),
                Part::Matrix(x) => to.push(StateTensor::of(name, x.clone())),
                Part::Keys(keys) => keys.tensors(&name, to),
                Part::Taken => {}
            }
        }
    }

    /// Restores the state of a single sequence from the tensors saved after `tokens` tokens; `self` is an initial state.
    pub(crate) fn restored(self, tokens: usize, path: &str, find: &mut Find<'_>) -> Result<Self, StateError> {
        let parts = self.parts.into_iter().map(|(name, part)| {
            let full = format!("{path}{name}");
            let part = match part {
                Part::Rows(x) => Part::Rows(like(&x, &full, find)?),
                Part::Matrix(x) => Part::Matrix(like(&x, &full, find)?),
                Part::Keys(keys) => Part::Keys(keys.restored(tokens, &full, find)?),
                Part::Taken => Part::Taken,
            };
            Ok((name, part))
        });
        Ok(Self { parts: parts.collect::<Result<_, StateError>>()?, positions: vec![tokens] })
    }
}

/// Looks up a tensor with the shape of `x`.
fn like<const D: usize>(x: &Tensor<D>, name: &str, find: &mut Find<'_>) -> Result<Tensor<D>, StateError> {
    let data: TensorData = lookup(name, &x.dims(), find)?;
    Ok(Tensor::from_data(data, (&x.device(), DType::F32)))
}

/// The rows `rows` of `x` along the batch axis. Contiguous rows share memory with `x`.
fn select<const D: usize>(x: &Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let Some(first) = rows.first() else {
        let mut shape = x.dims();
        shape[0] = 0;
        return Tensor::zeros(shape, &x.device());
    };
    if rows.iter().enumerate().all(|(i, row)| *row == first + i) {
        return if rows.len() == x.dims()[0] { x.clone() } else { x.clone().narrow(0, *first, rows.len()) };
    }
    Tensor::cat(rows.iter().map(|row| x.clone().narrow(0, *row, 1)).collect(), 0)
}

/// Joins parts of one kind; `None` if their kinds differ.
fn joined(parts: Vec<Part>) -> Option<Part> {
    fn all<P: PartValue>(parts: Vec<Part>) -> Option<Vec<P>> {
        parts.into_iter().map(P::from_part).collect()
    }
    Some(match parts.first()? {
        Part::Rows(_) => Part::Rows(Tensor::cat(all(parts)?, 0)),
        Part::Matrix(_) => Part::Matrix(Tensor::cat(all(parts)?, 0)),
        Part::Keys(_) => Part::Keys(KvCache::join(all(parts)?)),
        Part::Taken => return None,
    })
}
