//! Tiles: how a kernel divides its work ([`Plan`]), reads numbers of any type into shared memory, and multiplies there.
//!
//! | part | |
//! | --- | --- |
//! | [`plan`](Plan) | tile sizes from a table, by shared memory and widths |
//! | `load` | f32, f16 and bf16 to f32, with bounds; bf16 by shifts where the device lacks the type |
//! | `row` | sums over the units of a cube |
//! | `product` | products of tiles, each unit a block of the result in registers |

#[cfg(feature = "kernels")]
pub mod load;
mod plan;
#[cfg(feature = "kernels")]
pub mod product;
#[cfg(feature = "kernels")]
pub mod row;

pub use plan::{Limits, Plan};
