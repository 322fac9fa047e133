//! Cached keys and values apart from the rest of a state: they do not change once they are written, so that states of one
//! text can share them.
//!
//! The rows of 64 tokens, of all layers that reach as far back, are a [`KvRows`]. A state is then what is left
//! ([`Cache::without_rows`]) and the rows of the tokens that its layers still reach.

use burn::tensor::{Tensor, TensorData};

use super::sequence::{ALIGNED, New};
use super::{BranchState, Cache, Find, KvCache, Part, StateError, StateTensor, lookup};

/// Tokens of a [`KvRows`].
pub const ROWS: usize = ALIGNED;

/// The cached keys and values of [`ROWS`] tokens, of the layers of one reach.
#[derive(Clone, Debug)]
pub struct KvRows(Vec<New>);

impl KvRows {
    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        let size = |x: &Tensor<4>| x.shape().num_elements() * x.dtype().size();
        self.0.iter().map(|(k, v)| size(k) + v.as_ref().map_or(0, size)).sum()
    }

    /// The tensors by name, as [`Cache::restored_rows`] needs them.
    pub fn tensors(&self) -> Vec<StateTensor> {
        let parts = self.0.iter().enumerate();
        let part = |(i, (k, v)): (usize, &New)| {
            let k = StateTensor::of(format!("{i}.k"), k.clone());
            [Some(k), v.clone().map(|v| StateTensor::of(format!("{i}.v"), v))]
        };
        parts.flat_map(part).flatten().collect()
    }
}

/// The first token whose row is kept after `tokens` tokens where a layer reaches `reach` tokens back: a multiple of [`ROWS`].
pub fn first_row(reach: usize, tokens: usize) -> usize {
    tokens.saturating_sub(reach) / ROWS * ROWS
}

/// A copy that shares no memory, so that a part of a large tensor does not keep the whole of it.
pub(super) fn copied<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let (device, dtype) = (x.device(), x.dtype());
    Tensor::from_data(x.into_data(), (&device, dtype))
}

impl BranchState {
    fn each_cache(&mut self, f: &mut impl FnMut(&mut KvCache)) {
        match self {
            BranchState::Nothing => {}
            BranchState::Operation(state) => {
                for (_, part) in &mut state.parts {
                    if let Part::Keys(keys) = part {
                        f(keys);
                    }
                }
            }
            BranchState::Parallel(branches) => branches.iter_mut().for_each(|branch| branch.each_cache(f)),
        }
    }
}

impl Cache {
    /// The caches that have a row for each token. A hierarchical memory begins anew with each segment, so that its layers have
    /// none.
    fn caches(&self) -> impl Iterator<Item = &KvCache> {
        let states = self.layers.iter().filter(|_| self.hmt.is_none()).flat_map(|layer| layer.states());
        states.flat_map(|state| &state.parts).filter_map(|(_, part)| match part {
            Part::Keys(keys) if keys.reach().is_some() => Some(keys),
            _ => None,
        })
    }

    fn each_cache(&mut self, f: &mut impl FnMut(&mut KvCache)) {
        if self.hmt.is_none() {
            self.layers.iter_mut().flat_map(|layer| &mut layer.0).for_each(|branch| branch.each_cache(f));
        }
    }

    /// How many tokens back layers with a row for each token reach, each number once and ascending; `usize::MAX` for all of them.
    pub fn reaches(&self) -> Vec<usize> {
        let mut reaches: Vec<usize> = self.caches().filter_map(KvCache::reach).collect();
        reaches.sort_unstable();
        reaches.dedup();
        reaches
    }

    /// A copy of the rows of the tokens `first .. first + ROWS` of a single sequence, of the layers that reach `reach` tokens
    /// back; `None` if they are not cached.
    pub fn rows(&self, reach: usize, first: usize) -> Option<KvRows> {
        let caches = self.caches().filter(|keys| keys.reach() == Some(reach));
        caches.map(|keys| keys.rows_of(first)).collect::<Option<Vec<_>>>().map(KvRows)
    }

    /// A copy of the state of a single sequence without the rows that [`Cache::rows`] returns up to the last multiple of [`ROWS`]
    /// tokens. It shares no memory with others.
    #[must_use]
    pub fn without_rows(&self) -> Self {
        struct Copies;
        impl super::OnTensors for Copies {
            fn tensor<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
                copied(x)
            }
        }
        let mut rest = self.clone();
        rest.each_cache(&mut KvCache::clear_rows);
        rest.loss = None;
        rest.map(&mut Copies)
    }

    /// Puts the rows of [`ROWS`] tokens before those that the layers with this reach have: the last of a text come first.
    /// Nothing is copied. Panics if they belong to another model.
    pub fn put_rows_before(&mut self, reach: usize, rows: &KvRows) {
        let mut rows = rows.0.iter();
        self.each_cache(&mut |keys| {
            if keys.reach() == Some(reach) {
                keys.adopt(rows.next().expect("rows of the same model").clone());
            }
        });
    }

    /// Restores the rows of [`ROWS`] tokens from their tensors; `self` is a state of the model. Errors if a tensor is missing or
    /// does not fit.
    pub fn restored_rows(
        &self,
        reach: usize,
        mut find: impl FnMut(&str, &[Option<usize>]) -> Result<TensorData, StateError>,
    ) -> Result<KvRows, StateError> {
        let find: &mut Find<'_> = &mut find;
        let caches = self.caches().filter(|keys| keys.reach() == Some(reach)).enumerate();
        let parts = caches.map(|(i, keys)| {
            let (k, v) = keys.shapes_of_rows();
            let mut read = |suffix: &str, shape: [usize; 4]| {
                let (device, dtype) = keys.kind();
                let data = lookup(&format!("{i}.{suffix}"), &shape, find)?;
                Ok::<Tensor<4>, StateError>(Tensor::from_data(data, (&device, dtype)))
            };
            Ok((read("k", k)?, v.map(|v| read("v", v)).transpose()?))
        });
        parts.collect::<Result<_, StateError>>().map(KvRows)
    }
}
