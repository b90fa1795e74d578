//! Capturing a version: the shipping writer over the model's files.

use super::*;

impl Agent {
    /// Captures a version of the registry's files, as they are now.
    ///
    /// # Errors
    /// When a key and nonce were used twice.
    pub fn capture(&mut self, now: u64, time: Time, audit: &mut Audit) -> Did {
        let _on = self.disk.on();
        match self.capture_one(now, time, audit) {
            Ok(checked) => checked,
            Err(()) => self.ended(()),
        }
    }

    pub(super) fn capture_one(
        &mut self,
        now: u64,
        time: Time,
        audit: &mut Audit,
    ) -> Result<Did, ()> {
        let Some(run) = &self.run else { return Err(()) };
        // One version at a time.
        let on_its_way = |(_, item): &(u64, Item)| item.is_commit();
        if run.coming.is_some() || run.outbox.iter().any(on_its_way) || !self.epoch(now)? {
            return Ok(nothing());
        }
        // The log up to here is sealed first: the version starts there.
        while self
            .run
            .as_ref()
            .and_then(|run| run.stream.as_ref())
            .is_none_or(|open| open.sealer.position().end_lsn < self.source.end())
        {
            let before = self.source.flushed;
            match self.pump_some(now, audit, 64, true)? {
                Ok(Some(_)) if self.source.flushed > before => {}
                Ok(Some(_)) if self.source.flushed == self.source.end() => break,
                Ok(_) => return Ok(nothing()),
                Err(violation) => return Ok(Err(violation)),
            }
        }
        let whole = self.dice.percent(25);
        let mut rng = self.dice.fork();
        let Some(run) = &mut self.run else {
            return Err(());
        };
        let (Some(open), Some(stream)) = (&mut run.epoch, &run.stream) else {
            return Ok(nothing());
        };
        let place = Place {
            state: self.founding.state,
            registry: self.registry,
            epoch: open.number,
            next_seq: open.packs,
        };
        let version = VersionNo(run.head.map_or(1, |(version, _)| version.0 + 1));
        let mut packs: Vec<(u32, SealedPack)> = Vec::new();
        let parent = run.index.clone();
        let mut writer = VersionWriter::new(place, &open.root, &parent, &mut packs, &mut rng);
        let written = (|| {
            writer.source("tree", "t")?;
            for (name, content) in &self.source.files {
                let known = parent
                    .source("tree", "t")
                    .and_then(|s| s.entry(name.as_bytes()));
                let same = known.filter(|known| {
                    !whole && known.mtime == mtime(content) && known.size == content.len() as u64
                });
                if let Some(known) = same {
                    writer.unchanged(known.clone())?;
                    continue;
                }
                writer.begin(Entry {
                    path: name.clone().into_bytes(),
                    kind: EntryKind::File,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    mtime: mtime(content),
                    size: 0,
                    xattrs: BTreeMap::new(),
                    extents: Extents::default(),
                })?;
                writer.data(0, content)?;
                writer.end()?;
            }
            writer.finish(version)
        })();
        let Ok(finished) = written else {
            return Ok(found("agent", "a version cannot be written"));
        };
        open.packs = finished.next_seq;
        let end = stream.sealer.position();
        let list = finished.list.encode();
        let mut epochs = finished.list.epochs();
        epochs.push(stream.start.0.epoch);
        let commit = Commit {
            state: self.founding.state,
            mandate: 1,
            registry: self.registry,
            term: run.memory.term,
            branch: Branch::Main,
            version,
            parent: run.head.map(|(_, id)| id),
            class: self.founding.mandate.retention[0].class.clone(),
            suite: 1,
            epochs: EpochSet::of(epochs).ok_or(())?,
            packs: Packs {
                count: finished.list.rows().len() as u64,
                list: Digest::of(&list),
            },
            bytes: finished.list.bytes(),
            root: RootRow {
                epoch: finished.root.epoch,
                seq: finished.root.seq,
                index: finished.root.index,
                offset: finished.root.offset,
                sealed: finished.root.sealed,
                plain: finished.root.plain,
            },
            timeline: Some(MAIN_LINE),
            wal: Some(legation_core::statement::BaseWal {
                range: WalRange {
                    start: end.end_lsn,
                    stop: end.end_lsn,
                },
                server: None,
            }),
            stream: Some(stream.id),
            captured: time,
        };
        let statement = self.sign(commit);
        let id = Signed::parse(&statement).map_err(|_| ())?.id();
        let captured = Captured {
            registry: self.registry,
            files: self.source.files.clone(),
        };
        audit.versions.insert(Digest::of(&list), captured);
        let count = packs.len();
        for (_, pack) in packs {
            if let Err(violation) = audit.sealed_pack(&pack.bytes) {
                return Ok(Err(violation));
            }
            self.push(Item::Object(Kind::Pack, pack.bytes))?;
        }
        self.push(Item::Object(Kind::List, list))?;
        self.push(Item::Statement(statement))?;
        if let Some(run) = &mut self.run {
            run.coming = Some((id, version, finished.index));
        }
        Ok(did(format!("captures {version} in {count} packs")))
    }
}

/// A file's time of change, in this model a digest of its content: equal times mean equal bytes.
pub(super) fn mtime(content: &[u8]) -> Mtime {
    let digest = Digest::of(content).0;
    let secs = i64::from(u32::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3],
    ]));
    Mtime { secs, nanos: 0 }
}
