use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::*;

const ONE: StateId = StateId([1; 20]);
const TWO: StateId = StateId([2; 20]);

struct Only(Sha256);

impl KnownPeers for Only {
    fn knows(&self, spki: &Sha256, names: &dyn Fn(&StateId) -> bool) -> bool {
        *spki == self.0 && names(&ONE)
    }
}

/// A handshake over a socket and one byte each way; both ends' outcomes.
fn meet(client: ClientConfig, server: ServerConfig) -> (Result<u8, String>, Result<u8, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|e| e.to_string())?;
        stream
            .write_all(&[byte[0] + 1])
            .map_err(|e| e.to_string())?;
        Ok(byte[0])
    });
    let mut socket = TcpStream::connect(address).unwrap();
    let name = ServerName::try_from("anything.example").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let talked = (|| {
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.write_all(&[7])?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    })()
    .map_err(|e: std::io::Error| e.to_string());
    if talked.is_ok() {
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        assert_eq!(
            tls.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
    }
    drop(socket);
    (talked, serving.join().unwrap())
}

#[test]
fn both_pins_must_hold() {
    let (a, b, stranger) = (
        TlsIdentity::generate("a.test")
            .unwrap()
            .naming(&[TWO, ONE])
            .unwrap(),
        TlsIdentity::generate("b.test").unwrap(),
        TlsIdentity::generate("b.test").unwrap(),
    );
    let server = || server_config(&a, Arc::new(Only(b.spki_sha256()))).unwrap();
    let good = client_config(&b, a.spki_sha256(), ONE).unwrap();
    assert_eq!(meet(good, server()), (Ok(8), Ok(7)));

    let (_, served) = meet(
        client_config(&stranger, a.spki_sha256(), ONE).unwrap(),
        server(),
    );
    assert!(served.unwrap_err().contains("invalid peer certificate"));
    let (talked, _) = meet(
        client_config(&b, stranger.spki_sha256(), ONE).unwrap(),
        server(),
    );
    assert!(talked.unwrap_err().contains("invalid peer certificate"));
}

#[test]
fn both_certificates_must_name_the_state() {
    let (a, b) = (
        TlsIdentity::generate("a.test").unwrap(),
        TlsIdentity::generate("b.test").unwrap(),
    );
    let server = |states: &[StateId]| {
        server_config(&a.naming(states).unwrap(), Arc::new(Only(b.spki_sha256()))).unwrap()
    };
    let client = |state| client_config(&b, a.spki_sha256(), state).unwrap();
    assert_eq!(meet(client(ONE), server(&[TWO, ONE])), (Ok(8), Ok(7)));
    // The right key, under a certificate of another state: on either side.
    let (talked, _) = meet(client(ONE), server(&[TWO]));
    assert!(talked.unwrap_err().contains("invalid peer certificate"));
    let (_, served) = meet(client(TWO), server(&[TWO, ONE]));
    assert!(served.unwrap_err().contains("invalid peer certificate"));
}

#[test]
fn a_classical_or_older_client_is_refused() {
    let (a, b) = (
        TlsIdentity::generate("a.test")
            .unwrap()
            .naming(&[TWO, ONE])
            .unwrap(),
        TlsIdentity::generate("b.test").unwrap(),
    );
    let config = |kx, versions: &[&'static rustls::SupportedProtocolVersion]| {
        let provider = CryptoProvider {
            kx_groups: vec![kx],
            ..aws_lc_rs::default_provider()
        };
        let verifier = PinnedServer {
            pin: a.spki_sha256(),
            state: ONE,
            algorithms: provider.signature_verification_algorithms,
        };
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(vec![b.naming(&[ONE]).unwrap().certificate], b.private_key())
            .unwrap()
    };
    let server = || server_config(&a, Arc::new(Only(b.spki_sha256()))).unwrap();
    let classical = config(aws_lc_rs::kx_group::X25519, &[&rustls::version::TLS13]);
    assert!(meet(classical, server()).1.is_err());
    let old = config(aws_lc_rs::kx_group::X25519, &[&rustls::version::TLS12]);
    assert!(meet(old, server()).1.is_err());
}

#[test]
fn an_identity_survives_its_file() {
    let made = TlsIdentity::generate("agent.test").unwrap();
    let read = TlsIdentity::from_pem(&made.to_pem()).unwrap();
    assert_eq!(read.spki_sha256(), made.spki_sha256());
    assert_eq!(read.certificate_der(), made.certificate_der());
    let again = TlsIdentity::from_key("other.name", Zeroizing::new(made.key.to_vec())).unwrap();
    assert_eq!(again.spki_sha256(), made.spki_sha256());
    assert!(!format!("{made:?}").contains("key"));

    let other = TlsIdentity::generate("agent.test").unwrap();
    let mixed = TlsIdentity::from_der(
        made.certificate_der().to_vec(),
        Zeroizing::new(other.key.to_vec()),
    );
    assert!(matches!(mixed, Err(ClientError::Identity(_))));
}
