//! The TLS both ends speak: version 1.3 only, hybrid post-quantum key exchange only, and peers known by the
//! SHA-256 of their public key, as the mandate names them.
//!
//! No certificate authority has a say here, nor do dates or chains inside a certificate: a certificate is the envelope
//! of a public key, and names the states that its holder speaks of. This module must not know what a peer may do; it only
//! says who is speaking.

use std::fmt;
use std::sync::Arc;

use legation_core::id::{Sha256, StateId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    ServerConfig, SignatureScheme,
};
use zeroize::Zeroizing;

use super::error::ClientError;

/// The only application protocol that is spoken.
pub const ALPN: &[u8] = b"h2";

/// A process's own TLS key with the self-signed certificate that carries it.
#[derive(Clone)]
pub struct TlsIdentity {
    certificate: CertificateDer<'static>,
    /// PKCS#8 DER.
    key: Arc<Zeroizing<Vec<u8>>>,
    spki: Sha256,
}

impl TlsIdentity {
    /// Makes a new P-256 key and a self-signed certificate for it, with `name` for people who look. What peers check
    /// is put in by [`TlsIdentity::naming`].
    pub fn generate(name: &str) -> Result<Self, ClientError> {
        let key = rcgen::KeyPair::generate()
            .map_err(|e| ClientError::Identity(format!("cannot make a TLS key: {e}")))?;
        Self::from_key(name, Zeroizing::new(key.serialize_der()))
    }

    /// Takes a private key (PKCS#8 DER, P-256 or Ed25519) and makes a fresh self-signed certificate for it: peers pin
    /// the key, so the certificate may differ at every start.
    pub fn from_key(name: &str, pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, ClientError> {
        Self::certify(name, vec![name.to_owned()], pkcs8)
    }

    /// The same key under a certificate that names these states: peers speak with its holder of no others.
    pub fn naming(&self, states: &[StateId]) -> Result<Self, ClientError> {
        let names: Vec<String> = states.iter().map(ToString::to_string).collect();
        let first = names.first().cloned().unwrap_or_default();
        Self::certify(&first, names, (*self.key).clone())
    }

    fn certify(
        subject_name: &str,
        names: Vec<String>,
        pkcs8: Zeroizing<Vec<u8>>,
    ) -> Result<Self, ClientError> {
        let trouble =
            |e: rcgen::Error| ClientError::Identity(format!("the TLS key cannot be used: {e}"));
        let key = rcgen::KeyPair::try_from(pkcs8.as_slice()).map_err(trouble)?;
        let mut params = rcgen::CertificateParams::new(names).map_err(trouble)?;
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::CommonName, subject_name);
        params.distinguished_name = subject;
        let certificate = params.self_signed(&key).map_err(trouble)?;
        Self::from_der(certificate.der().to_vec(), pkcs8)
    }

    /// Takes a certificate (DER) and its private key (PKCS#8 DER).
    pub fn from_der(certificate: Vec<u8>, key: Zeroizing<Vec<u8>>) -> Result<Self, ClientError> {
        let certificate = CertificateDer::from(certificate);
        let spki = spki_sha256(&certificate).map_err(|e| {
            ClientError::Identity(format!("the TLS certificate cannot be read: {e}"))
        })?;
        let identity = Self {
            certificate,
            key: Arc::new(key),
            spki,
        };
        // A key that does not belong to the certificate is found now, not at the first handshake.
        identity.certified_key()?;
        Ok(identity)
    }

    /// Reads what [`Self::to_pem`] writes: one `CERTIFICATE` and one `PRIVATE KEY` block.
    pub fn from_pem(pem: &str) -> Result<Self, ClientError> {
        let trouble = |e| ClientError::Identity(format!("the TLS identity cannot be read: {e}"));
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(trouble)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(trouble)?;
        Self::from_der(
            certificate.to_vec(),
            Zeroizing::new(key.secret_pkcs8_der().to_vec()),
        )
    }

    /// Certificate and private key as PEM. Secret: keep it in a file of mode 0600.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::new());
        pem_block(&mut out, "CERTIFICATE", &self.certificate);
        pem_block(&mut out, "PRIVATE KEY", &self.key);
        out
    }

    /// The certificate, DER. Public.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what a mandate pins.
    pub fn spki_sha256(&self) -> Sha256 {
        self.spki
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.to_vec()))
    }

    fn certified_key(&self) -> Result<rustls::sign::CertifiedKey, ClientError> {
        rustls::sign::CertifiedKey::from_der(
            vec![self.certificate.clone()],
            self.private_key(),
            &provider(),
        )
        .map_err(|e| {
            ClientError::Identity(format!("the TLS key does not fit its certificate: {e}"))
        })
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("spki", &self.spki)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<Sha256, TlsError> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Sha256::of(parsed.subject_public_key_info().as_ref()))
}

/// Whether a certificate names a state.
pub fn names_state(certificate: &CertificateDer<'_>, state: &StateId) -> bool {
    let Ok(name) = ServerName::try_from(state.to_string()) else {
        return false;
    };
    ParsedCertificate::try_from(certificate)
        .and_then(|parsed| verify_server_name(&parsed, &name))
        .is_ok()
}

/// The configuration of a client: it shows `identity`, naming `state`, and speaks only to the holder of the key `server`
/// whose certificate names that state too.
pub fn client_config(
    identity: &TlsIdentity,
    server: Sha256,
    state: StateId,
) -> Result<ClientConfig, ClientError> {
    let identity = identity.naming(&[state])?;
    let trouble = |e: TlsError| ClientError::Identity(format!("cannot set up TLS: {e}"));
    let provider = Arc::new(provider());
    let verifier = PinnedServer {
        pin: server,
        state,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(trouble)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.private_key())
        .map_err(trouble)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the check of the pin; handshakes are cheap beside what they carry.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The configuration of a server: it shows `identity` and ends the handshake of every client whose key `known` does
/// not admit. `known` is asked at every handshake, so that an amended mandate takes effect without a restart.
pub fn server_config(
    identity: &TlsIdentity,
    known: Arc<dyn KnownPeers>,
) -> Result<ServerConfig, ClientError> {
    let trouble = |e: TlsError| ClientError::Identity(format!("cannot set up TLS: {e}"));
    let provider = Arc::new(provider());
    let verifier = KnownClients {
        known,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(trouble)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![identity.certificate.clone()], identity.private_key())
        .map_err(trouble)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Who may finish a handshake.
pub trait KnownPeers: Send + Sync + 'static {
    /// Whether some state served here, which the peer's certificate `names`, knows this key now.
    fn knows(&self, spki: &Sha256, names: &dyn Fn(&StateId) -> bool) -> bool;
}

/// One suite for both ends, which are ours: no peer can talk us down to a key exchange that a quantum computer opens.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    }
}

struct PinnedServer {
    pin: Sha256,
    state: StateId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for PinnedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedServer")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if spki_sha256(end_entity)? == self.pin && names_state(end_entity, &self.state) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(TlsError::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

struct KnownClients {
    known: Arc<dyn KnownPeers>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for KnownClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownClients").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for KnownClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let names = |state: &StateId| names_state(end_entity, state);
        if self.known.knows(&spki_sha256(end_entity)?, &names) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(TlsError::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn pem_block(out: &mut String, label: &str, der: &[u8]) {
    use base64::Engine as _;
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str(&format!("-----END {label}-----\n"));
}

#[cfg(test)]
mod tests;
