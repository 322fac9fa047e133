//! Softmax attention over the keys that a pattern lists, its gradient, and few queries against a cache.
//!
//! $$ o_i = \sum_j p_{ij} v_j, \quad p_{ij} = n_{ij} e^{y_{ij} - \mathrm{lse}_i}, \quad
//!    \mathrm{lse}_i = \ln \textstyle\sum_j n_{ij} e^{y_{ij}}, \quad y_{ij} = \tau(s\,q_i^\top k_j) + b_{ij} $$
//!
//! Shapes and options are those of `longreach_attention::softmax`. A cube has a tile of queries of one head and walks the
//! entries of its list ([`Lists`]) with a running maximum and sum, as in FlashAttention (Dao et al. 2022, Algorithm 1).

#[cfg(feature = "kernels")]
mod backward;
#[cfg(feature = "kernels")]
mod call;
#[cfg(feature = "kernels")]
mod forward;
mod lists;
#[cfg(feature = "kernels")]
mod merge;
#[cfg(feature = "kernels")]
mod score;

#[cfg(feature = "kernels")]
pub use backward::{Cotangent, Gradient, backward};
#[cfg(feature = "kernels")]
pub use call::{Inputs, Listed};
#[cfg(feature = "kernels")]
pub use forward::{Output, few, forward};
pub use lists::{ENTRY, FULL, Lists, Within};
#[cfg(feature = "kernels")]
pub use merge::merge;
#[cfg(feature = "kernels")]
pub(crate) use merge::narrowed;
