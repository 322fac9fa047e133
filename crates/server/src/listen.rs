//! The listener: connections and their limits, and the end of a server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use longreach_engine::StateCache;
use longreach_engine::scheduler::Scheduler;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::body::Sent;
use crate::pace::{Paced, Requests};
use crate::served::{Model, Models};
use crate::service::{Ready, State};
use crate::settings::Settings;

/// The most connections, those of clients that do not ask anything included.
const CONNECTIONS: usize = 10_240;
/// How long requests under way may take to say that they end.
const LAST: Duration = Duration::from_secs(5);
/// The longest header in bytes and fields.
const HEADER_BYTES: usize = 64 << 10;
const HEADER_FIELDS: usize = 100;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened at.
    #[error("{address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The Unix socket cannot be listened at.
    #[error("{}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The threads cannot be started.
    #[error("the server's threads: {0}")]
    Threads(std::io::Error),
    /// A server beyond this machine without a key.
    #[error("{0} can be reached from other machines: want an API key")]
    Open(std::net::IpAddr),
    /// The directory of kept states cannot be used.
    #[error(transparent)]
    Cache(#[from] longreach_engine::Error),
    /// The models were given already.
    #[error("the server has its models already")]
    Loaded,
}

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// No new connections and requests.
    Draining,
    /// Connections are closed.
    Ended,
}

/// A server that listens.
pub struct Server {
    runtime: Runtime,
    state: Arc<State>,
    address: SocketAddr,
    phase: watch::Sender<Phase>,
}

impl Server {
    /// Takes the address and answers requests with 503 `loading` from then on. An error if the address is taken.
    pub fn bind(settings: Settings) -> Result<Self, Error> {
        // What is left of the limit of open files is for connections.
        raise(rustix::process::Resource::Nofile);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("server")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let address = SocketAddr::new(settings.host, settings.port);
        let bad = |source| Error::Bind { address, source };
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(bad)?;
        let address = listener.local_addr().map_err(bad)?;
        let socket = settings.socket.clone();
        let state = Arc::new(State::new(settings));
        let (phase, changes) = watch::channel(Phase::Serving);
        let open = Arc::<AtomicUsize>::default();
        if let Some(path) = socket {
            let _inside = runtime.enter();
            let listener = at_socket(&path).map_err(|source| Error::Socket { path, source })?;
            runtime.spawn(accept(listener, state.clone(), changes.clone(), open.clone()));
        }
        runtime.spawn(accept(listener, state.clone(), changes, open));
        Ok(Self { runtime, state, address, phase })
    }

    /// The address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives it its models: requests are answered from now on. Of each purpose, the first is what requests without a model get. An error if the directory of
    /// kept states cannot be used.
    pub fn load(&self, models: Vec<Model>) -> Result<(), Error> {
        let (models, engines) = Models::new(models);
        models.ids().for_each(|id| self.state.metrics.model(id));
        let cache = self.state.settings.cache.clone();
        let cache = (cache.ram > 0 || cache.directory.is_some()).then(|| StateCache::open(cache)).transpose()?;
        let scheduler = Scheduler::start_with(engines, self.state.settings.limits, cache.clone());
        self.state.ready.set(Ready { models, scheduler, cache }).map_err(|_| Error::Loaded)
    }

    /// Serves until the process gets SIGTERM or Ctrl-C; then no connections are taken, requests that wait are refused, and those under way may go on for
    /// [`Settings::drain`]. A second signal ends the process at once with status 130. `ready` is called once signals are heeded.
    pub fn run(self, ready: impl FnOnce()) {
        self.runtime.block_on(async {
            let mut signals = Signals::new();
            ready();
            signals.next().await;
            tokio::spawn(async move {
                signals.next().await;
                std::process::exit(130);
            });
            self.drain().await;
        });
        self.end();
    }

    /// Ends it at once: requests under way get an error.
    pub fn stop(self) {
        self.end();
    }

    async fn drain(&self) {
        self.state.draining.store(true, Ordering::Release);
        self.phase.send_replace(Phase::Draining);
        if let Some(ready) = self.state.ready.get() {
            ready.scheduler.close();
        }
        // What is not done by then is ended.
        timeout(self.state.settings.drain, self.idle()).await.ok();
    }

    /// Waits until no request is under way.
    async fn idle(&self) {
        while self.state.open.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn end(self) {
        self.state.draining.store(true, Ordering::Release);
        if let Some(ready) = self.state.ready.get() {
            ready.scheduler.stop();
        }
        // A step ends before streams can say that they end.
        self.runtime.block_on(async { timeout(LAST, self.idle()).await }).ok();
        self.phase.send_replace(Phase::Ended);
        if let Some(path) = &self.state.settings.socket {
            std::fs::remove_file(path).ok();
        }
        if let Some(cache) = self.state.ready.get().and_then(|ready| ready.cache.as_ref()) {
            // What is not written by then is read again next time.
            cache.flush(Duration::from_secs(5));
        }
        self.runtime.shutdown_timeout(Duration::from_millis(300));
    }
}

/// Raises the limit of open files to what the process may have.
fn raise(resource: rustix::process::Resource) {
    let limit = rustix::process::getrlimit(resource);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    // Without it there are fewer connections, which are counted anyway.
    rustix::process::setrlimit(resource, raised).ok();
}

/// The signals that end a server. They are caught from when this is made.
struct Signals {
    #[cfg(unix)]
    caught: Vec<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
            Self { caught: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Waits for one.
    async fn next(&mut self) {
        #[cfg(unix)]
        if let [first, second] = &mut self.caught[..] {
            tokio::select! {
                _ = first.recv() => {}
                _ = second.recv() => {}
            }
            return;
        }
        tokio::signal::ctrl_c().await.ok();
    }
}

/// What gives connections.
trait Listen: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static;
    /// The next one.
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
    /// Until a connection has bytes to be read, or ends.
    fn readable(stream: &Self::Stream) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl Listen for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> std::io::Result<Self::Stream> {
        let (stream, _) = self.accept().await?;
        // Tokens are small and must not wait for each other.
        stream.set_nodelay(true).ok();
        Ok(stream)
    }

    async fn readable(stream: &Self::Stream) -> std::io::Result<()> {
        // `readable` alone may return although there is nothing to read.
        match stream.peek(&mut [0]).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(unix)]
impl Listen for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> std::io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }

    async fn readable(stream: &Self::Stream) -> std::io::Result<()> {
        stream.readable().await
    }
}

/// Listens at a Unix socket, instead of a server that has left its own behind.
#[cfg(unix)]
fn at_socket(path: &Path) -> std::io::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = tokio::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(not(unix))]
fn at_socket(_: &Path) -> std::io::Result<TcpListener> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Takes connections until the server drains. `open` counts those of all listeners.
async fn accept<L: Listen>(listener: L, state: Arc<State>, mut phase: watch::Receiver<Phase>, open: Arc<AtomicUsize>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            _ = phase.changed() => return,
        };
        let Ok(stream) = accepted else {
            // No file or memory is left: others have to close first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if open.load(Ordering::Acquire) >= CONNECTIONS {
            continue;
        }
        state.metrics.connections(open.fetch_add(1, Ordering::AcqRel) + 1);
        let (state, phase, open) = (state.clone(), phase.clone(), open.clone());
        tokio::spawn(async move {
            let metrics = state.metrics.clone();
            serve::<L>(stream, state, phase).await;
            metrics.connections(open.fetch_sub(1, Ordering::AcqRel) - 1);
        });
    }
}

/// Serves a connection once it says something: until then it has no buffers, and little else.
async fn serve<L: Listen>(stream: L::Stream, state: Arc<State>, mut phase: watch::Receiver<Phase>) {
    let spoke = tokio::select! {
        readable = timeout(state.settings.idle, L::readable(&stream)) => matches!(readable, Ok(Ok(()))),
        _ = phase.changed() => false,
    };
    if spoke {
        Box::pin(answer(stream, state, phase)).await;
    }
}

/// Answers the requests of a connection.
async fn answer<S>(stream: S, state: Arc<State>, mut phase: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (idle, header) = (state.settings.idle, state.settings.header);
    let requests = Arc::new(Requests::default());
    let stream = Paced::new(stream, requests.clone(), header);
    let service = service_fn(|request| {
        let _answering = requests.come();
        // In a box, since a connection has room for the future of its request also while it has none.
        let answer = Box::pin(state.clone().answer(request));
        async move { Ok::<_, Infallible>(answer.await.map(|answer| Sent { answer, _answering })) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        // It runs while a connection is idle as well; headers have a time of their own.
        .header_read_timeout(idle + header)
        .max_headers(HEADER_FIELDS)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(2 * HEADER_BYTES);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    loop {
        let changed = tokio::select! {
            // A connection that breaks concerns nobody else.
            _ = connection.as_mut() => return,
            changed = phase.changed() => changed,
        };
        connection.as_mut().graceful_shutdown();
        if changed.is_err() || *phase.borrow() == Phase::Ended {
            timeout(Duration::from_millis(200), connection).await.ok();
            return;
        }
    }
}
