//! What leaves a release: epoch keys wrapped to one recipient, and, sealed to the same, what the registries are called.
//! An embassy carries it to the session that can open it and learns nothing from it but counts.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use legation_core::id::{EpochNo, OrderId, RegistryId, Sha256, StateId};
use legation_core::keys::{Entropy, EpochRoot, OpeningKey, SealingKey};
use legation_core::policy::OrderState;
use legation_core::release::{
    MAX_RELEASE, RELEASE_HEAD, ReleaseContext, ReleaseHead, open as open_root,
};
use legation_core::statement::{Annex, Order};
use zeroize::Zeroizing;

use super::SystemEntropy;
use super::names::Names;
use super::text::{Fields, base64};
use crate::exit::{Code, Failure};

const INFO: &[u8] = b"legation/v1 released annex";
/// As many lines as fit.
const MAX_KEYS: usize = 4096;

/// Released keys, as they travel.
#[derive(Debug, Clone)]
pub struct Released {
    /// The state.
    pub state: StateId,
    /// The order.
    pub order: OrderId,
    /// Its exact text's digest.
    pub statement: Sha256,
    /// SHA-256 of the public key that can open this.
    pub recipient: Sha256,
    annex: Vec<u8>,
    names: Vec<u8>,
    keys: Vec<ReleasedKey>,
}

/// One wrapped key.
#[derive(Debug, Clone)]
pub struct ReleasedKey {
    /// Its registry.
    pub registry: RegistryId,
    /// Its epoch.
    pub epoch: EpochNo,
    /// The epoch root, sealed.
    pub sealed: Vec<u8>,
}

/// What the recipient has after opening.
#[derive(Debug)]
pub struct Opened {
    /// The keys, and no others.
    pub roots: BTreeMap<(RegistryId, EpochNo), EpochRoot>,
    /// The annex that the order names.
    pub annex: Annex,
    /// What the registries are called, as far as the officers said.
    pub names: Names,
}

impl Released {
    /// Seals annex and names beside the wrapped keys.
    ///
    /// # Errors
    /// When it would be larger than an embassy takes.
    pub fn seal(
        state: StateId,
        order: &OrderState,
        to: &SealingKey,
        annex: &Annex,
        names: &Names,
        keys: Vec<ReleasedKey>,
    ) -> Result<Self, Failure> {
        let seal = |field: &[u8], plain: &[u8]| {
            to.seal(
                &*SystemEntropy.draw()?,
                INFO,
                &aad(&state, &order.id, field),
                plain,
            )
        };
        let released = Self {
            state,
            order: order.order.order.clone(),
            statement: order.id,
            recipient: to.id(),
            annex: seal(b"annex", annex.text().as_bytes())?,
            names: seal(b"names", names.text()?.as_bytes())?,
            keys,
        };
        if released.text().len() > MAX_RELEASE {
            return Err(Failure::failed(format!(
                "{} keys make a release larger than {MAX_RELEASE} bytes; order fewer registries at a time",
                released.keys.len()
            )));
        }
        Ok(released)
    }

    /// Whether a file is a release, by its first line.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(RELEASE_HEAD.as_bytes())
    }

    /// The text that travels.
    pub fn text(&self) -> String {
        let head = ReleaseHead {
            state: self.state,
            order: self.order.clone(),
            statement: self.statement,
            recipient: self.recipient,
        };
        let mut text = format!(
            "{head}annex: {}\nnames: {}\n",
            base64(&self.annex),
            base64(&self.names)
        );
        for key in &self.keys {
            text.push_str(&format!(
                "key: {} {} {}\n",
                key.registry,
                key.epoch,
                base64(&key.sealed)
            ));
        }
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Code 2 when it is another file or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        if bytes.len() > MAX_RELEASE {
            return Err(Failure::usage("too large for a release"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Failure::usage("this is no release"))?;
        let mut fields = Fields::open(text, "a release", RELEASE_HEAD)?;
        let (state, order) = (fields.take("state")?, fields.take("order")?);
        let (statement, recipient) = (fields.take("statement")?, fields.take("recipient")?);
        let (annex, names) = (fields.bytes("annex")?, fields.bytes("names")?);
        let wrong = fields.wrong();
        let keys = fields
            .rest("key", MAX_KEYS)?
            .into_iter()
            .map(parse_key)
            .collect::<Option<Vec<_>>>()
            .ok_or(wrong)?;
        Ok(Self {
            state,
            order,
            statement,
            recipient,
            annex,
            names,
            keys,
        })
    }

    /// How many keys it carries.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Opens it as the recipient, and refuses anything that `order` did not ask for.
    ///
    /// # Errors
    /// Code 12 when it is sealed to another key; code 8 when it was made for another order, or holds more or less than
    /// the order's scope.
    pub fn open(&self, key: &OpeningKey, order: &Order) -> Result<Opened, Failure> {
        if (self.state, &self.order, self.statement) != (order.state, &order.order, order.id()) {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "the release is of order {}, not of {}",
                    self.order, order.order
                ),
            ));
        }
        if self.recipient != key.public().id() {
            return Err(Failure::new(
                Code::WrongKey,
                "the release is sealed to another key than this one",
            ));
        }
        let text = |sealed: &[u8], field: &[u8]| -> Result<String, Failure> {
            let plain: Zeroizing<Vec<u8>> =
                key.open(INFO, &aad(&self.state, &self.statement, field), sealed)?;
            String::from_utf8(plain.to_vec())
                .map_err(|why| Failure::new(Code::VerificationFailed, why))
        };
        let annex = Annex::parse(&text(&self.annex, b"annex")?)?;
        annex
            .check(order)
            .map_err(|why| Failure::new(Code::Refused, why))?;
        let names = crate::config::parse(
            &text(&self.names, b"names")?,
            std::path::Path::new("registries.toml"),
        )?;
        let mut roots = BTreeMap::new();
        for one in &self.keys {
            let wanted = order
                .registry
                .iter()
                .any(|row| row.registry == one.registry && row.epochs.contains(one.epoch));
            if !wanted {
                return Err(Failure::new(
                    Code::Refused,
                    format!(
                        "the release holds epoch {} of {}, which the order does not name",
                        one.epoch, one.registry
                    ),
                ));
            }
            let context = ReleaseContext {
                state: self.state,
                order: self.statement,
                registry: one.registry,
                epoch: one.epoch,
            };
            roots.insert(
                (one.registry, one.epoch),
                open_root(key, &context, &one.sealed)?,
            );
        }
        let missing = order.registry.iter().find_map(|row| {
            row.epochs
                .iter()
                .find(|epoch| !roots.contains_key(&(row.registry, *epoch)))
                .map(|epoch| (row.registry, epoch))
        });
        if let Some((registry, epoch)) = missing {
            return Err(Failure::new(
                Code::Refused,
                format!("the release lacks epoch {epoch} of {registry}"),
            ));
        }
        Ok(Opened {
            roots,
            annex,
            names,
        })
    }
}

fn aad(state: &StateId, statement: &Sha256, field: &[u8]) -> Vec<u8> {
    [state.as_bytes().as_slice(), statement.as_bytes(), field].concat()
}

fn parse_key(line: &str) -> Option<ReleasedKey> {
    let mut words = line.split(' ');
    let (registry, epoch) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let sealed = STANDARD.decode(words.next()?).ok()?;
    words.next().is_none().then_some(ReleasedKey {
        registry,
        epoch,
        sealed,
    })
}
