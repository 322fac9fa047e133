//! Adaptive embedding and adaptive softmax: clusters of increasingly rare tokens, with increasingly narrow
//! embeddings.
//!
//! Token ids are sorted by frequency and divided into clusters. The embedding of a rare token is narrow and is
//! projected to the width of the model. The head predicts a distribution over the common tokens and the other
//! clusters first, and then a distribution within a cluster. Grave et al. 2017; Baevski and Auli 2019, §3; parameter
//! names and weight tying as in the checkpoints of Transformer-XL.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, activation};
use longreach_burn as ops;

use crate::{Builder, DecoderNames, Embedding, Error, Init, Layout, Precision};

/// The sizes, and which weights the head shares with the embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptiveConfig {
    /// The first token id of each cluster after the first, in increasing order; empty for a single cluster.
    pub cutoffs: Vec<usize>,
    /// The embedding width of the first cluster, which holds the common tokens.
    pub embedded: usize,
    /// The embedding width of cluster `i` is `embedded / divisor^i`. If 1, all clusters share one table.
    pub divisor: usize,
    /// Whether the head's weights are the embedding tables.
    pub tied: bool,
    /// For each cluster, whether the head uses the projection of the embedding.
    pub tied_projections: Vec<bool>,
    /// The factor of the embeddings, applied after the projection.
    pub scale: f32,
}

/// One or several tables with their projections, of the embedding or of the head.
#[derive(Module, Debug)]
struct Tables {
    /// `[V_i, e_i]`
    rows: Vec<Param<Tensor<2>>>,
    /// `[d, e_i]`
    projections: Vec<Param<Tensor<2>>>,
}

/// The adaptive embedding and the adaptive softmax of a model.
#[derive(Module, Debug)]
pub struct Adaptive {
    embedding: Tables,
    /// The weights that the head does not share with the embedding; without tables if all are tied.
    head: Tables,
    /// `[V_i]`
    biases: Vec<Param<Tensor<1>>>,
    /// `[clusters − 1, e]`
    cluster_weight: Option<Param<Tensor<2>>>,
    /// `[clusters − 1]`
    cluster_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    plan: Plan,
}

/// The configuration, which holds no parameters.
#[derive(Clone, Debug)]
struct Plan {
    config: AdaptiveConfig,
    vocabulary: usize,
    /// For each cluster, the index of its projection among the head's own projections; `None` if it is tied.
    own: Vec<Option<usize>>,
}

impl Adaptive {
    /// Builds the embedding and the head of a model with `vocabulary` tokens and `d` channels. Errors if the cutoffs
    /// or widths are invalid, or a weight is missing or has another shape.
    pub fn new(
        b: &mut Builder,
        n: &DecoderNames,
        [vocabulary, d]: [usize; 2],
        c: &AdaptiveConfig,
    ) -> Result<Self, Error> {
        let rising = c.cutoffs.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || c.cutoffs.first() == Some(&0) || c.cutoffs.last().is_some_and(|last| *last >= vocabulary) {
            return Err(b.error(format!("the cutoffs are {:?}: want increasing numbers below {vocabulary}", c.cutoffs)));
        }
        let clusters = c.cutoffs.len() + 1;
        if c.tied_projections.len() != clusters {
            let found = c.tied_projections.len();
            return Err(b.error(format!("`tied_projections` has {found} entries, but there are {clusters} clusters")));
        }
        let widths = |i: u32| c.divisor.checked_pow(i).map_or(0, |by| c.embedded / by.max(1));
        let widths: Vec<usize> = (0..clusters as u32).map(widths).collect();
        if let Some(i) = widths.iter().position(|width| *width == 0) {
            return Err(b.error(format!(
                "the embedding width of cluster {i} is 0: {} is divided by {} once per cluster",
                c.embedded, c.divisor
            )));
        }
        let plan = Plan { config: c.clone(), vocabulary, own: Vec::new() };
        let apart = c.divisor > 1;
        // With a shared table, a projection is needed only if the widths differ.
        let projected = apart || c.embedded != d;
        let sizes: Vec<[usize; 2]> = if apart {
            (0..clusters).map(|i| [plan.cluster(i).len(), widths[i]]).collect()
        } else {
            vec![[vocabulary, c.embedded]]
        };
        let matrix = |b: &mut Builder, name: String, shape, precision, init| {
            b.param(&name, shape, Layout::Same, precision, init)
        };
        let rows = |b: &mut Builder, name: &str| {
            let one = |(i, size): (usize, &[usize; 2])| {
                matrix(b, format!("{name}.{i}.weight"), *size, Precision::Float, Init::Normal(0.02))
            };
            sizes.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()
        };
        let projection = |b: &mut Builder, name: &str, i: usize| {
            let width = if apart { widths[i] } else { c.embedded };
            matrix(b, format!("{name}.{i}"), [d, width], Precision::Full, Init::Normal((width as f32).powf(-0.5)))
        };
        let embedding = b.scope(&n.body, |b| {
            b.scope(&n.embedding, |b| {
                let projections = if projected { sizes.len() } else { 0 };
                let projections = (0..projections).map(|i| projection(b, "emb_projs", i)).collect::<Result<_, _>>()?;
                Ok::<_, Error>(Tables { rows: rows(b, "emb_layers")?, projections })
            })
        })?;
        b.scope(&n.head, |b| {
            let (mut own, mut projections) = (Vec::new(), Vec::new());
            for (i, tied) in c.tied_projections.iter().enumerate() {
                let is_own = projected && !tied;
                own.push(is_own.then_some(projections.len()));
                if is_own {
                    projections.push(projection(b, "out_projs", i)?);
                }
            }
            let head = Tables { rows: if c.tied { Vec::new() } else { rows(b, "out_layers")? }, projections };
            let biases = sizes.iter().enumerate();
            let biases =
                biases.map(|(i, size)| b.vector(&format!("out_layers.{i}.bias"), size[0], Init::Constant(0.0)));
            let biases = biases.collect::<Result<_, _>>()?;
            let (mut cluster_weight, mut cluster_bias) = (None, None);
            if clusters > 1 {
                let size = [clusters - 1, c.embedded];
                cluster_weight = Some(matrix(b, "cluster_weight".into(), size, Precision::Full, Init::Normal(0.02))?);
                cluster_bias = Some(b.vector("cluster_bias", clusters - 1, Init::Constant(0.0))?);
            }
            Ok(Self { embedding, head, biases, cluster_weight, cluster_bias, plan: Plan { own, ..plan } })
        })
    }

    pub(crate) fn device(&self) -> Device {
        self.embedding.rows[0].val().device()
    }

    pub(crate) fn vocabulary(&self) -> usize {
        self.plan.vocabulary
    }

    fn clusters(&self) -> usize {
        self.plan.config.cutoffs.len() + 1
    }

    pub(crate) fn embed(&self, ids: &[u32], batch: usize) -> Tensor<3> {
        let (t, scale) = (ids.len() / batch.max(1), self.plan.config.scale);
        let projected = |x: Tensor<3>, i: usize| match self.embedding.projections.get(i) {
            Some(projection) => ops::linear(x, projection.val(), None),
            None => x,
        };
        let embed = |i: usize, ids: &[u32], batch: usize| {
            projected(Embedding { weight: self.embedding.rows[i].clone().into() }.forward(ids, batch), i)
        };
        if self.embedding.rows.len() == 1 {
            return embed(0, ids, batch) * scale;
        }
        let (mut rows, mut place) = (Vec::new(), vec![0; ids.len()]);
        let mut before = 0;
        for i in 0..self.clusters() {
            let cluster = self.plan.cluster(i);
            let its = ids.iter().enumerate().filter(|(_, id)| cluster.contains(&(**id as usize)));
            let (places, its): (Vec<usize>, Vec<u32>) = its.map(|(at, id)| (at, *id - cluster.start as u32)).unzip();
            if its.is_empty() {
                continue;
            }
            rows.push(embed(i, &its, 1));
            places.iter().enumerate().for_each(|(row, at)| place[*at] = (before + row) as i32);
            before += its.len();
        }
        assert_eq!(before, ids.len(), "a token id exceeds the vocabulary");
        let rows = Tensor::cat(rows, 1);
        let d = rows.dims()[2];
        let place = Tensor::<1, Int>::from_data(&place[..], &rows.device());
        rows.reshape([ids.len(), d]).select(0, place).reshape([batch, t, d]) * scale
    }

    /// The weights and biases of the head for cluster `i`. Those of the first cluster are followed by one row for
    /// each other cluster.
    fn rows(&self, i: usize) -> (Tensor<2>, Tensor<1>) {
        let tables = if self.head.rows.is_empty() { &self.embedding.rows } else { &self.head.rows };
        let float = |x: Tensor<2>| x.cast(burn::tensor::DType::F32);
        let (rows, bias) = if tables.len() == 1 {
            let cluster = self.plan.cluster(i);
            let rows = tables[0].val().narrow(0, cluster.start, cluster.len());
            (float(rows), self.biases[0].val().narrow(0, cluster.start, cluster.len()))
        } else {
            (float(tables[i].val()), self.biases[i].val())
        };
        match (i, &self.cluster_weight, &self.cluster_bias) {
            (0, Some(weight), Some(more)) => {
                (Tensor::cat(vec![rows, weight.val()], 0), Tensor::cat(vec![bias, more.val()], 0))
            }
            _ => (rows, bias),
        }
    }

    /// `[R, d]` → `[R, e_i]`
    fn narrowed<const D: usize>(&self, hidden: Tensor<D>, i: usize) -> Tensor<D> {
        let projections = &self.embedding.projections;
        let tied = || if projections.len() == 1 { projections.first() } else { projections.get(i) };
        match self.plan.own[i].map(|own| &self.head.projections[own]).or_else(tied) {
            Some(projection) => hidden.matmul(projection.val().unsqueeze()),
            None => hidden,
        }
    }

    /// The log-probabilities within cluster `i`. Those of the first cluster are followed by the log-probabilities of
    /// the other clusters.
    fn within<const D: usize>(&self, hidden: &Tensor<D>, i: usize) -> Tensor<D> {
        let (rows, bias) = self.rows(i);
        activation::log_softmax(ops::linear(self.narrowed(hidden.clone(), i), rows, Some(bias)), D - 1)
    }

    /// `[.., d]` → log-probabilities `[.., vocabulary]`
    pub(crate) fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let first = self.within(&hidden, 0);
        let common = self.plan.cluster(0).len();
        let tail = |i: usize| self.within(&hidden, i) + first.clone().narrow(D - 1, common + i - 1, 1);
        let parts = std::iter::once(first.clone().narrow(D - 1, 0, common)).chain((1..self.clusters()).map(tail));
        Tensor::cat(parts.collect(), D - 1)
    }

    pub(crate) fn loss(&self, hidden: Tensor<2>, targets: &[i64]) -> Tensor<1> {
        let device = hidden.device();
        let common = self.plan.cluster(0).len() as i64;
        let cluster = |target: i64| (0..self.clusters()).find(|i| self.plan.cluster(*i).contains(&(target as usize)));
        let first: Vec<i64> = targets
            .iter()
            .map(|target| match usize::try_from(*target).ok().and_then(|_| cluster(*target)) {
                Some(0) => *target,
                Some(i) => common + i as i64 - 1,
                None => *target,
            })
            .collect();
        let counted = targets.iter().filter(|target| **target >= 0).count();
        let mut sum = self.part(hidden.clone(), 0, &first) * counted as f32;
        for i in 1..self.clusters() {
            let own = self.plan.cluster(i);
            let its = targets.iter().enumerate().filter(|(_, t)| **t >= own.start as i64 && **t < own.end as i64);
            let (at, its): (Vec<i32>, Vec<i64>) = its.map(|(at, t)| (at as i32, *t - own.start as i64)).unzip();
            if !its.is_empty() {
                let rows = hidden.clone().select(0, Tensor::<1, Int>::from_data(&at[..], &device));
                sum = sum + self.part(rows, i, &its) * its.len() as f32;
            }
        }
        sum / counted.max(1) as f32
    }

    /// The mean loss within cluster `i`.
    fn part(&self, hidden: Tensor<2>, i: usize, targets: &[i64]) -> Tensor<1> {
        let (rows, bias) = self.rows(i);
        let hidden = self.narrowed(hidden, i);
        // The bias becomes the weight of an additional channel that is 1 everywhere.
        let ones = Tensor::ones([hidden.dims()[0], 1], &hidden.device());
        let rows = Tensor::cat(vec![rows, bias.unsqueeze_dim(1)], 1);
        ops::linear_cross_entropy(Tensor::cat(vec![hidden, ones], 1), rows, targets)
    }
}

impl Plan {
    /// The range of token ids of cluster `i`.
    fn cluster(&self, i: usize) -> Range<usize> {
        let cutoffs = &self.config.cutoffs;
        let from = if i == 0 { 0 } else { cutoffs[i - 1] };
        from..cutoffs.get(i).copied().unwrap_or(self.vocabulary)
    }
}
