//! Requests that write: from what was asked to the scheduler, and back.

use std::sync::Arc;

use longreach_engine::Cancel;
use longreach_engine::scheduler::{From, Request, Scheduler, Thoughts};

use crate::answer::{About, Shape, Teller};
use crate::asked::Asked;
use crate::documents::asked::Sources;
use crate::events::{Mail, mail};
use crate::ids::fresh;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::tell::{Prompt, Tell};

/// A request that was read.
pub(crate) struct Work {
    pub(crate) asked: Asked,
    pub(crate) shape: Shape,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) most: usize,
    pub(crate) logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) thoughts: Thoughts,
    pub(crate) ends_of_messages: Vec<usize>,
    /// The documents that the answer is given from.
    pub(crate) sources: Option<Sources>,
}

impl Work {
    /// Hands it to the scheduler: all of its prompts, or none. Returns where its events come out and what puts the answer together.
    pub(crate) fn submit(
        self,
        scheduler: &Scheduler,
        tenant: u64,
        metrics: Arc<Metrics>,
    ) -> Result<(Mail, Box<dyn Tell>), Refusal> {
        let asked = self.asked;
        let cancel = Cancel::default();
        let (sink, mail) = mail(cancel.clone());
        for (i, prompt) in self.prompts.iter().enumerate() {
            let sink = sink.clone();
            let request = Request {
                tenant,
                choices: asked.n,
                most: self.most,
                least: asked.least.min(self.most),
                sampling: asked.sampling.clone(),
                ends: asked.ends.clone(),
                stops: asked.stops.clone(),
                keeps_stop: asked.keeps_stop,
                structure: asked.structure.clone(),
                logprobs: self.logprobs,
                prompt_logprobs: self.prompt_logprobs,
                thoughts: self.thoughts,
                from: asked.state.as_ref().map_or(From::Start, |state| state.from(&prompt.ids)),
                reuse: asked.reuse,
                salt: asked.salt.clone(),
                ends_of_messages: self.ends_of_messages.clone(),
                cancel: cancel.clone(),
                ..scheduler.request(asked.at, prompt.ids.clone(), move |event| sink.send(i, event))
            };
            // Dropping the mail cancels those that were taken before one was refused.
            scheduler.submit(request)?;
        }
        let id = fresh(if self.shape == Shape::Chat { "chatcmpl-" } else { "cmpl-" });
        let about = About {
            shape: self.shape,
            model: asked.served.id.clone(),
            system: asked.served.system.clone(),
            id,
            n: asked.n,
            logprobs: self.logprobs.is_some(),
            token_ids: asked.token_ids,
            calls: asked.style(),
            sources: self.sources.map(|sources| sources.told),
            stream: asked.stream,
        };
        Ok((mail, Box::new(Teller::new(about, asked.engine, self.prompts, metrics))))
    }
}

/// Waits for the whole answer.
pub(crate) async fn whole(mut mail: Mail, mut teller: Box<dyn Tell>) -> Result<serde_json::Value, Refusal> {
    while !teller.is_done() {
        let Some((prompt, event)) = mail.next().await else { return Err(Refusal::internal()) };
        teller.tell(prompt, event)?;
    }
    Ok(teller.whole())
}
