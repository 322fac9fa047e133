//! What a kept state is found by: a hash of everything that it depends on.
//!
//! $$ h_0 = \mathrm{hash}(\text{fingerprint} \Vert \text{arithmetic} \Vert \text{instruction set} \Vert \text{cut} \Vert
//!    \text{tenant} \Vert \text{salt}), \quad h_{i+1} = \mathrm{hash}(h_i \Vert \text{the next 64 tokens}) $$
//!
//! The key of the state after `p` tokens hashes `h` at the last multiple of 64, the tokens from there on, and `p`. States of
//! another model, precision, tokenizer, instruction set or version are therefore not found; nothing has to be compared.

use longreach_nn::{ARITHMETIC, ROWS};

use crate::Engine;

/// A hash that names a state, the rows of 64 tokens, or a place in a text.
pub(crate) type Key = [u8; 32];

/// What all texts of one model and tenant have in common: the hash that their keys begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root(pub(super) Key);

impl Root {
    /// The root of an engine's texts. `tenant` and `salt` divide them: states are found with the same ones only.
    pub(super) fn new(engine: &Engine, tenant: &Key, salt: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("longreach state cache 1");
        let isa = engine.isa();
        let cut = engine.model.decoder.cut();
        for part in
            [engine.fingerprint().as_bytes(), &ARITHMETIC.to_le_bytes(), isa.as_bytes(), tenant, salt.as_bytes()]
        {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(&(cut.tokens as u64).to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

/// The hashes along a text: `h` at each multiple of 64 tokens.
pub(super) struct Path<'a> {
    ids: &'a [u32],
    hashes: Vec<Key>,
}

fn hashed(key: &Key, ids: &[u32], more: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    hasher.update(&bytes);
    hasher.update(more);
    *hasher.finalize().as_bytes()
}

impl<'a> Path<'a> {
    pub(super) fn new(root: &Root, ids: &'a [u32]) -> Self {
        let mut hashes = Vec::with_capacity(ids.len() / ROWS + 1);
        let mut hash = root.0;
        hashes.push(hash);
        for block in ids.chunks_exact(ROWS) {
            hash = hashed(&hash, block, b"block");
            hashes.push(hash);
        }
        Self { ids, hashes }
    }

    /// The number of tokens.
    pub(super) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The hash after `i` blocks of 64 tokens.
    pub(super) fn block(&self, i: usize) -> &Key {
        &self.hashes[i]
    }

    /// The key of the state after `p` tokens.
    pub(super) fn state(&self, p: usize) -> Key {
        let at = p / ROWS;
        hashed(&self.hashes[at], &self.ids[at * ROWS..p], format!("state {p}").as_bytes())
    }

    /// The key of the rows of the tokens `first .. first + 64`, of the layers that reach `reach` tokens back.
    pub(super) fn rows(&self, reach: usize, first: usize) -> Key {
        hashed(&self.hashes[first / ROWS + 1], &[], format!("rows {reach}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_and_every_length_has_a_key_of_its_own() {
        let root = Root([7; 32]);
        let ids: Vec<u32> = (0..200).collect();
        let path = Path::new(&root, &ids);
        let mut keys: Vec<Key> = (0..=200).map(|p| path.state(p)).collect();
        keys.extend((0..3).flat_map(|i| [path.rows(5, 64 * i), path.rows(6, 64 * i)]));
        let mut other = ids.clone();
        other[3] = 9;
        let changed = Path::new(&root, &other);
        keys.extend((4..=200).map(|p| changed.state(p)));
        assert_eq!(changed.state(3), path.state(3));
        keys.extend((0..=200).map(|p| Path::new(&Root([8; 32]), &ids).state(p)));
        let n = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), n);
        // A longer text has the keys of its beginning.
        assert_eq!(Path::new(&root, &ids[..130]).state(128), path.state(128));
    }
}
