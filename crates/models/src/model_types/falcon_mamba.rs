//! `falcon_mamba`: Mamba with RMS norms without weights on the step size, `B` and `C` (Zuo et al. 2024).

use longreach_nn::mixers::InnerNorm;

use crate::families::mamba::family;
use crate::{Architecture, Description, Error, Fields};

pub(crate) const ARCHITECTURE: Architecture =
    Architecture { model_type: "falcon_mamba", mechanism: "mamba", paper: "Zuo et al. 2024", describe };

/// ε of the norms of steps, `B` and `C`, unless `mixer_rms_eps` says otherwise.
pub(crate) const EPS: f64 = 1e-6;

fn describe(fields: &Fields) -> Result<Description, Error> {
    let eps = fields.number("mixer_rms_eps", EPS)?;
    family(fields, "falcon_mamba", 32, true, 0, Some(InnerNorm::Plain(eps)))
}
