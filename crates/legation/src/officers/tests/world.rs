//! A state in a scratch directory, founded by real `ssh-keygen` and `age-keygen`, with a log and an order in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use legation_core::attachments::Held;
use legation_core::id::{
    Digest, EpochNo, Generation, OrderId, RegistryId, Sha256, StateId, Term, VersionNo,
};
use legation_core::keys::{Entropy, EpochRoot, OpeningKey};
use legation_core::policy::State;
use legation_core::slip::{self, SlipHeader};
use legation_core::statement::{
    Act, Annex, Branch, Bytes32, Commit, Entry, Epoch, EpochSet, Mode, Order, Packs, Recipient,
    RootRow, ScopeRow, Signed, Statement, TitleRow, VersionPick, YesNo,
};
use legation_repo::log::{Believed, DiskLog, Mirror};
use tempfile::TempDir;

use crate::identity::{Identity, Role};
use crate::ledger::origin;
use crate::officers::card::OfficerCard;
use crate::officers::names::Names;
use crate::officers::plan::{Quorum, StateFile};
use crate::officers::release::{Brought, Bundle, file};
use crate::officers::{SystemEntropy, ceremony, create, now, orders, prove, ssh};
use crate::watch::Watch;

/// Epochs of the one registry; the order opens the first two.
pub const EPOCHS: u32 = 3;

pub struct World {
    pub dir: TempDir,
    pub signed: Signed,
    pub keyring: Vec<u8>,
    pub registry: RegistryId,
    pub roots: Vec<EpochRoot>,
    slips: Vec<(Digest, Vec<u8>)>,
    agent: Identity,
    embassy: Identity,
    entries: Vec<Entry>,
}

pub fn stock(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl World {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn officer(number: usize) -> String {
        format!("officer-{number}")
    }

    pub fn envelope(&self, number: usize) -> Brought {
        let share = self.path(&format!(
            "founding/shares/{}.share.age",
            Self::officer(number)
        ));
        Brought::Envelope(share, self.path(&format!("{number}.age")))
    }

    pub fn envelopes(&self, numbers: &[usize]) -> Vec<Brought> {
        numbers
            .iter()
            .map(|number| self.envelope(*number))
            .collect()
    }

    /// Five officers, two of them abroad; three needed, one from abroad; everything proven and signed.
    pub fn found() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let mut toml = String::from("format = 1\ngenerations = 2\n");
        for number in 1..=5 {
            let (ssh, age) = (
                text(path(&format!("{number}.ssh"))),
                text(path(&format!("{number}.age"))),
            );
            stock("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &ssh]);
            stock("age-keygen", &["-o", &age]);
            let public = std::fs::read_to_string(format!("{ssh}.pub")).unwrap();
            let recipient = stock("age-keygen", &["-y", &age]);
            let card =
                OfficerCard::new(&Self::officer(number), number >= 4, &public, &recipient).unwrap();
            create(
                &path(&format!("{number}.card")),
                0o644,
                card.text().as_bytes(),
            )
            .unwrap();
            assert_eq!(
                OfficerCard::load(&path(&format!("{number}.card"))).unwrap(),
                card
            );
            toml.push_str(&format!("[[officer]]\ncard = \"{number}.card\"\n"));
        }
        let identity = |name: &str, role| {
            let identity = Identity::create(role).unwrap();
            identity
                .save(&path(name), &identity.card().unwrap())
                .unwrap();
            identity
        };
        let (agent, embassy) = (
            identity("agent", Role::Agent),
            identity("embassy", Role::Embassy),
        );
        toml.push_str(
            "[[embassy]]\nlabel = \"a\"\njurisdiction = \"LU\"\nclass = \"physical\"\ncard = \"embassy.card\"\n\
             [[writer]]\nname = \"w-1\"\ncard = \"agent.card\"\n[[retention]]\nclass = \"permanent\"\nkeep = \"forever\"\n\
             [[registry]]\nname = \"land\"\ntitle = \"Land Register\"\ntier = \"T1\"\nretention = \"permanent\"\nwriter = \"w-1\"\n",
        );
        create(&path("state.toml"), 0o644, toml.as_bytes()).unwrap();
        let file = StateFile::load(&path("state.toml")).unwrap();
        let quorum = Quorum {
            need: 3,
            of: 5,
            abroad: 1,
        };
        let founding = ceremony::found(
            &file,
            dir.path(),
            quorum,
            now().unwrap(),
            &mut SystemEntropy,
        )
        .unwrap();
        let out = path("founding");
        std::fs::create_dir_all(out.join("shares")).unwrap();
        let mandate = out.join(prove::MANDATE);
        create(&mandate, 0o644, founding.mandate.text().as_bytes()).unwrap();
        let keyring = founding.keyring.text().into_bytes();
        create(&out.join(prove::KEYRING), 0o644, &keyring).unwrap();
        for (officer, envelope) in &founding.envelopes {
            create(
                &out.join(format!("shares/{officer}.share.age")),
                0o600,
                envelope,
            )
            .unwrap();
        }
        assert_eq!(
            prove::seal(&out, now().unwrap()).unwrap_err().code,
            crate::exit::Code::Quorum
        );
        for number in 1..=5 {
            let officer = Self::officer(number);
            let told = prove::Prove {
                share: &out.join(format!("shares/{officer}.share.age")),
                age_identity: &path(&format!("{number}.age")),
                mandate: &mandate,
                officer: &officer,
                ssh_key: &path(&format!("{number}.ssh")),
            };
            let proof = prove::prove(told, now().unwrap()).unwrap();
            create(
                &out.join(format!("{officer}.proof")),
                0o644,
                proof.encode().as_bytes(),
            )
            .unwrap();
            let key = text(path(&format!("{number}.ssh")));
            stock(
                "ssh-keygen",
                &[
                    "-q",
                    "-Y",
                    "sign",
                    "-f",
                    &key,
                    "-n",
                    "legation/mandate/v1",
                    mandate.to_str().unwrap(),
                ],
            );
            std::fs::rename(
                out.join("mandate.txt.sig"),
                ssh::signature_path(&mandate, &officer),
            )
            .unwrap();
        }
        let signed = prove::seal(&out, now().unwrap()).unwrap().signed;
        let registry = founding.names.registry[0].id;
        let mut world = Self {
            dir,
            signed,
            keyring,
            registry,
            roots: Vec::new(),
            slips: Vec::new(),
            agent,
            embassy,
            entries: Vec::new(),
        };
        world.seal_epochs(&founding.mandate, &founding.keyring);
        world.entries = world.begin();
        world
    }

    fn seal_epochs(
        &mut self,
        mandate: &legation_core::statement::Mandate,
        keyring: &legation_core::statement::Keyring,
    ) {
        let vault = keyring.sealing_key(&mandate.vault[0].key).unwrap();
        let state = StateId::of_mandate(mandate.text().as_bytes());
        for epoch in 1..=EPOCHS {
            let root = EpochRoot::from_bytes(*SystemEntropy.draw().unwrap());
            let header = SlipHeader {
                state,
                registry: self.registry,
                epoch: EpochNo(epoch),
                generation: Generation(1),
            };
            let bytes = slip::seal(&vault, &header, &root, &SystemEntropy.draw().unwrap()).unwrap();
            self.slips.push((Digest::of(&bytes), bytes));
            self.roots.push(root);
        }
    }

    /// A grant for epochs 1 and 2, its annex beside it, and the key that may read.
    pub fn grant(&self, name: &str) -> (PathBuf, Order, OpeningKey) {
        let key = OpeningKey::from_seed(&SystemEntropy.draw().unwrap()).unwrap();
        let state = StateId::of_mandate(self.signed.text().as_bytes());
        let at = now().unwrap().whole_seconds();
        let order: OrderId = format!(
            "2026-11-22-{}",
            &Sha256::of(name.as_bytes()).to_string()[..8]
        )
        .parse()
        .unwrap();
        let annex = Annex {
            order: order.clone(),
            salt: Bytes32(*SystemEntropy.draw().unwrap()),
            registry: vec![TitleRow {
                id: self.registry,
                title: "Land Register".parse().unwrap(),
            }],
            reason: "A record is looked up.".parse().unwrap(),
        };
        let mut text = Order {
            act: Act::Grant,
            order,
            state,
            mandate: 1,
            log_head: self.head(),
            embassy: "a".parse().unwrap(),
            recipient: Recipient::Key(key.public().id()),
            registry: vec![ScopeRow {
                registry: self.registry,
                epochs: EpochSet::range(EpochNo(1), EpochNo(2)).unwrap(),
            }],
            version: VersionPick::Latest,
            target: None,
            grant: Mode::Read,
            term: None,
            accept_loss: YesNo::No,
            not_before: at,
            expires: at.plus_millis(3_600_000),
            annex_sha256: annex.id(),
            sentence: "-".parse().unwrap(),
        };
        text.sentence = text.make_sentence().parse().unwrap();
        let path = self.path(&format!("{name}.txt"));
        create(&path, 0o644, text.text().as_bytes()).unwrap();
        create(&orders::annex_path(&path), 0o600, annex.text().as_bytes()).unwrap();
        (path, text, key)
    }

    /// The state.
    pub fn state(&self) -> StateId {
        StateId::of_mandate(self.signed.text().as_bytes())
    }

    pub fn approve(&self, order: &Path, numbers: &[usize]) -> Vec<PathBuf> {
        let (mandate, _) = prove::load_mandate(&self.path("founding/mandate.txt")).unwrap();
        let approve = |number: &usize| {
            let told = orders::Approve {
                order,
                annex: &orders::annex_path(order),
                officer: &Self::officer(*number),
                ssh_key: &self.path(&format!("{number}.ssh")),
                mandate: Some((self.state(), &mandate)),
            };
            let names = Names::default();
            orders::approve(told, &names, now().unwrap(), &|_, _| {})
                .unwrap()
                .1
        };
        numbers.iter().map(approve).collect()
    }

    /// The bundle of an order that was logged with these approvals.
    pub fn bundle(&self, order: &Path, key: &OpeningKey, approvals: &[PathBuf]) -> PathBuf {
        let (parsed, text) = orders::load(order).unwrap();
        let (mandate, _) = prove::load_mandate(&self.path("founding/mandate.txt")).unwrap();
        let signed = orders::gather(&text, &mandate, approvals).unwrap();
        let bundle = orders::bundle_path(order);
        let log = bundle.with_extension("log");
        let disk = self.log(&log, signed);
        std::fs::create_dir_all(bundle.join(file::SLIPS)).unwrap();
        let believed = Believed {
            origin: disk.reader().checkpoint().origin().to_owned(),
            key: self.embassy.log_signer().unwrap().verifier().clone(),
            seen: None,
        };
        let mirror = Mirror::update(&bundle.join(file::LOG), &disk.reader(), &believed).unwrap();
        mirror.put_attachment(&self.keyring).unwrap();
        mirror.put_attachment(key.public().encode()).unwrap();
        for (digest, bytes) in &self.slips {
            create(
                &bundle.join(file::SLIPS).join(digest.to_string()),
                0o644,
                bytes,
            )
            .unwrap();
        }
        create(&bundle.join(file::ORDER), 0o644, parsed.text().as_bytes()).unwrap();
        std::fs::copy(orders::annex_path(order), bundle.join(file::ANNEX)).unwrap();
        bundle
    }

    pub fn open(&self, bundle: &Path) -> Result<Bundle, crate::exit::Failure> {
        Bundle::open(bundle, now().unwrap(), &Watch::unseen())
    }

    /// What every log here begins with: the mandate, three epochs, a version under the first two.
    fn begin(&self) -> Vec<Entry> {
        let state = StateId::of_mandate(self.signed.text().as_bytes());
        let writer = self.agent.signing_key().unwrap();
        let sign = |statement: Statement| Signed::sign_with(statement, &writer).unwrap();
        let mut all = vec![self.signed.clone()];
        for (at, (digest, _)) in self.slips.iter().enumerate() {
            all.push(sign(Statement::from(Epoch {
                state,
                mandate: 1,
                registry: self.registry,
                term: Term(1),
                epoch: EpochNo(at as u32 + 1),
                generation: Generation(1),
                suite: legation_core::suite::SUITE,
                slip: *digest,
            })));
        }
        all.push(sign(Statement::from(Commit {
            state,
            mandate: 1,
            registry: self.registry,
            term: Term(1),
            branch: Branch::Main,
            version: VersionNo(1),
            parent: None,
            class: "permanent".parse().unwrap(),
            suite: legation_core::suite::SUITE,
            epochs: EpochSet::range(EpochNo(1), EpochNo(2)).unwrap(),
            packs: Packs {
                count: 1,
                list: Digest::of(b"list"),
            },
            bytes: 65_536,
            root: RootRow {
                epoch: EpochNo(2),
                seq: 0,
                index: 0,
                offset: 160,
                sealed: 100,
                plain: 84,
            },
            timeline: None,
            wal: None,
            stream: None,
            captured: now().unwrap(),
        })));
        let received = now().unwrap();
        all.into_iter()
            .enumerate()
            .map(|(at, signed)| Entry {
                index: at as u64,
                received,
                signed,
            })
            .collect()
    }

    /// The log's head before any order.
    fn head(&self) -> legation_core::statement::LogHead {
        let mut attachments = Held::new();
        attachments.add(self.keyring.clone());
        let mut state = State::found(&self.entries[0], &attachments).unwrap();
        for entry in &self.entries[1..] {
            state.apply(entry, &attachments).unwrap();
        }
        state.head()
    }

    /// A log on disk with an order in it, whether or not the mandate allows it: a dishonest embassy would log it too.
    fn log(&self, dir: &Path, order: Signed) -> DiskLog {
        let state = StateId::of_mandate(self.signed.text().as_bytes());
        std::fs::create_dir_all(dir).unwrap();
        let label = "a".parse().unwrap();
        let signer = self.embassy.log_signer().unwrap();
        let received = now().unwrap();
        let seconds = received.millis() / 1000;
        let mut disk = DiskLog::open(dir, &origin(&state, &label), signer, seconds).unwrap();
        let last = Entry {
            index: self.entries.len() as u64,
            received,
            signed: order,
        };
        let leaves: Vec<_> = self
            .entries
            .iter()
            .chain([&last])
            .map(Entry::encode)
            .collect();
        disk.append(&leaves, seconds).unwrap();
        disk
    }
}
