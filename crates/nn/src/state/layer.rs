//! The states of a layer: one for each branch of its block.

use burn::tensor::TensorData;

use super::{Find, KvDtype, OnTensors, State, StateError, StateTensor};

/// The state of a branch.
#[derive(Clone, Debug)]
pub enum BranchState {
    /// No state: the operation reads each token by itself.
    Nothing,
    /// The state of a mixer, or of a feed-forward layer with token shift.
    Operation(State),
    /// The states of parallel branches.
    Parallel(Vec<BranchState>),
}

impl BranchState {
    fn states(&self) -> Box<dyn Iterator<Item = &State> + '_> {
        match self {
            BranchState::Nothing => Box::new(std::iter::empty()),
            BranchState::Operation(state) => Box::new(std::iter::once(state)),
            BranchState::Parallel(branches) => Box::new(branches.iter().flat_map(Self::states)),
        }
    }

    /// Replaces every state by what `f` returns for it and the path of its tensors.
    fn try_map<E>(self, path: &str, f: &mut impl FnMut(State, &str) -> Result<State, E>) -> Result<Self, E> {
        Ok(match self {
            BranchState::Nothing => BranchState::Nothing,
            BranchState::Operation(state) => BranchState::Operation(f(state, path)?),
            BranchState::Parallel(branches) => {
                let branches = branches.into_iter().enumerate();
                let branches = branches.map(|(i, branch)| branch.try_map(&format!("{path}{i}."), f));
                BranchState::Parallel(branches.collect::<Result<_, _>>()?)
            }
        })
    }

    fn map(self, f: &mut impl OnTensors) -> Self {
        let mapped: Result<_, std::convert::Infallible> = self.try_map("", &mut |state, _| Ok(state.map(f)));
        let Ok(mapped) = mapped;
        mapped
    }

    /// Appends the tensors of a single sequence; `path` is the prefix of their names.
    fn tensors(&self, path: &str, to: &mut Vec<StateTensor>) {
        match self {
            BranchState::Nothing => {}
            BranchState::Operation(state) => state.tensors(path, to),
            BranchState::Parallel(branches) => {
                branches.iter().enumerate().for_each(|(i, branch)| branch.tensors(&format!("{path}{i}."), to));
            }
        }
    }

    fn select(&self, rows: &[usize]) -> Self {
        match self {
            BranchState::Nothing => BranchState::Nothing,
            BranchState::Operation(state) => BranchState::Operation(state.select(rows)),
            BranchState::Parallel(branches) => {
                BranchState::Parallel(branches.iter().map(|branch| branch.select(rows)).collect())
            }
        }
    }

    fn join(branches: Vec<Self>) -> Self {
        const OTHER: &str = "the states belong to different models";
        let (mut states, mut lists, mut nothing) = (Vec::new(), Vec::new(), 0);
        for branch in branches {
            match branch {
                BranchState::Nothing => nothing += 1,
                BranchState::Operation(state) => states.push(state),
                BranchState::Parallel(list) => lists.push(list),
            }
        }
        match (nothing, states.is_empty(), lists.is_empty()) {
            (_, true, true) => BranchState::Nothing,
            (0, false, true) => BranchState::Operation(State::join(states)),
            (0, true, false) => BranchState::Parallel(transposed(lists.into_iter()).map(Self::join).collect()),
            _ => panic!("{OTHER}"),
        }
    }
}

/// The state of one layer: the state of each branch of its block, in order.
#[derive(Clone, Debug)]
pub struct LayerState(pub Vec<BranchState>);

impl LayerState {
    /// The number of bytes it holds; cached keys include unused capacity.
    pub fn bytes(&self) -> usize {
        self.states().map(State::bytes).sum()
    }

    /// The same state, whose cached keys and values are stored in `dtype`.
    pub(super) fn with_keys_in(self, dtype: KvDtype) -> Self {
        let store = &mut |state: State, _: &str| Ok(state.with_keys_in(dtype));
        let branches = self.0.into_iter().map(|branch| branch.try_map::<std::convert::Infallible>("", store));
        let Ok(branches) = branches.collect();
        Self(branches)
    }

    /// The states of its operations, in order.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.0.iter().flat_map(BranchState::states)
    }

    /// The tensors of a single sequence, by name.
    pub fn tensors(&self) -> Vec<StateTensor> {
        let mut tensors = Vec::new();
        self.append_tensors("", &mut tensors);
        tensors
    }

    pub(super) fn append_tensors(&self, path: &str, to: &mut Vec<StateTensor>) {
        self.0.iter().enumerate().for_each(|(i, branch)| branch.tensors(&format!("{path}{i}."), to));
    }

    /// Restores the state of a single sequence from the tensors saved after `tokens` tokens; `self` is an initial state:
    /// see [`Cache::restored`](super::Cache::restored). Errors if a tensor is missing or does not fit.
    pub fn restored(
        self,
        tokens: usize,
        mut find: impl FnMut(&str, &[Option<usize>]) -> Result<TensorData, StateError>,
    ) -> Result<Self, StateError> {
        let branches = self.0.into_iter().enumerate();
        let find: &mut Find<'_> = &mut find;
        let mut restore = |state: State, path: &str| state.restored(tokens, path, find);
        let branches = branches.map(|(i, branch)| branch.try_map(&format!("{i}."), &mut restore));
        Ok(Self(branches.collect::<Result<_, _>>()?))
    }

    /// The states of the sequences `rows`, in this order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self(self.0.iter().map(|branch| branch.select(rows)).collect())
    }

    pub(super) fn join(layers: Vec<Self>) -> Self {
        Self(transposed(layers.into_iter().map(|layer| layer.0)).map(BranchState::join).collect())
    }

    pub(crate) fn map(self, f: &mut impl OnTensors) -> Self {
        Self(self.0.into_iter().map(|branch| branch.map(f)).collect())
    }
}

/// The `i`th elements of all lists, for each `i`. Panics if their lengths differ.
pub(super) fn transposed<T>(lists: impl Iterator<Item = Vec<T>>) -> impl Iterator<Item = Vec<T>> {
    let mut lists: Vec<_> = lists.map(Vec::into_iter).collect();
    std::iter::from_fn(move || {
        let column: Vec<T> = lists.iter_mut().filter_map(Iterator::next).collect();
        assert!(column.is_empty() || column.len() == lists.len(), "the states belong to different models");
        (!column.is_empty()).then_some(column)
    })
}
