//! Transactions on the four databases.

use std::collections::HashMap;
use std::path::Path;

use postgres::types::ToSql;
use postgres::{Client, Statement};

use super::Shared;
use crate::error::{Doing, Error, Result};
use crate::fixtures::{Plan, Registry, commercial, land, population, treasury};
use crate::journal::{Journal, Told, now_micros};
use crate::pg;
use crate::rng::Rng;
use crate::words;

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

/// A transaction under way, with the statements that the session has prepared before.
struct Tx<'a> {
    inner: postgres::Transaction<'a>,
    prepared: &'a mut HashMap<&'static str, Statement>,
}

impl Tx<'_> {
    fn execute(&mut self, sql: &'static str, with: &[&(dyn ToSql + Sync)]) -> Sql<u64> {
        let statement = match self.prepared.get(sql) {
            Some(known) => known.clone(),
            None => {
                let fresh = self.inner.prepare(sql)?;
                self.prepared.insert(sql, fresh.clone());
                fresh
            }
        };
        self.inner.execute(&statement, with)
    }
}

/// What a transaction did.
struct Done {
    kind: &'static str,
    rows: i64,
    fact: i64,
    /// A child whose registration others may hear of once it is acknowledged.
    born: Option<String>,
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
        let (plan, rng) = (&self.plan, &mut self.rng);
        let done = match self.registry {
            Registry::Population => people(&mut t, plan, rng, tx),
            Registry::Treasury => pay(&mut t, plan, rng, tx),
            Registry::Land => transfer(&mut t, plan, rng, tx, shared),
            Registry::Commercial | Registry::Gazette => file(&mut t, plan, rng, tx, shared),
        }
        .doing(&doing)?;
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

type Sql<T> = std::result::Result<T, postgres::Error>;

/// A code as a number.
fn number(code: &str) -> i64 {
    code.parse().unwrap_or(0)
}

/// A birth with its parents and address, or a move.
fn people(t: &mut Tx, plan: &Plan, rng: &mut Rng, tx: i64) -> Sql<Done> {
    let adult = population::person(rng.below(plan.persons())).code;
    let (county, municipality, _) = words::place(rng);
    let street = words::street(rng);
    if rng.chance(60) {
        let child = population::newborn(tx.unsigned_abs());
        let sex = child.sex.to_string();
        t.execute(
            "insert into person values ($1, $2, $3, $4::text::char(1), $5::text::date, $6)",
            &[
                &child.code,
                &words::given(rng),
                &words::family(rng),
                &sex,
                &child.day,
                &tx,
            ],
        )?;
        let other = population::person(rng.below(plan.persons())).code;
        t.execute(
            "insert into kinship values ($1, $2, 'mother', $4), ($1, $3, 'father', $4)",
            &[&child.code, &adult, &other, &tx],
        )?;
        t.execute(
            "insert into address (person, county, municipality, street, valid_from, tx)
             values ($1, $2, $3, $4, $5::text::date, $6)",
            &[
                &child.code,
                &county,
                &municipality,
                &street,
                &child.day,
                &tx,
            ],
        )?;
        return Ok(Done {
            kind: "birth",
            rows: 4,
            fact: number(&child.code),
            born: Some(child.code),
        });
    }
    let closed = t.execute(
        "update address set valid_to = current_date, closed_tx = $2 where person = $1 and valid_to is null",
        &[&adult, &tx],
    )?;
    t.execute(
        "insert into address (person, county, municipality, street, valid_from, tx)
         values ($1, $2, $3, $4, current_date, $5)",
        &[&adult, &county, &municipality, &street, &tx],
    )?;
    Ok(Done {
        kind: "move",
        rows: 1 + closed as i64,
        fact: number(&adult),
        born: None,
    })
}

/// A posting of two to four lines, and the balances it moves.
fn pay(t: &mut Tx, plan: &Plan, rng: &mut Rng, tx: i64) -> Sql<Done> {
    let lines = treasury::lines(rng, plan.accounts());
    for &(account, cents) in &lines {
        let account = i32::try_from(account).unwrap_or(0);
        t.execute(
            "insert into entry (posting, account, amount, memo, tx) values ($1, $2, $3::text::numeric, $4, $1)",
            &[&tx, &account, &treasury::money(cents), &"payment"],
        )?;
        t.execute(
            "update account set balance = balance + $2::text::numeric where id = $1",
            &[&account, &treasury::money(cents)],
        )?;
    }
    let moved = lines.iter().map(|l| l.1.max(0)).sum();
    Ok(Done {
        kind: "posting",
        rows: lines.len() as i64,
        fact: moved,
        born: None,
    })
}

/// Somebody from the news, or anybody.
fn somebody(plan: &Plan, rng: &mut Rng, shared: &Shared) -> String {
    let young = if rng.chance(40) {
        shared.news.hear(rng)
    } else {
        None
    };
    young.unwrap_or_else(|| population::person(rng.below(plan.persons())).code)
}

/// A parcel passes to one or two owners.
fn transfer(t: &mut Tx, plan: &Plan, rng: &mut Rng, tx: i64, shared: &Shared) -> Sql<Done> {
    let parcel = land::parcel(rng.below(plan.parcels()));
    let closed = t.execute(
        "update ownership set closed_tx = $2 where parcel = $1 and closed_tx is null",
        &[&parcel, &tx],
    )?;
    let (shares, of) = land::shares(rng);
    let mut highest = 0;
    for share in &shares {
        let owner = somebody(plan, rng, shared);
        t.execute(
            "insert into ownership (parcel, person, share, of_shares, since, tx)
             values ($1, $2, $3, $4, current_date, $5)",
            &[&parcel, &owner, share, &of, &tx],
        )?;
        highest = highest.max(number(&owner));
    }
    Ok(Done {
        kind: "transfer",
        rows: closed as i64 + shares.len() as i64,
        fact: highest,
        born: None,
    })
}

/// A company is founded with its officers, or reports for a year.
fn file(t: &mut Tx, plan: &Plan, rng: &mut Rng, tx: i64, shared: &Shared) -> Sql<Done> {
    if rng.chance(60) {
        let code = commercial::code(rng.below(plan.companies()));
        let company = i32::try_from(code).unwrap_or(0);
        t.execute(
            "insert into report (company, year, figures, tx) values ($1, 2026, $2::text::jsonb, $3)",
            &[&company, &commercial::figures(rng), &tx],
        )?;
        return Ok(Done {
            kind: "report",
            rows: 1,
            fact: i64::from(company),
            born: None,
        });
    }
    // Founded after the fixture: far above its codes.
    let code = 15_000_000 + tx.unsigned_abs();
    let company = i32::try_from(code).unwrap_or(0);
    let commercial::Company(c) = commercial::company(rng, code);
    let null = |s: &str| (s != crate::fixtures::NULL).then(|| s.to_owned());
    let [
        _,
        name,
        form,
        subtype,
        vat,
        status,
        status_text,
        entry,
        address,
        place,
        place_text,
        postcode,
        ..,
    ] = &c;
    let [.., oid, adr, ads_text, ads_kind, link] = &c;
    t.execute(
        "insert into company values ($1, $2, $3, $4, $5, $6::text::char(1), $7, $8::text::date, $9, $10, $11, $12,
                                     $13, $14::text::bigint, $15, $16, $17, $18)",
        &[
            &company, name, form, &null(subtype), &null(vat), status, status_text, entry, address, place, place_text,
            postcode, oid, adr, ads_text, ads_kind, link, &tx,
        ],
    )?;
    let officers = 1 + rng.below(3);
    for seq in 0..officers {
        let person = somebody(plan, rng, shared);
        t.execute(
            "insert into officer (company, seq, card, tx) values ($1, $2, $3::text::jsonb, $4)",
            &[
                &company,
                &(seq as i32),
                &commercial::card(rng, &person),
                &tx,
            ],
        )?;
    }
    Ok(Done {
        kind: "founding",
        rows: 1 + officers as i64,
        fact: i64::from(company),
        born: None,
    })
}
