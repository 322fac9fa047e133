//! The table of tolerances. No test loosens them.
//!
//! An error is the largest absolute difference, divided by the largest absolute value of the reference or by 1,
//! whichever is larger.

/// A form in f32 against the definition in f64.
pub const FORWARD: f64 = 1e-5;
/// Two forms in f32, or one form with different splits.
pub const FORMS: f64 = 1e-5;
/// A gradient in f32 against finite differences of the definition in f64.
pub const GRADIENT: f64 = 5e-5;
/// A gradient of decays in f32 against finite differences of the definition in f64, relative to the largest of them
/// even if that is below 1.
pub const DECAYS: f64 = 3e-5;
/// Logits of a whole model against another implementation in f32, absolute.
pub const LOGITS: f64 = 1e-4;

/// A form in f32 whose result is rounded to f16, against the definition in f64 on the same inputs: the unit roundoff.
pub const ROUNDED_F16: f64 = 1.0 / 2048.0 + FORWARD;
/// The same for bf16.
pub const ROUNDED_BF16: f64 = 1.0 / 256.0 + FORWARD;

/// Fails if `got` differs from `want` by more than `tolerance`; `what` names the values in the message.
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let scale = want.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs() / scale;
        assert!(error <= tolerance, "{what}: element {i} is {g}, want {w}: error {error:.2e} over {tolerance:.0e}");
    }
}
