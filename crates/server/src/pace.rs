//! The time that a header may take, apart from the time that a connection may be idle: hyper has one timer for both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The requests of a connection: how many have come, and how many are answered.
#[derive(Default)]
pub(crate) struct Requests {
    come: AtomicUsize,
    answered: AtomicUsize,
}

/// A request that is being answered, until it is dropped.
pub(crate) struct Answering(Arc<Requests>);

impl Requests {
    /// A header is complete.
    pub(crate) fn come(self: &Arc<Self>) -> Answering {
        self.come.fetch_add(1, Ordering::AcqRel);
        Answering(self.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::AcqRel);
    }
}

/// A connection whose headers must be complete in time.
pub(crate) struct Paced<S> {
    stream: S,
    requests: Arc<Requests>,
    most: Duration,
    /// When the header that has begun must be complete, and how many had come before it.
    header: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, requests: Arc<Requests>, most: Duration) -> Self {
        Self { stream, requests, most, header: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let come = self.requests.come.load(Ordering::Acquire);
        let is_idle = come == self.requests.answered.load(Ordering::Acquire);
        if self.header.as_ref().is_some_and(|(_, before)| *before != come) {
            self.header = None;
        }
        let before = to.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, to);
        if is_idle && self.header.is_none() && read.is_ready() && to.filled().len() > before {
            self.header = Some((Box::pin(tokio::time::sleep(self.most)), come));
        }
        if read.is_pending()
            && let Some((deadline, _)) = &mut self.header
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
