//! TLS to a PostgreSQL server, with the names and the meaning that libpq gives them: `sslmode`, `sslrootcert`, `sslcert`,
//! `sslkey`, `channel_binding`. Knows nothing of what is sent.
//!
//! `require` encrypts and refuses to go on without; `verify-ca` and `verify-full` verify the chain, the latter the name too.
//! Where there is a root certificate the others verify the chain as well, though `allow` and `prefer` then go on in the clear.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError,
    RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, Result};

/// How much is taken from the socket at once: a record of TLS and its head.
const CHUNK: usize = 18 << 10;
/// A server that agrees to TLS and does not finish the handshake is given up after this.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// A file of certificates or keys larger than this is none.
const MAX_FILE: u64 = 1 << 20;

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// Never.
    #[default]
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server can.
    Prefer,
    /// Or not at all.
    Require,
    /// And its certificate must lead to a root that is held.
    VerifyCa,
    /// And be of the host that was named.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "disable" => SslMode::Disable,
            "allow" => SslMode::Allow,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => {
                return Err(Error::refused(
                    format!("sslmode={text} is not known"),
                    "use disable, allow, prefer, require, verify-ca or verify-full",
                ));
            }
        })
    }
}

/// `channel_binding`: whether a password is proven together with the certificate of the server that it is proven to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Binding {
    /// Never.
    Disable,
    /// If the server offers it.
    #[default]
    Prefer,
    /// Or not at all.
    Require,
}

impl FromStr for Binding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "disable" => Binding::Disable,
            "prefer" => Binding::Prefer,
            "require" => Binding::Require,
            _ => {
                return Err(Error::refused(
                    format!("channel_binding={text} is not known"),
                    "use disable, prefer or require",
                ));
            }
        })
    }
}

/// What a connection string says of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// `sslmode`.
    pub mode: SslMode,
    /// `channel_binding`.
    pub binding: Binding,
    /// `sslrootcert`: the roots that a server's certificate must lead to, PEM.
    pub root: Option<PathBuf>,
    /// `sslcert`: our own certificate and what leads to its root, PEM.
    pub cert: Option<PathBuf>,
    /// `sslkey`: its private key, PEM, not encrypted.
    pub key: Option<PathBuf>,
}

impl TlsOptions {
    /// Takes libpq's usual places for files that were not named and are there.
    pub(crate) fn with_usual_places(mut self, home: Option<&str>) -> Self {
        let Some(home) = home else { return self };
        let usual = |name: &str| {
            let path = Path::new(home).join(".postgresql").join(name);
            path.is_file().then_some(path)
        };
        self.root = self.root.or_else(|| usual("root.crt"));
        if self.cert.is_none() {
            self.cert = usual("postgresql.crt");
        }
        self.key = self.key.or_else(|| usual("postgresql.key"));
        self
    }

    /// The mode that counts: where a root is at hand, every mode verifies as `verify-ca` does.
    fn effective(&self) -> SslMode {
        match self.mode {
            mode if self.root.as_ref().is_some_and(|root| root.is_file()) => {
                mode.max(SslMode::VerifyCa)
            }
            mode => mode,
        }
    }
}

/// An encrypted connection; two handles may be used by two threads, one reading and one writing.
pub(crate) struct Tls {
    session: Arc<Mutex<ClientConnection>>,
    socket: TcpStream,
    /// Received and not yet decrypted; of the reading handle alone.
    raw: Vec<u8>,
}

impl Tls {
    /// Does the handshake on a socket whose server agreed to it.
    pub(crate) fn connect(options: &TlsOptions, host: &str, socket: TcpStream) -> Result<Self> {
        let config = configuration(options)?;
        let full = options.effective() == SslMode::VerifyFull;
        let name = ServerName::try_from(host.to_owned()).or_else(|_| match full {
            true => Err(Error::refused(
                format!("no certificate can be of {host:?}"),
                "name the host as its certificate does",
            )),
            // No name is sent then, and none is checked.
            false => Ok(ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]))),
        })?;
        let session =
            ClientConnection::new(Arc::new(config), name).map_err(|e| refused(host, &e))?;
        let mut tls = Tls {
            session: Arc::new(Mutex::new(session)),
            socket,
            raw: Vec::new(),
        };
        let until = Instant::now() + HANDSHAKE;
        while tls.lock().is_handshaking() {
            let mut socket = &tls.socket;
            match tls.lock().complete_io(&mut socket) {
                Ok(_) => {}
                Err(e) if is_wait(&e) && Instant::now() < until => {}
                Err(e) => {
                    return Err(match cause(&e) {
                        Some(why) => refused(host, why),
                        None => Error::io(format!("TLS with {host}"), e),
                    });
                }
            }
        }
        tls.raw.clear();
        Ok(tls)
    }

    /// What binds an authentication to this server (RFC 5929, tls-server-end-point); none where its certificate's
    /// signature names no hash.
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        let session = self.lock();
        let certificate = session.peer_certificates()?.first()?;
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let algorithm = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
            // RFC 5929: SHA-256 takes the place of MD5 and SHA-1.
            "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => {
                &digest::SHA256
            }
            "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => &digest::SHA256,
            "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
            "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
            _ => return None,
        };
        Some(digest::digest(algorithm, certificate).as_ref().to_vec())
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Tls {
            session: self.session.clone(),
            socket: self.socket.try_clone()?,
            raw: Vec::new(),
        })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decrypts some of what was received.
    fn digest(&mut self) -> io::Result<()> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = self.raw.as_slice();
        let taken = session.read_tls(&mut rest)?;
        self.raw.drain(..taken);
        let state = session.process_new_packets();
        // Also when it failed: the other side is told why.
        let mut socket = &self.socket;
        while session.wants_write() {
            session.write_tls(&mut socket)?;
        }
        state.map(drop).map_err(io::Error::other)
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.lock().reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.raw.is_empty() {
                // Not under the lock: the other handle writes meanwhile.
                self.raw.resize(CHUNK, 0);
                let read = self.socket.read(&mut self.raw);
                self.raw.truncate(read.as_ref().copied().unwrap_or(0));
                if read? == 0 {
                    return Ok(0);
                }
            }
            self.digest()?;
        }
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.lock();
        let written = session.writer().write(bytes)?;
        let mut socket = &self.socket;
        while session.wants_write() {
            session.write_tls(&mut socket)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error of TLS itself within one of the socket: another attempt meets it again.
pub(crate) fn refusal(peer: &str, error: &io::Error) -> Option<Error> {
    cause(error).map(|why| refused(peer, why))
}

fn cause(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn is_wait(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

fn refused(peer: &str, why: &TlsError) -> Error {
    let fix = match why {
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "name the root that signed the server's certificate with sslrootcert"
        }
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "name the host as the certificate's subjectAltName does, or use sslmode=verify-ca",
        TlsError::InvalidCertificate(_) => {
            "give the server a certificate that holds, signed by the root of sslrootcert"
        }
        TlsError::AlertReceived(_) => {
            "the server's log says why; a client certificate must be signed by a root of its ssl_ca_file (sslcert, sslkey)"
        }
        _ => "read the server's log; TLS 1.2 or 1.3 is needed",
    };
    Error::refused(format!("TLS with {peer}: {why}"), fix)
}

fn configuration(options: &TlsOptions) -> Result<ClientConfig> {
    let provider = Arc::new(default_provider());
    let trouble = |e: TlsError| Error::refused(format!("cannot set up TLS: {e}"), "report this");
    let verifier = Verifier::new(options, &provider)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(trouble)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(cert) = &options.cert else {
        return Ok(config.with_no_client_auth());
    };
    let key = options.key.as_ref().ok_or_else(|| {
        Error::refused(
            format!("{} has no private key beside it", cert.display()),
            "name the key with sslkey",
        )
    })?;
    check_key_file(key)?;
    let bytes = read(key, "sslkey")?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| {
        Error::refused(
            format!("{}: {e}", key.display()),
            "sslkey must hold one private key in PEM, not encrypted",
        )
    })?;
    config
        .with_client_auth_cert(certificates(cert, "sslcert")?, private)
        .map_err(|e| {
            Error::refused(
                format!("{} and {}: {e}", cert.display(), key.display()),
                "sslkey must be the key of the first certificate in sslcert",
            )
        })
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    let unreadable = |why: String| {
        Error::refused(
            format!("{what}: {}: {why}", path.display()),
            "name a file that the agent's user can read",
        )
    };
    let meta = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(unreadable("is no file of certificates or keys".into()));
    }
    std::fs::read(path).map_err(|e| unreadable(e.to_string()))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path, what)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| {
            Error::refused(format!("{what}: {}: {e}", path.display()), "it must be PEM")
        })?;
    if all.is_empty() {
        return Err(Error::refused(
            format!("{what}: {} holds no certificate", path.display()),
            "it must be PEM",
        ));
    }
    Ok(all)
}

/// libpq's rule: nobody else may read it, but for the group where root owns it.
fn check_key_file(path: &Path) -> Result<()> {
    let Ok(meta) = std::fs::metadata(path) else {
        return Ok(());
    };
    let open = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & open == 0 {
        return Ok(());
    }
    Err(Error::refused(
        format!("sslkey: {} can be read by others", path.display()),
        format!("chmod 600 {}", path.display()),
    ))
}

/// Verifies what the mode asks for, and always that the server holds its certificate's key.
#[derive(Debug)]
struct Verifier {
    roots: Option<(Arc<WebPkiServerVerifier>, Vec<CertificateDer<'static>>)>,
    full: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let mode = options.effective();
        let roots = match &options.root {
            _ if mode < SslMode::VerifyCa => None,
            None => {
                return Err(Error::refused(
                    "sslmode asks to verify the server's certificate, and there is no root to verify it by",
                    "name one with sslrootcert, or put it into ~/.postgresql/root.crt",
                ));
            }
            Some(path) => {
                let held = certificates(path, "sslrootcert")?;
                let mut roots = RootCertStore::empty();
                for root in &held {
                    roots.add(root.clone()).map_err(|e| {
                        Error::refused(
                            format!("sslrootcert: {}: {e}", path.display()),
                            "it must hold certificates of authorities in PEM",
                        )
                    })?;
                }
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                        .build()
                        .map_err(|e| {
                            Error::refused(
                                format!("sslrootcert: {}: {e}", path.display()),
                                "it must hold certificates of authorities in PEM",
                            )
                        })?;
                Some((verifier, held))
            }
        };
        Ok(Verifier {
            roots,
            full: mode == SslMode::VerifyFull,
            provider: provider.clone(),
        })
    }
}

impl Verifier {
    /// Of a certificate that is held itself: its time, and its name where that is asked for.
    fn check_own(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let bad = |why| TlsError::InvalidCertificate(why);
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| bad(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < parsed.validity().not_before.timestamp() {
            return Err(bad(CertificateError::NotValidYet));
        }
        if now > parsed.validity().not_after.timestamp() {
            return Err(bad(CertificateError::Expired));
        }
        if self.full {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some((roots, held)) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        // A server that signed its own certificate, which is held as the root: an authority's certificate often enough.
        if held.contains(end_entity) {
            return self.check_own(end_entity, server_name, now);
        }
        let names =
            roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match names {
            Err(TlsError::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if !self.full =>
            {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
