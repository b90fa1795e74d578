//! Reading a started registry through a plain client.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use postgres::{Client, SimpleQueryMessage};

use super::pages::{Pages, check_pages};
use crate::error::{Doing, Result};
use crate::fixtures::Registry;
use crate::pg::{Programs, SUPERUSER, session};
use crate::process::run;

/// Where a started registry answers.
#[derive(Debug, Clone)]
pub struct Server {
    /// Loopback port.
    pub port: u16,
    /// The superuser's password, the same as at home: it came with the data.
    pub password: String,
}

/// One filed transaction as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// What it says it is.
    pub kind: String,
    /// How many rows it says it has.
    pub rows: i64,
    /// How many rows carry its number.
    pub found: i64,
    /// The figure recomputed from those rows.
    pub fact: i64,
}

/// Counts and sums of the fixture's rows, by table: equal before and after means that none changed.
pub type Fingerprint = BTreeMap<String, String>;

/// What a registry holds.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Every filed transaction.
    pub filed: HashMap<i64, Filed>,
    /// Numbers that rows carry and that were never filed.
    pub stray: Vec<i64>,
    /// Rows now.
    pub rows: u64,
    /// Invariants that do not hold.
    pub broken: Vec<String>,
    /// What was checked and holds, for the table.
    pub notes: Vec<String>,
    /// Fixture rows.
    pub fingerprint: Fingerprint,
    /// Personal codes there (population only).
    pub persons: HashSet<String>,
    /// References to persons: transaction, personal code (other registries).
    pub references: Vec<(i64, String)>,
}

impl Server {
    /// A superuser's session in the registry's own database.
    pub fn connect(&self, registry: Registry) -> Result<Client> {
        session(self.port, SUPERUSER, &self.password, registry.name())
    }
}

fn count(client: &mut Client, what: &str, sql: &str) -> Result<i64> {
    client
        .query_one(sql, &[])
        .and_then(|r| r.try_get(0))
        .doing(what)
}

/// Counts and sums the fixture's rows.
pub fn fingerprint(client: &mut Client, registry: Registry) -> Result<Fingerprint> {
    let mut all = Fingerprint::new();
    for table in registry.shape().constant {
        let sql = format!(
            "select count(*)::text || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text
             from {table} t where tx = 0"
        );
        let sum = client
            .query_one(&sql, &[])
            .and_then(|r| r.try_get(0))
            .doing(format_args!("summing {table}"))?;
        all.insert((*table).into(), sum);
    }
    Ok(all)
}

/// Reads all that the reckoning needs, in one snapshot.
pub fn read(server: &Server, registry: Registry) -> Result<Found> {
    let mut client = server.connect(registry)?;
    let reading = format!("reading {}", registry.name());
    client
        .batch_execute("begin isolation level repeatable read read only")
        .doing(&reading)?;
    let mut found = Found::default();
    for row in client
        .query("select tx, kind, rows::bigint from filing", &[])
        .doing(&reading)?
    {
        let (tx, kind, rows) = (row.get(0), row.get(1), row.get(2));
        found.filed.insert(
            tx,
            Filed {
                kind,
                rows,
                found: 0,
                fact: 0,
            },
        );
    }
    for row in client.query(registry.shape().facts, &[]).doing(&reading)? {
        let tx = row.get(0);
        match found.filed.get_mut(&tx) {
            Some(f) => (f.found, f.fact) = (row.get(1), row.get::<_, Option<i64>>(2).unwrap_or(0)),
            None => found.stray.push(tx),
        }
    }
    for (name, sql) in registry.shape().invariants {
        match count(&mut client, &reading, sql)? {
            0 => found.notes.push((*name).into()),
            n => found
                .broken
                .push(format!("not so: {name} ({n} against it)")),
        }
    }
    for table in registry.shape().tables {
        found.rows += count(
            &mut client,
            &reading,
            &format!("select count(*) from {table}"),
        )?
        .unsigned_abs();
    }
    found.fingerprint = fingerprint(&mut client, registry)?;
    if registry == Registry::Population {
        let rows = client
            .query("select code from person", &[])
            .doing(&reading)?;
        found.persons = rows.iter().map(|r| r.get(0)).collect();
    }
    if let Some(sql) = registry.shape().references {
        let rows = client.query(sql, &[]).doing(&reading)?;
        found.references = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    }
    client.batch_execute("commit").doing(&reading)?;
    Ok(found)
}

/// What checks of the physical side found.
#[derive(Debug, Clone, Default)]
pub struct Physical {
    /// What is wrong.
    pub faults: Vec<String>,
    /// Pages whose checksum was recomputed from the files.
    pub pages: u64,
    /// Indexes whose rows were counted both ways.
    pub indexes: u64,
}

/// Longest that `pg_amcheck` may take on one registry.
const AMCHECK: Duration = Duration::from_secs(120);

/// `pg_amcheck`, visibility map, index-only against sequential counts, and page checksums from the files themselves.
pub fn physical(server: &Server, registry: Registry, programs: &Programs) -> Result<Physical> {
    let mut all = Physical::default();
    let mut amcheck = programs.command("pg_amcheck");
    amcheck.args([
        "-h",
        "127.0.0.1",
        "-U",
        SUPERUSER,
        "-d",
        registry.name(),
        "--heapallindexed",
        "--no-strict-names",
    ]);
    amcheck
        .args(["-p", &server.port.to_string()])
        .env("PGPASSWORD", &server.password);
    let ran = run(amcheck, b"", AMCHECK)?;
    if ran.code != 0 || !ran.out.trim().is_empty() {
        let said = ran
            .out
            .lines()
            .chain(ran.err.lines())
            .next()
            .unwrap_or_default();
        all.faults
            .push(format!("pg_amcheck (exit {}): {said}", ran.code));
    }
    let mut client = server.connect(registry)?;
    for check in ["pg_check_visible", "pg_check_frozen"] {
        let sql = format!(
            "select count(*) from pg_class c, lateral {check}(c.oid) where c.relkind in ('r', 'm', 't')
             and c.relpersistence <> 't'"
        );
        let n = count(&mut client, check, &sql)?;
        if n != 0 {
            all.faults.push(format!("{check}: {n} rows"));
        }
    }
    count_both_ways(&mut client, &mut all)?;
    let Pages { checked, bad } = check_pages(&data_directory(&mut client)?, || {
        client.batch_execute("checkpoint").doing("checkpointing")
    })?;
    all.pages = checked;
    all.faults.extend(bad);
    Ok(all)
}

/// Rows by every index that can answer alone, and by the table.
fn count_both_ways(client: &mut Client, all: &mut Physical) -> Result<()> {
    let tables =
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.relkind = 'r' and n.nspname = 'public' and exists (select from pg_index i
                  where i.indrelid = c.oid and i.indpred is null and i.indisvalid)";
    let tables: Vec<String> = client
        .query(tables, &[])
        .doing("listing tables")?
        .iter()
        .map(|r| r.get(0))
        .collect();
    for table in tables {
        let sql = format!("select count(*) from {table}");
        client
            .batch_execute("set enable_seqscan = off; set enable_bitmapscan = off; set enable_indexonlyscan = on")
            .doing("planning")?;
        let plan = client
            .simple_query(&format!("explain {sql}"))
            .doing("planning")?;
        let by_index = plan.iter().any(|m| {
            matches!(m, SimpleQueryMessage::Row(r) if r.get(0).is_some_and(|l| l.contains("Index Only Scan")))
        });
        if !by_index {
            all.faults.push(format!(
                "{table}: the server would not count by an index alone"
            ));
            continue;
        }
        let indexed = count(client, "counting by index", &sql)?;
        client
            .batch_execute("set enable_seqscan = on; set enable_indexscan = off; set enable_indexonlyscan = off")
            .doing("planning")?;
        let sequential = count(client, "counting", &sql)?;
        client.batch_execute("reset all").doing("planning")?;
        all.indexes += 1;
        if indexed != sequential {
            all.faults.push(format!(
                "{table}: {indexed} rows by index alone, {sequential} by the table"
            ));
        }
    }
    Ok(())
}

/// Where the server's files are for us: its directory, seen through its own root, which may be another mount
/// namespace.
fn data_directory(client: &mut Client) -> Result<PathBuf> {
    let row = client
        .query_one("select current_setting('data_directory'), split_part(pg_read_file('postmaster.pid'), E'\\n', 1)", &[])
        .doing("asking for the data directory")?;
    let (dir, pid): (String, String) = (row.get(0), row.get(1));
    Ok(PathBuf::from(format!("/proc/{}/root{dir}", pid.trim())))
}
