//! Machines that are copied and set back, stopped or with all that memory held.

use super::*;

impl Agent {
    /// Keeps a copy of the stopped machine.
    pub fn keep_past(&mut self) -> Did {
        if self.run.is_some() {
            return nothing();
        }
        self.past = Some((self.disk.snapshot(), self.source.clone()));
        did("is copied while stopped")
    }

    /// Keeps a copy of the running machine, memory and all.
    pub fn freeze(&mut self) -> Did {
        let Some(run) = &self.run else {
            return nothing();
        };
        let (Some(open), Some(stream)) = (&run.epoch, &run.stream) else {
            return nothing();
        };
        self.frozen = Some(Frozen {
            snapshot: self.disk.snapshot(),
            source: self.source.clone(),
            epoch: (
                open.number,
                open.generation,
                *open.root.expose(),
                open.packs,
                open.since,
            ),
            start: stream.start,
            sealed: stream.sealed.clone(),
            dice: self.dice.clone(),
        });
        did("is copied while running")
    }

    /// The machine is set back to a copy of it: stopped, or running with the memory that it had. What its registry then
    /// writes is something else.
    ///
    /// # Errors
    /// When its sealer cannot be made again.
    pub fn set_back(&mut self, audit: &mut Audit) -> Did {
        if self.dice.percent(50)
            && let Some((snapshot, source)) = self.past.clone()
        {
            self.run = None;
            self.disk.restore(&snapshot);
            self.source = source;
            self.source.system_id += 100;
            return did("is set back to a stopped copy");
        }
        let Some(frozen) = &self.frozen else {
            return nothing();
        };
        self.run = None;
        self.disk.restore(&frozen.snapshot);
        self.source = frozen.source.clone();
        let (epoch, (start, rng), sealed) = (frozen.epoch, frozen.start, frozen.sealed.clone());
        // Chance itself is set back, for clones draw the same; only what the registry writes differs.
        self.source.twist = 1 + self.dice.roll(255) as u8;
        self.dice = frozen.dice.clone();
        let _on = self.disk.on();
        let Ok(mut run) = self.recover() else {
            return nothing();
        };
        let root = EpochRoot::from_bytes(epoch.2);
        let remade = StreamSealer::open(&start, &root, &rng, b"");
        let Ok((mut sealer, opening)) = remade else {
            return found("agent", "a sealer cannot be made again");
        };
        let commitment = audit.opened_stream(&opening)?;
        // The machine was copied between two frames: the spool ends where the sealer stands, or what was not synced.
        let have = run
            .kept
            .back()
            .filter(|kept| kept.id == start.stream)
            .and_then(Kept::end);
        for wal in &sealed {
            if have.is_none_or(|end| sealer.position().seq >= end.seq) {
                break;
            }
            let at = sealer.position().end_lsn;
            if sealer.frame(at, MAIN_LINE, wal).is_err() {
                return found("agent", "a frame cannot be sealed again");
            }
        }
        let known = sealer.position().seq as usize;
        run.epoch = Some(Open {
            number: epoch.0,
            generation: epoch.1,
            root,
            packs: epoch.3,
            since: epoch.4,
        });
        if have.is_some_and(|end| end.chain == sealer.position().chain) {
            run.stream = Some(Sealing {
                id: start.stream,
                sealer,
                commitment,
                start: (start, rng),
                sealed: sealed[..known.min(sealed.len())].to_vec(),
            });
        }
        self.runs += 1;
        self.run = Some(run);
        did("is set back to a running copy")
    }
}
