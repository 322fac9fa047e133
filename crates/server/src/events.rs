//! What the scheduler tells a request, on its way to the client.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use longreach_engine::Cancel;
use longreach_engine::scheduler::Event;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Interval, Sleep};

use crate::refusal::Refusal;
use crate::service::Open;
use crate::tell::Tell;

/// The most bytes of events that wait for a client, and the longest that they may.
const MOST: usize = 1 << 20;
const LONGEST: Duration = Duration::from_secs(30);
/// A stream says something at least this often.
const PING: Duration = Duration::from_secs(5);

/// How much waits for a client.
#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// When something was taken last, or began to wait.
    since: Mutex<Option<Instant>>,
}

/// The end where events are put in.
#[derive(Clone)]
pub(crate) struct Sink {
    sender: UnboundedSender<(usize, Event)>,
    waiting: Arc<Waiting>,
}

/// The end where they come out. Dropping it cancels the requests.
pub(crate) struct Mail {
    receiver: UnboundedReceiver<(usize, Event)>,
    waiting: Arc<Waiting>,
    cancel: Cancel,
}

/// A mailbox for requests that `cancel` ends.
pub(crate) fn mail(cancel: Cancel) -> (Sink, Mail) {
    let (sender, receiver) = unbounded_channel();
    let waiting = Arc::new(Waiting::default());
    (Sink { sender, waiting: waiting.clone() }, Mail { receiver, waiting, cancel })
}

/// About how much memory an event takes.
fn size(event: &Event) -> usize {
    let logprobs = |n: usize| n * 16;
    100 + match event {
        Event::Wrote(wrote) => {
            wrote.text.len()
                + wrote.thinking.len()
                + wrote.call.len()
                + logprobs(wrote.logprob.as_ref().map_or(0, |l| l.top.len()))
        }
        Event::Ended { text, thinking, call, .. } => text.len() + thinking.len() + call.len(),
        Event::Scored(scored) => scored.iter().map(|l| 64 + logprobs(l.top.len())).sum(),
        _ => 0,
    }
}

impl Sink {
    /// Sends an event of a prompt; false if nobody reads any more, or too slowly.
    pub(crate) fn send(&self, prompt: usize, event: Event) -> bool {
        let size = size(&event);
        let before = self.waiting.bytes.fetch_add(size, Ordering::AcqRel);
        let slow = match self.waiting.since.lock() {
            Ok(mut since) if before == 0 => {
                *since = Some(Instant::now());
                false
            }
            Ok(since) => since.is_some_and(|since| since.elapsed() > LONGEST),
            Err(_) => true,
        };
        // The log-probabilities of a long prompt come at once: one event always has room.
        let full = before > 0 && before + size > MOST && !matches!(event, Event::Scored(_));
        !slow && !full && self.sender.send((prompt, event)).is_ok()
    }
}

impl Mail {
    fn took(&self, event: &Event) {
        self.waiting.bytes.fetch_sub(size(event), Ordering::AcqRel);
        if let Ok(mut since) = self.waiting.since.lock() {
            *since = Some(Instant::now());
        }
    }

    /// The next event with the number of its prompt; `None` if the scheduler is gone.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        let next = self.receiver.recv().await?;
        self.took(&next.1);
        Some(next)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let next = self.receiver.poll_recv(cx);
        if let Poll::Ready(Some((_, event))) = &next {
            self.took(event);
        }
        next
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A stream of server-sent events.
pub(crate) struct Events {
    mail: Mail,
    teller: Box<dyn Tell>,
    ready: Vec<u8>,
    ping: Interval,
    deadline: Pin<Box<Sleep>>,
    done: bool,
    /// The request is under way as long as its stream.
    _open: Open,
}

impl Events {
    pub(crate) fn new(mail: Mail, teller: Box<dyn Tell>, longest: Duration, open: Open) -> Self {
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let deadline = Box::pin(tokio::time::sleep(longest));
        Self { mail, teller, ready: Vec::new(), ping, deadline, done: false, _open: open }
    }

    fn say(&mut self, data: &str) {
        self.ready.extend(b"data: ");
        self.ready.extend(data.as_bytes());
        self.ready.extend(b"\n\n");
    }

    fn fail(&mut self, refusal: &Refusal) {
        let body = refusal.body().to_string();
        self.say(&body);
        self.done = true;
    }

    fn take(&mut self, prompt: usize, event: Event) {
        match self.teller.tell(prompt, event) {
            Ok(chunks) => chunks.iter().for_each(|chunk| self.say(&chunk.to_string())),
            Err(refusal) => return self.fail(&refusal),
        }
        if self.teller.is_done() {
            if let Some(usage) = self.teller.last_chunk() {
                self.say(&usage.to_string());
            }
            self.say("[DONE]");
            self.done = true;
        }
    }

    /// The next bytes; `None` at the end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        // What is ready goes out together.
        while !self.done && self.ready.len() < 64 << 10 {
            match self.mail.poll(cx) {
                Poll::Ready(Some((prompt, event))) => self.take(prompt, event),
                Poll::Ready(None) => self.fail(&Refusal::internal()),
                Poll::Pending => break,
            }
        }
        if !self.done && self.deadline.as_mut().poll(cx).is_ready() {
            self.mail.cancel.cancel();
            let message = "the request took longer than --request-timeout allows";
            self.fail(&Refusal::new(hyper::StatusCode::REQUEST_TIMEOUT, "request_timeout", message));
        }
        if !self.ready.is_empty() {
            self.ping.reset();
            return Poll::Ready(Some(Bytes::from(std::mem::take(&mut self.ready))));
        }
        if self.done {
            return Poll::Ready(None);
        }
        match self.ping.poll_tick(cx) {
            Poll::Ready(_) => {
                // The timer wakes this task again once it has been asked.
                let _ = self.ping.poll_tick(cx);
                Poll::Ready(Some(self.teller.comment()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
