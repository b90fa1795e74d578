//! What PostgreSQL's own checks say of a running copy. No page comparison sees a visibility map that claims too much
//! where both copies have it; a count that trusts the map does.

use std::ffi::OsStr;

use legation_registry::postgres::{ConnectConfig, Host};

use crate::cluster::{psql, run_of};

/// Databases that take connections.
pub fn databases(config: &ConnectConfig) -> Vec<String> {
    lines(
        config,
        "select datname from pg_database where datallowconn order by 1",
    )
}

pub fn lines(config: &ConnectConfig, sql: &str) -> Vec<String> {
    psql(config, sql).lines().map(str::to_owned).collect()
}

/// `pg_amcheck`, the visibility map against the tables, and forced index-only counts against sequential ones, in every
/// database. Writes to the copy: it adds the extensions.
pub fn inside(config: &ConnectConfig, major: u32) {
    amcheck(config, major);
    for database in databases(config) {
        let config = config.with_database(&database);
        psql(&config, "create extension if not exists pg_visibility");
        let wrong = psql(
            &config,
            "select c.oid::regclass, v.t_ctid, f.t_ctid from pg_class c \
             left join lateral pg_check_visible(c.oid) v(t_ctid) on true \
             left join lateral pg_check_frozen(c.oid) f(t_ctid) on true \
             where c.relkind in ('r', 't', 'm') and (v.t_ctid is not null or f.t_ctid is not null)",
        );
        assert_eq!(wrong, "", "{database}: the visibility map claims too much");
        let keys = lines(
            &config,
            "select i.indrelid::regclass, a.attname from pg_index i \
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] \
             join pg_class c on c.oid = i.indrelid \
             where i.indisprimary and c.relnamespace = 'public'::regnamespace",
        );
        for row in keys {
            let (table, key) = row.split_once('|').unwrap();
            counts(&config, table, key);
        }
    }
}

/// The tables of a database, without unlogged ones: those are empty in a copy.
fn tables(config: &ConnectConfig) -> Vec<String> {
    lines(
        config,
        "select oid::regclass from pg_class where relkind = 'r' and relpersistence = 'p' and relnamespace = 'public'::regnamespace order by 1",
    )
}

/// A table's rows by the index of its primary key alone, and by the table alone.
fn counts(config: &ConnectConfig, table: &str, key: &str) {
    let count = format!("select count(*) from {table} where {key} > -2000000000");
    let said = lines(
        config,
        &format!(
            "set enable_seqscan = off; set enable_bitmapscan = off; explain {count}; {count}; reset all; \
             set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off; {count}"
        ),
    );
    let is_index_only = said.iter().any(|line| line.contains("Index Only Scan"));
    assert!(is_index_only, "{table}: {said:?}");
    let [.., by_index, by_table] = said.as_slice() else {
        panic!("{table}: {said:?}")
    };
    assert_eq!(by_index, by_table, "{table}: by index and by table");
}

/// `pg_amcheck` over everything. Where the release has none here, that of the next one.
fn amcheck(config: &ConnectConfig, major: u32) {
    let Host::Unix(socket) = &config.host else {
        panic!("no socket")
    };
    let port = config.port.to_string();
    let tool = if major == 16 { 17 } else { major };
    let args: [&OsStr; 9] = [
        "--all".as_ref(),
        "--heapallindexed".as_ref(),
        "--install-missing".as_ref(),
        "-U".as_ref(),
        config.user.as_ref(),
        "-p".as_ref(),
        port.as_ref(),
        "-h".as_ref(),
        socket.as_ref(),
    ];
    let output = run_of(tool, "pg_amcheck", &args);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // That the extension is there already is nothing to say.
    let clean = said.lines().all(|line| line.starts_with("NOTICE: "));
    assert!(output.status.success() && clean, "pg_amcheck: {said}");
}

/// A digest of every table of every database, and of what is prepared: one line each.
pub fn digests(config: &ConnectConfig) -> Vec<String> {
    let mut all = lines(
        config,
        "select 'prepared ' || gid || ' ' || database from pg_prepared_xacts order by 1",
    );
    for database in databases(config) {
        let config = config.with_database(&database);
        let each: Vec<_> = tables(&config)
            .into_iter()
            .map(|table| {
                format!(
                    "select '{database} {table} ' || count(*) || ' ' || \
                     coalesce(md5(string_agg(x::text, ',' order by x::text)), '') from {table} x"
                )
            })
            .collect();
        all.push(format!("database {database}"));
        if !each.is_empty() {
            all.extend(lines(&config, &each.join(" union all ")));
        }
    }
    all.sort();
    all
}
