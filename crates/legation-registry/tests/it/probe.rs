//! Every server that cannot be captured is refused at once, with the cure.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use legation_registry::Error;
use legation_registry::postgres::{ConnectConfig, Probe, Severity, SlotState, ensure_slot, probe};

use crate::cluster::{Cluster, SLOT};

fn blocking(probe: &Probe) -> Vec<&'static str> {
    probe
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Blocking)
        .map(|f| f.id)
        .collect()
}

#[test]
fn a_good_server_has_no_blocking_finding() {
    let cluster = Cluster::new(&[("max_slot_wal_keep_size", "1GB"), ("fsync", "on")]);
    let found = probe(&cluster.config(), SLOT).unwrap();
    found.check().unwrap();
    assert_eq!(blocking(&found), [""; 0]);
    assert_eq!(
        found.findings.iter().map(|f| f.id).collect::<Vec<_>>(),
        ["data-checksums"]
    );
    assert!(found.data_checksums);
    assert_eq!(
        (found.major, found.block_size, found.wal_segment_size),
        (15, 8192, 16 << 20)
    );
    assert_eq!(
        found.system_id.to_string(),
        cluster.sql("select system_identifier from pg_control_system()")
    );
    assert_eq!(found.slot, SlotState::Absent);
    assert!(found.locales.contains("C"));
    let slot = ensure_slot(&cluster.config(), SLOT).unwrap();
    let SlotState::Held {
        restart: Some(restart),
        active: false,
        room: Some(room),
    } = probe(&cluster.config(), SLOT).unwrap().slot
    else {
        panic!()
    };
    assert!(restart >= slot.start && room > 0);
}

#[test]
fn settings_that_cannot_be_captured_from_are_named_together() {
    let cluster = Cluster::new(&[
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("full_page_writes", "off"),
    ]);
    let found = probe(&cluster.config(), SLOT);
    // With minimal WAL there are no senders at all, so the connection for replication may be refused first.
    match found {
        Ok(found) => {
            assert!(blocking(&found).contains(&"wal-level"));
            assert!(blocking(&found).contains(&"full-page-writes"));
            let error = found.check().unwrap_err().to_string();
            assert!(
                error.contains("ALTER SYSTEM SET wal_level = replica"),
                "{error}"
            );
            assert!(
                error.contains("ALTER SYSTEM SET full_page_writes = on"),
                "{error}"
            );
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_line_that_a_frozen_receiver_could_hold_is_told() {
    let cluster = Cluster::new(&[]);
    let over_tcp = ConnectConfig::parse_with(
        &format!("postgresql://postgres@127.0.0.1:{}/postgres", cluster.port),
        &|_| None,
    )
    .unwrap();
    let told = |config: &ConnectConfig| {
        let found = probe(config, SLOT).unwrap();
        found.finding("tcp-user-timeout").is_some()
    };
    assert!(told(&over_tcp) && !told(&cluster.config()));
    cluster.sql("alter system set tcp_user_timeout = '30s'");
    cluster.sql("select pg_reload_conf()");
    // A new session begins with what the postmaster has read by then.
    for _ in 0..500 {
        if !told(&over_tcp) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it is told still");
}

#[test]
fn slots_and_senders_that_are_used_up() {
    let cluster = Cluster::new(&[("max_replication_slots", "1"), ("max_wal_senders", "1")]);
    cluster.sql("select pg_create_physical_replication_slot('other', true)");
    let found = probe(&cluster.config(), SLOT).unwrap();
    assert_eq!(blocking(&found), ["replication-slots", "wal-senders"]);
    let error = ensure_slot(&cluster.config(), SLOT)
        .unwrap_err()
        .to_string();
    assert!(error.contains("max_replication_slots"), "{error}");
    cluster.sql("select pg_drop_replication_slot('other')");
}

#[test]
fn a_lost_slot() {
    let cluster = Cluster::new(&[
        ("max_slot_wal_keep_size", "16MB"),
        ("wal_keep_size", "0"),
        ("max_wal_size", "32MB"),
    ]);
    cluster.tables();
    let slot = ensure_slot(&cluster.config(), SLOT).unwrap();
    for _ in 0..8 {
        cluster.sql("insert into t select g + (random() * 1e15)::bigint, 0, '' from generate_series(1, 2000) g on conflict do nothing");
        cluster.sql("select pg_switch_wal()");
        cluster.sql("checkpoint");
    }
    let found = probe(&cluster.config(), SLOT).unwrap();
    assert_eq!(found.slot, SlotState::Lost);
    assert_eq!(blocking(&found), ["slot-lost"]);
    assert!(
        found
            .check()
            .unwrap_err()
            .to_string()
            .contains("pg_drop_replication_slot")
    );
    let wal = crate::memory::MemoryWal::starting_at(slot.start);
    let options = legation_registry::postgres::WalOptions::new(
        SLOT,
        slot.system_id,
        slot.timeline,
        slot.start,
    );
    let error = cluster.receive(&wal, options).join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("lost"), "{error}");
    let error = ensure_slot(&cluster.config(), SLOT).unwrap_err();
    assert!(
        error.to_string().contains("pg_drop_replication_slot"),
        "{error}"
    );
}

#[test]
fn a_role_without_the_right_and_a_closed_hba() {
    let cluster = Cluster::new(&[]);
    cluster.sql("create role clerk login");
    let found = probe(&cluster.config_of("clerk", "postgres"), SLOT).unwrap();
    assert_eq!(blocking(&found), ["replication-role"]);
    assert!(
        found
            .check()
            .unwrap_err()
            .to_string()
            .contains("ALTER ROLE \"clerk\" REPLICATION")
    );
    let error = ensure_slot(&cluster.config_of("clerk", "postgres"), SLOT).unwrap_err();
    assert!(error.to_string().contains("REPLICATION"), "{error}");

    cluster.sql("alter role clerk replication");
    probe(&cluster.config_of("clerk", "postgres"), SLOT)
        .unwrap()
        .check()
        .unwrap();
    std::fs::write(
        cluster.data().join("pg_hba.conf"),
        "local all all trust\nhost all all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    cluster.sql("select pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let error = probe(&cluster.config_of("clerk", "postgres"), SLOT).unwrap_err();
    assert!(error.to_string().contains("add to pg_hba.conf"), "{error}");
}

#[test]
fn passwords_of_every_kind() {
    let cluster = Cluster::new(&[]);
    cluster.sql("set password_encryption = 'scram-sha-256'; create role scram login replication password 'se cret'");
    cluster.sql(
        "set password_encryption = 'md5'; create role md5 login replication password 'se cret'",
    );
    let lines = "local all postgres trust\nhost all scram,md5 127.0.0.1/32 md5\nhost replication scram,md5 127.0.0.1/32 md5\n\
                 local all scram password\n";
    std::fs::write(cluster.data().join("pg_hba.conf"), lines).unwrap();
    cluster.sql("select pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let file = cluster.dir.path().join("pgpass");
    let write = |text: &str, mode| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
    };
    let port = cluster.port;
    write(
        &format!("# ours\n127.0.0.1:{port}:*:scram:se cret\n*:*:replication:md5:se cret\n"),
        0o600,
    );
    let parse = |url: &str| {
        let file = file.to_str().unwrap().to_owned();
        ConnectConfig::parse_with(url, &move |name| {
            (name == "PGPASSFILE").then(|| file.clone())
        })
        .unwrap()
    };
    for user in ["scram", "md5"] {
        let config = parse(&format!("postgresql://{user}@127.0.0.1:{port}/postgres"));
        probe(&config, SLOT).unwrap().check().unwrap();
    }
    let wrong = parse(&format!(
        "postgresql://scram:wrong@127.0.0.1:{port}/postgres"
    ));
    let Err(Error::Server(e)) = probe(&wrong, SLOT) else {
        panic!()
    };
    assert_eq!(e.code, "28P01");
    // In clear text over the Unix socket.
    let url = format!(
        "postgresql://scram:se%20cret@:{port}/postgres?host={}",
        cluster.dir.path().display()
    );
    assert_eq!(
        legation_registry::postgres::Conn::sql(&parse(&url))
            .unwrap()
            .scalar("select 1")
            .unwrap()
            .unwrap(),
        "1"
    );
    // A password file that others can read is not used.
    write(&format!("127.0.0.1:{port}:*:scram:se cret\n"), 0o644);
    let config = parse(&format!("postgresql://scram@127.0.0.1:{port}/postgres"));
    assert!(
        probe(&config, SLOT)
            .unwrap_err()
            .to_string()
            .contains(".pgpass")
    );
}

#[test]
fn tablespaces_standbys_and_logical_slots() {
    let cluster = Cluster::new(&[("wal_level", "logical")]);
    cluster.sql("select pg_create_logical_replication_slot('legation_test', 'pgoutput')");
    let place = cluster.dir.path().join("space");
    std::fs::create_dir(&place).unwrap();
    crate::cluster::give(&place);
    cluster.sql(&format!(
        "create tablespace elsewhere location '{}'",
        place.display()
    ));
    let found = probe(&cluster.config(), SLOT).unwrap();
    assert_eq!(blocking(&found), ["slot-kind"]);
    let spaces = found.finding("tablespaces").unwrap();
    assert_eq!(spaces.severity, Severity::Note);
    assert!(spaces.what.contains("elsewhere"), "{spaces}");
    cluster.sql("drop tablespace elsewhere");
    cluster.stop("fast");
    std::fs::write(cluster.data().join("standby.signal"), b"").unwrap();
    crate::cluster::give(&cluster.data().join("standby.signal"));
    cluster.start();
    let found = probe(&cluster.config(), "another").unwrap();
    assert_eq!(blocking(&found), ["standby"]);
}

/// Answers as the server behind it, except for its version.
fn masquerade(to: u16, version: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut from_client, mut to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            let (mut from_server, mut to_client) = (server, client);
            std::thread::spawn(move || {
                let mut head = [0u8; 5];
                while from_server.read_exact(&mut head).is_ok() {
                    let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
                    let mut body = vec![0; length];
                    if from_server.read_exact(&mut body).is_err() {
                        return;
                    }
                    if head[0] == b'S' && body.starts_with(b"server_version\0") {
                        body = format!("server_version\0{version}\0").into_bytes();
                        head[1..].copy_from_slice(&(body.len() as u32 + 4).to_be_bytes());
                    }
                    if to_client
                        .write_all(&head)
                        .and_then(|()| to_client.write_all(&body))
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn other_releases_are_refused_by_name() {
    let cluster = Cluster::new(&[]);
    for (version, expected) in [
        ("14.11 (Debian 14.11-1)", "upgrade it to PostgreSQL 15"),
        ("9.6.24", "upgrade it to PostgreSQL 15"),
        ("19.1", "does not support yet"),
        ("19beta2", "does not support yet"),
        ("nonsense", "too old"),
    ] {
        let port = masquerade(cluster.port, version);
        let config = ConnectConfig::parse_with(
            &format!("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"),
            &|_| None,
        )
        .unwrap();
        for error in [
            probe(&config, SLOT).unwrap_err(),
            ensure_slot(&config, SLOT).unwrap_err(),
        ] {
            assert!(
                error.to_string().contains(version) && error.to_string().contains(expected),
                "{error}"
            );
        }
    }
}

#[test]
fn nobody_there() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = |url: &str| ConnectConfig::parse_with(url, &|_| None).unwrap();
    let error = probe(&config(&format!("postgresql://a@127.0.0.1:{port}/b")), SLOT).unwrap_err();
    assert!(
        error.to_string().contains("check that the server runs"),
        "{error}"
    );
    let error = probe(&config("postgresql://a@/b?host=/nonexistent"), SLOT).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/.s.PGSQL.5432"),
        "{error}"
    );
    // Something that is no PostgreSQL server.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let error = probe(&config(&format!("postgresql://a@127.0.0.1:{port}/b")), SLOT).unwrap_err();
    assert!(error.to_string().contains("protocol"), "{error}");
}
