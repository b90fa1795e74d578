//! Answers: only what verifies frees anything, and a refusal says what to do.

use super::*;

impl Agent {
    /// An answer came. `prove` fetches a proof between two sizes of the log.
    ///
    /// # Errors
    /// When an answer that should be right cannot be verified.
    pub fn hear(
        &mut self,
        id: u64,
        body: &Body,
        held: Option<&Checkpoint>,
        answer: Answer,
        time: Time,
        prove: &mut dyn FnMut(u64, u64) -> Option<Vec<Sha256>>,
    ) -> Did {
        let _on = self.disk.on();
        let heard = match (body, answer) {
            (Body::Object(..), Answer::Kept) => {
                self.sent(id);
                nothing()
            }
            (Body::Statement(bytes), Answer::Receipt(receipt)) => {
                self.receipt(id, bytes, held, &receipt, prove)
            }
            (Body::Frames(_, _, stream, bytes), Answer::Ack(ack)) => {
                self.acked(id, *stream, bytes, &ack, time)
            }
            (body, Answer::Refused(problem)) => self.refused(id, body, &problem, time),
            _ => nothing(),
        };
        if self.disk.is_dead() {
            self.run = None;
        }
        heard
    }

    /// The front of the outbox was taken, unless the answer is an old one.
    pub(super) fn sent(&mut self, id: u64) -> bool {
        let Some(run) = &mut self.run else {
            return false;
        };
        let is_this = run.control.is_some_and(|(asked, _)| asked == id);
        if is_this {
            run.control = None;
            self.pop();
        }
        is_this
    }

    pub(super) fn receipt(
        &mut self,
        id: u64,
        bytes: &[u8],
        held: Option<&Checkpoint>,
        body: &ReceiptBody,
        prove: &mut dyn FnMut(u64, u64) -> Option<Vec<Sha256>>,
    ) -> Did {
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let Ok(signed) = Signed::parse(bytes) else {
            return nothing();
        };
        let unproven = |what: String| legation_repo::http::ClientError::Local(what);
        let verified = run.trust.receipt(&signed, held, body, |old, new| {
            prove(old, new).ok_or_else(|| unproven(format!("no proof from {old} to {new}")))
        });
        match verified {
            Ok(_) => {}
            // Its own disk, or nobody to ask for the proof.
            Err(legation_repo::http::ClientError::Local(_)) => return nothing(),
            Err(error) => return found("trust", error.to_string()),
        }
        if !self.sent(id) {
            return nothing();
        }
        let Some(run) = &mut self.run else {
            return nothing();
        };
        match signed.statement() {
            Ok(Statement::Commit(commit)) => {
                run.head = Some((commit.version, signed.id()));
                if let Some((_, version, index)) =
                    run.coming.take().filter(|(id, ..)| *id == signed.id())
                {
                    let mut bytes = version.0.to_le_bytes().to_vec();
                    bytes.extend_from_slice(&signed.id().0);
                    bytes.extend_from_slice(&index.encode());
                    run.index = index;
                    // A lost index costs a full capture.
                    let _ = durable::write_atomic(&self.path("index"), &bytes);
                } else {
                    run.index = Index::empty(self.founding.state, self.registry);
                }
                did(format!("has a receipt of version {}", commit.version))
            }
            Ok(Statement::Gap(_)) => {
                run.memory.anew = true;
                match self.remember() {
                    Ok(()) => did("has a receipt of a gap"),
                    Err(()) => self.ended(()),
                }
            }
            Ok(Statement::Epoch(epoch)) => {
                self.announced(epoch.epoch);
                did(format!("has a receipt of epoch {}", epoch.epoch))
            }
            _ => nothing(),
        }
    }

    /// An epoch is logged: its other announcement, for the case that the first is refused, is not needed.
    pub(super) fn announced(&mut self, epoch: EpochNo) {
        let of_epoch = |item: &Item| match item {
            Item::Object(Kind::Slip, bytes) => {
                slip::header(bytes).is_ok_and(|header| header.epoch == epoch)
            }
            item => item.epoch() == Some(epoch),
        };
        let Some(run) = &mut self.run else { return };
        let waiting = run.outbox.iter();
        let gone: Vec<u64> = waiting
            .filter(|(_, item)| of_epoch(item))
            .map(|(number, _)| *number)
            .collect();
        run.outbox.retain(|(number, _)| !gone.contains(number));
        for number in gone {
            let path = self.path(&format!("outbox/{number:08}"));
            let _ = self.disk.remove(&path);
        }
    }

    pub(super) fn acked(
        &mut self,
        id: u64,
        stream: StreamId,
        sent: &[u8],
        ack: &str,
        time: Time,
    ) -> Did {
        let (state, registry, root) = (self.state(), self.registry, self.disk.root());
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let verified = run
            .trust
            .acknowledgement(state, registry, &stream, ack.as_bytes());
        let (ack, _) = match verified {
            Ok(verified) => verified,
            Err(error) => return found("trust", error.to_string()),
        };
        if run.journal.is_some_and(|(asked, _)| asked == id) {
            run.journal = None;
        }
        let Some(kept) = run.kept.iter_mut().find(|kept| kept.id == stream) else {
            return nothing();
        };
        let ahead = kept.spool.synced().is_none_or(|own| own.seq < ack.sequence);
        let same = !ahead && kept.chain_at(ack.sequence) == Some(ack.chain);
        if !same {
            // Somebody else went on with this stream: another self, or a thief.
            return self.anew(time, "the embassy has other frames");
        }
        let _ = sent;
        kept.next = kept.next.max(Some(ack.sequence + 1));
        run.acked = Some(Position {
            stream,
            seq: ack.sequence,
            chain: ack.chain,
            end_lsn: ack.lsn,
            timeline: MAIN_LINE,
        });
        // Older streams go when all of them is abroad; the newest says where to go on.
        while run.kept.len() > 1 && run.kept[0].is_shipped() {
            if let Some(gone) = run.kept.pop_front() {
                let path = root.join(format!("spool/{:08}-{}", gone.ordinal, gone.id));
                drop(gone);
                let _ = self.disk.remove_tree(&path);
            }
        }
        did(format!("has an ack of frame {}", ack.sequence))
    }

    pub(super) fn refused(&mut self, id: u64, body: &Body, problem: &Problem, time: Time) -> Did {
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let (of_control, of_journal) = (
            run.control.is_some_and(|(asked, _)| asked == id),
            run.journal.is_some_and(|(asked, _)| asked == id),
        );
        if !of_control && !of_journal {
            return nothing();
        }
        let retry = [kind::FULL, kind::BUSY, kind::FAILED].contains(&problem.kind.as_str());
        if retry {
            // It is asked again when patience ends.
            return did(format!("is told: {}", problem.title));
        }
        if of_control {
            run.control = None;
        } else {
            run.journal = None;
        }
        if problem.kind == kind::FENCED {
            run.memory.fenced = true;
            while self.run.as_ref().is_some_and(|run| !run.outbox.is_empty()) {
                self.pop();
            }
            return match self.remember() {
                Ok(()) => did("is fenced"),
                Err(()) => self.ended(()),
            };
        }
        match body {
            Body::Object(..) => {
                self.pop();
                did(format!("keeps an object to itself: {}", problem.title))
            }
            Body::Statement(bytes) => {
                if problem.kind == kind::INCOMPLETE {
                    return found(
                        "receipt",
                        format!("what was kept is gone: {}", problem.detail),
                    );
                }
                // The last announcement of an epoch stays in the queue until the log has said whose the epoch is.
                let epoch = run.outbox.front().and_then(|(_, item)| item.epoch());
                let of = |epoch| move |(_, item): &(u64, Item)| item.epoch() == Some(epoch);
                let last = epoch.filter(|epoch| !run.outbox.iter().skip(1).any(of(*epoch)));
                if let Some(epoch) = last {
                    run.lost.insert(epoch);
                    return did(format!("may have lost epoch {epoch}"));
                }
                self.pop();
                self.not_logged(bytes, problem, time)
            }
            Body::Frames(_, _, stream, _) => {
                if !run.kept.iter().any(|kept| kept.id == *stream) {
                    return nothing();
                }
                if problem.position.is_none() {
                    return self.anew(time, &problem.detail);
                }
                // Where do the streams stand?
                for kept in &mut run.kept {
                    kept.next = None;
                }
                did("does not know where its streams stand")
            }
        }
    }

    /// A statement was refused for good.
    pub(super) fn not_logged(&mut self, bytes: &[u8], problem: &Problem, time: Time) -> Did {
        let Ok(Ok(statement)) = Signed::parse(bytes).map(|signed| signed.statement()) else {
            return nothing();
        };
        let Some(run) = &mut self.run else {
            return nothing();
        };
        match statement {
            Statement::Commit(commit) => {
                run.coming = None;
                did(format!(
                    "gives version {} up: {}",
                    commit.version,
                    short(problem)
                ))
            }
            Statement::Gap(_) => self.anew(time, "the gap was refused"),
            _ => did(format!("lets a statement go: {}", short(problem))),
        }
    }

    /// Whether epochs that were announced are those that the log has; gives up what was sealed under others.
    ///
    /// # Errors
    /// None of its own.
    pub fn settle_epochs(&mut self, fold: &State, time: Time) -> Did {
        let _on = self.disk.on();
        let (registry, root) = (self.registry, self.disk.root());
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let lost = run.lost.clone();
        let Some(known) = fold.registry(registry) else {
            return nothing();
        };
        let theirs = |epoch: &EpochNo| {
            let slip = known.epoch(*epoch).map(|state| state.slip);
            slip.is_none_or(|slip| !run.ours.contains(&slip))
        };
        let (lost, ours): (Vec<EpochNo>, Vec<EpochNo>) = lost.into_iter().partition(theirs);
        for epoch in ours {
            self.announced(epoch);
        }
        let Some(run) = &mut self.run else {
            return nothing();
        };
        if lost.is_empty() {
            run.lost.clear();
            return nothing();
        }
        let is_lost = |epoch: &EpochNo| lost.contains(epoch);
        if run.epoch.as_ref().is_some_and(|open| is_lost(&open.number)) {
            (run.epoch, run.stream) = (None, None);
        }
        // A version under such an epoch could be opened by nobody.
        let of_lost = |item: &Item| item.is_commit() && item.epochs().iter().any(is_lost);
        let gone: Vec<u64> = run
            .outbox
            .iter()
            .filter(|(_, item)| of_lost(item))
            .map(|(number, _)| *number)
            .collect();
        run.outbox.retain(|(number, _)| !gone.contains(number));
        if !gone.is_empty() {
            run.coming = None;
        }
        for number in gone {
            let _ = self.disk.remove(&root.join(format!("outbox/{number:08}")));
        }
        let streams = self
            .run
            .as_ref()
            .is_some_and(|run| run.kept.iter().any(|k| is_lost(&k.epoch)));
        let did_so = match streams {
            true => self.anew(time, "an epoch is another's")?,
            false => Some("gives an epoch up".to_owned()),
        };
        // Only now the announcements go.
        for epoch in &lost {
            self.announced(*epoch);
        }
        if let Some(run) = &mut self.run {
            run.lost.clear();
            run.control = None;
            if !run.outbox.iter().any(|(_, item)| item.epoch().is_some()) {
                // A number that never came into the log is the next one again, with another root.
                run.memory.last_epoch = known.last_epoch();
            }
        }
        Ok(did_so)
    }

    /// How large the log was when it last believed the embassy.
    #[must_use]
    pub fn believed(&self) -> u64 {
        let held = self.run.as_ref().and_then(|run| run.trust.held());
        held.map_or(0, |held| held.size())
    }

    /// Something that it may always say.
    #[must_use]
    pub fn remark(&self, time: Time) -> Vec<u8> {
        self.sign(Gap {
            state: self.state(),
            mandate: 1,
            registry: self.registry,
            term: Term(1),
            timeline: None,
            wal: None,
            cause: Cause::AgentLost,
            at: time,
        })
    }

    /// Whether it believes this answer.
    #[must_use]
    pub fn believes(&self, statement: &[u8], body: &ReceiptBody) -> bool {
        let _on = self.disk.on();
        let (Some(run), Ok(signed)) = (&self.run, Signed::parse(statement)) else {
            return false;
        };
        let held = run.trust.held();
        let unproven = |_, _| Err(legation_repo::http::ClientError::Local(String::new()));
        let verified = run.trust.receipt(&signed, held.as_ref(), body, unproven);
        verified.is_ok()
    }
}

pub(super) fn short(problem: &Problem) -> &str {
    &problem.title
}
