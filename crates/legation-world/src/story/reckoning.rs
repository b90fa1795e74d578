//! Scene 6: what survived.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::Tale;
use super::show::{clock, seconds, table, thousands};
use crate::error::{Doing, Result, failed};
use crate::fixtures::Registry;
use crate::journal;
use crate::reckon::{self, Account};

impl Tale {
    pub(super) fn reckon(&mut self) -> Result<()> {
        let Some(disaster) = self.disaster.clone() else {
            return failed("nothing happened");
        };
        let mut founds = BTreeMap::new();
        let mut accounts: Vec<Account> = Vec::new();
        let mut rows = Vec::new();
        let mut population = Vec::new();
        let (mut pages, mut indexes, mut unsound) = (0, 0, 0);
        for s in self.started.clone() {
            if !s.registry.is_database() {
                continue;
            }
            let told = journal::read(&self.world.journals(), s.registry.name())?;
            let server = self.world.server(&s);
            let found = reckon::read(&server, s.registry)?;
            let fence = self.fences.get(&s.registry).copied().unwrap_or(0);
            let before = self
                .world
                .fingerprints
                .get(&s.registry)
                .cloned()
                .unwrap_or_default();
            let mut account = reckon::account(s.registry, &told, &found, fence, &before);
            let physical = reckon::physical(&server, s.registry, &self.world.programs)?;
            pages += physical.pages;
            indexes += physical.indexes;
            unsound += physical.faults.len();
            account.faults.extend(physical.faults);
            self.judge(&account, &s, &mut rows);
            if s.registry == Registry::Population {
                population = told;
            }
            founds.insert(s.registry, found);
            accounts.push(account);
        }
        rows.sort_by_key(|r: &Vec<String>| Registry::named(&r[0]));
        let acts = self.judge_gazette(disaster.micros, &mut rows)?;
        self.t.say("");
        self.t.say("6  THE RECKONING  (by plain SQL and plain files, against what citizens wrote down outside home)");
        let head = [
            "registry",
            "as of (UTC)",
            "RPO>",
            "RTO>",
            "rows/files>",
            "acknowledged abroad = found>",
            "verdict",
        ];
        for line in table(&head, &rows) {
            self.t.say(line);
        }
        let fence = self.fences.get(&Registry::Population).copied().unwrap_or(0);
        let references = reckon::references(&founds, &population, fence);
        let out = self.world.path("reckoning");
        let (transactions, acts) =
            reckon::write_missing(&out.join("not-abroad.csv"), &accounts, &acts)?;
        reckon::write_dangling(&out.join("dangling.csv"), &references)?;
        self.t.claim(
            references.lost.is_empty(),
            format!("older references resolve: {:?}", references.lost.first()),
        );
        let listed = fs::read_to_string(out.join("not-abroad.csv")).doing("reading the list")?;
        self.t.claim(
            listed.lines().count() == 1 + transactions + acts,
            "what was not abroad is listed",
        );
        self.t.say(format!(
            "   not yet abroad when home died: {} transactions and {} acts, listed in reckoning/not-abroad.csv",
            thousands(transactions as u64),
            thousands(acts as u64)
        ));
        let torn = accounts
            .iter()
            .flat_map(|a| &a.faults)
            .filter(|f| f.contains("torn"))
            .count();
        self.t.say(match (unsound, torn) {
            (0, 0) => format!(
                "   pg_amcheck clean · {} page checksums clean · {indexes} indexes count as their tables · no torn transaction",
                thousands(pages)
            ),
            _ => format!("   NOT CLEAN: {unsound} physical faults, {torn} torn transactions"),
        });
        self.t.say(format!(
            "   {} older references resolve, {} younger listed",
            thousands(references.resolved),
            references.younger.len()
        ));
        self.quiet()
    }

    /// The captured configuration names a program to be run for every finished piece of WAL, as real ones do: it must
    /// not run here.
    fn quiet(&mut self) -> Result<()> {
        let place = self.world.path("citizens/reached-out");
        let count = || fs::read_dir(&place).map(Iterator::count).unwrap_or(0);
        let before = count();
        for s in self.started.iter().filter(|s| s.registry.is_database()) {
            let mut client = self.world.server(s).connect(s.registry)?;
            client
                .batch_execute("select pg_switch_wal(); checkpoint")
                .doing("finishing a piece of WAL")?;
            // Whoever would run it is a process of the server: there must be none.
            let archivers: i64 = client
                .query_one(
                    "select count(*) from pg_stat_activity where backend_type = 'archiver'",
                    &[],
                )
                .doing("looking for an archiver")?
                .get(0);
            self.t.claim(
                archivers == 0,
                format!("{} has no archiver", s.registry.name()),
            );
        }
        self.t.claim(
            count() == before,
            "nothing in the captured configuration reaches out",
        );
        self.t.say(format!(
            "   home's archive_command, captured with its data, ran {} times here",
            count() - before
        ));
        Ok(())
    }

    fn judge(&mut self, a: &Account, s: &crate::world::Started, rows: &mut Vec<Vec<String>>) {
        let name = a.registry.name();
        let (objective, _) = a.registry.shape().kept_within;
        let intact = a.faults.is_empty() && a.told == a.found;
        self.t.claim(
            a.told == a.found,
            format!("{name}: {} acknowledged, {} found", a.told, a.found),
        );
        for fault in &a.faults {
            self.t.claim(false, format!("{name}: {fault}"));
        }
        self.t.claim(
            a.told > 0,
            format!("{name}: something was acknowledged at all"),
        );
        let rpo = a.rpo().unwrap_or(f64::INFINITY);
        self.t.claim(
            rpo <= objective as f64,
            format!("{name}: RPO {} is within {objective} s", seconds(rpo)),
        );
        let note = a
            .notes
            .first()
            .filter(|_| intact)
            .map(|n| format!(", {n}"))
            .unwrap_or_default();
        rows.push(vec![
            name.into(),
            a.as_of.map(|m| clock(m, 3)).unwrap_or_default(),
            if a.missing.is_empty() {
                "none".into()
            } else {
                seconds(rpo)
            },
            seconds(s.rto.as_secs_f64()),
            thousands(a.rows),
            format!(
                "{} = {}",
                thousands(a.told as u64),
                thousands(a.found as u64)
            ),
            if intact {
                format!("intact{note}")
            } else {
                "NOT INTACT".into()
            },
        ]);
    }

    /// Returns the editions that were not yet abroad.
    fn judge_gazette(
        &mut self,
        died: u64,
        rows: &mut Vec<Vec<String>>,
    ) -> Result<Vec<(PathBuf, u64)>> {
        let Some(s) = self
            .started
            .iter()
            .find(|s| s.registry == Registry::Gazette)
            .cloned()
        else {
            return Ok(Vec::new());
        };
        let found = reckon::gazette(&s.path, &self.world.press().shadow, self.captured)?;
        for fault in &found.faults {
            self.t.claim(false, format!("gazette: {fault}"));
        }
        let equal = found.faults.is_empty() && found.due == found.equal;
        self.t.claim(
            found.due == found.equal,
            format!("gazette: {} due, {} equal", found.due, found.equal),
        );
        let as_of = found.as_of.unwrap_or(0).max(self.captured);
        rows.push(vec![
            "gazette".into(),
            clock(as_of, 3),
            seconds(died.saturating_sub(as_of) as f64 / 1e6),
            seconds(s.rto.as_secs_f64()),
            thousands(found.tree.files),
            format!("{} = {}", thousands(found.due), thousands(found.equal)),
            if equal {
                "every byte equal".into()
            } else {
                "NOT INTACT".into()
            },
        ]);
        Ok(found.missing)
    }
}
