//! The release: shares meet, the seed of a generation exists for a moment, the slips in scope are opened and no
//! others, and the epoch keys leave wrapped to the one session or person that the order names.
//!
//! It works from a bundle of files, offline. It believes nothing of the bundle that it cannot check: the log is replayed
//! from the founding mandate of the state that the officers' own envelopes name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use legation_core::id::{Digest, Generation, Sha256, StateId};
use legation_core::keys::{Entropy, OpeningKey, SealingKey};
use legation_core::policy::OrderState;
use legation_core::release::{ReleaseContext, seal as seal_root};
use legation_core::slip::{self, SlipHeader};
use legation_core::statement::{Annex, Order, Recipient, Territory, Time};
use legation_core::vault::{self, ShareFile};

use super::give::{self, ReleaseKey};
use super::names::Names;
use super::released::{Released, ReleasedKey};
use super::{SystemEntropy, prove};
use crate::exit::{Code, Failure};
use crate::ledger::{Ledger, MirrorAttachments};
use crate::watch::Watch;

/// A statement's longest text.
const MAX_TEXT: u64 = 64 * 1024;

/// A bundle, verified: the log replays clean, the order is in it, accepted, and still open.
#[derive(Debug)]
pub struct Bundle {
    dir: PathBuf,
    ledger: Ledger,
    order: OrderState,
}

/// Files of a bundle.
pub mod file {
    /// The mirror of the log.
    pub const LOG: &str = "log";
    /// The order's exact text.
    pub const ORDER: &str = "order.txt";
    /// Its annex.
    pub const ANNEX: &str = "annex.txt";
    /// What registries are called.
    pub const NAMES: &str = "registries.toml";
    /// The slips in scope, each under its digest.
    pub const SLIPS: &str = "slip";
}

/// A share to bring: an envelope with the identity that opens it, or one given from afar.
#[derive(Debug, Clone)]
pub enum Brought {
    /// The envelope and the age identity.
    Envelope(PathBuf, PathBuf),
    /// What `officer give` wrote.
    Given(PathBuf),
}

/// What a release did.
#[derive(Debug)]
pub struct Outcome {
    /// To be delivered.
    pub released: Released,
    /// How many officers' shares met.
    pub shares: usize,
    /// How many of them from abroad.
    pub abroad: usize,
    /// How many keys are in `released`.
    pub keys: usize,
    /// How many epochs the whole log knows.
    pub of: usize,
}

impl Bundle {
    /// Opens and checks a bundle.
    ///
    /// # Errors
    /// Code 4 when the log does not verify; code 8 when it holds what the mandate does not allow, when the order is not
    /// in it, was changed, is of another state, has expired or has ended.
    pub fn open(dir: &Path, now: Time, watch: &Watch) -> Result<Self, Failure> {
        let ledger = Ledger::open(&dir.join(file::LOG), watch)?;
        ledger.clean()?;
        let path = dir.join(file::ORDER);
        let text = super::read_text(&path, MAX_TEXT)?;
        let order = Order::parse(&text).map_err(|why| Failure::from(why).during(path.display()))?;
        let refused = |why: String| Err(Failure::new(Code::Refused, why));
        if order.state != ledger.state.id() {
            return refused(format!(
                "the order is of state {}, the log of {}",
                order.state,
                ledger.state.id()
            ));
        }
        let Some(accepted) = ledger.state.order(&order.order).cloned() else {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "the log has not accepted order {}; no share may move before it has",
                    order.order
                ),
            )
            .hint("log it first: legation order submit order.txt --approval FILE..."));
        };
        if accepted.id != Sha256::of(text.as_bytes()) {
            return refused(format!(
                "order {} in the log says something else than {}",
                order.order,
                path.display()
            ));
        }
        if let Some(cause) = accepted.sealed {
            return refused(format!(
                "order {} has ended ({cause}); what it opened is sealed, and it opens nothing again",
                order.order
            ));
        }
        if now >= accepted.order.expires {
            return refused(format!(
                "order {} expired at {}",
                order.order, order.expires
            ));
        }
        Ok(Self {
            dir: dir.to_owned(),
            ledger,
            order: accepted,
        })
    }

    /// The order.
    pub fn order(&self) -> &Order {
        &self.order.order
    }

    /// The state.
    pub fn state(&self) -> StateId {
        self.ledger.state.id()
    }

    /// The generations whose seed the scope needs.
    pub fn generations(&self) -> Vec<Generation> {
        let all: BTreeSet<_> = self.slips().map(|slip| slip.generation).collect();
        all.into_iter().collect()
    }

    /// Makes the one-time key that officers elsewhere seal their shares to.
    ///
    /// # Errors
    /// When it exists already, or cannot be written.
    pub fn begin(&self) -> Result<PathBuf, Failure> {
        let secret = OpeningKey::from_seed(&*SystemEntropy.draw()?)?;
        let key = self.release_key(secret.public());
        let path = give::public_path(&self.dir);
        super::create(&path, 0o644, key.text().as_bytes())?;
        let made = super::create(&give::secret_path(&self.dir), 0o600, secret.seed());
        if let Err(failure) = made {
            // Half a pair is no use to anybody, and would be in the way of the next.
            let _ = std::fs::remove_file(&path);
            return Err(failure);
        }
        Ok(path)
    }

    /// Takes the one-time key away, once what it was for is written.
    ///
    /// # Errors
    /// When its secret half is still there.
    pub fn forget_key(&self) -> Result<(), Failure> {
        give::forget(&self.dir)
    }

    /// Opens the shares, rebuilds the seeds that the scope needs, and wraps the keys in scope to the recipient.
    ///
    /// # Errors
    /// Code 5 for too few shares, none from abroad, or one officer twice; code 12 for a share or identity that does not
    /// fit; code 4 for a slip that is missing or altered.
    pub fn release(&self, brought: &[Brought]) -> Result<Outcome, Failure> {
        let shares = self.meet(brought)?;
        let abroad = self.check_quorum(&shares)?;
        let (annex, names) = self.annex()?;
        let recipient = self.recipient()?;
        let mut keys = Vec::new();
        for generation in self.generations() {
            let vault = self.rebuild(generation, &shares)?;
            for header in self
                .slips()
                .filter(|header| header.generation == generation)
            {
                let bytes = self.slip(&header)?;
                let root = slip::open(&vault, &bytes)?;
                let context = ReleaseContext {
                    state: self.state(),
                    order: self.order.id,
                    registry: header.registry,
                    epoch: header.epoch,
                };
                let sealed = seal_root(&recipient, &context, &root, &*SystemEntropy.draw()?)?;
                keys.push(ReleasedKey {
                    registry: header.registry,
                    epoch: header.epoch,
                    sealed,
                });
            }
        }
        keys.sort_by_key(|key| (key.registry, key.epoch));
        let count = keys.len();
        let released = Released::seal(self.state(), &self.order, &recipient, &annex, &names, keys)?;
        let of = self
            .ledger
            .state
            .registries()
            .map(|(_, registry)| registry.epochs.len())
            .sum();
        Ok(Outcome {
            released,
            shares: shares.len(),
            abroad,
            keys: count,
            of,
        })
    }

    /// The slips in scope, as their headers must be.
    fn slips(&self) -> impl Iterator<Item = SlipHeader> + '_ {
        let state = &self.ledger.state;
        self.order.order.registry.iter().flat_map(move |row| {
            let epochs = state
                .registry(row.registry)
                .map_or(&[][..], |registry| &registry.epochs);
            epochs
                .iter()
                .filter(|epoch| row.epochs.contains(epoch.epoch))
                .map(|epoch| SlipHeader {
                    state: state.id(),
                    registry: row.registry,
                    epoch: epoch.epoch,
                    generation: epoch.generation,
                })
        })
    }

    fn slip(&self, header: &SlipHeader) -> Result<Vec<u8>, Failure> {
        let named = self
            .ledger
            .state
            .registry(header.registry)
            .and_then(|registry| registry.epoch(header.epoch))
            .ok_or_else(|| Failure::failed("a slip in scope is not in the log"))?;
        let path = self.dir.join(file::SLIPS).join(named.slip.to_string());
        let bytes = super::read_bounded(&path, slip::SLIP as u64)?;
        if Digest::of(&bytes) != named.slip || slip::header(&bytes)? != *header {
            return Err(Failure::new(
                Code::VerificationFailed,
                format!(
                    "{} is not the slip of epoch {} of {} that the log names",
                    path.display(),
                    header.epoch,
                    header.registry
                ),
            ));
        }
        Ok(bytes.to_vec())
    }

    fn meet(&self, brought: &[Brought]) -> Result<Vec<ShareFile>, Failure> {
        let mut shares: Vec<ShareFile> = Vec::new();
        for one in brought {
            let (share, path) = match one {
                Brought::Envelope(share, identity) => (prove::open_share(share, identity)?, share),
                Brought::Given(path) => (self.open_given(path)?, path),
            };
            if share.state != self.state() {
                return Err(Failure::new(
                    Code::Refused,
                    format!(
                        "{} holds a share of state {}; this order is of {}",
                        path.display(),
                        share.state,
                        self.state()
                    ),
                ));
            }
            prove::check_held(self.ledger.state.mandate(), &share)
                .map_err(|failure| failure.during(path.display()))?;
            if shares.iter().any(|held| held.officer == share.officer) {
                return Err(Failure::new(
                    Code::Quorum,
                    format!(
                        "the share of {} was given twice; an officer counts once",
                        share.officer
                    ),
                ));
            }
            shares.push(share);
        }
        Ok(shares)
    }

    fn open_given(&self, path: &Path) -> Result<ShareFile, Failure> {
        let seed = super::read_bounded(&give::secret_path(&self.dir), 32).map_err(|failure| {
            failure.hint("`order release BUNDLE --begin` makes the key that shares are given to")
        })?;
        let seed: &[u8; 32] = seed
            .as_slice()
            .try_into()
            .map_err(|_| Failure::usage("the one-time key of this bundle is damaged"))?;
        let secret = OpeningKey::from_seed(seed)?;
        let key = self.release_key(secret.public());
        give::open(path, &secret, &key)
    }

    fn release_key(&self, key: SealingKey) -> ReleaseKey {
        ReleaseKey {
            state: self.state(),
            order: self.order.order.order.clone(),
            statement: self.order.id,
            key,
            generations: self.generations(),
        }
    }

    /// Enough shares, and enough of them from abroad. The arithmetic would refuse too; this says why.
    fn check_quorum(&self, shares: &[ShareFile]) -> Result<usize, Failure> {
        let mandate = self.ledger.state.mandate();
        let abroad = shares
            .iter()
            .filter(|share| {
                let row = mandate
                    .officer
                    .iter()
                    .find(|row| row.name.as_str() == share.officer);
                row.is_some_and(|row| row.territory == Territory::Abroad)
            })
            .count();
        let need = usize::from(mandate.need.k);
        if shares.len() < need {
            return Err(Failure::new(
                Code::Quorum,
                format!(
                    "{} of {need} shares are here; they open nothing",
                    shares.len()
                ),
            ));
        }
        let need = mandate
            .abroad
            .as_ref()
            .map_or(0, |rule| usize::from(rule.k));
        if abroad < need {
            let have = if abroad == 0 {
                "none".to_owned()
            } else {
                abroad.to_string()
            };
            return Err(Failure::new(
                Code::Quorum,
                format!(
                    "{} shares are here, {have} from abroad, {need} needed; they open nothing",
                    shares.len()
                ),
            ));
        }
        Ok(abroad)
    }

    fn rebuild(&self, generation: Generation, shares: &[ShareFile]) -> Result<OpeningKey, Failure> {
        let mandate = self.ledger.state.mandate();
        let pieces: Vec<_> = shares
            .iter()
            .flat_map(|file| &file.shares)
            .filter(|share| share.generation == generation)
            .cloned()
            .collect();
        let key = vault::rebuild(generation, &pieces, mandate.abroad.is_some())?;
        let wanted = mandate
            .vault
            .iter()
            .find(|row| row.generation == generation)
            .map(|row| row.key);
        if wanted != Some(key.public().id()) {
            return Err(Failure::new(
                Code::WrongKey,
                format!("the shares do not make the key of vault generation {generation}"),
            ));
        }
        Ok(key)
    }

    fn annex(&self) -> Result<(Annex, Names), Failure> {
        let path = self.dir.join(file::ANNEX);
        let annex = super::orders::load_annex(&path, &self.order.order)?;
        let names = self.dir.join(file::NAMES);
        let mut names = if names.exists() {
            Names::load(&names)?
        } else {
            Names::default()
        };
        names
            .registry
            .retain(|entry| self.order.scope(entry.id).is_some());
        Ok((annex, names))
    }

    fn recipient(&self) -> Result<SealingKey, Failure> {
        use legation_core::attachments::Attachments as _;
        let digest = match self.order.order.recipient {
            Recipient::Key(digest) => digest,
            Recipient::Session => {
                let session = self.order.session.as_ref().ok_or_else(|| {
                    Failure::new(Code::Refused, "no session asks for these keys yet")
                        .hint("start `legation activate` at the embassy, then submit the order again for a new bundle")
                })?;
                session.key
            }
        };
        let bytes = MirrorAttachments(&self.ledger.mirror)
            .get(&digest)
            .filter(|bytes| Sha256::of(bytes) == digest);
        let bytes = bytes.ok_or_else(|| {
            Failure::new(
                Code::VerificationFailed,
                format!("the bundle lacks the public key {digest} that keys are released to"),
            )
        })?;
        Ok(SealingKey::decode(&bytes)?)
    }

    /// How many epochs of each registry the order lists.
    pub fn scope(&self) -> BTreeMap<String, u64> {
        self.order
            .order
            .registry
            .iter()
            .map(|row| (row.registry.to_string(), row.epochs.count()))
            .collect()
    }
}
