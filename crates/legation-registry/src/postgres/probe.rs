//! The preflight: everything that would make a capture fail later, found before it begins, each with its cure.
//! Reads settings only; changes nothing on the server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use legation_core::id::{Lsn, Timeline};

use super::conf::Outside;
use super::conn::{Conn, Mode, Row};
use super::url::{ConnectConfig, Host};
use crate::{Error, Result};

/// The oldest and the newest release that this build captures.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 15..=18;
/// One connection streams WAL, one takes the base.
const SENDERS_NEEDED: i64 = 2;
/// Settings that change what stored data mean to an application, and nothing else; they travel with the version.
const CARRIED_SETTINGS: &str = "'TimeZone','DateStyle','IntervalStyle','default_text_search_config','lc_monetary','lc_numeric','lc_time',\
     'search_path','bytea_output','standard_conforming_strings','default_transaction_isolation'";

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A fact worth showing.
    Note,
    /// Capture works; something is at risk.
    Warning,
    /// Capture cannot begin.
    Blocking,
}

/// One thing found on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A short fixed name, such as `wal-level`.
    pub id: &'static str,
    /// How much it weighs.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What a person does about it; empty for notes.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.fix.is_empty() {
            write!(f, "\n  fix: {}", self.fix)?;
        }
        Ok(())
    }
}

/// How the slot stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// There is none of that name yet.
    Absent,
    /// It holds WAL from `restart` on; none if it never reserved any.
    Held {
        /// The oldest WAL that the server keeps for it.
        restart: Option<Lsn>,
        /// Whether a receiver is connected.
        active: bool,
        /// How many more bytes of WAL may be written before it is lost; `None` without a limit.
        room: Option<u64>,
    },
    /// The server has removed WAL that it needed.
    Lost,
}

/// What the server is, and what was found.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The cluster's identity; like timeline and position it is 0 when a finding is blocking.
    pub system_id: u64,
    /// The current timeline.
    pub timeline: Timeline,
    /// The position up to which the server has flushed.
    pub flushed: Lsn,
    /// The server's version text.
    pub version: String,
    /// Its major number.
    pub major: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Bytes of a page.
    pub block_size: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// The slot that was asked about.
    pub slot: SlotState,
    /// The name of the bootstrap superuser: it exists in every restored copy.
    pub superuser: String,
    /// Settings that change what stored data mean, by name.
    pub settings: BTreeMap<String, String>,
    /// Collations of the databases, which the place of a restore must also have.
    pub locales: BTreeSet<String>,
    /// Everything found, the heaviest first.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Fails with every blocking finding and its cure.
    pub fn check(&self) -> Result<()> {
        let blocking: Vec<_> = self
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Blocking)
            .collect();
        match blocking.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::refused(&one.what, &one.fix)),
            many => Err(Error::refused(
                many.iter()
                    .map(|f| f.what.as_str())
                    .collect::<Vec<_>>()
                    .join("; "),
                many.iter()
                    .map(|f| f.fix.as_str())
                    .collect::<Vec<_>>()
                    .join("; "),
            )),
        }
    }

    /// The finding of this name.
    pub fn finding(&self, id: &str) -> Option<&Finding> {
        self.findings.iter().find(|f| f.id == id)
    }
}

/// Looks at the server. Fails only when it cannot be reached, is of an unsupported release, or does not admit
/// replication; all else is a finding.
pub fn probe(config: &ConnectConfig, slot: &str) -> Result<Probe> {
    check_slot_name(slot)?;
    let mut sql = Conn::sql(config)?;
    check_version(&sql)?;
    let mut findings = Findings::default();
    let settings = all_settings(&mut sql)?;
    findings.settings(&settings);
    findings.line(&settings, config);
    findings.role(&mut sql, config)?;
    findings.cluster(&mut sql)?;
    let slot_state = findings.slot(&mut sql, slot, &settings)?;
    findings.senders(&mut sql, &settings, &slot_state)?;
    if let Some((what, fix)) = Outside::look(&mut sql, config)?.finding(config) {
        findings.add("configuration", Severity::Warning, what, fix);
    }
    let superuser = sql
        .scalar("select rolname from pg_catalog.pg_roles where oid = 10")?
        .unwrap_or_default();
    let carried = pairs(sql.query(&format!(
        "select name, setting from pg_settings where name in ({CARRIED_SETTINGS})"
    ))?);
    let locales = sql
        .query("select distinct l from pg_database d, lateral (values (d.datcollate), (d.datctype)) v(l) where datallowconn")?
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect();
    drop(sql);
    // On a server that cannot be captured the attempt would only hide the findings behind an error.
    let hopeless = findings
        .list
        .iter()
        .any(|f| f.severity == Severity::Blocking);
    let system = if hopeless {
        System::default()
    } else {
        identify(config)?
    };
    let number = |name: &str| settings.get(name).and_then(|v| v.parse().ok()).unwrap_or(0);
    findings.list.sort_by_key(|f| std::cmp::Reverse(f.severity));
    Ok(Probe {
        system_id: system.id,
        timeline: system.timeline,
        flushed: system.flushed,
        version: settings.get("server_version").cloned().unwrap_or_default(),
        major: number("server_version_num") / 10_000,
        data_checksums: settings.get("data_checksums").is_some_and(|v| v == "on"),
        block_size: number("block_size"),
        wal_segment_size: number("wal_segment_size"),
        slot: slot_state,
        superuser,
        settings: carried,
        locales,
        findings: findings.list,
    })
}

/// A replication slot's name, as PostgreSQL allows it.
pub(crate) fn check_slot_name(slot: &str) -> Result<()> {
    let ok = !slot.is_empty()
        && slot.len() < 64
        && slot
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if ok {
        return Ok(());
    }
    Err(Error::refused(
        format!("{slot:?} cannot name a replication slot"),
        "use up to 63 lower-case letters, digits and underscores, such as legation_land",
    ))
}

/// Refuses releases that this build does not know.
pub(crate) fn check_version(conn: &Conn) -> Result<()> {
    let (oldest, newest) = (SUPPORTED.start(), SUPPORTED.end());
    if SUPPORTED.contains(&conn.major) {
        Ok(())
    } else if conn.major < *oldest {
        Err(Error::refused(
            format!(
                "the server is PostgreSQL {}; its backup protocol is too old",
                conn.version
            ),
            format!("upgrade it to PostgreSQL {oldest}"),
        ))
    } else {
        Err(Error::refused(
            format!(
                "the server is PostgreSQL {}, which this version does not support yet",
                conn.version
            ),
            format!(
                "PostgreSQL {newest} is the newest that it captures; use a release of Legation that names yours"
            ),
        ))
    }
}

/// IDENTIFY_SYSTEM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System {
    pub id: u64,
    pub timeline: Timeline,
    pub flushed: Lsn,
}

impl Default for System {
    fn default() -> Self {
        System {
            id: 0,
            timeline: Timeline(0),
            flushed: Lsn(0),
        }
    }
}

fn identify(config: &ConnectConfig) -> Result<System> {
    identify_on(&mut replication(config)?)
}

/// Opens a replication connection; the usual obstacle is a missing `pg_hba.conf` line, so the error says that.
pub(crate) fn replication(config: &ConnectConfig) -> Result<Conn> {
    let conn = Conn::open(config, Mode::Replication).map_err(|e| match e {
        Error::Server(e) if e.code == "28000" && e.message.contains("pg_hba") => Error::refused(
            format!("the server does not admit {} for replication: {}", config.user, e.message),
            format!(
                "add to pg_hba.conf and reload: `host replication {0} <address> scram-sha-256`, or `local replication {0} peer`",
                config.user
            ),
        ),
        Error::Server(e) if e.code == "53300" => Error::refused(
            format!("no free WAL sender: {}", e.message),
            "raise max_wal_senders (a restart is needed) or end another standby's connection",
        ),
        Error::Server(e) if e.code == "42501" || e.message.contains("replication role") => no_replication_role(config),
        e => e,
    })?;
    check_version(&conn)?;
    Ok(conn)
}

fn no_replication_role(config: &ConnectConfig) -> Error {
    Error::refused(
        format!("role {} may not replicate", config.user),
        format!(
            "run as a superuser: ALTER ROLE {} REPLICATION",
            quote(&config.user)
        ),
    )
}

pub(crate) fn identify_on(conn: &mut Conn) -> Result<System> {
    let rows = conn.query("IDENTIFY_SYSTEM")?;
    let parsed = rows.first().and_then(|row| {
        Some(System {
            id: column(row, 0)?.parse().ok()?,
            timeline: Timeline(column(row, 1)?.parse().ok()?),
            flushed: column(row, 2)?.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| {
        Error::malformed(
            "PostgreSQL protocol",
            "the answer to IDENTIFY_SYSTEM is not one",
        )
    })
}

pub(crate) fn column(row: &Row, at: usize) -> Option<&str> {
    row.get(at)?.as_deref()
}

/// An SQL identifier in quotes.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn pairs(rows: Vec<Row>) -> BTreeMap<String, String> {
    let pair = |row: Row| {
        let mut columns = row.into_iter();
        Some((columns.next()??, columns.next()??))
    };
    rows.into_iter().filter_map(pair).collect()
}

/// Settings in their base units, as `pg_settings` has them.
fn all_settings(conn: &mut Conn) -> Result<BTreeMap<String, String>> {
    Ok(pairs(conn.query(
        "select name, setting from pg_settings where name in ('wal_level','full_page_writes','max_wal_senders',\
         'max_replication_slots','max_slot_wal_keep_size','data_checksums','block_size','wal_segment_size',\
         'server_version','server_version_num','wal_sender_timeout','fsync','synchronous_standby_names',\
         'tcp_user_timeout')",
    )?))
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn add(
        &mut self,
        id: &'static str,
        severity: Severity,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.list.push(Finding {
            id,
            severity,
            what: what.into(),
            fix: fix.into(),
        });
    }

    fn settings(&mut self, settings: &BTreeMap<String, String>) {
        let is = |name: &str, value: &str| settings.get(name).is_some_and(|v| v == value);
        if is("wal_level", "minimal") {
            self.add(
                "wal-level",
                Severity::Blocking,
                "wal_level is minimal: the WAL does not hold enough to rebuild the database elsewhere",
                "ALTER SYSTEM SET wal_level = replica, then restart the server",
            );
        }
        if is("full_page_writes", "off") {
            self.add(
                "full-page-writes",
                Severity::Blocking,
                "full_page_writes is off: a page torn by a crash could not be repaired from the WAL",
                "ALTER SYSTEM SET full_page_writes = on, then SELECT pg_reload_conf()",
            );
        }
        if is("fsync", "off") {
            self.add(
                "fsync",
                Severity::Warning,
                "fsync is off: after a power failure at home the database may be damaged, and WAL may differ from what was sent",
                "ALTER SYSTEM SET fsync = on, then SELECT pg_reload_conf()",
            );
        }
        if is("data_checksums", "on") {
            self.add(
                "data-checksums",
                Severity::Note,
                "data checksums are on",
                "",
            );
        } else {
            self.add(
                "data-checksums",
                Severity::Warning,
                "data checksums are off: pages that rot at home are captured as they are, without notice",
                "stop the server and run pg_checksums --enable",
            );
        }
        if is("max_slot_wal_keep_size", "-1") {
            self.add(
                "slot-limit",
                Severity::Warning,
                "max_slot_wal_keep_size is unlimited: while no agent runs, WAL can fill the server's disk",
                "ALTER SYSTEM SET max_slot_wal_keep_size to what the disk can spare, then SELECT pg_reload_conf()",
            );
        }
    }

    fn line(&mut self, settings: &BTreeMap<String, String>, config: &ConnectConfig) {
        let is_unbounded = settings.get("tcp_user_timeout").is_some_and(|v| v == "0");
        if is_unbounded && matches!(config.host, Host::Tcp(_)) {
            self.add(
                "tcp-user-timeout",
                Severity::Warning,
                "tcp_user_timeout is 0: if this machine freezes, a checkpoint that takes the slot from it waits for it",
                "ALTER SYSTEM SET tcp_user_timeout = '30s', then SELECT pg_reload_conf()",
            );
        }
    }

    fn role(&mut self, conn: &mut Conn, config: &ConnectConfig) -> Result<()> {
        let may = conn.scalar("select rolreplication or rolsuper from pg_catalog.pg_roles where rolname = current_user")?;
        if may.as_deref() != Some("t")
            && let Error::Refused { what, fix } = no_replication_role(config)
        {
            self.add("replication-role", Severity::Blocking, what, fix);
        }
        Ok(())
    }

    fn cluster(&mut self, conn: &mut Conn) -> Result<()> {
        if conn.scalar("select pg_is_in_recovery()")?.as_deref() == Some("t") {
            self.add(
                "standby",
                Severity::Blocking,
                "the server is a standby",
                "name the primary; capture from a standby is not supported yet",
            );
        }
        let spaces = conn.query(
            "select spcname from pg_tablespace where spcname not in ('pg_default','pg_global') order by 1",
        )?;
        if !spaces.is_empty() {
            let names: Vec<_> = spaces.iter().filter_map(|row| column(row, 0)).collect();
            self.add(
                "tablespaces",
                Severity::Note,
                format!(
                    "tablespaces become directories within the data directory of a restored copy: {}",
                    names.join(", ")
                ),
                "",
            );
        }
        Ok(())
    }

    fn slot(
        &mut self,
        conn: &mut Conn,
        slot: &str,
        settings: &BTreeMap<String, String>,
    ) -> Result<SlotState> {
        let rows = conn.query(&format!(
            "select slot_type, restart_lsn, active, wal_status, safe_wal_size from pg_replication_slots where slot_name = '{slot}'"
        ))?;
        let Some(row) = rows.first() else {
            let used = count(conn, "select count(*) from pg_replication_slots")?;
            let most: i64 = settings
                .get("max_replication_slots")
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            if used >= most {
                self.add(
                    "replication-slots",
                    Severity::Blocking,
                    format!("no free replication slot: {used} of {most} are in use"),
                    "raise max_replication_slots and restart, or drop one that nobody uses (pg_drop_replication_slot)",
                );
            }
            return Ok(SlotState::Absent);
        };
        if column(row, 0) != Some("physical") {
            self.add(
                "slot-kind",
                Severity::Blocking,
                format!("slot {slot} is a logical one"),
                "give the source another slot name",
            );
        }
        if column(row, 3) == Some("lost") {
            self.add(
                "slot-lost",
                Severity::Blocking,
                format!("slot {slot} is lost: the server has removed WAL that was not yet captured"),
                format!(
                    "SELECT pg_drop_replication_slot('{slot}'); capture then begins with a new base. To prevent it, raise \
                     max_slot_wal_keep_size"
                ),
            );
            return Ok(SlotState::Lost);
        }
        if column(row, 3) == Some("unreserved") {
            self.add(
                "slot-at-risk",
                Severity::Warning,
                format!("slot {slot} is about to be lost: it is past max_slot_wal_keep_size"),
                "start the agent now, or raise max_slot_wal_keep_size",
            );
        }
        Ok(SlotState::Held {
            restart: column(row, 1).and_then(|lsn| lsn.parse().ok()),
            active: column(row, 2) == Some("t"),
            room: column(row, 4)
                .and_then(|n| n.parse::<i64>().ok())
                .map(|n| n.max(0) as u64),
        })
    }

    fn senders(
        &mut self,
        conn: &mut Conn,
        settings: &BTreeMap<String, String>,
        slot: &SlotState,
    ) -> Result<()> {
        let most: i64 = settings
            .get("max_wal_senders")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        let used = count(
            conn,
            "select count(*) from pg_stat_activity where backend_type = 'walsender'",
        )?;
        let ours = i64::from(matches!(slot, SlotState::Held { active: true, .. }));
        let needed = SENDERS_NEEDED - ours;
        if used + needed > most {
            self.add(
                "wal-senders",
                Severity::Blocking,
                format!("too few free WAL senders: {used} of {most} are in use and {needed} more are needed"),
                "raise max_wal_senders and restart the server, or end another standby's connection",
            );
        }
        Ok(())
    }
}

fn count(conn: &mut Conn, sql: &str) -> Result<i64> {
    Ok(conn.scalar(sql)?.and_then(|n| n.parse().ok()).unwrap_or(0))
}
