//! Streams: sealing the registry's log into the spool, and beginning anew where the line of streams is broken.

use super::*;

impl Agent {
    /// Seals some of the registry's log, syncs it if the dice say so, and tells the registry what is safe.
    ///
    /// # Errors
    /// When a key and nonce were used twice.
    pub fn pump(&mut self, now: u64, audit: &mut Audit) -> Did {
        let _on = self.disk.on();
        let syncs = self.dice.percent(60);
        match self.pump_some(now, audit, 1 + self.dice.clone().roll(4), syncs) {
            Ok(checked) => checked,
            Err(()) => self.ended(()),
        }
    }

    pub(super) fn pump_some(
        &mut self,
        now: u64,
        audit: &mut Audit,
        frames: usize,
        syncs: bool,
    ) -> Result<Did, ()> {
        if !self.epoch(now)? {
            return Ok(nothing());
        }
        if self.run.as_ref().is_some_and(|run| run.stream.is_none()) {
            match self.begin(audit)? {
                Ok(true) => {}
                Ok(false) => {
                    let told = |run: &Run| run.outbox.iter().any(|(_, item)| item.is_gap());
                    if self.run.as_ref().is_none_or(told) {
                        return Ok(nothing());
                    }
                    // It died between giving its streams up and telling of the gap.
                    let time = Time::from_millis(now).unwrap_or_default();
                    return Ok(self.anew(time, "its streams are gone"));
                }
                Err(violation) => return Ok(Err(violation)),
            }
        }
        let mut sealed = 0;
        for _ in 0..frames {
            let most = 1 + self.dice.roll(30_000);
            let Some(run) = &mut self.run else {
                return Err(());
            };
            let (Some(open), Some(kept)) = (&mut run.stream, run.kept.back_mut()) else {
                return Ok(nothing());
            };
            let at = open.sealer.position().end_lsn;
            let wal = self.source.wal(at, most).to_vec();
            if wal.is_empty() {
                break;
            }
            let frame = open.sealer.frame(at, MAIN_LINE, &wal).map_err(|_| ())?;
            if let Err(violation) = audit.sealed_frame(&open.commitment, &frame, &wal) {
                return Ok(Err(violation));
            }
            open.sealed.push(wal);
            sealed += 1;
            kept.spool.append(&frame).map_err(|_| ())?;
        }
        if syncs {
            let Some(kept) = self.run.as_mut().and_then(|run| run.kept.back_mut()) else {
                return Err(());
            };
            if let Some(position) = kept.spool.sync().map_err(|_| ())? {
                self.source.flushed = position.end_lsn;
            }
        }
        let flushed = self.source.flushed;
        Ok(did(format!("seals {sealed} frames, safe up to {flushed}")))
    }

    /// Begins a stream under the current epoch.
    pub(super) fn begin(&mut self, audit: &mut Audit) -> Result<Checked<bool>, ()> {
        let (id, rng) = (StreamId(self.dice.bytes()), self.dice.bytes::<32>());
        let state = self.state();
        let Some(run) = &mut self.run else {
            return Err(());
        };
        let Some(open) = &run.epoch else {
            return Ok(Ok(false));
        };
        // What a stream continues is whole and durable first, or it could never be sent.
        if let Some(kept) = run.kept.back_mut() {
            kept.spool.sync().map_err(|_| ())?;
        }
        let last = run.kept.back().and_then(Kept::end);
        if last.is_none() && !run.memory.anew {
            return Ok(Ok(false));
        }
        let lsn = last.map_or(self.source.flushed, |end| end.end_lsn);
        let start = StreamStart {
            state,
            registry: self.registry,
            epoch: open.number,
            term: run.memory.term,
            stream: id,
            branch: MAIN,
            system_id: self.source.system_id,
            timeline: MAIN_LINE,
            lsn,
            previous: last.map(|end| (end.stream, end.chain)),
        };
        let (sealer, frame) = StreamSealer::open(&start, &open.root, &rng, b"").map_err(|_| ())?;
        let commitment = match audit.opened_stream(&frame) {
            Ok(commitment) => commitment,
            Err(violation) => return Ok(Err(violation)),
        };
        let (epoch, term, ordinal) = (open.number, run.memory.term, run.memory.ordinal);
        run.memory.ordinal += 1;
        run.memory.anew = false;
        let name = self.stream(id);
        let path = self.path(&format!("spool/{ordinal:08}-{id}"));
        let (mut spool, _) = Spool::open(&path, &name).map_err(|_| ())?;
        spool.append(&frame).map_err(|_| ())?;
        spool.sync().map_err(|_| ())?;
        self.source.flushed = lsn;
        self.remember()?;
        if let Some(run) = &mut self.run {
            run.kept.push_back(Kept {
                ordinal,
                id,
                epoch,
                term,
                spool,
                next: Some(0),
            });
            run.stream = Some(Sealing {
                id,
                sealer,
                commitment,
                start: (start, rng),
                sealed: Vec::new(),
            });
        }
        Ok(Ok(true))
    }

    /// Marks how far the stream has come.
    pub fn mark(&mut self, time: Time) -> Did {
        let _on = self.disk.on();
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let Some(acked) = run.acked.filter(|acked| acked.seq > run.marked) else {
            return nothing();
        };
        let Some(kept) = run.kept.iter().find(|kept| kept.id == acked.stream) else {
            return nothing();
        };
        let mark = Mark {
            state: self.founding.state,
            mandate: 1,
            registry: self.registry,
            term: kept.term,
            epoch: kept.epoch,
            stream: acked.stream,
            sequence: acked.seq,
            chain: acked.chain,
            timeline: acked.timeline,
            lsn: acked.end_lsn,
            at: time,
        };
        run.marked = acked.seq;
        let statement = self.sign(mark);
        match self.push(Item::Statement(statement)) {
            Ok(()) => did(format!("marks frame {}", acked.seq)),
            Err(()) => self.ended(()),
        }
    }

    /// Whether it has to ask where its streams stand.
    #[must_use]
    pub fn wonders(&self) -> bool {
        let run = self.run.as_ref();
        run.is_some_and(|run| run.kept.iter().any(|kept| kept.next.is_none()))
    }

    /// Where the embassy's streams of the registry stand.
    ///
    /// # Errors
    /// None of its own.
    pub fn told(&mut self, streams: &[StreamBody], time: Time) -> Did {
        let _on = self.disk.on();
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let mut other = false;
        for kept in &mut run.kept {
            let standing = streams.iter().find(|s| s.stream == kept.id);
            let next = standing.map_or(0, |standing| standing.next);
            let own = kept.spool.synced().map_or(0, |end| end.seq + 1);
            other |= next > own;
            let same = |standing: &StreamBody| kept.chain_at(next - 1) == Some(standing.chain);
            other |= next > 0 && next <= own && !standing.is_some_and(same);
            kept.next = Some(next);
        }
        if other {
            return self.anew(time, "the embassy has other frames");
        }
        did("is told where its streams stand")
    }

    /// The line of streams is broken: a gap is told of, and then a stream begins that continues none.
    pub(super) fn anew(&mut self, time: Time, why: &str) -> Did {
        let (registry, root) = (self.registry, self.disk.root());
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let from = run
            .acked
            .map_or(crate::source::START, |acked| acked.end_lsn);
        let gap = Gap {
            state: self.founding.state,
            mandate: 1,
            registry,
            term: run.memory.term,
            timeline: Some(MAIN_LINE),
            wal: Some(WalRange {
                start: from.min(self.source.end()),
                stop: self.source.end(),
            }),
            cause: Cause::AgentLost,
            at: time,
        };
        (run.stream, run.journal, run.acked) = (None, None, None);
        run.memory.anew = false;
        let paths: Vec<PathBuf> = run
            .kept
            .drain(..)
            .map(|kept| root.join(format!("spool/{:08}-{}", kept.ordinal, kept.id)))
            .collect();
        for path in paths {
            if self.disk.remove_tree(&path).is_err() {
                return self.ended(());
            }
        }
        if durable::sync_dir(&root.join("spool")).is_err() {
            return self.ended(());
        }
        // What is missing is told; the registry goes on from here.
        self.source.flushed = crate::source::START;
        let statement = self.sign(gap);
        match self
            .push(Item::Statement(statement))
            .and_then(|()| self.remember())
        {
            Ok(()) => did(format!("begins anew: {why}")),
            Err(()) => self.ended(()),
        }
    }
}

impl Kept {
    pub(super) fn end(&self) -> Option<Position> {
        self.spool.position()
    }

    pub(super) fn is_shipped(&self) -> bool {
        let end = self.spool.synced();
        end.is_none_or(|end| self.next.is_some_and(|next| next > end.seq))
    }

    pub(super) fn chain_at(&self, seq: u64) -> Option<Digest> {
        let (header, frame) = self.spool.frames(seq).ok()?.next()?.ok()?;
        let chain = Digest(*frame.last_chunk()?);
        (header.seq == seq).then_some(chain)
    }
}
