//! Scene 5: the order.

use std::time::{Duration, Instant};

use super::Tale;
use super::show::{bytes, seconds};
use crate::args;
use crate::auditor;
use crate::error::{Result, failed};
use crate::pg;
use crate::process::Ran;
use crate::world::{Officer, Order};

/// Longest wait until all registries serve.
const SERVE: Duration = Duration::from_secs(180);

impl Tale {
    pub(super) fn order_is_given(&mut self) -> Result<()> {
        self.t.say("");
        self.t.say("5  THE ORDER");
        self.t.say("   $ legation versions");
        let versions =
            self.world
                .legation
                .ok(args!["versions", "--config", self.world.person()])?;
        for line in versions
            .out
            .lines()
            .filter(|l| !l.trim().is_empty())
            .take(12)
        {
            self.t.say(format!("   {line}"));
        }
        let order = self.world.order_activate("order", &[])?;
        self.t.say("   $ legation order show order.txt");
        let shown = self.world.order_show(&order)?.ok()?;
        for line in shown.out.lines().filter(|l| !l.trim().is_empty()).take(14) {
            self.t.say(format!("   {line}"));
        }
        self.quorum(&order)?;
        self.fences()?;
        self.order = Some(order);
        Ok(())
    }

    /// The officers of these numbers.
    fn officers(&self, numbers: &[usize]) -> Vec<Officer> {
        numbers
            .iter()
            .filter_map(|n| self.world.officers.get(n - 1))
            .cloned()
            .collect()
    }

    fn quorum(&mut self, order: &Order) -> Result<()> {
        let asked = Instant::now();
        self.ordered = Some(asked);
        for officer in self.officers(&[1, 2, 3, 4]) {
            self.world.approve(order, &officer)?.ok()?;
            let signature = order.beside(&format!("{}.sig", officer.name));
            let stock =
                self.world
                    .stock_verify(&order.text, &signature, &officer, "legation/order/v1")?;
            self.t.claim(
                stock.code == 0,
                format!("stock ssh-keygen accepts the approval of {}", officer.name),
            );
        }
        for (numbers, what) in [
            (&[1, 2][..], "two approvals"),
            (&[1, 2, 3][..], "three approvals, all from home"),
        ] {
            let officers = self.officers(numbers);
            let ran = self
                .world
                .submit(order, &officers.iter().collect::<Vec<_>>())?;
            self.t.claim(
                ran.code == 5,
                format!("{what} are refused with exit 5, not {}", ran.code),
            );
            self.say_approval(numbers, &refusal(&ran));
        }
        // The embassy's activation waits for the order; its session key must be in the log before shares move.
        let mut live = self.world.activate(&order.text)?;
        let officers = self.officers(&[1, 2, 4]);
        let accepted: Vec<_> = officers.iter().collect();
        let ran = self.world.submit(order, &accepted)?.ok()?;
        let entry = number(&ran, &["entry", "index"]);
        let entry = entry.map_or_else(String::new, |n| format!(": log entry {n}"));
        self.say_approval(
            &[1, 2, 4],
            &format!("accepted{entry}, before any share moved"),
        );
        self.too_few_shares(order)?;
        let released = self.world.release(order, &accepted)?.ok()?;
        let (keys, all) = (
            number(&released, &["released", "keys"]),
            number(&released, &["of", "epochs", "total"]),
        );
        let keys = match (keys, all) {
            (Some(n), Some(all)) if n < all => {
                format!("{n} data keys of {all} released; the rest stay shut")
            }
            (Some(n), _) => format!("{n} data keys released, all that the order names"),
            _ => "data keys released".into(),
        };
        self.t.say(format!(
            "   $ legation order release                  {} shares met offline; {keys}",
            accepted.len()
        ));
        self.people = asked.elapsed();
        live.released();
        self.world.deliver(order)?.ok()?;
        self.t.say("   $ legation activate --order order.txt");
        let started = live.wait_serving(&self.world, SERVE);
        self.live = Some(live);
        self.started = started?;
        for s in &self.started.clone() {
            self.say_started(s)?;
        }
        Ok(())
    }

    /// Before the quorum's release: what fewer can do with the very same bundle.
    fn too_few_shares(&mut self, order: &Order) -> Result<()> {
        for (numbers, what) in [
            (&[1, 4][..], "two shares"),
            (&[1, 2, 3][..], "three shares, none from abroad"),
        ] {
            let officers = self.officers(numbers);
            let ran = self
                .world
                .release(order, &officers.iter().collect::<Vec<_>>())?;
            let nothing = ran.code == 5 && !order.beside("released").exists();
            self.t.claim(
                nothing,
                format!(
                    "{what} open nothing (exit {}): {}",
                    ran.code,
                    ran.complaint()
                ),
            );
            self.few.push(format!(
                "{what}: exit {}, {}",
                ran.code,
                if nothing { "nothing opened" } else { "NOT SO" }
            ));
        }
        Ok(())
    }

    fn say_approval(&mut self, numbers: &[usize], what: &str) {
        let names: Vec<_> = numbers.iter().map(|n| format!("officer-{n}")).collect();
        self.t.say(format!(
            "   {:<41} {what}",
            format!("{} approve", names.join(", "))
        ));
    }

    fn say_started(&mut self, s: &crate::world::Started) -> Result<()> {
        let r = &s.report;
        let mut what = Vec::new();
        if let Some(n) = r["bytes"].as_u64() {
            what.push(format!("{} checked", bytes(n)));
        }
        if !s.registry.is_database() {
            what.push(format!(
                "at {}",
                s.path.file_name().unwrap_or_default().to_string_lossy()
            ));
        } else {
            // Asked of the server itself, not of the program that started it.
            let row = self.world.server(s).connect(s.registry).and_then(|mut c| {
                let sql = "select timeline_id::bigint, pg_is_in_recovery(), checkpoint_lsn::text from pg_control_checkpoint()";
                crate::error::Doing::doing(c.query_one(sql, &[]), "asking for the timeline")
            })?;
            let (timeline, recovering): (i64, bool) = (row.get(0), row.get(1));
            self.t.claim(
                !recovering,
                format!("{} is out of recovery", s.registry.name()),
            );
            if let Some(lsn) = r["lsn"].as_str() {
                what.push(format!("replayed to {lsn}"));
            }
            what.push(format!("timeline {timeline}, port {}", s.port));
        }
        if let Some(p) = r["probes"].as_str() {
            what.push(format!("{p} probes"));
        }
        let version = r["version"].as_u64().map_or_else(
            || r["version"].as_str().unwrap_or("").into(),
            |n| format!("v{n}"),
        );
        self.t.say(format!(
            "   {:<12} {version:<4} {:<66} serving {:>7}",
            s.registry.name(),
            what.join(", "),
            seconds(s.rto.as_secs_f64())
        ));
        Ok(())
    }

    /// Up to where the embassy had acknowledged, from the log's own bytes.
    fn fences(&mut self) -> Result<()> {
        let mirror = self.world.path("desk/log-fenced");
        self.world.mirror_log(&mirror)?.ok()?;
        let log = auditor::read(&mirror)?;
        let (fences, commits) = (log.statements("fence"), log.statements("commit"));
        for &registry in &self.world.options.registries {
            let id = self.world.id(registry).to_owned();
            if !registry.is_database() {
                let newest = commits.iter().rfind(|c| c.get("registry") == Some(&id));
                let Some(at) = newest.and_then(|c| c.get("captured")) else {
                    return failed("the log holds no commit of a registry of files");
                };
                self.captured = micros(at)?;
                continue;
            }
            let fence = fences.iter().rfind(|f| f.get("registry") == Some(&id));
            let Some(at) = fence.and_then(|f| f.get("lsn")) else {
                return failed(format!("the log holds no fence of {}", registry.name()));
            };
            let at = pg::lsn(at)?;
            let claimed = self.lag.get(&registry).map_or(0, |l| l.acknowledged);
            self.t.claim(
                at >= claimed,
                format!(
                    "{}: fenced at {} though {} had been acknowledged",
                    registry.name(),
                    pg::lsn_text(at),
                    pg::lsn_text(claimed)
                ),
            );
            self.fences.insert(registry, at);
        }
        Ok(())
    }
}

/// `refused (exit 5): what the program said`.
fn refusal(ran: &Ran) -> String {
    let said = serde_json::from_str::<serde_json::Value>(ran.complaint())
        .ok()
        .and_then(|v| v["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| ran.complaint().to_owned());
    format!("refused (exit {}): {said}", ran.code)
}

/// The first of these fields that any record carries as a number.
fn number(ran: &Ran, fields: &[&str]) -> Option<u64> {
    let records = ran.records().ok()?;
    fields
        .iter()
        .find_map(|f| records.iter().find_map(|r| r[*f].as_u64()))
}

/// An RFC 3339 time as microseconds since 1970.
fn micros(text: &str) -> Result<u64> {
    match text.parse::<jiff::Timestamp>() {
        Ok(t) => Ok(u64::try_from(t.as_microsecond()).unwrap_or(0)),
        Err(_) => failed(format!("{text:?} in the log is no time")),
    }
}
