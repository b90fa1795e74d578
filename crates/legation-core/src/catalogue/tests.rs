use super::*;

fn land() -> Catalogue {
    Catalogue {
        name: "land".into(),
        title: "Kinnistusregister õigusaktidega".into(),
        owner: "Ministry of Justice".into(),
        tier: "T1".into(),
        rpo_ms: 60_000,
        rto_ms: 14_400_000,
        wave: 2,
        depends_on: vec![Dependency {
            id: "r-3f9a11".parse().unwrap(),
            name: "population".into(),
        }],
        classes: vec!["physical".into()],
        jurisdictions: 1,
        software: vec![
            Software {
                name: "postgresql".into(),
                version: "15".into(),
            },
            Software {
                name: "nginx".into(),
                version: String::new(),
            },
        ],
        services: vec!["postgres".into(), "portal".into()],
        runbook: "gazette:/runbooks/land.md".into(),
        ..Catalogue::default()
    }
}

#[test]
fn what_travels_comes_back_as_it_was() {
    let meta = land().to_meta();
    assert_eq!(meta["catalogue.depends-on"], "r-3f9a11 population");
    assert_eq!(meta["catalogue.software"], "postgresql 15\nnginx");
    assert_eq!(Catalogue::from_meta(&meta), Ok(Some(land())));
    let other = BTreeMap::from([("server-major".to_owned(), "15".to_owned())]);
    assert_eq!(Catalogue::from_meta(&other), Ok(None));
}

#[test]
fn what_is_too_long_or_malformed_is_named() {
    let with = |change: fn(&mut Catalogue)| {
        let mut one = land();
        change(&mut one);
        one.check().unwrap_err()
    };
    assert!(with(|c| c.title = "x".repeat(201)).contains("title has 201 bytes"));
    assert!(with(|c| c.owner = "a\nb".into()).contains("owner has a control character"));
    assert!(with(|c| c.services = vec!["s".into(); 17]).contains("start.services has 17 elements"));
    assert!(with(|c| c.classes = vec![String::new()]).contains("empty element"));
    let long = with(|c| c.services = vec!["s".repeat(200); 16]);
    assert!(long.contains("at most 3072"), "{long}");
    for (key, value) in [
        ("depends-on", "land"),
        ("wave", "many"),
        ("jurisdictions", "4294967296"),
    ] {
        let mut meta = land().to_meta();
        meta.insert(format!("catalogue.{key}"), value.into());
        assert!(Catalogue::from_meta(&meta).unwrap_err().contains(key));
    }
}

#[test]
fn what_is_needed_starts_first() {
    // (what, needs), expected.
    let order = |all: &[(char, &[char])]| {
        start_order(
            &all.iter()
                .map(|(one, needs)| (*one, needs.to_vec()))
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(order(&[]), Ok(vec![]));
    assert_eq!(order(&[('a', &[]), ('b', &[])]), Ok(vec!['a', 'b']));
    assert_eq!(
        order(&[('a', &['c']), ('b', &[]), ('c', &['b'])]),
        Ok(vec!['b', 'c', 'a'])
    );
    assert_eq!(
        order(&[('a', &['z'])]),
        Ok(vec!['a']),
        "z is not started here"
    );
    assert_eq!(order(&[('a', &['a'])]), Err(vec!['a']));
    let circle = order(&[('d', &['a']), ('a', &['b']), ('b', &['c']), ('c', &['a'])]).unwrap_err();
    assert_eq!(circle.len(), 3, "{circle:?}: d is not in it");
    assert!(!circle.contains(&'d'));
}
