//! A table row as a sequence: a token for each column, and one for the answer. Gorishniy et al. 2021 (FT-Transformer), §3.3.
//!
//! A number becomes `W_j c(x) + b_j`, where `c` is its code: the number itself, or where it is among the edges of bins (piecewise linear,
//! Gorishniy et al. 2022, eq. 1). A category has a vector, and so has a missing value of each column. The answer is read from a token of
//! its own.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};

use crate::bidirectional::Sequences;
use crate::dropout::Dropout;
use crate::encoder::{MixedConfig, MixedEncoder};
use crate::linear::Bias;
use crate::{Builder, Embedding, Error, Init, Layout, Linear, Precision};

/// The sizes of a table's model.
#[derive(Clone, Debug, PartialEq)]
pub struct TabularConfig {
    /// `N`: columns of numbers.
    pub numbers: usize,
    /// `C`: the length of the code of a number, at least 1.
    pub code: usize,
    /// For each column of categories how many there are, without that of missing values.
    pub categories: Vec<usize>,
    /// The layers.
    pub encoder: MixedConfig,
    /// The number of outputs.
    pub outputs: usize,
}

/// The cells of rows.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    /// `R`: the number of rows.
    pub rows: usize,
    /// The codes of the numbers, `[R, N, C]`; those of missing numbers have no effect, but must be finite.
    pub codes: &'a [f32],
    /// Which numbers are there, `[R, N]`.
    pub known: &'a [bool],
    /// The categories, one for each row and column of categories: 0 for a missing value, others from 1.
    pub categories: &'a [u32],
}

/// The tokens of columns of numbers.
#[derive(Module, Debug)]
struct Numbers {
    /// `[N, C, d]`
    weight: Param<Tensor<3>>,
    /// `[N, d]`
    bias: Param<Tensor<2>>,
    /// The token of a missing number, `[N, d]`.
    missing: Param<Tensor<2>>,
}

/// The model of a table.
#[derive(Module, Debug)]
pub struct Tabular {
    numbers: Option<Numbers>,
    categories: Option<Embedding>,
    /// The token that is read, `[d]`.
    answer: Param<Tensor<1>>,
    encoder: MixedEncoder,
    head: Linear,
    #[module(skip)]
    config: TabularConfig,
    #[module(skip)]
    dropout: Option<Dropout>,
}

/// The bound of the first values of tokens. Gorishniy et al. 2021, as in the authors' code.
fn bound(d: usize) -> f32 {
    (d as f32).powf(-0.5)
}

impl Tabular {
    /// Builds the model under the builder's scope. Errors if there is no column or no output, or a weight is missing or has another
    /// shape.
    pub fn new(b: &mut Builder, c: &TabularConfig) -> Result<Self, Error> {
        if c.numbers + c.categories.len() == 0 || c.code == 0 || c.outputs == 0 {
            return Err(b.error("a table's model wants at least one column, one number in a code, and one output"));
        }
        let d = c.encoder.hidden;
        let numbers = if c.numbers == 0 { None } else { Some(Numbers::new(b, [c.numbers, c.code, d])?) };
        let rows: usize = c.categories.iter().map(|n| n + 1).sum();
        let init = Init::Uniform(-bound(d), bound(d));
        let categories = match rows {
            0 => None,
            _ => Some(Embedding { weight: b.scope("categories", |b| b.table("weight", [rows, d], init))? }),
        };
        Ok(Self {
            numbers,
            categories,
            answer: b.vector("answer", d, init)?,
            encoder: b.scope("encoder", |b| MixedEncoder::new(b, &c.encoder))?,
            head: b.in_floats(|b| Linear::new(b, "head", d, c.outputs, Bias::Yes))?,
            config: c.clone(),
            dropout: None,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &TabularConfig {
        &self.config
    }

    /// Drops hidden states in forward passes that are recorded; none if `None`.
    #[must_use]
    pub fn dropping(mut self, dropout: Option<Dropout>) -> Self {
        self.dropout = dropout;
        self
    }

    /// The outputs for rows, `[R, outputs]`. Time and memory are those of the encoder over `R` sequences of `N` + categories + 1
    /// tokens.
    ///
    /// Panics if a slice has another length, or a category is larger than its column has.
    pub fn forward(&self, cells: &Cells<'_>) -> Tensor<2> {
        let (c, r, d) = (&self.config, cells.rows, self.config.encoder.hidden);
        assert_eq!(cells.codes.len(), r * c.numbers * c.code, "the codes of {r} rows");
        assert_eq!(cells.known.len(), r * c.numbers, "the marks of {r} rows");
        assert_eq!(cells.categories.len(), r * c.categories.len(), "the categories of {r} rows");
        let answer = self.answer.val().reshape([1, 1, d]).expand([r, 1, d]);
        let mut tokens = vec![answer];
        tokens.extend(self.numbers.as_ref().map(|numbers| numbers.tokens(cells)));
        tokens.extend(self.categories.as_ref().map(|table| table.forward(&self.places(cells), r)));
        let x = Tensor::cat(tokens, 1);
        let drops = self.dropout.filter(|_| x.is_autodiff()).and_then(|dropout| {
            let codes = cells.codes.iter().map(|code| code.to_bits());
            dropout.over(&codes.chain(cells.categories.iter().copied()).collect::<Vec<_>>())
        });
        let hidden = self.encoder.dropped(x, &Sequences::default(), drops);
        self.head.forward(activation::relu(hidden.narrow(1, 0, 1).reshape([r, d])))
    }

    /// The row of the joined table of vectors for each category.
    fn places(&self, cells: &Cells<'_>) -> Vec<u32> {
        let counts = &self.config.categories;
        let firsts = counts.iter().scan(0, |next, n| {
            let first = *next;
            *next += n + 1;
            Some(first)
        });
        let columns: Vec<(usize, usize)> = firsts.zip(counts.iter().copied()).collect();
        let row = |row: &[u32]| {
            let place = |(category, (first, count)): (&u32, &(usize, usize))| {
                assert!(*category as usize <= *count, "category {category} of a column of {count}");
                *first as u32 + category
            };
            row.iter().zip(&columns).map(place).collect::<Vec<u32>>()
        };
        cells.categories.chunks(counts.len().max(1)).flat_map(row).collect()
    }
}

impl Numbers {
    fn new(b: &mut Builder, [n, code, d]: [usize; 3]) -> Result<Self, Error> {
        let init = Init::Uniform(-bound(d), bound(d));
        b.scope("numbers", |b| {
            Ok(Self {
                weight: b.param("weight", [n, code, d], Layout::Same, Precision::Float, init)?,
                bias: b.param("bias", [n, d], Layout::Same, Precision::Float, init)?,
                missing: b.param("missing", [n, d], Layout::Same, Precision::Float, init)?,
            })
        })
    }

    /// `[R, N, d]`
    fn tokens(&self, cells: &Cells<'_>) -> Tensor<3> {
        let weight = self.weight.val();
        let ([n, code, _], device, r) = (weight.dims(), weight.device(), cells.rows);
        let codes = Tensor::<3>::from_data(TensorData::new(cells.codes.to_vec(), [r, n, code]), &device);
        let known: Vec<f32> = cells.known.iter().map(|known| f32::from(u8::from(*known))).collect();
        let known = Tensor::<3>::from_data(TensorData::new(known, [r, n, 1]), &device);
        let line = codes.swap_dims(0, 1).matmul(weight).swap_dims(0, 1) + self.bias.val().unsqueeze();
        let missing: Tensor<3> = self.missing.val().unsqueeze();
        line * known.clone() + missing * (known.neg() + 1.0)
    }
}
