//! The blocking client: one embassy, one state, typed verbs.
//!
//! Every verb is idempotent (objects by digest, statements by text, frames by position), so every verb is retried
//! with bounded backoff when the line breaks. Must not be created or dropped inside an asynchronous runtime.

use std::error::Error as _;
use std::io::Read as _;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use legation_core::id::{Digest, OrderId, RegistryId, Sha256, StateId, StreamId};
use legation_core::statement::{Keyring, Mandate};
use reqwest::blocking::{RequestBuilder, Response};
use reqwest::{Method, StatusCode, header};
use serde::de::DeserializeOwned;

use super::error::ClientError;
use super::tls::{self, TlsIdentity};
use super::trust::Trust;
use super::wire::{
    self, AttachmentsBody, MAX_ATTACHMENT, MAX_JOURNAL, MAX_JSON, MAX_OBJECT, MAX_RELEASE, OCTETS,
    Problem, ReleasesBody, StatusBody, StreamBody, StreamsBody, TEXT, kind,
};
use crate::store::Kind;

/// First pause before a repeated try; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Stream and connection windows: a 16 MiB pack at 100 ms of round trip should not wait for windows.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Pings find a dead line while a request is under way.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_WITHIN: Duration = Duration::from_secs(15);

/// How to reach one embassy of one state.
#[derive(Clone)]
pub struct ClientOptions {
    /// The embassy's label, for messages.
    pub label: String,
    /// `host:port`. Never shown, never logged.
    pub address: String,
    /// The state.
    pub state: StateId,
    /// Who we are.
    pub identity: TlsIdentity,
    /// SHA-256 of the embassy's TLS public key, from the mandate.
    pub server: Sha256,
    /// What receipts, acknowledgements and checkpoints are checked against.
    pub trust: Trust,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for one answer, body included.
    pub timeout: Duration,
    /// Tries of one verb before it fails; at least 1.
    pub attempts: u32,
}

impl ClientOptions {
    /// Options with the usual waits: 10 s to connect, 120 s for an answer, 5 tries.
    pub fn new(
        label: impl Into<String>,
        address: impl Into<String>,
        state: StateId,
        identity: TlsIdentity,
        server: Sha256,
        trust: Trust,
    ) -> Self {
        Self {
            label: label.into(),
            address: address.into(),
            state,
            identity,
            server,
            trust,
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(120),
            attempts: 5,
        }
    }
}

impl ClientOptions {
    /// Options for the embassy that the mandate calls `label`: its keys come from there, nothing is taken on trust.
    pub fn of_mandate(
        state: StateId,
        mandate: &Mandate,
        keyring: &Keyring,
        label: &str,
        address: impl Into<String>,
        identity: TlsIdentity,
    ) -> Result<Self, ClientError> {
        let trust = Trust::of_mandate(state, mandate, keyring, label)?;
        let row = mandate.embassy(trust.label()).map(|row| row.tls);
        let server =
            row.ok_or_else(|| ClientError::Trust(format!("the mandate names no embassy {label}")))?;
        Ok(Self::new(label, address, state, identity, server, trust))
    }
}

/// A connection to one embassy of one state. Cheap to clone; clones share the connection and the pinned checkpoint.
#[derive(Clone)]
pub struct Client {
    pub(super) http: reqwest::blocking::Client,
    pub(super) label: String,
    pub(super) state: StateId,
    pub(super) trust: Trust,
    base: String,
    attempts: u32,
}

impl Client {
    /// Sets up the client. Connects at the first verb.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        install_provider();
        let config = tls::client_config(&options.identity, options.server, options.state)?;
        let http = reqwest::blocking::Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .http2_prior_knowledge()
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_WITHIN)
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .build()
            .map_err(|e| ClientError::Identity(format!("cannot set up the client: {}", why(&e))))?;
        Ok(Self {
            http,
            label: options.label,
            state: options.state,
            trust: options.trust,
            base: format!("https://{}", options.address),
            attempts: options.attempts.max(1),
        })
    }

    /// The embassy's label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The state.
    pub fn state(&self) -> StateId {
        self.state
    }

    /// What this client checks answers against.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    // ---- objects

    /// Keeps an object. Durable when this returns; putting the same bytes again succeeds.
    pub fn put_object(
        &self,
        kind: Kind,
        digest: &Digest,
        bytes: impl Into<Bytes>,
    ) -> Result<(), ClientError> {
        let bytes: Bytes = bytes.into();
        let path = object_path(kind, digest);
        self.exchange(Method::PUT, &path, |r| octets(r, &bytes))
            .map(drop)
    }

    /// The size of an object in bytes, or `None` when the embassy has none of that digest.
    pub fn object_size(&self, kind: Kind, digest: &Digest) -> Result<Option<u64>, ClientError> {
        let answer = match self.exchange(Method::HEAD, &object_path(kind, digest), |r| r) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        let length = answer
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        length
            .map(Some)
            .ok_or_else(|| self.protocol("an object without a length"))
    }

    /// The whole object, checked against its digest.
    pub fn get_object(&self, kind: Kind, digest: &Digest) -> Result<Bytes, ClientError> {
        let answer = self.exchange(Method::GET, &object_path(kind, digest), |r| r)?;
        let bytes = self.body(answer, MAX_OBJECT)?;
        if Digest::of(&bytes) != *digest {
            return Err(self.unverified(format!("{kind} {digest} arrived with other bytes")));
        }
        Ok(bytes)
    }

    /// `length` bytes of an object from `offset` on; fewer only at its end. Not checked here: a part has no digest,
    /// so the frames in it must authenticate.
    pub fn get_object_range(
        &self,
        kind: Kind,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, ClientError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let last = offset.saturating_add(length - 1);
        let range = format!("bytes={offset}-{last}");
        let answer = self.exchange(Method::GET, &object_path(kind, digest), |r| {
            r.header(header::RANGE, range.as_str())
        })?;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.protocol("a whole object where a part was asked for"));
        }
        let bytes = self.body(answer, MAX_OBJECT)?;
        if bytes.len() as u64 > length {
            return Err(self.protocol("more bytes than were asked for"));
        }
        Ok(bytes)
    }

    // ---- attachments

    /// Keeps an attachment under the SHA-256 of its bytes.
    pub fn put_attachment(&self, bytes: impl Into<Bytes>) -> Result<Sha256, ClientError> {
        let bytes: Bytes = bytes.into();
        let digest = Sha256::of(&bytes);
        self.exchange(Method::PUT, &format!("attachment/{digest}"), |r| {
            octets(r, &bytes)
        })?;
        Ok(digest)
    }

    /// An attachment, checked against its digest.
    pub fn get_attachment(&self, digest: &Sha256) -> Result<Bytes, ClientError> {
        let answer = self.exchange(Method::GET, &format!("attachment/{digest}"), |r| r)?;
        let bytes = self.body(answer, MAX_ATTACHMENT)?;
        if Sha256::of(&bytes) != *digest {
            return Err(self.unverified(format!("attachment {digest} arrived with other bytes")));
        }
        Ok(bytes)
    }

    /// The digests of all attachments of the state.
    pub fn attachments(&self) -> Result<Vec<Sha256>, ClientError> {
        let body: AttachmentsBody = self.get_json("attachment")?;
        Ok(body.attachments)
    }

    // ---- journals

    /// The streams that the embassy keeps of one registry, oldest first.
    pub fn streams(&self, registry: RegistryId) -> Result<Vec<StreamBody>, ClientError> {
        let body: StreamsBody = self.get_json(&format!("journal/{registry}"))?;
        Ok(body.streams)
    }

    /// The streams of all registries of the state.
    pub fn all_streams(&self) -> Result<Vec<StreamBody>, ClientError> {
        let body: StreamsBody = self.get_json("journal")?;
        Ok(body.streams)
    }

    /// Whole frames of a stream from sequence `from` on, back to back, exactly as they were sent; at most `limit`
    /// bytes (bounded by [`MAX_JOURNAL`]) but at least one frame. Empty at the end of the stream.
    pub fn read_journal(
        &self,
        registry: RegistryId,
        stream: &StreamId,
        from: u64,
        limit: usize,
    ) -> Result<Bytes, ClientError> {
        let limit = limit.min(MAX_JOURNAL);
        let path = format!("journal/{registry}/{stream}?from={from}&limit={limit}");
        let answer = self.exchange(Method::GET, &path, |r| r)?;
        self.body(answer, MAX_JOURNAL)
    }

    // ---- releases

    /// Delivers what the officers' machine released for an order. Several may stand side by side; equal bytes succeed
    /// again.
    pub fn put_release(&self, order: &OrderId, bytes: impl Into<Bytes>) -> Result<(), ClientError> {
        let bytes: Bytes = bytes.into();
        self.exchange(Method::PUT, &format!("release/{order}"), |r| {
            octets(r, &bytes)
        })
        .map(drop)
    }

    /// The digests of what was released for an order to whom its keys are released now; none while nothing was.
    pub fn releases(&self, order: &OrderId) -> Result<Vec<Sha256>, ClientError> {
        let body: ReleasesBody = self.get_json(&format!("release/{order}"))?;
        Ok(body.releases)
    }

    /// One release, checked against its digest.
    pub fn get_release(&self, order: &OrderId, digest: &Sha256) -> Result<Bytes, ClientError> {
        let answer = self.exchange(Method::GET, &format!("release/{order}/{digest}"), |r| r)?;
        let bytes = self.body(answer, MAX_RELEASE)?;
        if Sha256::of(&bytes) != *digest {
            return Err(self.unverified(format!("release {digest} arrived with other bytes")));
        }
        Ok(bytes)
    }

    // ---- state

    /// What the embassy says of itself.
    pub fn status(&self) -> Result<StatusBody, ClientError> {
        self.get_json("status")
    }

    // ---- the exchange itself

    pub(super) fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.exchange(Method::GET, path, |r| r)?;
        self.json(answer)
    }

    pub(super) fn json<T: DeserializeOwned>(&self, answer: Response) -> Result<T, ClientError> {
        let bytes = self.body(answer, MAX_JSON)?;
        serde_json::from_slice(&bytes).map_err(|e| self.protocol(format!("{e}")))
    }

    /// Sends until there is an answer or the tries are spent. `path` is below `/v1/{state}/`.
    pub(super) fn exchange(
        &self,
        method: Method,
        path: &str,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let url = format!("{}/v1/{}/{path}", self.base, self.state);
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let failure = match fill(self.http.request(method.clone(), &url)).send() {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let again = matches!(
                        answer.status(),
                        StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::BAD_GATEWAY
                            | StatusCode::GATEWAY_TIMEOUT
                    );
                    let problem = problem_of(answer);
                    let refused = ClientError::Refused {
                        label: self.label.clone(),
                        problem: Box::new(problem),
                    };
                    if !again {
                        return Err(refused);
                    }
                    refused
                }
                Err(e) => {
                    let failure = self.unreachable(&e);
                    if matches!(failure, ClientError::WrongKey { .. }) {
                        return Err(failure);
                    }
                    failure
                }
            };
            if attempt >= self.attempts {
                return Err(failure);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(self.protocol("no attempt was made"))
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) fn body(&self, answer: Response, limit: usize) -> Result<Bytes, ClientError> {
        let mut bytes =
            Vec::with_capacity(answer.content_length().unwrap_or(0).min(limit as u64) as usize);
        answer
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| ClientError::Unreachable {
                label: self.label.clone(),
                why: format!("the answer broke off: {}", innermost(&e)),
            })?;
        if bytes.len() > limit {
            return Err(self.protocol(format!("an answer longer than {limit} bytes")));
        }
        Ok(Bytes::from(bytes))
    }

    pub(super) fn protocol(&self, why: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            label: self.label.clone(),
            why: why.into(),
        }
    }

    pub(super) fn unverified(&self, why: impl Into<String>) -> ClientError {
        ClientError::Unverified {
            label: self.label.clone(),
            why: why.into(),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let label = self.label.clone();
        if refused_by_key(error) {
            return ClientError::WrongKey { label };
        }
        ClientError::Unreachable {
            label,
            why: why(error),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("label", &self.label)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

pub(super) fn text(request: RequestBuilder, bytes: &Bytes) -> RequestBuilder {
    request
        .header(header::CONTENT_TYPE, TEXT)
        .body(bytes.clone())
}

pub(super) fn octets(request: RequestBuilder, bytes: &Bytes) -> RequestBuilder {
    request
        .header(header::CONTENT_TYPE, OCTETS)
        .body(bytes.clone())
}

fn object_path(kind: Kind, digest: &Digest) -> String {
    format!("object/{kind}/{digest}")
}

/// Reads a problem; one that is not in the agreed shape becomes one that says the status.
fn problem_of(answer: Response) -> Problem {
    const MAX_PROBLEM: u64 = 64 << 10;
    let status = answer.status();
    let mut bytes = Vec::new();
    let read = answer.take(MAX_PROBLEM).read_to_end(&mut bytes);
    if read.is_ok()
        && let Ok(problem) = serde_json::from_slice::<Problem>(&bytes)
    {
        return problem;
    }
    let (kind, exit) = match status {
        StatusCode::NOT_FOUND => (kind::NOT_FOUND, wire::EXIT_NOTHING_THERE),
        StatusCode::SERVICE_UNAVAILABLE => (kind::BUSY, 1),
        StatusCode::INSUFFICIENT_STORAGE => (kind::FULL, 1),
        _ => (kind::FAILED, 1),
    };
    Problem {
        kind: kind.into(),
        title: "unexplained answer".into(),
        status: status.as_u16(),
        detail: format!("it answered {status} and gave no reason"),
        exit,
        position: None,
    }
}

/// Whether the handshake ended over a key: ours not known there, or theirs not the one of the mandate.
fn refused_by_key(error: &reqwest::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error as Tls};
    const ALERTS: [Alert; 6] = [
        Alert::AccessDenied,
        Alert::BadCertificate,
        Alert::CertificateUnknown,
        Alert::CertificateRequired,
        Alert::UnknownCA,
        Alert::DecryptError,
    ];
    match tls_error(error) {
        Some(Tls::AlertReceived(alert)) => ALERTS.contains(alert),
        Some(other) => matches!(other, Tls::InvalidCertificate(_)),
        // In TLS 1.3 our key is refused after our side is done; HTTP/2 then hands the alert on as text only.
        None => {
            let said = error.source().map(innermost).unwrap_or_default();
            ALERTS
                .iter()
                .any(|alert| said == Tls::AlertReceived(*alert).to_string())
        }
    }
}

/// The TLS error among the causes. `io::Error` hides what it wraps from `source`, so it is looked into.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    let inside = wrapped.and_then(|inner| tls_error(inner));
    inside.or_else(|| error.source().and_then(tls_error))
}

/// The innermost cause, without the address that the outer ones carry.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    error
        .source()
        .map_or_else(|| "the request could not be sent".into(), innermost)
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

/// reqwest without a bundled provider looks for the process's default one, even when TLS comes preconfigured.
fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that another one is installed already, which serves as well.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}
