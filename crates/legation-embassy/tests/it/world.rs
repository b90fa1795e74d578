//! Two small states at one embassy, with their agents, clients and one officer each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use legation_core::id::{
    Digest, EpochNo, Generation, Lsn, RegistryId, Sha256, StateId, StreamId, Term, Timeline,
    VersionNo,
};
use legation_core::journal::{StreamSealer, StreamStart};
use legation_core::keys::{EpochRoot, OpeningKey, SigningKey};
use legation_core::list::{ListRow, PackList};
use legation_core::log::LogSigner;
use legation_core::pack::{FrameRef, PackBuilder, SealedPack};
use legation_core::slip::{self, SlipHeader};
use legation_core::statement::{
    Act, Branch, ClientRow, Commit, EmbassyRow, Epoch, EpochSet, KOfN, Keep, Keyring, Line,
    LogHead, Mandate, Mode, Name, Of, OfficerRow, Order, Packs, Recipient, RegistryRow,
    RetentionRow, RootRow, ScopeRow, ShareRow, Signed, Target, TermStep, Territory, ThresholdRow,
    Tier, Time, VaultRow, VersionPick, WriterRow, YesNo,
};
use legation_embassy::{
    EmbassyConfig, EmbassyError, EmbassyHandle, EmbassyIdentity, EmbassyServer, HostedState,
    Limits, Reserve,
};
use legation_repo::http::{Client, ClientOptions, Receipt, TlsIdentity, Trust};
use legation_repo::store::{Kind, StoreError};
use zeroize::Zeroizing;

pub const LAND: RegistryId = registry(0x77be02);
pub const TAX: RegistryId = registry(0x0a0b0c);
pub const MAIN: Timeline = Timeline(1);
/// Where every test's WAL begins.
pub const START: Lsn = Lsn(0x0100_0000);

const fn registry(number: u32) -> RegistryId {
    match RegistryId::new(number) {
        Some(id) => id,
        None => panic!("a registry's number is below 2^24"),
    }
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time::from_millis(since.as_millis() as u64).unwrap()
}

/// An agent: its key, its TLS identity, and the roots of the epochs that it opened.
pub struct Writer {
    pub key: SigningKey,
    pub tls: TlsIdentity,
    pub roots: BTreeMap<(RegistryId, u32), EpochRoot>,
}

pub struct Founded {
    pub state: StateId,
    pub mandate: Mandate,
    pub keyring: Keyring,
    pub signed: Signed,
    pub vault: OpeningKey,
    pub land: Writer,
    pub tax: Writer,
    pub desk: TlsIdentity,
    officer: PathBuf,
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub one: Founded,
    pub two: Founded,
    pub limits: Limits,
    pub reserve: Reserve,
    pub quota: Option<u64>,
    pub tls: TlsIdentity,
    signing: [u8; 64],
    log: [u8; 64],
    embassy: Option<EmbassyHandle>,
}

impl World {
    /// Two states founded, the embassy running.
    pub fn new() -> Self {
        let mut world = Self::unstarted();
        world.start();
        world
    }

    pub fn unstarted() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tls = TlsIdentity::generate("a.embassy.test").unwrap();
        let (signing, log) = (random::<64>(), random::<64>());
        let one = Founded::new(&dir.path().join("one"), &signing, &log, &tls);
        let two = Founded::new(&dir.path().join("two"), &signing, &log, &tls);
        let limits = Limits {
            drain: Duration::from_secs(1),
            ..Limits::default()
        };
        Self {
            dir,
            one,
            two,
            limits,
            reserve: Reserve::Bytes(0),
            quota: None,
            tls,
            signing,
            log,
            embassy: None,
        }
    }

    /// Writes down what an embassy in another process starts from.
    #[cfg(feature = "faults")]
    pub fn save(&self) {
        let dir = self.dir.path();
        std::fs::write(dir.join("signing"), self.signing).unwrap();
        std::fs::write(dir.join("log"), self.log).unwrap();
        std::fs::write(dir.join("tls"), self.tls.to_pem().as_bytes()).unwrap();
        std::fs::write(dir.join("mandate"), self.one.signed.encode()).unwrap();
        std::fs::write(dir.join("keyring"), self.one.keyring.text()).unwrap();
    }

    /// The configuration that [`World::save`] wrote down.
    #[cfg(feature = "faults")]
    pub fn saved(dir: &Path) -> EmbassyConfig {
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        let seed = |name: &str| <[u8; 64]>::try_from(read(name)).unwrap();
        EmbassyConfig {
            label: "a".into(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            identity: EmbassyIdentity {
                signing: SigningKey::from_seed(&seed("signing")).unwrap(),
                log: Zeroizing::new(seed("log")),
                tls: TlsIdentity::from_pem(&String::from_utf8(read("tls")).unwrap()).unwrap(),
            },
            store: dir.join("store"),
            reserve: Reserve::Bytes(0),
            states: vec![HostedState {
                mandate: read("mandate"),
                keyring: read("keyring"),
                quota: None,
            }],
            limits: Limits::default(),
            metrics: None,
        }
    }

    pub fn config(&self) -> EmbassyConfig {
        let hosted = |f: &Founded| HostedState {
            mandate: f.signed.encode().into_bytes(),
            keyring: f.keyring.text().into_bytes(),
            quota: self.quota,
        };
        EmbassyConfig {
            label: "a".into(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            identity: EmbassyIdentity {
                signing: SigningKey::from_seed(&self.signing).unwrap(),
                log: Zeroizing::new(self.log),
                tls: self.tls.clone(),
            },
            store: self.store(),
            reserve: self.reserve,
            states: vec![hosted(&self.one), hosted(&self.two)],
            limits: self.limits,
            metrics: Some("127.0.0.1:0".parse().unwrap()),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn start(&mut self) {
        self.embassy = Some(EmbassyServer::start(self.config()).unwrap());
    }

    /// Stops without ceremony and starts again from what is on disk.
    pub fn restart(&mut self) {
        drop(self.embassy.take());
        // Connections that were cut end by themselves, and a process that another test forks at this moment holds the
        // store's lock until it has become another program.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        self.embassy = loop {
            match EmbassyServer::start(self.config()) {
                Err(EmbassyError::Store(StoreError::Locked { .. }))
                    if std::time::Instant::now() < until =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                started => break Some(started.unwrap()),
            }
        };
    }

    pub fn stop(&mut self) {
        self.embassy.take().unwrap().shutdown();
    }

    pub fn address(&self) -> SocketAddr {
        self.embassy.as_ref().unwrap().local_addr().unwrap()
    }

    /// Where metrics are served.
    pub fn metrics(&self) -> SocketAddr {
        self.embassy.as_ref().unwrap().metrics_addr().unwrap()
    }

    /// The desk of the other state.
    pub fn two(&self) -> Client {
        self.client(&self.two, &self.two.desk)
    }

    pub fn client(&self, state: &Founded, identity: &TlsIdentity) -> Client {
        Client::new(self.options(state, identity)).unwrap()
    }

    pub fn options(&self, state: &Founded, identity: &TlsIdentity) -> ClientOptions {
        self.options_at(state, identity, &self.address().to_string())
    }

    pub fn options_at(
        &self,
        state: &Founded,
        identity: &TlsIdentity,
        address: &str,
    ) -> ClientOptions {
        let mut options = ClientOptions::of_mandate(
            state.state,
            &state.mandate,
            &state.keyring,
            "a",
            address,
            identity.clone(),
        )
        .unwrap();
        options.attempts = 1;
        options
    }

    pub fn trust(&self, state: &Founded) -> Trust {
        Trust::of_mandate(state.state, &state.mandate, &state.keyring, "a").unwrap()
    }

    /// The agent of the land register in state one.
    pub fn land(&self) -> Client {
        self.client(&self.one, &self.one.land.tls)
    }

    pub fn desk(&self) -> Client {
        self.client(&self.one, &self.one.desk)
    }

    /// As the embassy's own activation talks to it.
    pub fn inside(&self) -> Client {
        self.client(&self.one, &self.tls)
    }

    pub fn embassy_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.signing).unwrap()
    }
}

impl Founded {
    fn new(dir: &Path, signing: &[u8; 64], log: &[u8; 64], tls: &TlsIdentity) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let officer = dir.join("officer");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(&officer)
            .status()
            .unwrap();
        assert!(made.success());
        let public = std::fs::read_to_string(officer.with_extension("pub")).unwrap();

        let vault = OpeningKey::from_seed(&random()).unwrap();
        let signing = SigningKey::from_seed(signing).unwrap();
        let log = LogSigner::from_seed(log).unwrap().verifier().clone();
        let writer = || Writer {
            key: SigningKey::from_seed(&random()).unwrap(),
            tls: TlsIdentity::generate("agent.test").unwrap(),
            roots: BTreeMap::new(),
        };
        let (land, tax) = (writer(), writer());
        let desk = TlsIdentity::generate("desk.test").unwrap();
        let keyring = Keyring::of([
            signing.verifying_key().encode().to_vec(),
            land.key.verifying_key().encode().to_vec(),
            tax.key.verifying_key().encode().to_vec(),
            log.encode(),
            vault.public().encode().to_vec(),
        ]);
        let threshold = |act| ThresholdRow {
            act,
            need: 1,
            abroad: 0,
        };
        let row = |id, writer: &str| RegistryRow {
            id,
            tier: Tier::T1,
            class: name("permanent"),
            writer: name(writer),
            embassy: name("a"),
        };
        let writer_row = |called: &str, w: &Writer| WriterRow {
            name: name(called),
            key: w.key.verifying_key().id(),
            tls: w.tls.spki_sha256(),
        };
        let mandate = Mandate {
            state: Of::This,
            sequence: 1,
            previous: None,
            suite: 1,
            created: now().whole_seconds(),
            need: KOfN { k: 1, n: 1 },
            abroad: None,
            officer: vec![OfficerRow {
                name: name("officer-1"),
                territory: Territory::Home,
                key: public.trim().parse().unwrap(),
            }],
            share: vec![ShareRow {
                officer: name("officer-1"),
                generation: Generation(1),
                a: Sha256(random()),
                b: None,
            }],
            vault: vec![VaultRow {
                generation: Generation(1),
                key: vault.public().id(),
            }],
            threshold: vec![threshold(Act::Activate), threshold(Act::Grant)],
            embassy: vec![EmbassyRow {
                label: name("a"),
                jurisdiction: name("abroad"),
                class: name("physical"),
                key: signing.verifying_key().id(),
                log_key: log.digest(),
                tls: tls.spki_sha256(),
            }],
            ack: KOfN { k: 1, n: 1 },
            witness: None,
            retention: vec![RetentionRow {
                class: name("permanent"),
                keep: Keep::Forever,
            }],
            writer: vec![writer_row("w-1", &land), writer_row("w-2", &tax)],
            client: vec![ClientRow {
                name: name("desk"),
                tls: desk.spki_sha256(),
            }],
            registry: vec![row(LAND, "w-1"), row(TAX, "w-2")],
            keyring: keyring.id(),
        };
        let mut signed = Signed::unsigned(mandate.text()).unwrap();
        let armoured = ssh_sign(&officer, Mandate::HEADER, &mandate.text());
        signed.add_officer(name("officer-1"), &armoured).unwrap();
        let state = StateId::of_mandate(mandate.text().as_bytes());
        Self {
            state,
            mandate,
            keyring,
            signed,
            vault,
            land,
            tax,
            desk,
            officer,
        }
    }

    pub fn officer_signs(&self, header: &str, text: &str) -> Signed {
        let mut signed = Signed::unsigned(text).unwrap();
        signed
            .add_officer(name("officer-1"), &ssh_sign(&self.officer, header, text))
            .unwrap();
        signed
    }

    /// The order to start the land register abroad, under a new term.
    pub fn activation(&self, head: LogHead, id: &str) -> Signed {
        let order = Order {
            act: Act::Activate,
            order: id.parse().unwrap(),
            state: self.state,
            mandate: 1,
            log_head: head,
            embassy: name("a"),
            recipient: Recipient::Session,
            registry: vec![ScopeRow {
                registry: LAND,
                epochs: EpochSet::of([EpochNo(1)]).unwrap(),
            }],
            version: VersionPick::Latest,
            target: Some(Target::EndOfWal),
            grant: Mode::ReadWrite,
            term: Some(TermStep {
                from: Term(1),
                to: Term(2),
            }),
            accept_loss: YesNo::No,
            not_before: Time::from_millis(now().millis() - 60_000)
                .unwrap()
                .whole_seconds(),
            expires: now().plus_millis(3_600_000).whole_seconds(),
            annex_sha256: Sha256(random()),
            sentence: "to be made".parse::<Line>().unwrap(),
        }
        .with_sentence()
        .unwrap();
        self.officer_signs(Order::HEADER, &order.text())
    }
}

fn ssh_sign(key: &Path, namespace: &str, text: &str) -> String {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success());
    String::from_utf8(done.stdout).unwrap()
}

impl Writer {
    /// Seals and logs the next epoch of a registry.
    pub fn open_epoch(
        &mut self,
        state: StateId,
        vault: &OpeningKey,
        client: &Client,
        registry: RegistryId,
    ) -> Receipt {
        let epoch = EpochNo(self.roots.keys().filter(|(r, _)| *r == registry).count() as u32 + 1);
        let (slip, statement) = self.epoch(state, vault, registry, epoch);
        client
            .put_object(Kind::Slip, &Digest::of(&slip), slip)
            .unwrap();
        client.submit(&statement).unwrap()
    }

    pub fn epoch(
        &mut self,
        state: StateId,
        vault: &OpeningKey,
        registry: RegistryId,
        epoch: EpochNo,
    ) -> (Vec<u8>, Signed) {
        let root = EpochRoot::derive(&random(), &[7; 32]).unwrap();
        let header = SlipHeader {
            state,
            registry,
            epoch,
            generation: Generation(1),
        };
        let slip = slip::seal(&vault.public(), &header, &root, &random()).unwrap();
        self.roots.insert((registry, epoch.0), root);
        let statement = Epoch {
            state,
            mandate: 1,
            registry,
            term: Term(1),
            epoch,
            generation: Generation(1),
            suite: 1,
            slip: Digest::of(&slip),
        };
        (slip, Signed::sign_with(statement, &self.key).unwrap())
    }

    pub fn pack(
        &self,
        state: StateId,
        registry: RegistryId,
        epoch: u32,
        seq: u32,
        plain: &[u8],
    ) -> (SealedPack, FrameRef) {
        let mut builder = PackBuilder::new(state, registry, EpochNo(epoch), seq);
        let frame = builder.push(plain).unwrap().unwrap();
        (
            builder
                .seal(&self.roots[&(registry, epoch)], &random())
                .unwrap(),
            frame,
        )
    }

    /// The list and the commit of a version of these packs, the last of which holds the root.
    pub fn version(
        &self,
        state: StateId,
        registry: RegistryId,
        number: u32,
        parent: Option<Sha256>,
        packs: &[(u32, u32, &SealedPack)],
        root: FrameRef,
    ) -> (Vec<u8>, Signed) {
        let rows = packs
            .iter()
            .map(|(epoch, seq, p)| ListRow {
                epoch: EpochNo(*epoch),
                seq: *seq,
                size: p.size,
                digest: p.digest,
            })
            .collect();
        let list = PackList::new(state, registry, rows).unwrap();
        let bytes = list.encode();
        let commit = Commit {
            state,
            mandate: 1,
            registry,
            term: Term(1),
            branch: Branch::Main,
            version: VersionNo(number),
            parent,
            class: name("permanent"),
            suite: 1,
            epochs: EpochSet::of(list.epochs()).unwrap(),
            packs: Packs {
                count: list.rows().len() as u64,
                list: Digest::of(&bytes),
            },
            bytes: list.bytes(),
            root: RootRow {
                epoch: root.epoch,
                seq: root.seq,
                index: root.index,
                offset: root.offset,
                sealed: root.sealed,
                plain: root.plain,
            },
            timeline: None,
            wal: None,
            stream: None,
            captured: now(),
        };
        (bytes, Signed::sign_with(commit, &self.key).unwrap())
    }

    /// A stream of WAL of epoch 1: the opening and `frames` frames of a few bytes each.
    pub fn stream(
        &self,
        state: StateId,
        registry: RegistryId,
        frames: usize,
        previous: Option<(StreamId, Digest)>,
    ) -> (StreamId, Vec<Vec<u8>>) {
        let stream = StreamId(random());
        let start = StreamStart {
            state,
            registry,
            epoch: EpochNo(1),
            term: Term(1),
            stream,
            branch: 0,
            system_id: 7_000_000_000,
            timeline: MAIN,
            lsn: START,
            previous,
        };
        let (mut sealer, opening) =
            StreamSealer::open(&start, &self.roots[&(registry, 1)], &random(), b"wal 0").unwrap();
        let mut all = vec![opening];
        let mut at = START;
        for number in 0..frames {
            let wal = format!("wal {number}");
            all.push(sealer.frame(at, MAIN, wal.as_bytes()).unwrap());
            at = Lsn(at.0 + wal.len() as u64);
        }
        (stream, all)
    }
}

/// A world whose land register has epoch 1.
pub fn with_epoch() -> World {
    let mut world = World::new();
    let client = world.land();
    let Founded {
        state, vault, land, ..
    } = &mut world.one;
    land.open_epoch(*state, vault, &client, LAND);
    world
}
