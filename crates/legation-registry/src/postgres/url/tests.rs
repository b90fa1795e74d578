use super::*;

fn parse(url: &str, env: &[(&str, &str)]) -> Result<ConnectConfig> {
    ConnectConfig::parse_with(url, &|name| {
        env.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).to_owned())
    })
}

fn check(url: &str, env: &[(&str, &str)], expect: &str) {
    let shown = parse(url, env).map_or_else(|e| e.to_string(), |c| c.to_string());
    assert!(shown.contains(expect), "{url}: {shown}");
}

#[test]
fn urls() {
    check("postgresql://a@h:5/d", &[], "postgresql://a@h:5/d");
    check("postgres://a@h/d", &[], "postgresql://a@h:5432/d");
    check("postgresql://a@[::1]:6/d", &[], "postgresql://a@[::1]:6/d");
    check(
        "postgresql://a%40b@h/d%2Fe",
        &[],
        "postgresql://a@b@h:5432/d/e",
    );
    check(
        "postgresql://a@/d?host=/run/pg&port=7",
        &[],
        "postgresql://a@:7/d?host=/run/pg",
    );
    check(
        "postgresql://a@%2Frun%2Fpg/d",
        &[],
        "postgresql://a@:5432/d?host=/run/pg",
    );
    check(
        "postgresql:///d?user=u&host=h",
        &[],
        "postgresql://u@h:5432/d",
    );
    check(
        "postgresql://h",
        &[("PGUSER", "u")],
        "postgresql://u@h:5432/u",
    );
    check(
        "postgresql://",
        &[
            ("PGUSER", "u"),
            ("PGHOST", "h"),
            ("PGPORT", "9"),
            ("PGDATABASE", "d"),
        ],
        "postgresql://u@h:9/d",
    );
    check(
        "postgresql://a@h/d",
        &[("PGHOST", "other")],
        "postgresql://a@h:5432/d",
    );
}

#[test]
fn what_is_wrong_is_said() {
    check("mysql://a@h/d", &[], "does not begin with postgresql://");
    check("postgresql://a@h:x/d", &[], "port \"x\"");
    check("postgresql://a@h:99999/d", &[], "port \"99999\"");
    check("postgresql://h/d", &[], "names no user");
    check("postgresql://a@h1,h2/d", &[], "several hosts");
    check(
        "postgresql://a@h/d?colour=red",
        &[],
        "\"colour\" is not known",
    );
    check("postgresql://a@h/d?port", &[], "has no value");
    check("postgresql://a@h/%zz", &[], "% escape");
    check("postgresql://a@h/%0", &[], "% escape");
    check("postgresql://a@[::1/d", &[], "'[' without ']'");
    check(
        "postgresql://a@h/d?sslmode=maybe",
        &[],
        "sslmode=maybe is not known",
    );
    check(
        "postgresql://a@h/d",
        &[("PGSSLMODE", "maybe")],
        "sslmode=maybe is not known",
    );
    check(
        "postgresql://a@h/d?channel_binding=x",
        &[],
        "channel_binding=x is not known",
    );
    check(
        "postgresql://a@h/d?sslrootcert=system",
        &[],
        "system's roots",
    );
    check(
        "postgresql://a@h/d",
        &[("PGSSLCRL", "/x")],
        "PGSSLCRL is set",
    );
    check("postgresql://a@h/d?sslmode=prefer", &[], "postgresql://a@h");
}

#[test]
fn no_text_shows_a_password() {
    let url = "postgresql://a:hush@h/d";
    let config = parse(url, &[]).unwrap();
    assert_eq!(config.password.as_ref().unwrap().as_str(), "hush");
    assert!(!format!("{config} {config:?}").contains("hush"));
    for wrong in [
        "postgresql://a:hush@h:x/d",
        "mysql://a:hush@h/d",
        "postgresql://a:hush@h/d?x=y",
    ] {
        assert!(!parse(wrong, &[]).unwrap_err().to_string().contains("hush"));
    }
}

#[test]
fn lines_of_the_password_file() {
    let fields = |line| passfile_fields(line).map(|f| f.join("|"));
    assert_eq!(fields("h:1:d:u:p").unwrap(), "h|1|d|u|p");
    assert_eq!(fields("a\\:b:1:d:u:p\\\\:q").unwrap(), "a:b|1|d|u|p\\:q");
    assert_eq!(fields("# h:1:d:u:p"), None);
    assert_eq!(fields("h:1:d:u"), None);
    assert_eq!(fields("h:1:d:u:p\\"), None);
}

#[test]
fn tls_is_asked_for_as_libpq_asks() {
    let mode = |url: &str, env: &[(&str, &str)]| parse(url, env).unwrap().tls;
    assert_eq!(mode("postgresql://a@h/d", &[]).mode, SslMode::Prefer);
    let named = "postgresql://a@h/d?sslmode=verify-full&sslrootcert=/r&sslcert=/c&sslkey=/k&channel_binding=require";
    let expected = TlsOptions {
        mode: SslMode::VerifyFull,
        binding: Binding::Require,
        root: Some("/r".into()),
        cert: Some("/c".into()),
        key: Some("/k".into()),
    };
    assert_eq!(mode(named, &[("PGSSLMODE", "disable")]), expected);
    let variables = [
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/r"),
        ("PGSSLCERT", "/c"),
        ("PGSSLKEY", "/k"),
        ("PGCHANNELBINDING", "require"),
    ];
    assert_eq!(mode("postgresql://a@h/d", &variables), expected);
}
