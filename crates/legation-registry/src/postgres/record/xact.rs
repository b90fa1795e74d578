//! The records that a restore goes by: ends and preparations of transactions (`xact.h`), restore points and checkpoints
//! (`pg_control.h`, `xlog_internal.h`).

use legation_core::id::Lsn;

use super::bytes::Reader;
use super::{Broken, Record};
use crate::postgres::point::PgTime;

const XLOG: u8 = 0;
const XACT: u8 = 1;
const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const RESTORE_POINT: u8 = 0x70;
const END_OF_RECOVERY: u8 = 0x90;
const COMMIT: u8 = 0x00;
const PREPARE: u8 = 0x10;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
/// The bits of `info` that say what a transaction did, and the one that says that more follows.
const OPERATION: u8 = 0x70;
const HAS_INFO: u8 = 0x80;
/// `TWOPHASE_MAGIC`.
const TWO_PHASE: u32 = 0x57f9_4534;
/// `MAXFNAMELEN`: a restore point's name, with its end.
const MAX_NAME: usize = 64;
/// `GIDSIZE`: a prepared transaction's name, with its end.
const MAX_GID: usize = 200;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It counts.
    Committed,
    /// It never was.
    Aborted,
}

/// A record, as far as a restore goes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where the record starts.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// What it does.
    pub kind: Kind,
}

/// What a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Ends a transaction.
    End(Ending),
    /// Prepares a transaction for an end that comes later.
    Prepare(Prepared),
    /// Names a point to restore to.
    RestorePoint {
        /// Its name.
        name: String,
        /// When.
        time: PgTime,
    },
    /// A checkpoint began at this time, in whole seconds.
    Checkpoint {
        /// When.
        time: PgTime,
        /// The timeline it is on.
        timeline: u32,
    },
    /// A recovery ended, and another timeline began.
    EndOfRecovery {
        /// When.
        time: PgTime,
        /// The new timeline.
        timeline: u32,
    },
    /// Anything else.
    Other,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Which transaction: of a prepared one its own number, not that of the session that ends it.
    pub xid: u32,
    /// How.
    pub outcome: Outcome,
    /// Whether it had been prepared.
    pub prepared: bool,
    /// When, by the clock of the session that ended it.
    pub time: PgTime,
}

/// A prepared transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Which transaction.
    pub xid: u32,
    /// Its name.
    pub gid: String,
    /// The oid of its database.
    pub database: u32,
    /// When.
    pub time: PgTime,
}

impl Record<'_> {
    /// What the record is to a restore.
    ///
    /// # Errors
    /// When a record of a kind that matters contradicts itself.
    pub fn event(&self) -> Result<Event, Broken> {
        let kind = match (self.manager, self.info & 0xf0) {
            (XACT, _) => self.transaction(),
            (XLOG, RESTORE_POINT | CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE | END_OF_RECOVERY) => {
                self.control()
            }
            _ => Some(Kind::Other),
        };
        let kind = kind.ok_or_else(|| Broken {
            at: self.start,
            why: "a record of a transaction or of the log itself does not say what it should"
                .into(),
        })?;
        Ok(Event {
            start: self.start,
            end: self.end,
            kind,
        })
    }

    fn transaction(&self) -> Option<Kind> {
        let (outcome, prepared) = match self.info & OPERATION {
            COMMIT => (Outcome::Committed, false),
            ABORT => (Outcome::Aborted, false),
            COMMIT_PREPARED => (Outcome::Committed, true),
            ABORT_PREPARED => (Outcome::Aborted, true),
            PREPARE => {
                return Prepared::parse(self.body().ok()?.main).map(Kind::Prepare);
            }
            _ => return Some(Kind::Other),
        };
        let mut main = Reader::new(self.body().ok()?.main);
        let time = PgTime(main.i64()?);
        let xid = if prepared {
            self.own_xid(&mut main, outcome)?
        } else {
            self.xid
        };
        Some(Kind::End(Ending {
            xid,
            outcome,
            prepared,
            time,
        }))
    }

    /// The number of a prepared transaction, which stands behind lists that may be long.
    fn own_xid(&self, main: &mut Reader<'_>, outcome: Outcome) -> Option<u32> {
        const DATABASE: u32 = 1;
        const SUBTRANSACTIONS: u32 = 1 << 1;
        const FILES: u32 = 1 << 2;
        const INVALIDATIONS: u32 = 1 << 3;
        const PREPARED: u32 = 1 << 4;
        const STATISTICS: u32 = 1 << 8;
        if self.info & HAS_INFO == 0 {
            return None;
        }
        let says = main.u32()?;
        let has = |what: u32| says & what != 0;
        if has(DATABASE) {
            main.take(8)?;
        }
        if has(SUBTRANSACTIONS) {
            main.list(4)?;
        }
        if has(FILES) {
            main.list(12)?;
        }
        if has(STATISTICS) {
            // An object's number has 64 bits since release 18.
            main.list(if self.major >= 18 { 16 } else { 12 })?;
        }
        if has(INVALIDATIONS) && outcome == Outcome::Committed {
            main.list(16)?;
        }
        if has(PREPARED) { main.u32() } else { None }
    }

    fn control(&self) -> Option<Kind> {
        let mut main = Reader::new(self.body().ok()?.main);
        match self.info & 0xf0 {
            RESTORE_POINT => {
                let time = PgTime(main.i64()?);
                let name = main.take(MAX_NAME)?;
                let name = String::from_utf8_lossy(Reader::new(name).text()?).into_owned();
                Some(Kind::RestorePoint { name, time })
            }
            END_OF_RECOVERY => {
                let time = PgTime(main.i64()?);
                let timeline = main.u32()?;
                Some(Kind::EndOfRecovery { time, timeline })
            }
            _ => {
                main.take(8)?;
                let timeline = main.u32()?;
                main.take(52)?;
                let time = PgTime::of_unix(main.i64()?)?;
                Some(Kind::Checkpoint { time, timeline })
            }
        }
    }
}

impl Prepared {
    /// From a record that prepares, or from a file in `pg_twophase`, which begins with the same.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::new(bytes);
        if from.u32()? != TWO_PHASE {
            return None;
        }
        from.take(4)?;
        let (xid, database, time) = (from.u32()?, from.u32()?, PgTime(from.i64()?));
        // Owner, six counts, a flag and its padding.
        from.take(30)?;
        let length = usize::from(from.u16()?);
        from.take(16)?;
        let gid = from.take(length.min(MAX_GID))?;
        let gid = Reader::new(gid).text()?;
        Some(Prepared {
            xid,
            gid: String::from_utf8_lossy(gid).into_owned(),
            database,
            time,
        })
    }
}
