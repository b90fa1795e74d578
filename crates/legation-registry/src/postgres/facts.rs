//! What a version must say of the cluster it was taken from, so that it can be started elsewhere: kept as the
//! version's facts (`Sink::meta`), read back before anything is restored.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use legation_core::id::{Lsn, Timeline};

use crate::{Error, Result};

const SETTING: &str = "setting.";

/// A base backup's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The cluster's identity; with the timeline and a position it names a point of its history.
    pub system_id: u64,
    /// The timeline of the backup.
    pub timeline: Timeline,
    /// Where replay must begin.
    pub start: Lsn,
    /// Where the copy becomes consistent; nothing before it can be restored from this base.
    pub stop: Lsn,
    /// The server's version text.
    pub version: String,
    /// Its major number: the same is needed abroad.
    pub major: u32,
    /// Bytes of a page.
    pub block_size: u32,
    /// Bytes of a WAL segment: a power of two from 1 MiB to 1 GiB.
    pub wal_segment_size: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// The backup's label.
    pub label: String,
    /// The bootstrap superuser.
    pub superuser: String,
    /// The database that the source names.
    pub database: String,
    /// Collations that the place of a restore needs.
    pub locales: BTreeSet<String>,
    /// Settings that change what stored data mean.
    pub settings: BTreeMap<String, String>,
}

impl Facts {
    /// As key and value pairs.
    pub fn to_meta(&self) -> BTreeMap<String, String> {
        let locales: Vec<_> = self.locales.iter().map(String::as_str).collect();
        let mut meta: BTreeMap<String, String> = [
            ("system-id", self.system_id.to_string()),
            ("timeline", self.timeline.to_string()),
            ("start-lsn", self.start.to_string()),
            ("stop-lsn", self.stop.to_string()),
            ("server-version", self.version.clone()),
            ("server-major", self.major.to_string()),
            ("block-size", self.block_size.to_string()),
            ("wal-segment-size", self.wal_segment_size.to_string()),
            (
                "data-checksums",
                if self.data_checksums { "on" } else { "off" }.into(),
            ),
            ("label", self.label.clone()),
            ("superuser", self.superuser.clone()),
            ("database", self.database.clone()),
            ("locales", locales.join(" ")),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
        meta.extend(
            self.settings
                .iter()
                .map(|(k, v)| (format!("{SETTING}{k}"), v.clone())),
        );
        meta
    }

    /// From the facts of a version.
    pub fn from_meta(meta: &BTreeMap<String, String>) -> Result<Self> {
        let text = |key: &str| {
            meta.get(key)
                .map(String::as_str)
                .ok_or_else(|| bad(key, "is missing"))
        };
        let facts = Facts {
            system_id: parse(key(meta, "system-id")?)?,
            timeline: parse(key(meta, "timeline")?)?,
            start: parse(key(meta, "start-lsn")?)?,
            stop: parse(key(meta, "stop-lsn")?)?,
            version: text("server-version")?.into(),
            major: parse(key(meta, "server-major")?)?,
            block_size: parse(key(meta, "block-size")?)?,
            wal_segment_size: parse(key(meta, "wal-segment-size")?)?,
            data_checksums: text("data-checksums")? == "on",
            label: text("label")?.into(),
            superuser: text("superuser")?.into(),
            database: text("database")?.into(),
            locales: text("locales")?
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            settings: meta
                .iter()
                .filter_map(|(k, v)| Some((k.strip_prefix(SETTING)?.to_owned(), v.clone())))
                .collect(),
        };
        let size = facts.wal_segment_size;
        if !size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&size) {
            return Err(bad(
                "wal-segment-size",
                "is not a power of two from 1 MiB to 1 GiB",
            ));
        }
        if facts.stop < facts.start {
            return Err(bad("stop-lsn", "lies before start-lsn"));
        }
        Ok(facts)
    }

    /// The start of the WAL segment that holds `lsn`.
    pub fn segment_start(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 & !(u64::from(self.wal_segment_size) - 1))
    }
}

fn key<'a>(
    meta: &'a BTreeMap<String, String>,
    name: &'static str,
) -> Result<(&'static str, &'a str)> {
    meta.get(name)
        .map(|v| (name, v.as_str()))
        .ok_or_else(|| bad(name, "is missing"))
}

fn parse<T: FromStr>((key, value): (&str, &str)) -> Result<T> {
    value
        .parse()
        .map_err(|_| bad(key, &format!("is {value:?}")))
}

fn bad(key: &str, why: &str) -> Error {
    Error::malformed("facts of the version", format!("{key} {why}"))
}
