//! Answers of a given form.

/// Limits the tokens of an answer to those that a grammar allows. It is asked on the scheduler's thread, for each token of the answer.
pub trait Constraint: Send {
    /// The same at the beginning of another answer.
    fn fork(&self) -> Box<dyn Constraint>;

    /// Sets the logits of the tokens that cannot follow to −∞. An error, which is a message, ends the request.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), String>;

    /// Notes the token that was written. True if the answer is complete.
    fn accept(&mut self, id: u32) -> Result<bool, String>;
}
