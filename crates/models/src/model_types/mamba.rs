//! `mamba`: Gu and Dao 2023, as stored by Hugging Face.

use crate::families::mamba::family;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "mamba", mechanism: "mamba", paper: "Gu and Dao 2023", describe };

fn describe(fields: &Fields) -> Result<Description, Error> {
    family(fields, "mamba", 32, true, 0, None)
}
