//! What model types of one publisher or lineage have in common. Model types import families; a family imports no model type.

pub(crate) mod bert;
pub(crate) mod composite;
pub(crate) mod delta;
pub(crate) mod experts;
pub(crate) mod fla;
pub(crate) mod gemma;
pub(crate) mod hybrid;
pub(crate) mod latent;
pub(crate) mod lfm;
pub(crate) mod llama;
pub(crate) mod mamba;
pub(crate) mod minicpm;
pub(crate) mod rwkv;
