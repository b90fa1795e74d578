//! A small state in memory, with keys for everybody in it: for tests of this and other crates, never for the product.
//!
//! Five officers, any three of whom open, one of them from abroad; two writers, three registries, one embassy `a`,
//! four vault generations. Everything is made from fixed seeds.

use crate::attachments::Held;
use crate::id::{
    Digest, EpochNo, Generation, Lsn, OrderId, RegistryId, Sha256, StreamId, Term, Timeline,
    VersionNo,
};
use crate::keyring::LOG_KEY;
use crate::keys::{OpeningKey, SigningKey};
use crate::policy::{Applied, Refusal, State};
use crate::sshsig::{self, SshPublicKey};
use crate::statement::*;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use std::fmt::Display;
use std::str::FromStr;

/// Reads a value that is spelled right in the test.
pub fn v<T: FromStr<Err: Display>>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// An officer with an Ed25519 SSH key.
pub struct Officer {
    /// His name in the mandate.
    pub name: Name,
    /// Where he is.
    pub territory: Territory,
    key: Ed25519KeyPair,
}

impl Officer {
    fn new(number: u8, territory: Territory) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).expect("a seed");
        Self {
            name: v(&format!("officer-{number}")),
            territory,
            key,
        }
    }

    /// His public key.
    pub fn public(&self) -> SshPublicKey {
        let mut blob = Vec::new();
        put(&mut blob, b"ssh-ed25519");
        put(&mut blob, self.key.public_key().as_ref());
        SshPublicKey::from_blob(&blob).expect("an Ed25519 key")
    }

    /// What `ssh-keygen -Y sign -n namespace` would write.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> String {
        let mut signed = b"SSHSIG".to_vec();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, message);
        for part in [namespace.as_bytes(), b"", b"sha512", hash.as_ref()] {
            put(&mut signed, part);
        }
        let mut signature = Vec::new();
        put(&mut signature, b"ssh-ed25519");
        put(&mut signature, self.key.sign(&signed).as_ref());
        let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
        for part in [
            self.public().blob(),
            namespace.as_bytes(),
            b"",
            b"sha512",
            &signature,
        ] {
            put(&mut blob, part);
        }
        sshsig::armour(&blob)
    }
}

/// Appends an SSH string.
pub fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).expect("short").to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The state, its people, and its log so far.
pub struct World {
    /// Five officers: three at home, two abroad.
    pub officers: Vec<Officer>,
    /// The keys of writers `w-1` and `w-2`.
    pub writers: Vec<SigningKey>,
    /// The key of embassy `a`.
    pub embassy: SigningKey,
    /// The vault's opening keys, which in life nobody holds.
    pub vault: Vec<OpeningKey>,
    /// Keyring, session keys, recipients.
    pub held: Held,
    /// The log.
    pub entries: Vec<Entry>,
    /// What it has come to.
    pub state: State,
    /// The embassy's clock; every entry moves it by a second.
    pub now: Time,
}

/// The registries: the first two are written by `w-1`, the third by `w-2`.
pub fn registry(number: u32) -> RegistryId {
    RegistryId::new(0x3f_9a10 + number).expect("below 2^24")
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A founded state with an empty log but for the mandate.
    pub fn new() -> Self {
        let (world, mandate) = Self::unfounded();
        world.found(mandate).expect("founds")
    }

    /// Everything up to the founding: change the mandate, then [`Unfounded::found`] it.
    pub fn unfounded() -> (Unfounded, Mandate) {
        let territories = [
            Territory::Home,
            Territory::Home,
            Territory::Home,
            Territory::Abroad,
            Territory::Abroad,
        ];
        let officers: Vec<_> = (1..)
            .zip(territories)
            .map(|(n, territory)| Officer::new(n, territory))
            .collect();
        let writers: Vec<_> = [11, 12]
            .map(|n| SigningKey::from_seed(&[n; 64]).expect("a seed"))
            .into();
        let embassy = SigningKey::from_seed(&[21; 64]).expect("a seed");
        let vault: Vec<_> = [31, 32, 33, 34]
            .map(|n| OpeningKey::from_seed(&[n; 32]).expect("a seed"))
            .into();
        let log_key = vec![41; LOG_KEY];
        let mut keys: Vec<Vec<u8>> = writers
            .iter()
            .chain([&embassy])
            .map(|k| k.verifying_key().encode().to_vec())
            .collect();
        keys.extend(vault.iter().map(|k| k.public().encode().to_vec()));
        keys.push(log_key.clone());
        let keyring = Keyring::of(keys);
        let generations = || (1..=4).map(Generation);
        let mut held = Held::new();
        let share = |officer: &Officer, generation: Generation| {
            let digest =
                |part: &str| Sha256::of(format!("{part} {} {generation}", officer.name).as_bytes());
            let b = (officer.territory == Territory::Abroad).then(|| digest("B"));
            ShareRow {
                officer: officer.name.clone(),
                generation,
                a: digest("A"),
                b,
            }
        };
        let mandate = Mandate {
            state: Of::This,
            sequence: 1,
            previous: None,
            suite: 1,
            created: v("2026-11-22T08:00:00Z"),
            need: KOfN { k: 3, n: 5 },
            abroad: Some(KOfN { k: 1, n: 2 }),
            officer: officers
                .iter()
                .map(|o| OfficerRow {
                    name: o.name.clone(),
                    territory: o.territory,
                    key: o.public(),
                })
                .collect(),
            share: generations()
                .flat_map(|g| officers.iter().map(move |o| (o, g)))
                .map(|(o, g)| share(o, g))
                .collect(),
            vault: generations()
                .zip(&vault)
                .map(|(generation, key)| VaultRow {
                    generation,
                    key: key.public().id(),
                })
                .collect(),
            threshold: crate::mandate::ACTS
                .map(|act| ThresholdRow {
                    act,
                    need: 3,
                    abroad: 1,
                })
                .into(),
            embassy: vec![EmbassyRow {
                label: v("a"),
                jurisdiction: v("luxembourg"),
                class: v("physical"),
                key: embassy.verifying_key().id(),
                log_key: Sha256::of(&log_key),
                tls: Sha256::of(b"tls a"),
            }],
            ack: KOfN { k: 1, n: 1 },
            witness: None,
            retention: vec![
                RetentionRow {
                    class: v("permanent"),
                    keep: Keep::Forever,
                },
                RetentionRow {
                    class: v("short"),
                    keep: Keep::Days(90),
                },
            ],
            writer: (1..)
                .zip(&writers)
                .map(|(n, key)| {
                    let tls = Sha256::of(format!("tls w-{n}").as_bytes());
                    WriterRow {
                        name: v(&format!("w-{n}")),
                        key: key.verifying_key().id(),
                        tls,
                    }
                })
                .collect(),
            client: vec![ClientRow {
                name: v("desk"),
                tls: Sha256::of(b"tls desk"),
            }],
            registry: [("w-1", "T0"), ("w-1", "T1"), ("w-2", "T3")]
                .iter()
                .zip(1..)
                .map(|((writer, tier), n)| RegistryRow {
                    id: registry(n),
                    tier: v(tier),
                    class: v("permanent"),
                    writer: v(writer),
                    embassy: v("a"),
                })
                .collect(),
            keyring: held.add(keyring.text()),
        };
        (
            Unfounded {
                officers,
                writers,
                embassy,
                vault,
                held,
            },
            mandate,
        )
    }

    /// Signs as a writer: 1 or 2.
    pub fn write(&self, writer: usize, statement: impl Into<Statement>) -> Signed {
        Signed::sign_with(statement, &self.writers[writer - 1]).expect("signs")
    }

    /// Signs as the embassy.
    pub fn tell(&self, statement: impl Into<Statement>) -> Signed {
        Signed::sign_with(statement, &self.embassy).expect("signs")
    }

    /// Signs as these officers, by number.
    pub fn approve(&self, order: &Order, officers: &[usize]) -> Signed {
        let mut signed = Signed::unsigned(order.text()).expect("a statement");
        for n in officers {
            let officer = &self.officers[n - 1];
            let armoured = officer.sign(Order::HEADER, signed.text().as_bytes());
            signed
                .add_officer(officer.name.clone(), &armoured)
                .expect("an SSHSIG");
        }
        signed
    }

    /// What the embassy does: check, log, apply.
    pub fn log(&mut self, signed: Signed) -> Result<Applied, Refusal> {
        let received = self.now.plus_millis(1000);
        self.state.check(&signed, received, &self.held)?;
        let entry = Entry {
            index: self.state.size(),
            received,
            signed,
        };
        let applied = self.state.apply(&entry, &self.held)?;
        self.now = received;
        self.entries.push(entry);
        Ok(applied)
    }

    /// Logs what must be allowed.
    pub fn must(&mut self, signed: Signed) -> Applied {
        self.log(signed)
            .unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The log's leaves.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        self.entries.iter().map(Entry::encode).collect()
    }

    /// The next epoch of a registry.
    pub fn epoch(&self, n: u32) -> Epoch {
        let known = self.state.registry(registry(n)).expect("a registry");
        Epoch {
            state: self.state.id(),
            mandate: 1,
            registry: registry(n),
            term: known.term,
            epoch: EpochNo(known.last_epoch().0 + 1),
            generation: self.state.generation().unwrap_or(Generation(9)),
            suite: 1,
            slip: Digest::of(b"slip"),
        }
    }

    /// The next commit of a registry, in all its epochs.
    pub fn commit(&self, n: u32) -> Commit {
        let known = self.state.registry(registry(n)).expect("a registry");
        let last = EpochNo(known.last_epoch().0.max(1));
        Commit {
            state: self.state.id(),
            mandate: 1,
            registry: registry(n),
            term: known.term,
            branch: Branch::Main,
            version: VersionNo(known.head().map_or(1, |h| h.commit.version.0 + 1)),
            parent: known.head().map(|h| h.id),
            class: v("permanent"),
            suite: 1,
            epochs: EpochSet::range(EpochNo(1), last).expect("a range"),
            packs: Packs {
                count: 12,
                list: Digest::of(b"list"),
            },
            bytes: 12 << 24,
            root: RootRow {
                epoch: last,
                seq: 11,
                index: 0,
                offset: 160,
                sealed: 900,
                plain: 880,
            },
            timeline: Some(Timeline(1)),
            wal: Some(
                WalRange {
                    start: Lsn(0x100_0000),
                    stop: Lsn(0x200_0000),
                }
                .into(),
            ),
            stream: Some(StreamId([7; 16])),
            captured: self.now,
        }
    }

    /// The next mark of a registry's stream.
    pub fn mark(&self, n: u32) -> Mark {
        let known = self.state.registry(registry(n)).expect("a registry");
        let sequence = known.mark.as_ref().map_or(1, |m| m.mark.sequence + 1);
        Mark {
            state: self.state.id(),
            mandate: 1,
            registry: registry(n),
            term: known.term,
            epoch: known.last_epoch(),
            stream: StreamId([7; 16]),
            sequence,
            chain: Digest::of(&sequence.to_le_bytes()),
            timeline: Timeline(1),
            lsn: Lsn(0x200_0000 + 0x100 * sequence),
            at: self.now,
        }
    }

    /// Word that a registry's source is as its newest version has it.
    pub fn unchanged(&self, n: u32) -> Unchanged {
        let known = self.state.registry(registry(n)).expect("a registry");
        Unchanged {
            state: self.state.id(),
            mandate: 1,
            registry: registry(n),
            term: known.term,
            version: known.head().expect("a version").commit.version,
            at: self.now,
        }
    }

    /// An order to start registries for reading and writing, valid for twelve hours from the founding.
    pub fn order(&self, name: &str, numbers: &[u32]) -> Order {
        let row = |n: &u32| self.scope(*n, Some(Target::EndOfWal));
        let term = self
            .state
            .registry(registry(numbers[0]))
            .expect("a registry")
            .term;
        let order = Order {
            act: Act::Activate,
            order: OrderId::from_str(name).expect("an order's name"),
            state: self.state.id(),
            mandate: 1,
            log_head: self.state.head(),
            embassy: v("a"),
            recipient: Recipient::Session,
            registry: numbers.iter().map(row).collect(),
            version: VersionPick::Latest,
            target: Some(Target::EndOfWal),
            grant: Mode::ReadWrite,
            term: Some(TermStep {
                from: term,
                to: Term(term.0 + 1),
            }),
            accept_loss: YesNo::No,
            not_before: v("2026-11-22T09:00:00Z"),
            expires: v("2026-11-22T21:00:00Z"),
            annex_sha256: Sha256::of(b"annex"),
            sentence: Line::default(),
        };
        order.with_sentence().expect("a sound order")
    }

    /// What an order for a registry's newest version lists now.
    pub fn scope(&self, n: u32, target: Option<Target>) -> ScopeRow {
        let (id, size) = (registry(n), self.state.size());
        let epochs = self.state.scope(id, VersionPick::Latest, target, size);
        ScopeRow {
            registry: id,
            epochs: epochs.expect("a version"),
        }
    }

    /// A grant to read, to the key in `recipient`, which becomes an attachment.
    pub fn grant(&mut self, name: &str, numbers: &[u32], recipient: &OpeningKey) -> Order {
        let key = self.held.add(recipient.public().encode().to_vec());
        let order = self.order(name, numbers);
        let order = Order {
            act: Act::Grant,
            recipient: Recipient::Key(key),
            registry: numbers.iter().map(|n| self.scope(*n, None)).collect(),
            target: None,
            grant: Mode::Read,
            term: None,
            ..order
        };
        order.with_sentence().expect("a sound grant")
    }

    /// The fence that an order asks for.
    pub fn fence(&self, order: &Order, n: u32) -> Fence {
        Fence {
            state: self.state.id(),
            mandate: 1,
            embassy: v("a"),
            order: order.order.clone(),
            registry: registry(n),
            term: order.term.clone().expect("a term step"),
            stream: None,
            sequence: None,
            chain: None,
            timeline: None,
            lsn: None,
            at: self.now,
        }
    }

    /// A session of an order, whose key becomes an attachment.
    pub fn session(&mut self, order: &Order, seed: u8) -> Session {
        let key = OpeningKey::from_seed(&[seed; 32]).expect("a seed").public();
        Session {
            state: self.state.id(),
            mandate: 1,
            embassy: v("a"),
            order: order.order.clone(),
            key: self.held.add(key.encode().to_vec()),
            at: self.now,
        }
    }

    /// The opening of everything in an order's scope.
    pub fn opened(&self, order: &Order, n: u32) -> Opened {
        let row = order
            .registry
            .iter()
            .find(|row| row.registry == registry(n));
        Opened {
            state: self.state.id(),
            mandate: 1,
            embassy: v("a"),
            order: order.order.clone(),
            registry: registry(n),
            epochs: row.map_or(
                EpochSet::range(EpochNo(1), EpochNo(1)).expect("a range"),
                |row| row.epochs.clone(),
            ),
            at: self.now,
        }
    }

    /// A step of an activation.
    pub fn step(&self, order: &Order, n: u32, step: StepKind) -> Step {
        let (state, embassy, order) = (self.state.id(), v("a"), order.order.clone());
        Step {
            state,
            mandate: 1,
            embassy,
            order,
            registry: registry(n),
            step,
            lsn: None,
            at: self.now,
        }
    }

    /// The end of an activation.
    pub fn sealed(&self, order: &Order) -> Sealed {
        let (state, embassy, order) = (self.state.id(), v("a"), order.order.clone());
        Sealed {
            state,
            mandate: 1,
            embassy,
            order,
            cause: SealCause::Person,
            at: self.now,
        }
    }

    /// Two epochs and a version in each registry, and marks in the first.
    pub fn lived() -> Self {
        let mut world = Self::new();
        for (n, writer) in [(1, 1), (2, 1), (3, 2)] {
            world.must(world.write(writer, world.epoch(n)));
            world.must(world.write(writer, world.commit(n)));
            world.must(world.write(writer, world.epoch(n)));
        }
        for _ in 0..3 {
            world.must(world.write(1, world.mark(1)));
        }
        world
    }
}

/// Keys and people of a state that is not founded yet.
pub struct Unfounded {
    /// The officers.
    pub officers: Vec<Officer>,
    /// The writers' keys.
    pub writers: Vec<SigningKey>,
    /// The embassy's key.
    pub embassy: SigningKey,
    /// The vault's opening keys.
    pub vault: Vec<OpeningKey>,
    /// The keyring.
    pub held: Held,
}

impl Unfounded {
    /// The mandate, signed by these officers, as the first entry.
    pub fn entry(&self, mandate: &Mandate, officers: &[usize]) -> Entry {
        let mut signed = Signed::unsigned(mandate.text()).expect("a statement");
        for n in officers {
            let officer = &self.officers[n - 1];
            let armoured = officer.sign(Mandate::HEADER, signed.text().as_bytes());
            signed
                .add_officer(officer.name.clone(), &armoured)
                .expect("an SSHSIG");
        }
        Entry {
            index: 0,
            received: v("2026-11-22T09:00:00Z"),
            signed,
        }
    }

    /// Founds the state with the signatures of all five.
    pub fn found(self, mandate: Mandate) -> Result<World, Refusal> {
        let entry = self.entry(&mandate, &[1, 2, 3, 4, 5]);
        let state = State::found(&entry, &self.held)?;
        let Self {
            officers,
            writers,
            embassy,
            vault,
            held,
        } = self;
        Ok(World {
            officers,
            writers,
            embassy,
            vault,
            held,
            state,
            now: entry.received,
            entries: vec![entry],
        })
    }
}

mod samples;
pub use samples::samples;
