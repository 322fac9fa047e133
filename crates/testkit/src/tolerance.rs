//! The one table of tolerances. Nothing loosens them.
//!
//! An error is the largest absolute difference over the largest absolute value of the reference (or 1, if that is
//! smaller).

/// A form in f32 against the definition in f64.
pub const FORWARD: f64 = 1e-5;
/// Two forms in f32, or one form cut differently.
pub const FORMS: f64 = 1e-5;
/// A gradient in f32 against finite differences of the definition in f64.
pub const GRADIENT: f64 = 5e-5;
/// A gradient to decays of any strength in f32 against the slope of the definition in f64, over the largest, however small that is.
pub const DECAYS: f64 = 3e-5;
/// Logits of a whole model against another implementation in f32, absolute.
pub const LOGITS: f64 = 1e-4;

/// Fails if `got` differs from `want` by more than `tolerance`; `what` says of what.
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let scale = want.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (g - w).abs() / scale;
        assert!(error <= tolerance, "{what}: element {i} is {g}, want {w}: error {error:.2e} over {tolerance:.0e}");
    }
}
