//! The mandate: what a founding text must be like to found a state, and who it says may do what.

use crate::id::{RegistryId, Sha256};
use crate::keyring::KeyringError;
use crate::policy::{Refusal, Rule, hold};
use crate::statement::{
    Act, ClientRow, EmbassyRow, Keyring, Mandate, Name, Of, OfficerRow, RegistryRow, Territory,
    ThresholdRow, WriterRow,
};
use crate::suite::SUITE;
use std::collections::BTreeSet;
use std::fmt::Display;

/// The most officers a state may have: the shares' indices and the size of a text bound it.
pub const MAX_OFFICERS: usize = 32;

/// The acts that this version carries out; a mandate has a threshold for each.
pub const ACTS: [Act; 2] = [Act::Activate, Act::Grant];

/// Whose a TLS key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The embassy with this label.
    Embassy(Name),
    /// The agent that writes under this name.
    Writer(Name),
    /// Somebody who may fetch ciphertext and submit statements.
    Client(Name),
}

impl Mandate {
    /// Whether this text can found a state: whole in itself, and nothing in it that this version cannot hold to.
    ///
    /// # Errors
    /// A [`Refusal`] under the rules `Founding` or `Unsupported`.
    pub fn check_founding(&self, keyring: &Keyring) -> Result<(), Refusal> {
        hold!(
            self.state == Of::This,
            Founding,
            "a founding mandate says 'state: this'"
        );
        hold!(
            self.sequence == 1,
            Founding,
            "a founding mandate has the sequence 1"
        );
        hold!(
            self.previous.is_none(),
            Founding,
            "a founding mandate has no previous mandate"
        );
        self.check_supported()?;
        self.check_officers()?;
        self.check_vault()?;
        self.check_places()?;
        self.check_keyring(keyring)
            .map_err(|error| Refusal::new(Rule::Founding, error.to_string()))
    }

    fn check_supported(&self) -> Result<(), Refusal> {
        hold!(
            self.suite == SUITE,
            Unsupported,
            "suite {} is not known to this version; write 'suite: 1'",
            self.suite
        );
        hold!(
            self.witness.is_none(),
            Unsupported,
            "witnesses are not supported by this version; write 'witness: none'"
        );
        let one = self.ack.k == 1 && self.ack.n == 1;
        hold!(
            one,
            Unsupported,
            "acknowledgement by several embassies is not supported by this version; write 'ack: 1 of 1'"
        );
        hold!(
            self.embassy.len() == 1,
            Unsupported,
            "this version supports exactly one embassy, not {}",
            self.embassy.len()
        );
        Ok(())
    }

    fn check_officers(&self) -> Result<(), Refusal> {
        let n = self.officer.len();
        hold!(
            (1..=MAX_OFFICERS).contains(&n),
            Founding,
            "a state has 1 to {MAX_OFFICERS} officers, not {n}"
        );
        unique("officer", self.officer.iter().map(|o| &o.name))?;
        unique("officer's key", self.officer.iter().map(|o| &o.key))?;
        let abroad = self.officers_abroad();
        hold!(
            usize::from(self.need.n) == n,
            Founding,
            "'need' speaks of {} officers; there are {n}",
            self.need.n
        );
        hold!(
            (1..=self.need.n).contains(&self.need.k),
            Founding,
            "'need: {} of {}' cannot be met",
            self.need.k,
            self.need.n
        );
        if let Some(rule) = &self.abroad {
            hold!(
                usize::from(rule.n) == abroad,
                Founding,
                "'abroad' speaks of {} officers abroad; there are {abroad}",
                rule.n
            );
            hold!(
                (1..=rule.n).contains(&rule.k),
                Founding,
                "'abroad: {} of {}' cannot be met",
                rule.k,
                rule.n
            );
        }
        let needed_abroad = self.abroad.as_ref().map_or(0, |rule| rule.k);
        unique("threshold", self.threshold.iter().map(|t| t.act))?;
        for act in ACTS {
            hold!(
                self.threshold(act).is_some(),
                Founding,
                "no threshold for '{act}'"
            );
        }
        for t in &self.threshold {
            hold!(
                ACTS.contains(&t.act),
                Unsupported,
                "the act '{}' is not supported by this version",
                t.act
            );
            hold!(
                usize::from(t.need) <= n && usize::from(t.abroad) <= abroad,
                Founding,
                "the threshold for '{}' cannot be met",
                t.act
            );
            // Shares would open the vault with fewer people than the threshold says, or could not be had at all.
            hold!(
                t.need >= self.need.k && t.abroad >= needed_abroad,
                Founding,
                "the threshold for '{}' is below what opens the vault",
                t.act
            );
        }
        Ok(())
    }

    fn check_vault(&self) -> Result<(), Refusal> {
        hold!(
            !self.vault.is_empty(),
            Founding,
            "there is no vault generation"
        );
        for (i, row) in self.vault.iter().enumerate() {
            hold!(
                usize::try_from(row.generation.0) == Ok(i + 1),
                Founding,
                "vault generations are numbered from 1 without a gap"
            );
        }
        unique("vault key", self.vault.iter().map(|v| v.key))?;
        unique(
            "share",
            self.share
                .iter()
                .map(|s| format!("{} {}", s.officer, s.generation)),
        )?;
        let wanted = self.officer.len() * self.vault.len();
        hold!(
            self.share.len() == wanted,
            Founding,
            "{} shares are named; every officer and generation make {wanted}",
            self.share.len()
        );
        let digests = self.share.iter().flat_map(|s| [Some(s.a), s.b]).flatten();
        unique("share digest", digests)?;
        for share in &self.share {
            let Some(officer) = self.officer(&share.officer) else {
                return Err(Refusal::new(
                    Rule::Founding,
                    format!("a share names {}, who is no officer", share.officer),
                ));
            };
            let known = self.vault.iter().any(|v| v.generation == share.generation);
            hold!(
                known,
                Founding,
                "a share names the generation {}, which there is not",
                share.generation
            );
            let wants_b = self.abroad.is_some() && officer.territory == Territory::Abroad;
            hold!(
                share.b.is_some() == wants_b,
                Founding,
                "share B belongs to officers abroad, if 'abroad' asks for some; see {}",
                share.officer
            );
        }
        Ok(())
    }

    fn check_places(&self) -> Result<(), Refusal> {
        unique("retention class", self.retention.iter().map(|r| &r.class))?;
        unique("registry", self.registry.iter().map(|r| r.id))?;
        let names = self
            .writer
            .iter()
            .map(|w| &w.name)
            .chain(self.client.iter().map(|c| &c.name));
        unique("name", names.chain(self.officer.iter().map(|o| &o.name)))?;
        let signing = self
            .writer
            .iter()
            .map(|w| w.key)
            .chain(self.embassy.iter().flat_map(|e| [e.key, e.log_key]));
        unique("key", signing)?;
        let tls = self
            .writer
            .iter()
            .map(|w| w.tls)
            .chain(self.client.iter().map(|c| c.tls));
        unique("TLS key", tls.chain(self.embassy.iter().map(|e| e.tls)))?;
        for r in &self.registry {
            hold!(
                self.retention.iter().any(|c| c.class == r.class),
                Founding,
                "{} has the retention class '{}', which is not defined",
                r.id,
                r.class
            );
            hold!(
                self.writer(&r.writer).is_some(),
                Founding,
                "{} is written by '{}', which is no writer",
                r.id,
                r.writer
            );
            hold!(
                self.embassy.iter().any(|e| e.label == r.embassy),
                Founding,
                "{} is kept at '{}', which is no embassy",
                r.id,
                r.embassy
            );
        }
        Ok(())
    }

    fn check_keyring(&self, keyring: &Keyring) -> Result<(), KeyringError> {
        keyring.check()?;
        let mut named: BTreeSet<Sha256> = BTreeSet::new();
        for key in self
            .writer
            .iter()
            .map(|w| w.key)
            .chain(self.embassy.iter().map(|e| e.key))
        {
            keyring.verifying_key(&key)?;
            named.insert(key);
        }
        for embassy in &self.embassy {
            keyring.log_key(&embassy.log_key)?;
            named.insert(embassy.log_key);
        }
        for vault in &self.vault {
            keyring.sealing_key(&vault.key)?;
            named.insert(vault.key);
        }
        match keyring.key.iter().find(|row| !named.contains(&row.id)) {
            Some(row) => Err(KeyringError::Unnamed(row.id)),
            None => Ok(()),
        }
    }

    /// The officer with this name.
    #[must_use]
    pub fn officer(&self, name: &Name) -> Option<&OfficerRow> {
        self.officer.iter().find(|o| o.name == *name)
    }

    /// How many officers are abroad.
    #[must_use]
    pub fn officers_abroad(&self) -> usize {
        self.officer
            .iter()
            .filter(|o| o.territory == Territory::Abroad)
            .count()
    }

    /// The approvals that an act needs.
    #[must_use]
    pub fn threshold(&self, act: Act) -> Option<&ThresholdRow> {
        self.threshold.iter().find(|t| t.act == act)
    }

    /// The writer with this name.
    #[must_use]
    pub fn writer(&self, name: &Name) -> Option<&WriterRow> {
        self.writer.iter().find(|w| w.name == *name)
    }

    /// The client with this name.
    #[must_use]
    pub fn client(&self, name: &Name) -> Option<&ClientRow> {
        self.client.iter().find(|c| c.name == *name)
    }

    /// The embassy with this label.
    #[must_use]
    pub fn embassy(&self, label: &Name) -> Option<&EmbassyRow> {
        self.embassy.iter().find(|e| e.label == *label)
    }

    /// The registry with this number.
    #[must_use]
    pub fn registry(&self, id: RegistryId) -> Option<&RegistryRow> {
        self.registry.iter().find(|r| r.id == id)
    }

    /// Whose a TLS key is, by the SHA-256 of its SPKI.
    #[must_use]
    pub fn role_of(&self, spki: &Sha256) -> Option<Role> {
        let embassy = || {
            self.embassy
                .iter()
                .find(|e| e.tls == *spki)
                .map(|e| Role::Embassy(e.label.clone()))
        };
        let writer = || {
            self.writer
                .iter()
                .find(|w| w.tls == *spki)
                .map(|w| Role::Writer(w.name.clone()))
        };
        let client = || {
            self.client
                .iter()
                .find(|c| c.tls == *spki)
                .map(|c| Role::Client(c.name.clone()))
        };
        embassy().or_else(writer).or_else(client)
    }
}

fn unique<T: Display>(what: &str, items: impl IntoIterator<Item = T>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for item in items {
        let item = item.to_string();
        hold!(
            !seen.contains(&item),
            Founding,
            "the {what} {item} is named twice"
        );
        seen.insert(item);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
