//! Reading a text with several ranks: a pipeline of chunks.
//!
//! Rank `c mod N` reads chunk `c`. It works on a layer as soon as the state of this layer has come from the rank of the chunk before, and
//! sends it on once it has read its chunk:
//!
//! ```text
//! for l in 0..L:
//!     state ← state of layer l behind chunk c − 1, from rank (c − 1) mod N
//!     x, state = layer_l(x, state)
//!     state → rank (c + 1) mod N
//! ```
//!
//! Every number is made by the operations of one rank in their order, so that logits and states have the bits of [`Session::read`]. A rank
//! starts one layer's time behind the one before it. Its memory is that of one chunk and one state: a state of fixed size costs the same
//! however long the text is; cached keys of attention without a window are handed on whole, and grow with the text.
//!
//! A decoder with a hierarchical memory runs its layers several times in a call, so that its state goes on whole, behind each chunk.

use std::io::Read;

use longreach_cluster::{Channel, Error as RanksError, Ranks};
use longreach_nn::{Cache, LayerState, Moment, StateError};

use crate::cache::format::{put_tensors, take_tensors};
use crate::{Engine, Error, Pieces, Session};

/// What is wanted of a chunk besides the state behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Nothing: the state goes to the next rank.
    Nothing,
    /// Of the last chunk: the logits behind the last token, and the state, on rank 0.
    End,
    /// The hidden states and logits of all tokens, on rank 0; the state goes to the next rank.
    All,
    /// The same of the last chunk, whose state nobody needs.
    AllAtEnd,
}

/// A chunk of the text as a rank is given it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    wanted: Wanted,
    /// Tokens before it.
    before: usize,
    ids: Vec<u32>,
}

impl Chunk {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.wanted as u8];
        bytes.extend((self.before as u64).to_le_bytes());
        self.ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (wanted, bytes) = bytes.split_first()?;
        let all = [Wanted::Nothing, Wanted::End, Wanted::All, Wanted::AllAtEnd];
        let wanted = all.into_iter().find(|known| *known as u8 == *wanted)?;
        let (before, bytes) = bytes.split_first_chunk()?;
        let (ids, rest) = bytes.as_chunks();
        let before = usize::try_from(u64::from_le_bytes(*before)).ok()?;
        rest.is_empty().then(|| Self { wanted, before, ids: ids.iter().map(|id| u32::from_le_bytes(*id)).collect() })
    }

    fn is_last(&self) -> bool {
        matches!(self.wanted, Wanted::End | Wanted::AllAtEnd)
    }
}

/// The hidden states and logits of a text, in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// `[T, d]`
    pub hidden: Vec<f32>,
    /// `[T, vocabulary]`
    pub logits: Vec<f32>,
}

/// A rank at work on the chunks of a text.
struct Worker<'a> {
    engine: &'a Engine,
    ranks: &'a dyn Ranks,
    /// The state before any text.
    start: Cache,
}

fn unreadable(from: usize, found: String, want: &str) -> Error {
    RanksError::Message { from, found, want: want.to_owned() }.into()
}

fn numbers(x: burn::tensor::TensorData) -> Vec<f32> {
    x.try_into_vec().expect("hidden states and logits are f32")
}

impl<'a> Worker<'a> {
    fn new(engine: &'a Engine, ranks: &'a dyn Ranks) -> Self {
        let start = engine.model.decoder.start(1).with_keys_in(engine.kv_dtype());
        Self { engine, ranks, start }
    }

    fn next(&self) -> usize {
        (self.ranks.rank() + 1) % self.ranks.size()
    }

    fn last(&self) -> usize {
        (self.ranks.rank() + self.ranks.size() - 1) % self.ranks.size()
    }

    /// The tensors of the next state that comes from `from`.
    fn tensors<T>(
        &self,
        from: usize,
        channel: Channel,
        restore: impl FnOnce(&mut crate::cache::format::Tensors, &[u8]) -> Result<T, StateError>,
    ) -> Result<T, Error> {
        let bytes = self.ranks.receive(from, channel)?;
        let (head, body) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let n = usize::try_from(u64::from_le_bytes(*head)).unwrap_or(usize::MAX);
        let parts = body.split_at_checked(n).and_then(|(beside, body)| Some((beside, take_tensors(body)?)));
        let (beside, mut tensors) =
            parts.ok_or_else(|| unreadable(from, format!("{} bytes", bytes.len()), "a state"))?;
        restore(&mut tensors, beside).map_err(|e| unreadable(from, e.to_string(), "a state of the same model"))
    }

    fn layer(&self, chunk: &Chunk, i: usize) -> Result<LayerState, Error> {
        self.tensors(self.last(), Channel::State, |tensors, _| {
            self.start.layers[i].clone().restored(chunk.before, |name, shape| tensors.take(name, shape))
        })
    }

    fn whole(&self, from: usize, channel: Channel, tokens: usize) -> Result<(Cache, Vec<u8>), Error> {
        self.tensors(from, channel, |tensors, beside| {
            Ok((self.start.clone().restored(tokens, |name, shape| tensors.take(name, shape))?, beside.to_vec()))
        })
    }

    /// Reads a chunk, and returns what is wanted of its tokens. The state before it is `cache` if it is the first, and comes from the rank
    /// before otherwise.
    fn read(&self, chunk: &Chunk, first: bool, cache: &mut Cache) -> Result<Evaluated, Error> {
        let (decoder, alone) = (&self.engine.model.decoder, self.ranks.size() == 1);
        let receives = !first && !alone;
        let sends = !chunk.is_last() && !alone;
        let whole = cache.hmt.is_some();
        if whole && receives {
            *cache = self.whole(self.last(), Channel::State, chunk.before)?.0;
        }
        let hidden = self.engine.run(|| {
            decoder.forward_between(&chunk.ids, cache, None, &mut |moment, i, state| {
                match moment {
                    Moment::Before if receives => *state = self.layer(chunk, i)?,
                    Moment::After if sends => {
                        self.ranks.send(self.next(), Channel::State, message(&[], &state.tensors()))?;
                    }
                    _ => {}
                }
                Ok::<_, Error>(())
            })
        })?;
        if whole && sends {
            self.ranks.send(self.next(), Channel::State, message(&[], &cache.tensors()))?;
        }
        let n = chunk.ids.len();
        Ok(self.engine.run(|| match chunk.wanted {
            Wanted::Nothing => Evaluated::default(),
            Wanted::End => {
                let logits = numbers(decoder.logits(hidden.narrow(1, n - 1, 1)).into_data());
                Evaluated { logits, ..Evaluated::default() }
            }
            Wanted::All | Wanted::AllAtEnd => {
                let logits = numbers(decoder.logits(hidden.clone()).into_data());
                Evaluated { hidden: numbers(hidden.into_data()), logits }
            }
        }))
    }
}

/// A message of bytes and the tensors of a state.
fn message(beside: &[u8], tensors: &[longreach_nn::StateTensor]) -> Vec<u8> {
    let mut bytes = (beside.len() as u64).to_le_bytes().to_vec();
    bytes.extend(beside);
    put_tensors(&mut bytes, tensors);
    bytes
}

impl Engine {
    /// What every rank but 0 does while rank 0 reads texts: takes its chunks, until rank 0 calls [`Engine::dismiss`]. Errors if another
    /// rank has ended, or is another version of the program.
    pub fn follow(&self, ranks: &dyn Ranks) -> Result<(), Error> {
        let worker = Worker::new(self, ranks);
        let mut cache = worker.start.clone();
        loop {
            let bytes = ranks.receive(0, Channel::Tokens)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let chunk = Chunk::read(&bytes);
            let chunk = chunk.ok_or_else(|| unreadable(0, format!("{} bytes", bytes.len()), "tokens of a text"))?;
            let got = worker.read(&chunk, false, &mut cache)?;
            match chunk.wanted {
                Wanted::Nothing => {}
                Wanted::End => ranks.send(0, Channel::Result, message(&got.bytes(), &cache.tensors()))?,
                Wanted::All | Wanted::AllAtEnd => ranks.send(0, Channel::Result, message(&got.bytes(), &[]))?,
            }
        }
    }

    /// Ends [`Engine::follow`] on all other ranks. For rank 0.
    pub fn dismiss(&self, ranks: &dyn Ranks) -> Result<(), Error> {
        Ok((1..ranks.size()).try_for_each(|to| ranks.send(to, Channel::Tokens, Vec::new()))?)
    }

    /// The hidden states and logits of all tokens, read in chunks of `most` tokens with all ranks: for rank 0, while the others
    /// [follow](Engine::follow). They have the bits of a single process that reads the same chunks. An error if a rank fails.
    pub fn evaluate_over(&self, ids: &[u32], most: usize, ranks: &dyn Ranks) -> Result<Evaluated, Error> {
        let most = most.max(1);
        let calls: Vec<_> = (0..ids.len()).step_by(most).map(|at| at..(at + most).min(ids.len())).collect();
        let wanted = |last| if last { Wanted::AllAtEnd } else { Wanted::All };
        let worker = Worker::new(self, ranks);
        let mut cache = worker.start.clone();
        let chunks = worker.hand_out(ids, &calls, 0, wanted)?;
        let mut own = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            own.push(worker.read(chunk, i == 0, &mut cache)?);
        }
        let (mut own, mut all) = (own.into_iter(), Evaluated::default());
        for c in 0..calls.len() {
            let part = match c % ranks.size() {
                0 => own.next().unwrap_or_default(),
                from => worker.tensors(from, Channel::Result, |_, bytes| Ok(Evaluated::read(bytes, from)))??,
            };
            all.hidden.extend(part.hidden);
            all.logits.extend(part.logits);
        }
        Ok(all)
    }
}

impl Evaluated {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.hidden.len() as u64).to_le_bytes().to_vec();
        bytes.extend(longreach_cluster::bytes_of(self.hidden.iter().chain(&self.logits)));
        bytes
    }

    fn read(bytes: &[u8], from: usize) -> Result<Self, Error> {
        let (n, numbers) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let n = usize::try_from(u64::from_le_bytes(*n)).unwrap_or(usize::MAX);
        let mut hidden = longreach_cluster::numbers_of(numbers, numbers.len() / 4, from)?;
        if n > hidden.len() {
            return Err(unreadable(from, format!("{} numbers", hidden.len()), "hidden states and logits"));
        }
        let logits = hidden.split_off(n);
        Ok(Self { hidden, logits })
    }
}

impl Worker<'_> {
    /// Sends the other ranks their chunks, and returns those of rank 0.
    fn hand_out(
        &self,
        ids: &[u32],
        calls: &[std::ops::Range<usize>],
        from: usize,
        wanted: impl Fn(bool) -> Wanted,
    ) -> Result<Vec<Chunk>, Error> {
        let mut own = Vec::new();
        for (c, call) in calls.iter().enumerate() {
            let ids = ids[call.start - from..call.end - from].to_vec();
            let chunk = Chunk { wanted: wanted(c + 1 == calls.len()), before: call.start, ids };
            match c % self.ranks.size() {
                0 => own.push(chunk),
                to => self.ranks.send(to, Channel::Tokens, chunk.bytes())?,
            }
        }
        Ok(own)
    }
}

impl Session {
    /// As [`Session::read`], with all ranks: for rank 0, while the others [follow](Engine::follow). The logits and the state are those of
    /// [`Session::read`] in every bit, and rank 0 has them. `progress` is called with the number of tokens that are read. An error if a rank
    /// fails; the session cannot read on then.
    pub fn read_over(&mut self, ids: &[u32], ranks: &dyn Ranks, mut progress: impl FnMut(u64)) -> Result<(), Error> {
        if ranks.size() == 1 || ids.is_empty() {
            return self.read(ids);
        }
        let from = self.tokens as usize;
        let calls = self.calls(ids)?;
        let engine = self.engine.clone();
        let worker = Worker::new(&engine, ranks);
        let own = worker.hand_out(ids, &calls, from, |last| if last { Wanted::End } else { Wanted::Nothing })?;
        let mut at_end = None;
        for (i, chunk) in own.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let got = worker.read(chunk, i == 0, &mut self.cache)?;
            at_end = chunk.is_last().then_some(got.logits);
            progress((chunk.before + chunk.ids.len() - from) as u64);
        }
        self.logits = match at_end {
            Some(logits) => logits,
            None => {
                let last = (calls.len() - 1) % ranks.size();
                let (cache, bytes) = worker.whole(last, Channel::Result, from + ids.len())?;
                self.cache = cache;
                Evaluated::read(&bytes, last)?.logits
            }
        };
        for call in calls {
            let chunk = &ids[call.start - from..call.end - from];
            self.history.read(chunk);
            self.note(chunk);
        }
        progress(ids.len() as u64);
        Ok(())
    }

    /// As [`Session::read_from`], with all ranks: see [`Session::read_over`]. The tokens of the whole text are in memory, 4 bytes each.
    pub fn read_from_over(
        &mut self,
        text: impl Read,
        name: &str,
        ranks: &dyn Ranks,
        progress: impl FnMut(u64),
    ) -> Result<(), Error> {
        let engine = self.engine.clone();
        let mut pieces = Pieces::new(engine.tokenizer()?, text, name).continues(self.tokens > 0);
        let mut ids = Vec::new();
        while let Some(piece) = pieces.next_piece()? {
            ids.extend(piece);
        }
        self.read_over(&ids, ranks, progress)
    }
}
