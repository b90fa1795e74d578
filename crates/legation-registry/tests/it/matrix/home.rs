//! A source to which everything happens that the log must carry: rows, tables, databases, tablespaces, crashes,
//! promotions; and bases taken meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use legation_core::id::Lsn;
use legation_registry::postgres::{BaseOptions, Facts, base};
use legation_world::rng::Rng;

use super::check;
use super::follower::Follower;
use crate::cluster::{Cluster, SLOT, give, psql};
use crate::memory::MemorySink;

/// What can happen, with how often it is in one pack of cards.
const CARDS: [(Act, u32); 26] = [
    (Act::Insert, 4),
    (Act::Update, 4),
    (Act::Delete, 3),
    (Act::Truncate, 1),
    (Act::Extend, 2),
    (Act::Shrink, 1),
    (Act::Vacuum, 3),
    (Act::Freeze, 2),
    (Act::Rewrite, 2),
    (Act::Reindex, 1),
    (Act::Alter, 1),
    (Act::Abort, 2),
    (Act::Prepare, 2),
    (Act::Resolve, 1),
    (Act::CreateTable, 2),
    (Act::DropTable, 1),
    (Act::CreateDatabase, 2),
    (Act::DropDatabase, 1),
    (Act::MoveDatabase, 1),
    (Act::CreateSpace, 2),
    (Act::DropSpace, 1),
    (Act::MoveTable, 2),
    (Act::Checkpoint, 2),
    (Act::Switch, 1),
    (Act::Crash, 2),
    (Act::Promote, 1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Insert,
    Update,
    Delete,
    Truncate,
    Extend,
    Shrink,
    Vacuum,
    Freeze,
    Rewrite,
    Reindex,
    Alter,
    Abort,
    Prepare,
    Resolve,
    CreateTable,
    DropTable,
    CreateDatabase,
    DropDatabase,
    MoveDatabase,
    CreateSpace,
    DropSpace,
    MoveTable,
    Checkpoint,
    Switch,
    Crash,
    Promote,
}

/// A base that was taken.
pub struct Base {
    pub sink: MemorySink,
    pub facts: Facts,
}

/// A position at which the source was looked at.
pub struct Point {
    pub lsn: Lsn,
    pub digests: Vec<String>,
}

type Taking = JoinHandle<(MemorySink, legation_registry::Result<base::BaseReport>)>;

pub struct Home {
    pub cluster: Cluster,
    pub follower: Follower,
    pub bases: Vec<Base>,
    pub points: Vec<Point>,
    /// Everything that was done, for a person who reads of a failure.
    pub story: Vec<String>,
    rng: Rng,
    /// Tables by database.
    tables: BTreeMap<String, Vec<String>>,
    spaces: Vec<String>,
    prepared: Vec<(String, String)>,
    next: u32,
    taking: Option<Taking>,
}

impl Home {
    /// A running source, and beside it a cold copy of its first state: what the reference is replayed from.
    pub fn new(major: u32, seed: u64) -> Self {
        // Small segments, so that records of all kinds lie over their edges.
        let cluster = Cluster::of(
            major,
            &["--wal-segsize=1"],
            &[
                ("autovacuum", "off"),
                ("max_prepared_transactions", "8"),
                ("checkpoint_timeout", "1h"),
                ("min_wal_size", "2MB"),
                ("max_wal_size", "64MB"),
                ("archive_mode", "on"),
                ("archive_command", "cp %p ../archive/%f"),
            ],
        );
        let archive = cluster.dir.path().join("archive");
        std::fs::create_dir(&archive).unwrap();
        give(&archive);
        cluster.stop("fast");
        copy(&cluster.data(), &cluster.dir.path().join("cold"));
        cluster.start();
        let follower = Follower::of(&cluster);
        let mut home = Home {
            cluster,
            follower,
            bases: Vec::new(),
            points: Vec::new(),
            story: Vec::new(),
            rng: Rng::new(seed, "matrix"),
            tables: BTreeMap::from([("postgres".to_owned(), Vec::new())]),
            spaces: Vec::new(),
            prepared: Vec::new(),
            next: 0,
            taking: None,
        };
        for _ in 0..3 {
            home.create_table("postgres");
        }
        home.sql("postgres", "create table marks (n int)");
        home
    }

    /// Goes through so many packs of cards, with bases and looks between and during.
    pub fn live(&mut self, packs: u32) {
        self.begin_base();
        self.end_base();
        for _ in 0..packs {
            let mut cards: Vec<Act> = CARDS
                .iter()
                .flat_map(|(act, count)| std::iter::repeat_n(*act, *count as usize))
                .collect();
            for last in (1..cards.len()).rev() {
                cards.swap(last, self.rng.below(last as u64 + 1) as usize);
            }
            let begin = self.rng.below(cards.len() as u64 * 2 / 3) as usize;
            for (n, act) in cards.into_iter().enumerate() {
                if n == begin {
                    self.begin_base();
                }
                self.act(act);
                if n > begin + 3 {
                    self.end_base();
                }
                if self.rng.chance(12) {
                    self.look();
                }
            }
        }
        self.end_base();
        self.look();
    }

    /// The end: everything is received, and the server is stopped.
    pub fn finish(&mut self) {
        let end = self.cluster.lsn();
        self.follower.wait_for(end);
        self.follower.halt();
        self.cluster.stop("fast");
    }

    fn sql(&mut self, database: &str, sql: &str) -> String {
        self.story.push(format!("{database}: {sql}"));
        psql(&self.cluster.config_of("postgres", database), sql)
    }

    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let at = self.rng.below(of.len() as u64) as usize;
        of.get(at).cloned()
    }

    fn some_database(&mut self) -> String {
        let names: Vec<_> = self.tables.keys().cloned().collect();
        self.one_of(&names).unwrap()
    }

    /// A database of ours that nothing else stands on: none with a prepared transaction.
    fn free_database(&mut self) -> Option<String> {
        let is_free = |name: &&String| {
            *name != "postgres" && !self.prepared.iter().any(|(database, _)| database == *name)
        };
        let names: Vec<_> = self.tables.keys().filter(is_free).cloned().collect();
        self.one_of(&names)
    }

    /// A table that no prepared transaction holds.
    fn some_table(&mut self) -> Option<(String, String)> {
        let held = |database: &str| self.prepared.iter().any(|(name, _)| name == database);
        let all: Vec<_> = self
            .tables
            .iter()
            .filter(|(database, _)| !held(database))
            .flat_map(|(database, tables)| tables.iter().map(|t| (database.clone(), t.clone())))
            .collect();
        self.one_of(&all)
    }

    fn create_table(&mut self, database: &str) {
        let name = self.name("t");
        let space = self.some_space();
        let kind = if self.rng.chance(15) { "unlogged" } else { "" };
        let fill = self.rng.pick(&["", "with (fillfactor = 60)"]);
        self.sql(
            database,
            &format!(
                "create {kind} table {name} (id bigint primary key, n bigint, v text, r int4range, p point) {fill} \
                 tablespace {space}"
            ),
        );
        let mut methods = vec![
            "btree (n)",
            "gin (to_tsvector('simple', v))",
            "gist (r)",
            "hash (n)",
            "spgist (p)",
            "brin (n)",
        ];
        for _ in 0..3 {
            let method = methods.remove(self.rng.below(methods.len() as u64) as usize);
            self.sql(database, &format!("create index on {name} using {method}"));
        }
        self.insert(database, &name, 300);
        self.tables.entry(database.into()).or_default().push(name);
    }

    fn some_space(&mut self) -> String {
        let mut all = self.spaces.clone();
        all.push("pg_default".into());
        self.one_of(&all).unwrap()
    }

    fn insert(&mut self, database: &str, table: &str, most: u64) {
        let (count, wide) = (self.rng.range(1, most), self.rng.below(300));
        self.sql(
            database,
            &format!(
                "insert into {table} select m + g, g % 50, md5((m + g)::text) || repeat('w', {wide}), \
                 int4range(g::int, g::int + 5), point(g, m) \
                 from (select coalesce(max(id), 0) m from {table}) x, generate_series(1, {count}) g"
            ),
        );
    }

    fn rows(&mut self, database: &str, table: &str, what: &str) {
        let (of, which) = (self.rng.range(2, 9), self.rng.below(9));
        self.sql(
            database,
            &what
                .replace("TABLE", table)
                .replace("WHICH", &format!("id % {of} = {which}")),
        );
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::CreateTable => {
                let database = self.some_database();
                self.create_table(&database);
            }
            Act::CreateDatabase => self.create_database(),
            Act::DropDatabase => {
                if let Some(name) = self.free_database() {
                    self.sql("postgres", &format!("drop database {name}"));
                    self.tables.remove(&name);
                }
            }
            Act::MoveDatabase => {
                let space = self.some_space();
                if let Some(name) = self.free_database() {
                    // Refused where the database already has tables in that tablespace that is not its own.
                    self.sql(&name, "select 1");
                    self.may_fail(
                        "postgres",
                        &format!("alter database {name} set tablespace {space}"),
                        "already in tablespace",
                    );
                }
            }
            Act::CreateSpace => {
                let name = self.name("s");
                let place = self.space(&name);
                std::fs::create_dir_all(&place).unwrap();
                give(place.parent().unwrap());
                give(&place);
                self.sql(
                    "postgres",
                    &format!("create tablespace {name} location '{}'", place.display()),
                );
                self.spaces.push(name);
            }
            Act::DropSpace => {
                let spaces = self.spaces.clone();
                if let Some(name) = self.one_of(&spaces)
                    && self.may_fail(
                        "postgres",
                        &format!("drop tablespace {name}"),
                        "is not empty",
                    )
                {
                    self.spaces.retain(|space| *space != name);
                }
            }
            Act::Checkpoint => _ = self.sql("postgres", "checkpoint"),
            Act::Switch => _ = self.sql("postgres", "select pg_switch_wal()"),
            Act::Resolve => self.resolve(),
            Act::Crash => {
                self.end_base();
                self.story.push("crash".into());
                self.cluster.stop("immediate");
                self.cluster.start();
                self.follower.after_crash(&self.cluster);
            }
            Act::Promote => self.promote(),
            of_rows => {
                if let Some((database, table)) = self.some_table() {
                    self.on_table(of_rows, &database, &table);
                }
            }
        }
    }

    fn on_table(&mut self, act: Act, database: &str, table: &str) {
        match act {
            Act::Insert => self.insert(database, table, 400),
            Act::Extend => self.insert(database, table, 6000),
            Act::Update => self.rows(
                database,
                table,
                "update TABLE set n = n + 1, v = v || 'u' where WHICH",
            ),
            Act::Delete => self.rows(database, table, "delete from TABLE where WHICH"),
            Act::Truncate => _ = self.sql(database, &format!("truncate {table}")),
            Act::Shrink => {
                self.sql(
                    database,
                    &format!("delete from {table} where id > (select max(id) / 3 from {table})"),
                );
                self.sql(database, &format!("vacuum {table}"));
            }
            Act::Vacuum => _ = self.sql(database, &format!("vacuum (analyze) {table}")),
            Act::Freeze => _ = self.sql(database, &format!("vacuum (freeze) {table}")),
            Act::Rewrite => {
                let how = self.rng.pick(&["vacuum full TABLE", "cluster TABLE using TABLE_pkey"]);
                self.sql(database, &how.replace("TABLE", table));
            }
            Act::Reindex => _ = self.sql(database, &format!("reindex table {table}")),
            Act::Alter => {
                let how = self.rng.pick(&[
                    "alter table TABLE alter n type int using n::int; alter table TABLE alter n type bigint",
                    "alter table TABLE set logged",
                    "alter table TABLE set unlogged",
                ]);
                self.sql(database, &how.replace("TABLE", table));
            }
            Act::Abort => self.rows(
                database,
                table,
                "begin; delete from TABLE where WHICH; savepoint a; update TABLE set n = -1; rollback to a; \
                 create table gone as select * from TABLE; truncate TABLE; rollback",
            ),
            Act::Prepare => {
                let name = self.name("p");
                self.rows(
                    database,
                    table,
                    &format!(
                        "begin; update TABLE set v = 'prepared' where WHICH; savepoint a; \
                         delete from TABLE where id = 1; prepare transaction '{name}'"
                    ),
                );
                self.prepared.push((database.into(), name));
            }
            Act::DropTable => {
                self.sql(database, &format!("drop table {table}"));
                let tables = self.tables.get_mut(database).unwrap();
                tables.retain(|name| name != table);
            }
            Act::MoveTable => {
                let space = self.some_space();
                self.sql(
                    database,
                    &format!("alter table {table} set tablespace {space}"),
                );
                let index = format!("alter index {table}_pkey set tablespace {space}");
                if self.rng.chance(50) {
                    self.sql(database, &index);
                }
            }
            other => panic!("{other:?} is of no table"),
        }
    }

    /// Whether it worked; else for this reason.
    fn may_fail(&mut self, database: &str, sql: &str, why: &str) -> bool {
        self.story.push(format!("{database}: {sql}"));
        let config = self.cluster.config_of("postgres", database);
        match legation_registry::postgres::Conn::sql(&config)
            .unwrap()
            .query(sql)
        {
            Ok(_) => true,
            Err(e) if e.to_string().contains(why) => {
                self.story.push(format!("  refused: {why}"));
                false
            }
            Err(e) => panic!("{sql}: {e}"),
        }
    }

    fn create_database(&mut self) {
        let (name, from) = (self.name("d"), self.free_database());
        let strategy = self.rng.pick(&["wal_log", "file_copy"]);
        let space = self.some_space();
        let template = from.clone().unwrap_or_else(|| "template1".into());
        // A table of the template's in a tablespace that is to be the new one's own is in the way.
        let made = self.may_fail(
            "postgres",
            &format!(
                "create database {name} template {template} strategy {strategy} tablespace {space}"
            ),
            "cannot assign new default tablespace",
        );
        if !made {
            return;
        }
        let tables = from.and_then(|from| self.tables.get(&from).cloned());
        self.tables.insert(name.clone(), tables.unwrap_or_default());
        self.create_table(&name);
    }

    fn resolve(&mut self) {
        if self.prepared.is_empty() {
            return;
        }
        let at = self.rng.below(self.prepared.len() as u64) as usize;
        let (database, name) = self.prepared.remove(at);
        let how = self.rng.pick(&["commit", "rollback"]);
        self.sql(&database, &format!("{how} prepared '{name}'"));
    }

    /// As a standby that takes over under the same address.
    fn promote(&mut self) {
        self.end_base();
        let how = self.rng.pick(&["fast", "immediate"]);
        self.story.push(format!("promotion after a stop: {how}"));
        self.cluster.stop(how);
        let signal = self.cluster.data().join("standby.signal");
        std::fs::write(&signal, b"").unwrap();
        give(&signal);
        self.cluster.start();
        self.cluster.sql("select pg_promote()");
        self.follower.after_promotion(&self.cluster);
    }

    /// Where a tablespace lies.
    fn space(&self, name: &str) -> PathBuf {
        self.cluster.dir.path().join("spaces").join(name)
    }

    fn begin_base(&mut self) {
        self.end_base();
        self.story.push("a base begins".into());
        let mut options = BaseOptions::new(SLOT);
        // Slow enough for something to happen meanwhile.
        options.max_rate_kib = Some(self.rng.range(24, 96) as u32 * 1024);
        let config = self.cluster.config();
        self.taking = Some(std::thread::spawn(move || {
            let mut sink = MemorySink::default();
            let report = base::capture(&config, &options, &mut sink, &|| false);
            (sink, report)
        }));
    }

    fn end_base(&mut self) {
        let Some(taking) = self.taking.take() else {
            return;
        };
        let (sink, report) = taking.join().unwrap();
        let facts = report.unwrap().facts;
        self.story
            .push(format!("a base is done: {} to {}", facts.start, facts.stop));
        self.bases.push(Base { sink, facts });
    }

    /// Remembers what the source holds now, and where its log is.
    fn look(&mut self) {
        let digests = check::digests(&self.cluster.config());
        let lsn = self.cluster.lsn();
        // The log is on the disk up to there before anything else happens: a crash must not lose it.
        self.cluster.sql("insert into marks values (1)");
        self.story.push(format!("a look at {lsn}"));
        self.points.push(Point { lsn, digests });
    }
}

/// Copies a directory as it is.
pub fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.unwrap().success());
}
