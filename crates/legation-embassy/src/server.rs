//! Listening: who may connect, how many, and for how long.
//!
//! A peer is its TLS public key. A key that no state served here knows does not get past the handshake; what a known
//! key may do is asked anew at every request. Nothing here logs where anybody connects from.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use legation_core::id::{Sha256, StateId};
use legation_repo::http::tls::{self, KnownPeers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use crate::config::{EmbassyConfig, Limits};
use crate::error::EmbassyError;
use crate::exposition::Listener;
use crate::hosted::Embassy;
use crate::http::{self, Peer};
use crate::metrics::count;

/// Largest head of a request: paths are short and no cookies are spoken.
const MAX_HEADERS: u32 = 16 << 10;
/// Windows: a pack of 16 MiB should not wait for round trips, and one connection may not take all memory.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Pings find dead peers, so that they do not hold a place for ever.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// Threads for reading and writing the store: enough to keep disks busy, few enough to bound memory.
const BLOCKING_THREADS: usize = 64;
/// How much of what a refused peer still sends is read, and for how long.
const LINGER_BYTES: u64 = 256 << 10;
const LINGER: Duration = Duration::from_secs(1);
/// Longest wait for what is under way when a running embassy is dropped.
const DROP_WAIT: Duration = Duration::from_secs(2);
/// Pause after the system refused to accept a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The embassy as a server.
pub struct EmbassyServer;

impl EmbassyServer {
    /// Recovers every state from disk, then answers. Blocking; call it outside an asynchronous runtime.
    ///
    /// When this returns, all addresses are bound and everything acknowledged before the last stop is in force again.
    pub fn start(config: EmbassyConfig) -> Result<EmbassyHandle, EmbassyError> {
        let limits = config.limits;
        // Bind first: a second process on the same address fails before it touches the store.
        let listeners = config
            .listen
            .iter()
            .map(|a| {
                StdListener::bind(a)
                    .and_then(|l| l.set_nonblocking(true).map(|()| l))
                    .map_err(cannot_listen(a.port()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners
            .iter()
            .map(|l| l.local_addr().map_err(cannot_listen(0)))
            .collect::<Result<Vec<_>, _>>()?;
        let identity = config.identity.tls.clone();
        let metrics = config.metrics;
        let embassy = Arc::new(Embassy::open(config)?);
        let identity = identity
            .naming(&embassy.configured())
            .map_err(EmbassyError::Tls)?;
        let tls = tls::server_config(&identity, Arc::new(Known(embassy.clone())))
            .map_err(EmbassyError::Tls)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("embassy")
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()
            .map_err(EmbassyError::Runtime)?;
        let (stop, stopped) = watch::channel(false);
        let gate = Arc::new(Gate {
            embassy: embassy.clone(),
            acceptor,
            router: http::router(embassy.clone()),
            connections: Arc::new(Semaphore::new(limits.connections)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            shares: Mutex::default(),
            limits,
            stopped,
        });
        for (listener, address) in listeners.into_iter().zip(&addresses) {
            let listener = {
                let _guard = runtime.enter();
                TcpListener::from_std(listener).map_err(cannot_listen(address.port()))?
            };
            runtime.spawn(accept(listener, gate.clone()));
        }
        let metrics = metrics
            .map(|at| Listener::start(at, embassy.clone()).map_err(cannot_listen(at.port())))
            .transpose()?;
        Ok(EmbassyHandle {
            metrics,
            addresses,
            embassy,
            stop,
            gate,
            runtime: Some(runtime),
        })
    }
}

/// A running embassy. Dropping it stops it at once, which loses nothing that was acknowledged.
pub struct EmbassyHandle {
    /// Serves metrics until it is dropped.
    metrics: Option<Listener>,
    addresses: Vec<SocketAddr>,
    embassy: Arc<Embassy>,
    stop: watch::Sender<bool>,
    gate: Arc<Gate>,
    runtime: Option<Runtime>,
}

impl EmbassyHandle {
    /// The first address that is listened on, with the port that the system chose.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// All addresses that are listened on.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where metrics are served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(Listener::local_addr)
    }

    /// The states that are served.
    pub fn states(&self) -> Vec<legation_core::id::StateId> {
        self.embassy.states()
    }

    /// Takes no more connections, lets requests under way finish for a short while, then stops.
    pub fn shutdown(mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            let all = u32::try_from(self.gate.limits.connections).unwrap_or(u32::MAX);
            let connections = self.gate.connections.clone();
            let drain = self.gate.limits.drain;
            runtime.block_on(async move {
                let _ = tokio::time::timeout(drain, connections.acquire_many(all)).await;
            });
            runtime.shutdown_timeout(drain);
        }
        self.embassy.close();
    }
}

impl Drop for EmbassyHandle {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let _ = self.stop.send(true);
            // Until its tasks are gone they hold the store's lock.
            runtime.shutdown_timeout(DROP_WAIT);
            self.embassy.close();
        }
    }
}

impl std::fmt::Debug for EmbassyHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbassyHandle").finish_non_exhaustive()
    }
}

struct Gate {
    embassy: Arc<Embassy>,
    acceptor: TlsAcceptor,
    router: Router,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// The connections that each key may have.
    shares: Mutex<BTreeMap<Sha256, Arc<Semaphore>>>,
    limits: Limits,
    stopped: watch::Receiver<bool>,
}

impl Gate {
    /// The states served here that a certificate names.
    fn states_named(&self, certificate: &CertificateDer<'_>) -> Vec<StateId> {
        let mut states = self.embassy.configured();
        states.retain(|state| tls::names_state(certificate, state));
        states
    }

    /// A place for a connection of this key: among its own, and among all.
    fn place_of(&self, spki: Sha256) -> Option<[OwnedSemaphorePermit; 2]> {
        let own = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            let share = || Arc::new(Semaphore::new(self.limits.connections_of_key()));
            shares.entry(spki).or_insert_with(share).clone()
        };
        let own = own.try_acquire_owned().ok()?;
        let all = self.connections.clone().try_acquire_owned().ok()?;
        Some([own, all])
    }
}

struct Known(Arc<Embassy>);

impl KnownPeers for Known {
    fn knows(&self, spki: &Sha256, names: &dyn Fn(&StateId) -> bool) -> bool {
        let mut states = self.0.configured().into_iter();
        states.any(|state| names(&state) && self.0.knows(&state, spki))
    }
}

/// Names the port that could not be listened on.
fn cannot_listen(port: u16) -> impl Fn(std::io::Error) -> EmbassyError {
    move |source| EmbassyError::Listen { port, source }
}

async fn accept(listener: TcpListener, gate: Arc<Gate>) {
    let mut stopped = gate.stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Until a peer has shown a known key it has a place among the handshakes only. Beyond their bound a connection
        // is closed rather than queued: waiting peers would only time out.
        let Ok(place) = gate.handshakes.clone().try_acquire_owned() else {
            count(&gate.embassy.counters.beyond);
            continue;
        };
        let gate = gate.clone();
        tokio::spawn(async move {
            let greeted = greet(stream, &gate).await;
            drop(place);
            let counters = &gate.embassy.counters;
            count(match greeted {
                Some(_) => &counters.greeted,
                None => &counters.strangers,
            });
            if let Some((stream, peer)) = greeted {
                converse(stream, peer, &gate).await;
            }
        });
    }
}

/// The handshake: a connection, and whose it is.
async fn greet(stream: TcpStream, gate: &Gate) -> Option<(TlsStream<TcpStream>, Peer)> {
    let _ = stream.set_nodelay(true);
    let handshake = async {
        match gate.acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Some(stream),
            Err((_, stream)) => {
                linger(stream).await;
                None
            }
        }
    };
    let Ok(Some(stream)) = tokio::time::timeout(gate.limits.handshake, handshake).await else {
        tracing::debug!("a connection ended in its handshake");
        return None;
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first());
    let certificate = certificate?;
    let peer = Peer {
        key: tls::spki_sha256(certificate).ok()?,
        states: gate.states_named(certificate).into(),
    };
    Some((stream, peer))
}

async fn converse(stream: TlsStream<TcpStream>, peer: Peer, gate: &Gate) {
    let Some(_place) = gate.place_of(peer.key) else {
        count(&gate.embassy.counters.beyond);
        tracing::debug!("a connection beyond its bound is closed");
        return;
    };

    let router = gate.router.clone();
    let service = service_fn(move |mut request: ::http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request)
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(gate.limits.streams)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopped = gate.stopped.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // The guard that `wait_for` returns must not live across the next await.
        () = async { drop(stopped.wait_for(|s| *s).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Closes after a failed handshake so that the alert arrives: closing over unread bytes would reset the connection and
/// take the alert, and with it the reason, away from the peer.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain =
        async { tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
