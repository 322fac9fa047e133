//! The states in memory: a tree of the texts that are known, and of which of their places have a state.
//!
//! A node is a place in a text, at a multiple of 64 tokens or at the end of a text; its key is the hash of all tokens before it,
//! so that texts with a common beginning share their nodes. When memory runs short, the state goes whose loss costs least:
//!
//! $$ w \cdot (\text{tokens to the nearest state before it}) \cdot 2^{-\text{age} / 60} / \text{bytes} $$
//!
//! with the age in requests, and `w` 8 where a path ends or divides and 1 within a path, and 4 more for each time it was used.
//! Bytes are those that are freed: rows that other states share do not count. Pan et al. 2025 (Marconi), §4.2.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use longreach_nn::{KvRows, ROWS};

use super::key::{Key, Path};
use super::snapshot::Snapshot;

/// Requests after which a state is worth half as much.
const HALF_LIFE: f64 = 60.0;
/// More places than this are not remembered unless they lead to a state.
const MOST_NODES: usize = 1 << 18;

/// A place in a text.
struct Node {
    parent: Option<Key>,
    tokens: usize,
    children: usize,
    state: Option<Arc<Snapshot>>,
    uses: u32,
    /// The request that used it last.
    used: u64,
}

/// Rows that states share, and how many do.
struct Shared {
    rows: Arc<KvRows>,
    states: usize,
}

/// How much a state is worth: see the formula above, without age and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Worth {
    /// Tokens from the nearest state before it.
    pub(super) gap: usize,
    /// `w`
    pub(super) weight: f64,
}

/// The tree.
pub(super) struct Ram {
    budget: usize,
    bytes: usize,
    nodes: HashMap<Key, Node>,
    rows: HashMap<Key, Shared>,
    states: usize,
    request: u64,
    pub(super) evictions: u64,
}

impl Ram {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, nodes: HashMap::new(), rows: HashMap::new(), states: 0, request: 0, evictions: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn states(&self) -> usize {
        self.states
    }

    /// The key of the node at `tokens`: a hash along the path, or the key of the state at the end of a text.
    fn node(path: &Path<'_>, tokens: usize) -> Key {
        if tokens.is_multiple_of(ROWS) { *path.block(tokens / ROWS) } else { path.state(tokens) }
    }

    /// The deepest state of a text, of those with `accepts`; it counts as used.
    pub(super) fn deepest(&mut self, path: &Path<'_>, accepts: impl Fn(&Snapshot) -> bool) -> Option<Arc<Snapshot>> {
        let n = path.tokens();
        let whole = (0..=n / ROWS).rev().map(|i| i * ROWS).filter(|p| *p < n);
        for p in std::iter::once(n).chain(whole).filter(|p| *p > 0) {
            let Some(node) = self.nodes.get_mut(&Self::node(path, p)) else { continue };
            if let Some(state) = node.state.clone().filter(|state| accepts(state)) {
                node.uses = node.uses.saturating_add(1);
                node.used = self.request;
                return Some(state);
            }
        }
        None
    }

    /// The state at a place.
    pub(super) fn at(&self, path: &Path<'_>, tokens: usize) -> Option<Arc<Snapshot>> {
        self.nodes.get(&Self::node(path, tokens))?.state.clone()
    }

    /// Notes a text; returns the last place, a multiple of 64 tokens, up to which it goes along a known text that it leaves
    /// there.
    pub(super) fn visit(&mut self, path: &Path<'_>) -> Option<usize> {
        self.request += 1;
        let last = path.tokens() / ROWS;
        let known = (0..=last).take_while(|i| self.nodes.contains_key(path.block(*i))).last();
        let leaves = known.filter(|i| *i > 0 && *i < last && self.nodes[path.block(*i)].children > 0);
        self.reach(path, last * ROWS);
        if self.nodes.len() > MOST_NODES {
            self.forget();
        }
        leaves.map(|i| i * ROWS)
    }

    /// Makes the nodes of a path up to `tokens`, and returns the key of the last.
    fn reach(&mut self, path: &Path<'_>, tokens: usize) -> Key {
        let mut parent: Option<Key> = None;
        let places = (0..=tokens / ROWS).map(|i| i * ROWS);
        let end = (!tokens.is_multiple_of(ROWS)).then_some(tokens);
        for place in places.chain(end) {
            let key = Self::node(path, place);
            if !self.nodes.contains_key(&key) {
                let node = Node { parent, tokens: place, children: 0, state: None, uses: 0, used: self.request };
                self.nodes.insert(key, node);
                if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(&parent)) {
                    parent.children += 1;
                }
            }
            parent = Some(key);
        }
        parent.unwrap_or_else(|| *path.block(0))
    }

    /// Rows that are kept.
    pub(super) fn known(&self, key: &Key) -> Option<Arc<KvRows>> {
        self.rows.get(key).map(|shared| shared.rows.clone())
    }

    /// Keeps a state, and lets others go if there are too many bytes. Returns what it is worth.
    pub(super) fn keep(&mut self, path: &Path<'_>, state: Arc<Snapshot>) -> Worth {
        let key = self.reach(path, state.tokens);
        let request = self.request;
        let better = |kept: &Arc<Snapshot>| kept.logits.is_some() || state.logits.is_none();
        if !self.nodes[&key].state.as_ref().is_some_and(better) {
            self.drop_state(&key);
            self.bytes += state.own_bytes();
            for rows in state.rows() {
                let shared = self.rows.entry(rows.key).or_insert_with(|| {
                    self.bytes += rows.rows.bytes();
                    Shared { rows: rows.rows.clone(), states: 0 }
                });
                shared.states += 1;
            }
            self.states += 1;
        }
        if let Some(node) = self.nodes.get_mut(&key) {
            node.used = request;
            node.state.get_or_insert(state);
        }
        let worth = self.worth(&self.nodes[&key]);
        while self.bytes > self.budget && self.evict() {}
        worth
    }

    fn worth(&self, node: &Node) -> Worth {
        let (mut before, mut at) = (0, node.parent);
        while let Some(parent) = at.and_then(|key| self.nodes.get(&key)) {
            if parent.state.is_some() {
                before = parent.tokens;
                break;
            }
            at = parent.parent;
        }
        let within = if node.children == 1 { 1.0 } else { 8.0 };
        Worth { gap: node.tokens - before, weight: within + 4.0 * f64::from(node.uses) }
    }

    fn freed(&self, state: &Snapshot) -> usize {
        let alone = |key: &Key| self.rows.get(key).is_some_and(|shared| shared.states == 1);
        let rows: usize = state.rows().filter(|rows| alone(&rows.key)).map(|rows| rows.rows.bytes()).sum();
        state.own_bytes() + rows
    }

    /// Lets the state go that is worth least; false if there is none.
    fn evict(&mut self) -> bool {
        let value = |node: &Node| {
            let state = node.state.as_ref()?;
            let Worth { gap, weight } = self.worth(node);
            let age = (self.request - node.used) as f64;
            Some(weight * gap as f64 * (-age / HALF_LIFE).exp2() / self.freed(state) as f64)
        };
        let all = self.nodes.iter().filter_map(|(key, node)| Some((*key, value(node)?)));
        let least = all.min_by(|(a, x), (b, y)| x.total_cmp(y).then(a.cmp(b)));
        let gone = least.is_some_and(|(key, _)| self.drop_state(&key));
        self.evictions += u64::from(gone);
        gone
    }

    /// Drops the state of a node, if it has one.
    fn drop_state(&mut self, key: &Key) -> bool {
        let Some(state) = self.nodes.get_mut(key).and_then(|node| node.state.take()) else { return false };
        self.bytes -= state.own_bytes();
        for rows in state.rows() {
            if let Some(shared) = self.rows.get_mut(&rows.key) {
                shared.states -= 1;
                if shared.states == 0 {
                    self.bytes -= shared.rows.bytes();
                    self.rows.remove(&rows.key);
                }
            }
        }
        self.states -= 1;
        true
    }

    /// Forgets the places that lead to no state.
    fn forget(&mut self) {
        let mut needed: HashSet<Key> = HashSet::new();
        for (key, _) in self.nodes.iter().filter(|(_, node)| node.state.is_some()) {
            let mut at = Some(*key);
            while let Some(key) = at.filter(|key| needed.insert(*key)) {
                at = self.nodes.get(&key).and_then(|node| node.parent);
            }
        }
        self.nodes.retain(|key, _| needed.contains(key));
        self.nodes.values_mut().for_each(|node| node.children = 0);
        let parents: Vec<Key> = self.nodes.values().filter_map(|node| node.parent).collect();
        for parent in parents {
            if let Some(node) = self.nodes.get_mut(&parent) {
                node.children += 1;
            }
        }
    }

    /// The bytes of everything that is kept, counted anew.
    #[cfg(test)]
    pub(super) fn counted(&self) -> usize {
        let states = self.nodes.values().filter_map(|node| node.state.as_ref());
        let mut rows = HashMap::new();
        let mut own = 0;
        for state in states {
            own += state.own_bytes();
            rows.extend(state.rows().map(|rows| (rows.key, rows.rows.bytes())));
        }
        own + rows.values().sum::<usize>()
    }
}
