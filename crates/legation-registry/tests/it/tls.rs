//! TLS and SCRAM as libpq has them: every combination ends as `psql` ends, and a capture runs over them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use legation_core::source::WalSink;
use legation_registry::Error;
use legation_registry::postgres::{
    BaseOptions, Conn, ConnectConfig, Target, WalOptions, base, ensure_slot, probe, receive,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::cluster::{Cluster, DIGEST, Load, SLOT, binaries, give, restore};
use crate::memory::{MemorySink, MemoryWal};

/// An authority of a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Authority { issuer, pem }
    }

    /// A certificate for a host or a role, and its key.
    fn certificate(&self, common: &str, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    path.to_owned()
}

/// A cluster that speaks TLS under a certificate for `localhost`, and the files of its clients.
struct Place {
    cluster: Cluster,
    files: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let cluster = Cluster::new(&[]);
        let (ours, strange) = (Authority::new("ours"), Authority::new("strange"));
        let data = cluster.data();
        let (certificate, key) = ours.certificate("server", &["localhost"]);
        for (name, text) in [
            ("server.crt", &certificate),
            ("server.key", &key),
            ("clients.crt", &ours.pem),
        ] {
            give(&write(&data.join(name), text, 0o600));
        }
        let files = tempfile::tempdir().unwrap();
        let place = Place { cluster, files };
        place.file("ours.crt", &ours.pem, 0o644);
        place.file("strange.crt", &strange.pem, 0o644);
        place.file("nothing.crt", "", 0o644);
        for (name, authority) in [("clerk", &ours), ("liar", &strange)] {
            let (certificate, key) = authority.certificate("clerk", &[]);
            place.file(&format!("{name}.crt"), &certificate, 0o644);
            place.file(&format!("{name}.key"), &key, 0o600);
        }
        let key = std::fs::read_to_string(place.files.path().join("clerk.key")).unwrap();
        place.file("open.key", &key, 0o644);
        for role in ["secret", "plain", "crypt", "clerk"] {
            place.cluster.sql(&format!(
                "create role {role} login replication password 'se cret'"
            ));
        }
        let lines = "local all postgres trust\n\
                     hostnossl all,replication plain 127.0.0.1/32 scram-sha-256\n\
                     hostssl all,replication crypt 127.0.0.1/32 scram-sha-256\n\
                     hostssl all,replication clerk 127.0.0.1/32 cert\n\
                     host all,replication secret 127.0.0.1/32 scram-sha-256\n\
                     hostnossl all,replication secret ::1/128 scram-sha-256\n";
        give(&write(&data.join("pg_hba.conf"), lines, 0o600));
        place
            .cluster
            .sql("alter system set ssl_ca_file = 'clients.crt'");
        place.speak(true);
        place
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        write(&self.files.path().join(name), text, mode);
    }

    fn speak(&self, tls: bool) {
        let value = if tls { "on" } else { "off" };
        self.cluster.sql(&format!("alter system set ssl = {value}"));
        self.cluster.stop("fast");
        self.cluster.start();
        assert_eq!(self.cluster.sql("show ssl"), value);
    }

    /// `{}` in what is asked for stands for the directory of the clients' files.
    fn url(&self, user: &str, host: &str, asked: &str) -> String {
        let asked = asked.replace("{}", &self.files.path().display().to_string());
        format!(
            "postgresql://{user}@{host}:{}/postgres?{asked}",
            self.cluster.port
        )
    }

    fn parse(&self, url: &str, password: &str) -> Result<ConnectConfig, Error> {
        ConnectConfig::parse_with(url, &|name| match name {
            "PGPASSWORD" => Some(password.to_owned()),
            "HOME" => Some(self.files.path().display().to_string()),
            _ => None,
        })
    }

    /// Whether the connection is encrypted; or why there is none.
    fn ours(&self, url: &str, password: &str) -> Result<bool, String> {
        let mut conn = self
            .parse(url, password)
            .and_then(|config| Conn::sql(&config))
            .map_err(|e| e.to_string())?;
        let encrypted = conn.scalar(ENCRYPTED).map_err(|e| e.to_string())?;
        Ok(encrypted.as_deref() == Some("t"))
    }

    /// The same, as `psql` has it.
    fn psql(&self, url: &str, password: &str) -> Result<bool, String> {
        let output = Command::new(binaries().program("psql"))
            .args(["-XAtq", "-c", ENCRYPTED, url])
            .env_clear()
            .env("PGPASSWORD", password)
            .env("HOME", self.files.path())
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(output.stdout.starts_with(b"t")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn same(&self, user: &str, host: &str, asked: &str) -> Result<bool, String> {
        let url = self.url(user, host, asked);
        let (ours, psql) = (self.ours(&url, "se cret"), self.psql(&url, "se cret"));
        assert_eq!(
            ours.as_ref().ok(),
            psql.as_ref().ok(),
            "{url}\nours: {ours:?}\npsql: {psql:?}"
        );
        ours
    }
}

const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

#[test]
fn every_mode_ends_as_with_libpq() {
    let place = Place::new();
    let mut tried = (0, 0);
    let mut count = |result: &Result<bool, String>| match result {
        Ok(_) => tried.0 += 1,
        Err(_) => tried.1 += 1,
    };
    for tls in [true, false] {
        if !tls {
            place.speak(false);
        }
        for mode in MODES {
            for root in [
                "",
                "&sslrootcert={}/ours.crt",
                "&sslrootcert={}/strange.crt",
            ] {
                for host in ["localhost", "127.0.0.1"] {
                    count(&place.same("secret", host, &format!("sslmode={mode}{root}")));
                }
            }
            for user in ["plain", "crypt"] {
                count(&place.same(
                    user,
                    "127.0.0.1",
                    &format!("sslmode={mode}&sslrootcert={{}}/ours.crt"),
                ));
            }
            for binding in ["disable", "prefer", "require"] {
                let asked =
                    format!("sslmode={mode}&channel_binding={binding}&sslrootcert={{}}/ours.crt");
                count(&place.same("secret", "localhost", &asked));
            }
        }
    }
    assert!(tried.0 >= 30 && tried.1 >= 30, "{tried:?}");

    // What is refused says what to do.
    let says = |asked: &str, words: &[&str]| {
        let why = place.same("secret", "127.0.0.1", asked).unwrap_err();
        assert!(
            words.iter().all(|word| why.contains(word)),
            "{asked}: {why}"
        );
    };
    says("sslmode=require", &["does not speak TLS", "ssl = on"]);
    says(
        "sslmode=prefer&channel_binding=require",
        &["channel_binding=require"],
    );
    place.speak(true);
    says("sslmode=verify-ca", &["no root to verify", "sslrootcert"]);
    says(
        "sslmode=verify-full&sslrootcert={}/ours.crt",
        &["127.0.0.1", "subjectAltName"],
    );
    says(
        "sslmode=verify-full&sslrootcert={}/strange.crt",
        &["sslrootcert"],
    );
    says(
        "sslmode=verify-ca&sslrootcert={}/nothing.crt",
        &["no certificate"],
    );
    says(
        "sslmode=verify-ca&sslrootcert={}/missing.crt",
        &["missing.crt"],
    );
}

#[test]
fn a_client_is_let_in_by_its_certificate() {
    let place = Place::new();
    let with = |name: &str, key: &str| {
        place.same(
            "clerk",
            "localhost",
            &format!("sslmode=verify-full&sslrootcert={{}}/ours.crt&sslcert={{}}/{name}.crt&sslkey={{}}/{key}.key"),
        )
    };
    assert_eq!(with("clerk", "clerk"), Ok(true));
    for (name, key, words) in [
        ("clerk", "open", "chmod 600"),
        ("clerk", "liar", "sslkey must be the key"),
        ("clerk", "missing", "missing.key"),
        ("liar", "liar", "ssl_ca_file"),
    ] {
        let why = with(name, key).unwrap_err();
        assert!(why.contains(words), "{name} {key}: {why}");
    }
    let why = place
        .same("clerk", "localhost", "sslmode=require")
        .unwrap_err();
    assert!(why.contains("certificate"), "{why}");
    // From libpq's usual places, unnamed.
    let usual = place.files.path().join(".postgresql");
    std::fs::create_dir(&usual).unwrap();
    for (from, to) in [
        ("ours.crt", "root.crt"),
        ("clerk.crt", "postgresql.crt"),
        ("clerk.key", "postgresql.key"),
    ] {
        std::fs::copy(place.files.path().join(from), usual.join(to)).unwrap();
    }
    assert_eq!(
        place.same("clerk", "localhost", "sslmode=verify-full"),
        Ok(true)
    );
    // A root at hand makes `require` verify.
    std::fs::copy(
        place.files.path().join("strange.crt"),
        usual.join("root.crt"),
    )
    .unwrap();
    let why = place
        .same("secret", "localhost", "sslmode=require")
        .unwrap_err();
    assert!(why.contains("sslrootcert"), "{why}");
    // A wrong password is told as the server tells it, whatever the mode.
    std::fs::remove_dir_all(&usual).unwrap();
    for mode in ["disable", "prefer", "require"] {
        let url = place.url("secret", "localhost", &format!("sslmode={mode}"));
        let Err(Error::Server(e)) = place
            .parse(&url, "wrong")
            .and_then(|config| Conn::sql(&config))
        else {
            panic!("{mode}")
        };
        assert_eq!(e.code, "28P01");
    }
}

#[test]
fn a_capture_runs_over_tls_with_a_bound_password() {
    let place = Place::new();
    let cluster = &place.cluster;
    cluster.tables();
    let asked = "sslmode=verify-full&channel_binding=require&sslrootcert={}/ours.crt";
    let config = place
        .parse(&place.url("crypt", "localhost", asked), "se cret")
        .unwrap();
    probe(&config, SLOT).unwrap().check().unwrap();
    let slot = ensure_slot(&config, SLOT).unwrap();
    let wal = MemoryWal::starting_at(slot.start);
    let options = WalOptions::new(SLOT, slot.system_id, slot.timeline, slot.start);
    let receiver = {
        let (config, mut sink) = (config.clone(), wal.clone());
        std::thread::spawn(move || receive(&config, &options, &mut sink as &mut dyn WalSink))
    };
    let load = Load::on(cluster, 2);
    load.work(50);
    let encrypted = cluster.sql(
        "select count(*) from pg_stat_replication r join pg_stat_ssl s using (pid) where s.ssl",
    );
    assert_eq!(encrypted, "1");
    let mut sink = MemorySink::default();
    base::capture(&config, &BaseOptions::new(SLOT), &mut sink, &|| false).unwrap();
    load.work(200);
    load.finish();
    wal.wait_for(cluster.lsn());
    // A server that goes away in order is noticed here too.
    cluster.stop("fast");
    let report = receiver.join().unwrap().unwrap();
    assert_eq!(
        report.end,
        legation_registry::postgres::WalEnd::ServerStopped
    );
    cluster.start();
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql(DIGEST), cluster.sql(DIGEST));
}
