//! A model that is trained: a decoder, or an encoder with its pooler and its head.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use longreach_engine::Pooling;
use longreach_models::{DType, EncoderModel, Model, TableModel};
use longreach_nn::{Body, Decoder, Dropout, Head, Names, Pooler, Tabular};

use crate::Error;

mod adapter;
mod directory;
mod merge;
mod plan;
mod start;
mod values;

pub(crate) use adapter::{AdapterConfig, WEIGHTS, save_adapter};
pub(crate) use directory::copy_files;
pub use merge::merge;
pub(crate) use merge::write_tokenizer;
pub(crate) use start::Starting;
pub(crate) use values::Values;

/// The parameters of a model, as one module.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub(crate) enum Network {
    /// A language model.
    Decoder(Decoder),
    /// An encoder.
    Encoder(Parts),
    /// A model of a table.
    Table(Tabular),
}

/// The parts of an encoder.
#[derive(Module, Debug)]
pub(crate) struct Parts {
    body: Body,
    pooler: Option<Pooler>,
    head: Option<Head>,
}

/// A model with its description.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per training")]
pub(crate) enum Trained {
    /// A language model.
    Decoder(Model),
    /// An encoder, and how its hidden states become a vector.
    Encoder(EncoderModel, Pooling),
    /// A model of a table.
    Table(TableModel),
}

/// Takes parameters off the graph.
struct Still;

impl ModuleMapper for Still {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        let value = if value.device().is_autodiff() { value.inner() } else { value };
        Param::initialized(param.id, value)
    }
}

impl Trained {
    /// The names of the parameters.
    pub(crate) fn names(&self) -> &Names {
        match self {
            Trained::Decoder(model) => &model.names,
            Trained::Encoder(model, _) => &model.names,
            Trained::Table(model) => &model.names,
        }
    }

    /// Size of the vocabulary; 0 for a table.
    pub(crate) fn vocabulary(&self) -> usize {
        match self {
            Trained::Decoder(model) => model.decoder.vocabulary(),
            Trained::Encoder(model, _) => model.description.body.vocabulary(),
            Trained::Table(_) => 0,
        }
    }

    /// The decoder; `None` for another model.
    pub(crate) fn decoder(&self) -> Option<&Decoder> {
        match self {
            Trained::Decoder(model) => Some(&model.decoder),
            Trained::Encoder(..) | Trained::Table(_) => None,
        }
    }

    /// The encoder; `None` for another model.
    pub(crate) fn encoder(&self) -> Option<&EncoderModel> {
        match self {
            Trained::Decoder(_) | Trained::Table(_) => None,
            Trained::Encoder(model, _) => Some(model),
        }
    }

    /// The model of a table; `None` for another one.
    pub(crate) fn table(&self) -> Option<&TableModel> {
        if let Trained::Table(model) = self { Some(model) } else { None }
    }

    /// The text of its `config.json`.
    pub(crate) fn config(&self) -> &str {
        match self {
            Trained::Decoder(model) => &model.config,
            Trained::Encoder(model, _) => &model.config,
            Trained::Table(model) => &model.config,
        }
    }

    /// The number of parameters.
    pub(crate) fn parameters(&self) -> usize {
        match self {
            Trained::Decoder(model) => model.parameters(),
            Trained::Encoder(model, _) => model.parameters(),
            Trained::Table(model) => model.parameters(),
        }
    }

    /// The parameters, which share their memory with the model.
    pub(crate) fn network(&self) -> Network {
        match self {
            Trained::Decoder(model) => Network::Decoder(model.decoder.clone()),
            Trained::Encoder(model, _) => {
                let (body, pooler, head) = (model.encoder.clone(), model.pooler.clone(), model.head.clone());
                Network::Encoder(Parts { body, pooler, head })
            }
            Trained::Table(model) => Network::Table(model.network.clone()),
        }
    }

    /// Replaces the parameters.
    pub(crate) fn put(&mut self, network: Network) {
        match (self, network) {
            (Trained::Decoder(model), Network::Decoder(decoder)) => model.decoder = decoder,
            (Trained::Encoder(model, _), Network::Encoder(Parts { body, pooler, head })) => {
                (model.encoder, model.pooler, model.head) = (body, pooler, head);
            }
            (Trained::Table(model), Network::Table(network)) => model.network = network,
            _ => unreachable!("the network is that of the model"),
        }
    }

    /// The same model, whose recorded forward passes store the inputs of its blocks alone.
    pub(crate) fn recomputing(mut self) -> Self {
        match &mut self {
            Trained::Decoder(model) => model.decoder = model.decoder.clone().recomputing(true),
            Trained::Encoder(model, _) => model.encoder = model.encoder.clone().recomputing(true),
            // The configuration refuses it.
            Trained::Table(_) => {}
        }
        self
    }

    /// Drops hidden states in recorded forward passes.
    pub(crate) fn dropping(&mut self, dropout: Dropout) {
        match self {
            Trained::Decoder(model) => model.decoder = model.decoder.clone().dropping(Some(dropout)),
            Trained::Encoder(model, _) => model.encoder = model.encoder.clone().dropping(Some(dropout)),
            Trained::Table(model) => model.network = model.network.clone().dropping(Some(dropout)),
        }
    }

    /// Calls `f` while no gradients are recorded.
    pub(crate) fn still<T>(&mut self, f: impl FnOnce(&Self) -> T) -> T {
        let network = self.network();
        self.put(network.clone().map(&mut Still));
        let value = f(self);
        self.put(network);
        value
    }

    /// Writes the weights in the form of the model type.
    pub(crate) fn save(&self, dtype: DType, file: &Path) -> Result<(), Error> {
        match self {
            Trained::Decoder(model) => model.save(dtype, file)?,
            Trained::Encoder(model, _) => model.save(dtype, file)?,
            Trained::Table(model) => model.save(file)?,
        }
        Ok(())
    }
}
