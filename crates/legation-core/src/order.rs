//! Orders: what fits together in one, and the plain sentence that its fields make.

use crate::policy::{Refusal, Rule, hold};
use crate::statement::{Act, Mode, Order, ParseError, Recipient, Target, VersionPick, YesNo};

/// The longest validity of an order, in milliseconds: 31 days. An order is for an occasion, not for a rainy day.
pub const MAX_VALIDITY: u64 = 31 * 24 * 3600 * 1000;

/// For how long before an order's not-before the log may have gone on unseen by it, in milliseconds: one hour. In that
/// time it is written; longer, and "latest" in its sentence would not be the latest.
pub const MAX_UNSEEN: u64 = 3600 * 1000;

/// The most epochs that one commit may name. A release carries the keys of about 2,600 in its 4 MiB; a version that
/// needed more could never be opened, and half of it leaves room for the log that continues the version.
pub const MAX_VERSION_EPOCHS: u64 = 1024;

/// By how much a clock may be off, in milliseconds, where a moment at the database is compared with the log's times: five
/// minutes. It opens an epoch more than needed rather than one too few.
pub const CLOCK_MARGIN: u64 = 5 * 60 * 1000;

/// The most registries in one order.
pub const MAX_SCOPE: usize = 256;

impl Order {
    /// The sentence that these fields make. It is what an officer reads aloud, so it says the whole effect.
    #[must_use]
    pub fn make_sentence(&self) -> String {
        let n = self.registry.len();
        let registries = if n == 1 {
            "1 registry".to_owned()
        } else {
            format!("{n} registries")
        };
        let state = match (self.version, self.target) {
            (VersionPick::Latest, Some(Target::EndOfWal)) => "as last acknowledged".to_owned(),
            (VersionPick::Latest, None) => "as of the latest version".to_owned(),
            (VersionPick::Exactly(v), Some(Target::EndOfWal)) => {
                format!("from version {v} as last acknowledged")
            }
            (VersionPick::Exactly(v), None) => format!("as of version {v}"),
            (VersionPick::Exactly(v), Some(Target::Lsn(lsn))) => {
                format!("from version {v} as of position {lsn}")
            }
            (VersionPick::Exactly(v), Some(Target::Time(time))) => {
                format!("from version {v} as of {time}")
            }
            // Refused as a shape; a sentence is made of any fields all the same.
            (VersionPick::Latest, Some(point)) => format!("as of {point}"),
        };
        let loss = if self.accept_loss == YesNo::Yes {
            " Loss is accepted."
        } else {
            ""
        };
        match (self.act, self.recipient) {
            (Act::Activate, _) => {
                let mode = match self.grant {
                    Mode::Verify => "for verification only",
                    Mode::ReadOnly | Mode::Read => "for reading only",
                    Mode::ReadWrite => "for reading and writing",
                };
                let home = match &self.term {
                    Some(step) => {
                        format!("and accept nothing more from home under term {}", step.from)
                    }
                    None => "while home goes on writing".to_owned(),
                };
                format!(
                    "Start {registries} at embassy {}, {mode}, {state}, {home}.{loss}",
                    self.embassy
                )
            }
            (Act::Grant, Recipient::Key(key)) => {
                format!(
                    "Let the holder of key {key} read {registries} kept at embassy {}, {state}.{loss}",
                    self.embassy
                )
            }
            (act, _) => format!(
                "Carry out {act} on {registries} at embassy {}.{loss}",
                self.embassy
            ),
        }
    }

    /// The same order with the sentence that its fields make.
    ///
    /// # Errors
    /// As [`Self::check_shape`].
    pub fn with_sentence(mut self) -> Result<Self, Refusal> {
        let sentence = self.make_sentence().parse();
        self.sentence = sentence
            .map_err(|error: ParseError| Refusal::new(Rule::Sentence, error.to_string()))?;
        self.check_shape()?;
        Ok(self)
    }

    /// Whether the fields fit the act and each other, and the sentence fits them. It takes no log to check this, so
    /// approval tools do it before anybody signs.
    ///
    /// # Errors
    /// A [`Refusal`] under the rules `Unsupported`, `Shape`, `Validity` or `Sentence`.
    pub fn check_shape(&self) -> Result<(), Refusal> {
        let known = crate::mandate::ACTS.contains(&self.act);
        hold!(
            known,
            Unsupported,
            "the act '{}' is not supported by this version",
            self.act
        );
        let lossless = self.accept_loss == YesNo::No;
        hold!(
            lossless,
            Unsupported,
            "accept-loss is not supported by this version: there is one embassy, and nothing to override"
        );
        let n = self.registry.len();
        hold!(
            (1..=MAX_SCOPE).contains(&n),
            Shape,
            "an order names 1 to {MAX_SCOPE} registries, not {n}"
        );
        let sorted = self
            .registry
            .windows(2)
            .all(|w| matches!(w, [a, b] if a.registry < b.registry));
        hold!(
            sorted,
            Shape,
            "registries stand in ascending order, each once"
        );
        let single = n == 1 || self.version == VersionPick::Latest;
        hold!(
            single,
            Shape,
            "an order for one version names one registry; use 'version: latest' for several"
        );
        let placed =
            self.version != VersionPick::Latest || !self.target.is_some_and(Target::is_point);
        hold!(
            placed,
            Shape,
            "a point in time is reached from one version: 'version: v7'"
        );
        match self.act {
            Act::Activate => {
                hold!(
                    self.recipient == Recipient::Session,
                    Shape,
                    "an activation releases to its session: 'recipient: session'"
                );
                hold!(
                    self.grant != Mode::Read,
                    Shape,
                    "'grant: read' is for the act grant; use verify, read-only or read-write"
                );
                let fenced = self.term.is_some() || self.grant != Mode::ReadWrite;
                hold!(
                    fenced,
                    Shape,
                    "an activation for writing begins a new term: 'term: 1 to 2'"
                );
            }
            _ => {
                hold!(
                    self.recipient != Recipient::Session,
                    Shape,
                    "a grant names the key that it releases to"
                );
                hold!(
                    self.grant == Mode::Read,
                    Shape,
                    "a grant says 'grant: read'"
                );
                hold!(self.term.is_none(), Shape, "a grant says 'term: none'");
            }
        }
        if let Some(step) = &self.term {
            hold!(
                step.from.next() == Some(step.to),
                Shape,
                "a term is followed by the next one: 'term: 1 to 2'"
            );
        }
        let span = self.expires.millis().checked_sub(self.not_before.millis());
        let Some(1..=MAX_VALIDITY) = span else {
            return Err(Refusal::new(
                Rule::Validity,
                "an order is valid for some time, at most 31 days: see not-before and expires",
            ));
        };
        let sentence = self.make_sentence();
        hold!(
            self.sentence.as_str() == sentence,
            Sentence,
            "the sentence is not what the fields say; they say: {sentence}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
