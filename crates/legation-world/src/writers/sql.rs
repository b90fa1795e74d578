//! Transactions on the four databases.

use std::collections::HashMap;
use std::path::Path;

use postgres::{Client, Statement};

use super::Shared;
use crate::error::{Doing, Error, Result};
use crate::fixtures::shape::{Citizen, Done, Tx};
use crate::fixtures::{Plan, Registry};
use crate::journal::{Journal, Told, now_micros};
use crate::pg;
use crate::rng::Rng;

/// One citizen's desk: a session, a journal, and what he knows.
pub(super) struct Desk {
    registry: Registry,
    client: Client,
    journal: Journal,
    plan: Plan,
    rng: Rng,
    next: i64,
    prepared: HashMap<&'static str, Statement>,
}

impl Desk {
    pub(super) fn open(
        registry: Registry,
        client: Client,
        journals: &Path,
        plan: &Plan,
        first: i64,
    ) -> Result<Self> {
        let journal = Journal::open(journals, registry.name())?;
        let rng = plan.rng(&format!("writer {} {first}", registry.name()));
        Ok(Self {
            registry,
            client,
            journal,
            plan: plan.clone(),
            rng,
            next: first,
            prepared: HashMap::new(),
        })
    }

    /// Transacts until told to stop or the server is gone.
    pub(super) fn work(mut self, shared: &Shared) -> Result<()> {
        while !shared.stopped() {
            let tx = self.next;
            let done = match self.transact(tx, shared) {
                Ok(done) => done,
                // A server that died in mid-flight is what these worlds are for; any other refusal is a bug.
                Err(e) if self.client.is_closed() || shutting_down(&e) => return Ok(()),
                Err(e) => return Err(e),
            };
            let micros = now_micros();
            let lsn = self.position();
            let gone = lsn.is_none();
            let Done {
                kind,
                rows,
                fact,
                born,
            } = done;
            self.journal.write(&Told {
                tx,
                kind: kind.into(),
                rows,
                fact,
                micros,
                lsn,
            })?;
            shared.count(self.registry);
            if let Some(code) = born {
                shared.news.tell(code);
            }
            self.next += 1;
            if gone {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The insert position; none when the server died meanwhile.
    fn position(&mut self) -> Option<u64> {
        let row = self
            .client
            .query_one("select pg_current_wal_insert_lsn()::text", &[])
            .ok()?;
        pg::lsn(row.try_get(0).ok()?).ok()
    }

    fn transact(&mut self, tx: i64, shared: &Shared) -> Result<Done> {
        let doing = format!("transaction {tx} of {}", self.registry.name());
        let inner = self.client.transaction().doing(&doing)?;
        let mut t = Tx {
            inner,
            prepared: &mut self.prepared,
        };
        let mut citizen = Citizen {
            plan: &self.plan,
            rng: &mut self.rng,
            tx,
            news: &shared.news,
        };
        let act = self.registry.shape().act;
        let done = act(&mut t, &mut citizen).doing(&doing)?;
        let rows = i32::try_from(done.rows).unwrap_or(i32::MAX);
        t.execute(
            "insert into filing (tx, kind, rows) values ($1, $2, $3)",
            &[&tx, &done.kind, &rows],
        )
        .doing(&doing)?;
        t.inner.commit().doing(&doing)?;
        Ok(done)
    }
}

/// Whether the server says that it is going down (class 57P).
fn shutting_down(e: &Error) -> bool {
    matches!(e, Error::Sql { source, .. } if source.is_closed() || source.code().is_some_and(|c| c.code().starts_with("57P")))
}
