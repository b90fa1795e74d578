//! What an embassy is started with. Parsed settings, not files: where they come from is the binary's business.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use legation_core::keys::SigningKey;
use legation_core::log::LOG_SEED_LEN;
use legation_core::statement::Time;
use legation_repo::http::TlsIdentity;
use zeroize::Zeroizing;

/// Everything that an embassy needs to start, sealed: no key in it opens data.
#[derive(Debug)]
pub struct EmbassyConfig {
    /// The embassy's label in the mandates.
    pub label: String,
    /// Where to answer.
    pub listen: Vec<SocketAddr>,
    /// The embassy's keys.
    pub identity: EmbassyIdentity,
    /// The directory of the store; one directory per state below it.
    pub store: PathBuf,
    /// What is kept free of objects, for log and journal.
    pub reserve: Reserve,
    /// The states that are served.
    pub states: Vec<HostedState>,
    /// Bounds.
    pub limits: Limits,
}

/// The embassy's own keys: it can say what it saw, and open nothing.
pub struct EmbassyIdentity {
    /// Signs acknowledgements and facts.
    pub signing: SigningKey,
    /// The seed of the key that signs checkpoints.
    pub log: Zeroizing<[u8; LOG_SEED_LEN]>,
    /// Speaks TLS.
    pub tls: TlsIdentity,
}

impl std::fmt::Debug for EmbassyIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbassyIdentity")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// One state, as its founding gives it.
#[derive(Clone, Debug)]
pub struct HostedState {
    /// The founding mandate with the officers' signatures (`mandate.signed`).
    pub mandate: Vec<u8>,
    /// The keyring that the mandate names by digest (`mandate.keys`).
    pub keyring: Vec<u8>,
    /// Most bytes of objects that this state may keep here.
    pub quota: Option<u64>,
}

/// Space that objects may not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// This many hundredths of the file system.
    Percent(u8),
    /// This many bytes.
    Bytes(u64),
}

impl Reserve {
    /// The reserve in bytes on a file system of `total` bytes.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Percent(p) => total / 100 * u64::from(p.min(100)),
            Self::Bytes(b) => b,
        }
    }
}

/// Bounds on what clients may occupy. The defaults suit a small machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of known keys at once; more are closed unanswered.
    pub connections: usize,
    /// Handshakes under way at once, which are places of their own: a stranger takes none of those of known keys.
    pub handshakes: usize,
    /// Longest handshake.
    pub handshake: Duration,
    /// Requests at once on one connection.
    pub streams: u32,
    /// Bytes of request bodies held in memory at once, over all connections.
    pub body_memory: usize,
    /// Longest pause within a body.
    pub body_idle: Duration,
    /// How long any body may take, beside the time that its length takes at [`Limits::body_rate`].
    pub body_grace: Duration,
    /// Slowest rate at which a body may come, in bytes per second.
    pub body_rate: usize,
    /// Longest wait for a place in a queue before the answer is "busy".
    pub queue_wait: Duration,
    /// Statements waiting for the sequencer of one state.
    pub statements: usize,
    /// Journal requests waiting for the committer of one state.
    pub appends: usize,
    /// How long requests under way may take to finish when the embassy is told to stop.
    pub drain: Duration,
    /// When the operator last looked at the machine's clock and found it right: up to here it is believed even though
    /// nothing was logged for more than a year.
    pub clock_checked: Option<Time>,
}

impl Limits {
    /// How long a body of `length` bytes may take.
    pub fn body_within(&self, length: usize) -> Duration {
        self.body_grace + Duration::from_secs_f64(length as f64 / self.body_rate.max(1) as f64)
    }

    /// Bytes of bodies that one key may hold in memory at once: half, and the largest body at least.
    pub fn body_memory_of_key(&self) -> usize {
        (self.body_memory / 2).max(self.body_memory.min(LARGEST_BODY))
    }

    /// Connections that one key may have at once: an eighth, and 8 at least.
    pub fn connections_of_key(&self) -> usize {
        (self.connections / 8).max(8)
    }
}

/// The largest body that is read or sent: a bundle of the log, a little longer than the largest object.
const LARGEST_BODY: usize = 17 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshakes: 64,
            handshake: Duration::from_secs(10),
            streams: 64,
            body_memory: 256 << 20,
            body_idle: Duration::from_secs(30),
            body_grace: Duration::from_secs(30),
            body_rate: 64 << 10,
            queue_wait: Duration::from_secs(20),
            statements: 256,
            appends: 256,
            drain: Duration::from_secs(5),
            clock_checked: None,
        }
    }
}
