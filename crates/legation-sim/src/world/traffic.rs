//! Requests and answers on their way.

use super::*;

impl World {
    pub(crate) fn ask_id(&mut self) -> u64 {
        self.next_ask += 1;
        self.next_ask
    }

    /// An agent asks where its streams stand.
    pub(super) fn wonder(&mut self, n: usize) -> Checked {
        if !self.agents[n].wonders() || !(self.calm || self.dice.percent(70)) {
            return Ok(());
        }
        let (registry, time) = (self.agents[n].registry, self.time());
        let standing = self.site.process().and_then(|e| e.streams(registry).ok());
        match standing {
            Some(streams) => self.tell(n, |agent, _| agent.told(&streams, time)),
            None => Ok(()),
        }
    }

    pub(super) fn send(&mut self, n: usize) {
        let id = self.ask_id();
        let step = self.trace.step;
        let run = self.agents[n].runs;
        let Some((body, held)) = self.agents[n].send(step, id) else {
            return;
        };
        let what = describe(&body);
        let who = Who::Agent(n, run);
        self.thief.overhears(&body);
        let arrives = self.post(Ask {
            id,
            who,
            body,
            held,
        });
        let lost = if arrives { "" } else { ", which is lost" };
        self.trace.say(format_args!("agent {n} sends {what}{lost}"));
    }

    /// Puts a request on the line.
    pub(crate) fn post(&mut self, ask: Ask) -> bool {
        let mut weather = self.profile.weather;
        if self.calm {
            (weather.lost, weather.twice, weather.slowest) = (0, 0, 1);
        }
        self.asks
            .send(self.trace.step, ask, &weather, &mut self.dice)
    }

    /// Requests reach the embassy, some of them at once.
    pub(super) fn deliver(&mut self) -> Checked {
        let most = 1 + self.dice.roll(GROUP);
        let asks = self.asks.arrive(self.trace.step, most, &mut self.dice);
        if asks.is_empty() || !self.site.is_up() {
            return Ok(());
        }
        self.counts.requests += asks.len() as u64;
        let terms: Vec<_> = self
            .agents
            .iter()
            .map(|a| self.audit.term(a.registry))
            .collect();
        let Some(answers) = self.site.with(|embassy| process(embassy, &asks)) else {
            self.trace.say(format_args!(
                "{} requests reach the embassy, and its power goes",
                asks.len()
            ));
            return Ok(());
        };
        self.look()?;
        for (ask, answer) in asks.into_iter().zip(answers) {
            self.trace.say(format_args!(
                "the embassy answers {} with {}",
                describe(&ask.body),
                describe_answer(&answer)
            ));
            self.promise(&ask, &answer, &terms)?;
            let mut weather = self.profile.weather;
            if self.calm {
                (weather.lost, weather.twice, weather.slowest) = (0, 0, 1);
            }
            self.answers
                .send(self.trace.step, (ask, answer), &weather, &mut self.dice);
        }
        Ok(())
    }

    /// What leaves the embassy is a promise, whether or not it arrives.
    pub(super) fn promise(
        &mut self,
        ask: &Ask,
        answer: &Answer,
        terms: &[legation_core::id::Term],
    ) -> Checked {
        match answer {
            Answer::Receipt(receipt) if !self.betrayed => {
                let Body::Statement(bytes) = &ask.body else {
                    return Ok(());
                };
                let id = Signed::parse(bytes).map_or(Sha256([0; 32]), |signed| signed.id());
                self.audit.receipt(id, receipt.index)
            }
            Answer::Ack(ack) => {
                let signed = Signed::parse(ack.as_bytes());
                let Ok(Ok(Statement::Ack(ack))) = signed.map(|signed| signed.statement()) else {
                    return found("ack", "it is no acknowledgement");
                };
                let n = self.agents.iter().position(|a| a.registry == ack.registry);
                let term = n.and_then(|n| terms.get(n)).copied();
                if matches!(ask.who, Who::Agent(..)) {
                    self.audit.ours.insert((ack.registry, ack.stream));
                }
                self.audit.ack(&ack, term.unwrap_or(ack.term))
            }
            Answer::Refused(_) => {
                self.counts.refusals += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Answers reach whoever asked.
    pub(super) fn answer(&mut self) -> Checked {
        let arrived = self.answers.arrive(self.trace.step, 3, &mut self.dice);
        for (ask, answer) in arrived {
            let Who::Agent(n, run) = ask.who else {
                if let (Who::Desk(order), Answer::Refused(problem)) = (&ask.who, &answer) {
                    self.counts.orders_refused += 1;
                    self.trace
                        .say(format_args!("order {order} is refused: {}", problem.title));
                }
                continue;
            };
            if self.agents[n].runs != run || !self.agents[n].is_up() {
                continue;
            }
            self.hear(n, &ask, answer)?;
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, n: usize, ask: &Ask, answer: Answer) -> Checked {
        let time = self.time();
        let process = self.site.process();
        let mut prove = |old, new| process?.log().consistency(old, new).ok();
        let refused = matches!(answer, Answer::Refused(_));
        let held: Option<&Checkpoint> = ask.held.as_ref();
        let did = self.agents[n].hear(ask.id, &ask.body, held, answer, time, &mut prove);
        self.say(n, did)?;
        // Whoever was refused reads the log before he goes on.
        if refused && self.site.is_up() && self.audit.size() > 0 && !self.betrayed {
            self.agents[n].learn(self.audit.fold());
            let did = self.agents[n].settle_epochs(self.audit.fold(), time);
            self.say(n, did)?;
        }
        Ok(())
    }
}

/// Puts requests through: frames as one group, statements as one batch, objects one by one.
fn process(embassy: &mut legation_embassy::local::LocalEmbassy, asks: &[Ask]) -> Vec<Answer> {
    let refused = Answer::Refused;
    let mut answers: Vec<Option<Answer>> = vec![None; asks.len()];
    let (mut frames, mut statements) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (n, ask) in asks.iter().enumerate() {
        match &ask.body {
            Body::Object(kind, digest, bytes) => {
                let put = embassy.put_object(*kind, digest, bytes);
                answers[n] = Some(put.map_or_else(refused, |_| Answer::Kept));
            }
            Body::Frames(writer, registry, stream, bytes) => {
                frames.0.push(n);
                let bytes = Bytes::copy_from_slice(bytes);
                frames.1.push((writer.clone(), *registry, *stream, bytes));
            }
            Body::Statement(bytes) => {
                statements.0.push(n);
                let old = ask.held.as_ref().map_or(0, Checkpoint::size);
                statements.1.push((bytes.clone(), old));
            }
        }
    }
    for (n, ack) in frames.0.into_iter().zip(embassy.append(frames.1)) {
        answers[n] = Some(ack.map_or_else(refused, Answer::Ack));
    }
    let receipts = embassy.submit(&statements.1);
    for (n, receipt) in statements.0.into_iter().zip(receipts) {
        answers[n] =
            Some(receipt.map_or_else(refused, |receipt| Answer::Receipt(Box::new(receipt))));
    }
    answers.into_iter().flatten().collect()
}

fn describe(body: &Body) -> String {
    match body {
        Body::Object(kind, _, bytes) => format!("a {kind} of {} bytes", bytes.len()),
        Body::Statement(bytes) => match Signed::parse(bytes).map(|signed| signed.statement()) {
            Ok(Ok(statement)) => kind_of(&statement),
            _ => "something that is no statement".to_owned(),
        },
        Body::Frames(_, registry, _, bytes) => {
            format!("{} bytes of frames of {registry}", bytes.len())
        }
    }
}

fn describe_answer(answer: &Answer) -> String {
    match answer {
        Answer::Kept => "kept".to_owned(),
        Answer::Receipt(receipt) => format!("a receipt of entry {}", receipt.index),
        Answer::Ack(_) => "an ack".to_owned(),
        Answer::Refused(problem) if problem.status == 409 => problem.detail.clone(),
        Answer::Refused(problem) => format!("{} {}", problem.status, problem.title),
    }
}

/// `legation/commit/v1` is a commit.
fn kind_of(statement: &Statement) -> String {
    let header = statement.kind().header;
    let name = header.split('/').nth(1).unwrap_or(header);
    format!("a statement: {name}")
}
