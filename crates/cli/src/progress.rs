//! Progress bars of long reading, on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// A bar over `length` bytes, or a spinner if the length is 0, which means unknown.
pub(crate) fn bytes(what: &str, length: u64) -> Result<ProgressBar, Failure> {
    let style = if length > 0 {
        "{msg} {bar:32} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left"
    } else {
        "{msg} {spinner} {bytes}, {bytes_per_sec}"
    };
    bar(what, length, style)
}

/// A bar over `length` things, which are named `unit`.
pub(crate) fn things(what: &str, unit: &str, length: u64) -> Result<ProgressBar, Failure> {
    bar(what, length, &format!("{{msg}} {{bar:32}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left"))
}

fn bar(what: &str, length: u64, style: &str) -> Result<ProgressBar, Failure> {
    let bar = if length > 0 { ProgressBar::new(length) } else { ProgressBar::new_spinner() };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(ProgressStyle::with_template(style).map_err(Failure::new)?);
    bar.set_message(what.to_owned());
    Ok(bar)
}
