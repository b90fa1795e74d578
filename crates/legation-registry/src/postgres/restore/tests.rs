use super::*;

fn facts() -> Facts {
    let meta = [
        ("system-id", "7"),
        ("timeline", "3"),
        ("start-lsn", "0/2000028"),
        ("stop-lsn", "0/2000100"),
        ("server-version", "15.14"),
        ("server-major", "15"),
        ("block-size", "8192"),
        ("wal-segment-size", "16777216"),
        ("data-checksums", "on"),
        ("label", "l"),
        ("superuser", "postgres"),
        ("database", "land"),
        ("locales", "C et_EE.UTF-8"),
        ("setting.timezone", "Europe/Tallinn"),
        ("setting.search_path", "a, 'b\\'"),
        ("setting.archive_command", "curl home"),
        ("setting.DateStyle", "ISO\nssl = on"),
    ];
    Facts::from_meta(&meta.map(|(k, v)| (k.to_owned(), v.to_owned())).into()).unwrap()
}

fn control() -> ControlFile {
    ControlFile {
        system_id: 7,
        state: 6,
        redo: Lsn(0),
        timeline: Timeline(3),
        wal_level: 1,
        max_connections: 137,
        max_worker_processes: 8,
        max_wal_senders: 1,
        max_prepared_transactions: 5,
        max_locks_per_transaction: 64,
        track_commit_timestamp: true,
        block_size: 8192,
        wal_segment_size: 16 << 20,
        data_checksums: true,
    }
}

#[test]
fn facts_there_and_back() {
    let facts = facts();
    assert_eq!(Facts::from_meta(&facts.to_meta()).unwrap(), facts);
    for (key, value) in [
        ("wal-segment-size", "16777215"),
        ("wal-segment-size", "0"),
        ("stop-lsn", "0/1"),
        ("stop-lsn", "0/1000"),
        ("server-major", ""),
        ("timeline", "-1"),
    ] {
        let mut meta = facts.to_meta();
        meta.insert(key.into(), value.into());
        assert!(Facts::from_meta(&meta).is_err(), "{key} = {value}");
    }
    for key in facts
        .to_meta()
        .keys()
        .filter(|k| !k.starts_with("setting."))
    {
        let mut meta = facts.to_meta();
        meta.remove(key);
        assert!(
            Facts::from_meta(&meta)
                .unwrap_err()
                .to_string()
                .contains(key.as_str())
        );
    }
}

#[test]
fn the_window_is_named() {
    let plan = |first, end, target| {
        Plan::new(facts(), Lsn(first), Lsn(end), target).map_err(|e| e.to_string())
    };
    let (first, end) = (0x2000000, 0x3000000);
    assert_eq!(plan(first, end, Target::EndOfWal).unwrap().until, Lsn(end));
    assert_eq!(
        plan(0, end, Target::Lsn(Lsn(0x2000100))).unwrap().wal_from,
        Lsn(first)
    );
    for lsn in [0, 0x20000ff, end + 1] {
        assert!(
            plan(first, end, Target::Lsn(Lsn(lsn)))
                .unwrap_err()
                .contains("from 0/2000100 to 0/3000000")
        );
    }
    assert!(plan(first + 1, end, Target::EndOfWal).is_err());
    assert!(plan(first, 0x20000ff, Target::EndOfWal).is_err());
    let shown = plan(first, end, Target::EndOfWal).unwrap().to_string();
    assert!(
        shown.contains("timeline 3") && shown.contains("reachable 0/2000100 to 0/3000000"),
        "{shown}"
    );
}

#[test]
fn only_inert_settings_are_carried() {
    let plan = Plan::new(facts(), Lsn(0x2000000), Lsn(0x3000000), Target::EndOfWal).unwrap();
    let mut serve = Serve::beside(Path::new("/srv/it's"), 7001, None);
    serve.listen = "127.0.0.1".into();
    let (settings, notes) = carried(&plan.facts);
    assert!(notes.is_empty(), "{notes:?}");
    let text = configuration(
        Path::new("/srv/it's"),
        &settings,
        &serve,
        &control(),
        (15, None),
    )
    .unwrap();
    for line in [
        "TimeZone = 'Europe/Tallinn'",
        "search_path = 'a, ''b\\\\'''",
        "hba_file = '/srv/it''s/pg_hba.conf'",
        "archive_command = ''",
        "max_connections = '137'",
        "max_wal_senders = '4'",
        "max_prepared_transactions = '256'",
        "max_locks_per_transaction = '128'",
        "track_commit_timestamp = 'on'",
        "restore_command = 'false'",
        "fsync = 'on'",
        "default_transaction_read_only = 'off'",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(
        !text.contains("curl") && !text.contains("DateStyle"),
        "{text}"
    );
    assert!(access(&serve).contains("host all all all scram-sha-256"));
    serve.tcp_auth = TcpAuth::Trust;
    assert!(access(&serve).contains("host all all all trust"));
    serve.tcp_auth = TcpAuth::Reject;
    assert!(access(&serve).contains("host all all all reject"));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pg_hba.conf"), access(&serve)).unwrap();
    admit(dir.path(), TcpAuth::Scram, None).unwrap();
    let text = fs::read_to_string(dir.path().join("pg_hba.conf")).unwrap();
    serve.tcp_auth = TcpAuth::Scram;
    assert_eq!(text, access(&serve));
    serve.listen.clear();
    assert!(!access(&serve).contains("host"));
}

#[test]
fn zones_and_locales_that_are_unknown_here_are_dropped_with_a_note() {
    let mut facts = facts();
    for (name, value) in [
        ("timezone", "Mars/Olympus_Mons"),
        ("lc_time", "xx_XX.UTF-8"),
        ("lc_numeric", "C"),
    ] {
        facts.settings.insert(name.into(), value.into());
    }
    let (settings, notes) = carried(&facts);
    let names: Vec<_> = settings.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["lc_numeric", "search_path"]);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("Mars/Olympus_Mons") && notes[1].contains("xx_XX.UTF-8"),
        "{notes:?}"
    );
}

#[test]
fn the_socket_directory_is_ours_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = Serve::beside(&dir.path().join("data"), 7001, None);
    socket_dir(&serve).unwrap();
    socket_dir(&serve).unwrap();
    fs::set_permissions(&serve.socket_dir, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(
        socket_dir(&serve)
            .unwrap_err()
            .to_string()
            .contains("chmod 700")
    );
    serve.socket_dir = dir.path().join("x".repeat(100));
    assert!(
        socket_dir(&serve)
            .unwrap_err()
            .to_string()
            .contains("too long")
    );
}
