//! Somebody with all of home's keys: he says whatever the protocol lets him say, and repeats what others said.

use legation_core::id::{Digest, EpochNo, Generation, Lsn, StreamId, Term, Timeline, VersionNo};
use legation_core::journal::{MAIN, StreamSealer, StreamStart};
use legation_core::keys::EpochRoot;
use legation_core::list::{ListRow, PackList};
use legation_core::pack::PackBuilder;
use legation_core::slip::{self, SlipHeader};
use legation_core::statement::{
    Branch, Cause, Commit, Doubt, Epoch, EpochSet, Gap, Mark, Packs, RootRow, Signed, Statement,
    WalRange,
};
use legation_repo::store::Kind;

use crate::line::{Ask, Body, Who};
use crate::world::World;

/// How many of others' messages he remembers.
const MEMORY: usize = 64;

/// What he has seen.
#[derive(Default)]
pub struct Thief {
    heard: Vec<Body>,
}

impl Thief {
    /// He reads along.
    pub fn overhears(&mut self, body: &Body) {
        if self.heard.len() == MEMORY {
            self.heard.remove(0);
        }
        self.heard.push(body.clone());
    }
}

impl World {
    /// The thief does something.
    pub(crate) fn steal(&mut self) {
        if self.audit.fold.is_none() {
            return;
        }
        self.counts.thefts += 1;
        let n = self.dice.roll(self.agents.len());
        let (what, bodies) = match self.dice.roll(9) {
            0 | 1 if !self.thief.heard.is_empty() => {
                let body = self.dice.pick(&self.thief.heard).clone();
                ("repeats a message", vec![body])
            }
            2 => ("opens an epoch", self.false_epoch(n)),
            3 | 4 => ("commits a version", self.false_version(n)),
            5 => ("tells of a gap or a doubt", vec![self.false_gap(n)]),
            6 => ("begins a stream", self.false_stream(n)),
            7 => ("marks", vec![self.false_mark(n)]),
            _ => ("sends rubbish", vec![self.rubbish(n)]),
        };
        self.trace
            .say(format_args!("the thief {what} of registry {n}"));
        for body in bodies {
            let id = self.ask_id();
            self.post(Ask {
                id,
                who: Who::Thief,
                body,
                held: None,
            });
        }
    }

    fn forge(&self, n: usize, statement: impl Into<Statement>) -> Body {
        let (_, key) = self.founding.writer(n);
        let signed = Signed::sign_with(statement, &key).expect("signs");
        Body::Statement(signed.encode().into_bytes())
    }

    /// The term that counts, or an older or later one.
    fn some_term(&mut self, n: usize) -> Term {
        let now = self.audit.term(self.agents[n].registry);
        match self.dice.roll(6) {
            0 => Term(now.0.saturating_sub(1).max(1)),
            1 => Term(now.0 + 1),
            _ => now,
        }
    }

    fn false_epoch(&mut self, n: usize) -> Vec<Body> {
        let registry = self.agents[n].registry;
        let fold = self.audit.fold();
        let last = fold.registry(registry).map_or(0, |r| r.last_epoch().0);
        let generation = fold.generation().unwrap_or(Generation(1));
        let epoch = EpochNo(last + 1);
        let header = SlipHeader {
            state: self.founding.state,
            registry,
            epoch,
            generation,
        };
        let row = &self.founding.mandate.vault[generation.0 as usize - 1];
        let Ok(vault) = self.founding.keyring.sealing_key(&row.key) else {
            return Vec::new();
        };
        let root = EpochRoot::from_bytes(self.dice.bytes());
        let Ok(mut slip) = slip::seal(&vault, &header, &root, &self.dice.bytes()) else {
            return Vec::new();
        };
        if self.dice.percent(50) {
            // It opens under no key.
            slip[100] ^= 1;
        }
        let term = self.some_term(n);
        let statement = self.forge(
            n,
            Epoch {
                state: self.founding.state,
                mandate: 1,
                registry,
                term,
                epoch,
                generation,
                suite: 1,
                slip: Digest::of(&slip),
            },
        );
        vec![Body::Object(Kind::Slip, Digest::of(&slip), slip), statement]
    }

    fn false_version(&mut self, n: usize) -> Vec<Body> {
        let registry = self.agents[n].registry;
        let known = self.audit.fold().registry(registry).cloned();
        let Some(known) = known.filter(|known| known.last_epoch().0 > 0) else {
            return Vec::new();
        };
        let epoch = EpochNo(1 + self.dice.roll(known.last_epoch().0 as usize) as u32);
        let seq = self.dice.roll(1000) as u32 + 1;
        let mut builder = PackBuilder::new(self.founding.state, registry, epoch, seq);
        let root = EpochRoot::from_bytes(self.dice.bytes());
        let text = self.dice.text(2000);
        let Ok(Some(at)) = builder.push(&text) else {
            return Vec::new();
        };
        let Ok(pack) = builder.seal(&root, &self.dice.bytes()) else {
            return Vec::new();
        };
        let mut rows = vec![ListRow {
            epoch,
            seq,
            size: pack.size,
            digest: pack.digest,
        }];
        if let (Some(head), true) = (known.head(), self.dice.percent(50)) {
            // What others wrote, listed as his.
            let list = head.commit.packs.list;
            let lists = self.site.process();
            let list = lists.and_then(|embassy| embassy.object(Kind::List, &list).ok());
            let list = list.and_then(|bytes| PackList::decode(&bytes).ok());
            rows.extend(list.iter().flat_map(|list| list.rows()).copied());
            rows.sort_by_key(|row| (row.epoch, row.seq));
            rows.dedup_by_key(|row| (row.epoch, row.seq));
        }
        let Ok(list) = PackList::new(self.founding.state, registry, rows) else {
            return Vec::new();
        };
        let term = self.some_term(n);
        let head = known.head();
        let encoded = list.encode();
        let Some(epochs) = EpochSet::of(list.epochs()) else {
            return Vec::new();
        };
        let commit = Commit {
            state: self.founding.state,
            mandate: 1,
            registry,
            term,
            branch: Branch::Main,
            version: VersionNo(head.map_or(1, |h| h.commit.version.0 + 1)),
            parent: head.map(|h| h.id),
            class: self.founding.mandate.retention[0].class.clone(),
            suite: 1,
            epochs,
            packs: Packs {
                count: list.rows().len() as u64,
                list: Digest::of(&encoded),
            },
            bytes: list.bytes(),
            root: RootRow {
                epoch,
                seq,
                index: at.index,
                offset: at.offset,
                sealed: at.sealed,
                plain: at.plain,
            },
            timeline: None,
            wal: None,
            stream: None,
            captured: self.time(),
        };
        let statement = self.forge(n, commit);
        vec![
            Body::Object(Kind::Pack, pack.digest, pack.bytes),
            Body::Object(Kind::List, Digest::of(&encoded), encoded),
            statement,
        ]
    }

    fn false_gap(&mut self, n: usize) -> Body {
        let (state, registry, at) = (self.founding.state, self.agents[n].registry, self.time());
        let (term, start) = (self.some_term(n), Lsn(self.dice.between(0, 1 << 30)));
        let wal = Some(WalRange {
            start,
            stop: Lsn(start.0 + self.dice.between(0, 1 << 20)),
        });
        let timeline = Some(Timeline(1));
        if self.dice.percent(50) {
            let cause = Cause::SpoolFull;
            let gap = Gap {
                state,
                mandate: 1,
                registry,
                term,
                timeline,
                wal,
                cause,
                at,
            };
            return self.forge(n, gap);
        }
        let doubt = Doubt {
            state,
            mandate: 1,
            registry,
            term,
            timeline,
            wal,
            version: None,
            cause: Cause::StandbyRemoved,
            at,
        };
        self.forge(n, doubt)
    }

    fn false_stream(&mut self, n: usize) -> Vec<Body> {
        let registry = self.agents[n].registry;
        let last = self.audit.fold().registry(registry).map(|r| r.last_epoch());
        let mut streams = self.audit.acks.iter().filter(|((r, _), _)| *r == registry);
        let known = streams
            .next_back()
            .map(|((_, id), (_, chain))| (*id, *chain));
        let stream = match known {
            // Another stream of a name that is in use.
            Some((id, _)) if self.dice.percent(30) => id,
            _ => StreamId(self.dice.bytes()),
        };
        let start = StreamStart {
            state: self.founding.state,
            registry,
            epoch: last.unwrap_or(EpochNo(1)),
            term: self.some_term(n),
            stream,
            branch: MAIN,
            system_id: 9,
            timeline: Timeline(1),
            lsn: Lsn(self.dice.between(0, 1 << 30)),
            previous: known.filter(|_| self.dice.percent(60)),
        };
        let root = EpochRoot::from_bytes(self.dice.bytes());
        let opened = StreamSealer::open(&start, &root, &self.dice.bytes(), b"");
        let Ok((mut sealer, mut frames)) = opened else {
            return Vec::new();
        };
        let text = self.dice.text(500);
        if let Ok(frame) = sealer.frame(start.lsn, Timeline(1), &text) {
            frames.extend_from_slice(&frame);
        }
        let (name, _) = self.founding.writer(n);
        vec![Body::Frames(name, registry, stream, frames)]
    }

    fn false_mark(&mut self, n: usize) -> Body {
        let registry = self.agents[n].registry;
        let mut streams = self.audit.acks.iter().filter(|((r, _), _)| *r == registry);
        let known = streams
            .next()
            .map(|((_, id), (seq, chain))| (*id, *seq, *chain));
        let (stream, sequence, chain) =
            known.unwrap_or((StreamId([9; 16]), 3, Digest::of(b"chain")));
        let known = self.audit.fold().registry(registry);
        let epoch = known.map_or(EpochNo(1), |known| known.last_epoch());
        let mark = Mark {
            state: self.founding.state,
            mandate: 1,
            registry,
            term: self.some_term(n),
            epoch,
            stream,
            sequence: sequence + self.dice.roll(3) as u64,
            chain,
            timeline: Timeline(1),
            lsn: Lsn(self.dice.between(0, 1 << 30)),
            at: self.time(),
        };
        self.forge(n, mark)
    }

    fn rubbish(&mut self, n: usize) -> Body {
        let len = *self.dice.pick(&[0, 100, 4096, 65_536]);
        let mut bytes = vec![0; len];
        self.dice.fill(&mut bytes);
        let (name, _) = self.founding.writer(n);
        let registry = self.agents[n].registry;
        match self.dice.roll(4) {
            0 => Body::Object(Kind::Pack, Digest::of(&bytes), bytes),
            1 => Body::Object(Kind::List, Digest::of(b"another"), bytes),
            2 => Body::Frames(name, registry, StreamId(self.dice.bytes()), bytes),
            _ => Body::Statement(bytes),
        }
    }
}
