//! States that go from rank to rank, each waiting for the one before.

use longreach_attention::operation::{Tensors, Views};
use longreach_simd::Cx;
use ndarray::{ArrayD, Axis, IxDyn};

use super::{Call, carried, owned};
use crate::{Channel, Error, Ranks, bytes_of, numbers_of};

/// Rows of tokens that a state holds as they are, without a gradient as an output, and the inputs that they are, the first that is given.
const ROWS: [(&str, &[&str]); 2] = [("keys", &["kl", "k"]), ("values", &["v"])];

impl Call<'_> {
    /// The outputs, and the state before the rank's own part.
    pub(super) fn chained(&self, inputs: &Tensors, cx: &Cx) -> Result<(Tensors, Tensors), Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let names = carried(&self.op);
        let mut before = Tensors::new();
        for name in &names {
            if me > 0 {
                before.insert((*name).to_owned(), received(self.ranks, me - 1)?);
            } else if let Some(given) = inputs.get(*name) {
                before.insert((*name).to_owned(), given.clone());
            }
        }
        let mut views = Views::from(inputs);
        before.iter().for_each(|(name, x)| views.insert(name, x));
        let mut outputs = self.op.forward(views, self.parameters, self.form, cx)?;
        // The next rank has all of the state before this one waits for the last.
        let state: Vec<Vec<u8>> = names.iter().map(|name| shaped(&outputs.remove(*name).unwrap_or_default())).collect();
        if me + 1 < n {
            state.iter().try_for_each(|part| self.ranks.send(me + 1, Channel::State, part.clone()))?;
        }
        for (name, part) in names.iter().zip(state) {
            let last = self.ranks.broadcast(n - 1, Channel::Result, part)?;
            outputs.insert((*name).to_owned(), unshaped(&last, n - 1)?);
        }
        Ok((outputs, before))
    }

    pub(super) fn chained_backward(&self, inputs: &Tensors, cx: &Cx) -> Result<Tensors, Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let signature = self.op.signature();
        let d_of = |name: &str| format!("d{name}");
        let forward: Tensors = inputs.iter().filter(|(name, _)| self.is_input(name)).map(owned).collect();
        let (_, before) = self.chained(&forward, cx)?;
        let mut given = inputs.clone();
        given.extend(before);
        let names = carried(&self.op).into_iter();
        let differentiable = |name: &&str| signature.outputs.iter().any(|o| o.name == *name && o.gradient);
        let names: Vec<&str> = names.filter(differentiable).collect();
        for name in &names {
            if me + 1 < n {
                given.insert(d_of(name), received(self.ranks, me + 1)?);
            }
        }
        let mut gradients = self.op.backward(&given, self.parameters, cx)?;
        let rows = self.rows_behind(&mut gradients)?;
        let own: Vec<Vec<u8>> =
            names.iter().map(|name| shaped(&gradients.remove(&d_of(name)).unwrap_or_default())).collect();
        if me > 0 {
            let parts = own.iter().cloned().chain(rows.iter().map(shaped));
            parts.into_iter().try_for_each(|part| self.ranks.send(me - 1, Channel::State, part))?;
        }
        for (name, part) in names.iter().zip(own) {
            let first = self.ranks.broadcast(0, Channel::Result, part)?;
            gradients.insert(d_of(name), unshaped(&first, 0)?);
        }
        Ok(gradients)
    }

    /// Adds the gradients of the rows that the next rank had from this one to those of the tokens that they belong to, and returns the gradients
    /// of the rows that this rank had from the one before. They are the keys and values of a segment that the cut divides.
    fn rows_behind(&self, gradients: &mut Tensors) -> Result<Vec<ArrayD<f32>>, Error> {
        let (me, n) = (self.ranks.rank(), self.ranks.size());
        let mut before = Vec::new();
        for (rows, of) in ROWS {
            if !carried(&self.op).contains(&rows) {
                continue;
            }
            let mut given = gradients.remove(&format!("d{rows}"));
            if me + 1 < n {
                let behind = received(self.ranks, me + 1)?;
                let own = of.iter().map(|name| format!("d{name}")).find(|name| gradients.contains_key(name));
                let own = own.and_then(|name| gradients.get_mut(&name));
                // The last rows are tokens of this rank, and those before them rows that it had itself.
                let left = own.map_or_else(|| rows_of(&behind), |own| add_last(own, &behind, rows_of(&behind)));
                given.iter_mut().for_each(|given| {
                    add_last(given, &behind, left);
                });
            }
            before.push(given.unwrap_or_else(|| ArrayD::zeros(IxDyn(&[0, 0]))));
        }
        Ok(before)
    }
}

fn rows_of(x: &ArrayD<f32>) -> usize {
    x.shape().get(1).copied().unwrap_or(0)
}

/// Adds the first `n` rows of `more` to the last rows of `to`, as many as it has, and returns how many are left.
fn add_last(to: &mut ArrayD<f32>, more: &ArrayD<f32>, n: usize) -> usize {
    let (rows, left) = (rows_of(to), n.saturating_sub(rows_of(to)));
    if n > left {
        let mut last = to.slice_axis_mut(Axis(1), (rows - (n - left)..).into());
        last += &more.slice_axis(Axis(1), (left..n).into());
    }
    left
}

/// A tensor with its shape.
fn shaped(x: &ArrayD<f32>) -> Vec<u8> {
    let mut bytes = (x.ndim() as u64).to_le_bytes().to_vec();
    x.shape().iter().for_each(|n| bytes.extend((*n as u64).to_le_bytes()));
    bytes.extend(bytes_of(x));
    bytes
}

fn received(ranks: &dyn Ranks, from: usize) -> Result<ArrayD<f32>, Error> {
    unshaped(&ranks.receive(from, Channel::State)?, from)
}

fn unshaped(bytes: &[u8], from: usize) -> Result<ArrayD<f32>, Error> {
    let wrong = || Error::Message { from, found: format!("{} bytes", bytes.len()), want: "a tensor".to_owned() };
    let mut rest = bytes;
    let mut next = || {
        let (n, more) = rest.split_first_chunk::<8>()?;
        rest = more;
        usize::try_from(u64::from_le_bytes(*n)).ok()
    };
    let axes = next().filter(|axes| *axes <= 8).ok_or_else(wrong)?;
    let shape = (0..axes).map(|_| next()).collect::<Option<Vec<usize>>>().ok_or_else(wrong)?;
    let n = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)).ok_or_else(wrong)?;
    let numbers = numbers_of(rest, n, from)?;
    ArrayD::from_shape_vec(IxDyn(&shape), numbers).map_err(|_| wrong())
}
