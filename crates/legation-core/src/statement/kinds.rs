//! The one table of kinds: what each statement is called, who signs it, and its fields in order.
//!
//! The structs, their texts, their parsers, [`Statement`] and [`KINDS`] are all made from this table, and
//! `spec/statements.md` is tested against it.

use super::field::Rows;
use super::row::*;
use super::text::{Lines, MAX_ATTACHMENT, MAX_TEXT, ParseError, kind_of};
use super::value::{Bytes32, EpochSet, Line, Name, Of, Recipient, Target, Time, VersionPick};
use super::word::*;
use crate::id::{
    Digest, EpochNo, Generation, Lsn, OrderId, RegistryId, Sha256, StateId, StreamId, Term,
    Timeline, VersionNo,
};

/// Who signs a kind of statement, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Signed by every officer; logged.
    AllOfficers,
    /// Signed by as many officers as the mandate's threshold says; logged.
    Quorum,
    /// Signed by the registry's writer; logged.
    Writer,
    /// Signed by the embassy; logged.
    Embassy,
    /// Signed by the embassy, outside the log.
    EmbassyAside,
    /// Signed by one officer, outside the log.
    OfficerAside,
    /// Not signed itself: a signed text names its digest.
    Named,
}

/// One row of the table of kinds.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The word in the first line.
    pub name: &'static str,
    /// The first line, which is the namespace of officers' signatures too.
    pub header: &'static str,
    /// Who signs it.
    pub standing: Standing,
    /// Its fields in order, as Rust names them: `log_head` is `log-head` in the text.
    pub fields: &'static [&'static str],
}

macro_rules! kinds {
    ($( $(#[$doc:meta])* $Name:ident = $kind:literal, $standing:ident, $limit:ident {
        $( $(#[$fdoc:meta])* $field:ident : $type:ty ),* $(,)?
    } )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $Name { $( $(#[$fdoc])* pub $field: $type ),* }

            impl $Name {
                /// The first line of its text, and the namespace of signatures over it.
                pub const HEADER: &'static str = concat!("legation/", $kind, "/v1");

                /// The exact text that is signed.
                #[must_use]
                pub fn text(&self) -> String {
                    let mut out = String::from(Self::HEADER);
                    out.push('\n');
                    $( self.$field.put(&stringify!($field).replace('_', "-"), &mut out); )*
                    out
                }

                /// Reads the exact text.
                ///
                /// # Errors
                /// [`ParseError`] for anything but the one spelling of a statement of this kind.
                pub fn parse(text: &str) -> Result<Self, ParseError> {
                    let mut lines = Lines::open(text, Self::HEADER, $limit)?;
                    $( let $field = <$type as Rows>::take(&stringify!($field).replace('_', "-"), &mut lines)?; )*
                    lines.end()?;
                    Ok(Self { $($field),* })
                }

                /// SHA-256 of the text.
                #[must_use]
                pub fn id(&self) -> Sha256 {
                    Sha256::of(self.text().as_bytes())
                }
            }

            impl From<$Name> for Statement {
                fn from(value: $Name) -> Self {
                    Self::$Name(Box::new(value))
                }
            }
        )*

        /// A statement of any kind.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Statement { $( $(#[$doc])* $Name(Box<$Name>) ),* }

        impl Statement {
            /// Reads a text of whatever kind its first line names.
            ///
            /// # Errors
            /// [`ParseError::UnknownKind`] if the kind is not in [`KINDS`], else as the kind's own parser.
            pub fn parse(text: &str) -> Result<Self, ParseError> {
                match kind_of(text)? {
                    $( $kind => $Name::parse(text).map(Self::from), )*
                    other => Err(ParseError::UnknownKind(other.chars().take(MAX_KIND).collect())),
                }
            }

            /// The exact text that is signed.
            #[must_use]
            pub fn text(&self) -> String {
                match self { $( Self::$Name(it) => it.text() ),* }
            }

            /// The row of the table for this kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $( Self::$Name(_) => Kind {
                    name: $kind,
                    header: $Name::HEADER,
                    standing: Standing::$standing,
                    fields: &[$(stringify!($field)),*],
                } ),* }
            }
        }

        /// Every kind that this version knows, in the order of the specification.
        pub const KINDS: &[Kind] = &[ $( Kind {
            name: $kind,
            header: $Name::HEADER,
            standing: Standing::$standing,
            fields: &[$(stringify!($field)),*],
        } ),* ];
    };
}

/// How much of an unknown kind's name an error repeats, in characters.
const MAX_KIND: usize = 40;

kinds! {
    /// The constitution of a state: who may do what, with which keys. Its founding text's digest is the state.
    Mandate = "mandate", AllOfficers, MAX_TEXT {
        /// `this` when it founds the state.
        state: Of,
        /// 1 for the founding mandate.
        sequence: u32,
        /// Digest of the mandate that it replaces.
        previous: Option<Sha256>,
        /// The suite of algorithms.
        suite: u16,
        /// When the ceremony wrote it.
        created: Time,
        /// How many officers' shares open the vault, of how many officers.
        need: KOfN,
        /// How many of the shares that only officers abroad hold it takes, of how many such officers.
        abroad: Option<KOfN>,
        /// The officers.
        officer: Vec<OfficerRow>,
        /// Digests of their shares.
        share: Vec<ShareRow>,
        /// The vault's generations.
        vault: Vec<VaultRow>,
        /// Approvals by act.
        threshold: Vec<ThresholdRow>,
        /// The embassies.
        embassy: Vec<EmbassyRow>,
        /// How many embassies acknowledge before data count as kept.
        ack: KOfN,
        /// The witness policy.
        witness: Option<Name>,
        /// Retention classes.
        retention: Vec<RetentionRow>,
        /// The agents that may write.
        writer: Vec<WriterRow>,
        /// Those who may fetch ciphertext and submit statements.
        client: Vec<ClientRow>,
        /// The registries.
        registry: Vec<RegistryRow>,
        /// Digest of the keyring, an attachment with the public keys themselves.
        keyring: Sha256,
    }

    /// What officers approve: the whole scope, and one sentence generated from it.
    Order = "order", Quorum, MAX_TEXT {
        /// What is ordered.
        act: Act,
        /// Its name; it is accepted once.
        order: OrderId,
        /// Whose.
        state: StateId,
        /// Sequence of the mandate it is given under.
        mandate: u32,
        /// The log as whoever wrote the order saw it.
        log_head: LogHead,
        /// At which embassy.
        embassy: Name,
        /// To whom keys are released.
        recipient: Recipient,
        /// Which registries and epochs; what is not listed stays shut.
        registry: Vec<ScopeRow>,
        /// Which version of them.
        version: VersionPick,
        /// Up to where the log is replayed.
        target: Option<Target>,
        /// What may be done.
        grant: Mode,
        /// The term that ends and the one that begins; none leaves home writing.
        term: Option<TermStep>,
        /// Whether data that other embassies acknowledged may be missing.
        accept_loss: YesNo,
        /// Valid from, by the embassy's receive time.
        not_before: Time,
        /// Valid before.
        expires: Time,
        /// Digest of the annex, which holds what the host must not read.
        annex_sha256: Sha256,
        /// The generated sentence.
        sentence: Line,
    }

    /// A new epoch of keys: its root is sealed in the slip.
    Epoch = "epoch", Writer, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// Its number: one more than the last.
        epoch: EpochNo,
        /// The vault generation that the slip is sealed to.
        generation: Generation,
        /// The suite of algorithms.
        suite: u16,
        /// BLAKE3 of the slip object.
        slip: Digest,
    }

    /// A complete version.
    Commit = "commit", Writer, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// On which branch.
        branch: Branch,
        /// Its number: one more than the last.
        version: VersionNo,
        /// Digest of the commit before it.
        parent: Option<Sha256>,
        /// Retention class, as the mandate says.
        class: Name,
        /// The suite of algorithms.
        suite: u16,
        /// The epochs whose keys it takes to open it, with the log that makes it consistent.
        epochs: EpochSet,
        /// The packs it needs.
        packs: Packs,
        /// Their sealed size in bytes.
        bytes: u64,
        /// Where its manifest begins.
        root: RootRow,
        /// The PostgreSQL timeline.
        timeline: Option<Timeline>,
        /// The write-ahead log that makes it consistent.
        wal: Option<BaseWal>,
        /// The stream whose journal continues it.
        stream: Option<StreamId>,
        /// When its capture began, by the agent's clock.
        captured: Time,
    }

    /// How far a stream has come; written every second or so while it grows, now and then while nothing comes.
    Mark = "mark", Writer, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// The epoch that the stream is sealed under.
        epoch: EpochNo,
        /// Which stream.
        stream: StreamId,
        /// The last frame's sequence.
        sequence: u64,
        /// The running hash after it.
        chain: Digest,
        /// The PostgreSQL timeline.
        timeline: Timeline,
        /// The position after its last byte.
        lsn: Lsn,
        /// As of when, by the agent's clock: all that the source had then is covered.
        at: Time,
    }

    /// The source was looked at again and is as the newest version has it.
    Unchanged = "unchanged", Writer, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// The newest version.
        version: VersionNo,
        /// When the look began, by the agent's clock.
        at: Time,
    }

    /// A hole in what was captured.
    Gap = "gap", Writer, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// The PostgreSQL timeline.
        timeline: Option<Timeline>,
        /// What is missing.
        wal: Option<WalRange>,
        /// Why.
        cause: Cause,
        /// When, by the agent's clock.
        at: Time,
    }

    /// A range for which zero loss cannot be promised, one whose source was damaged, or a version that is flagged.
    Doubt = "doubt", Writer, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// The PostgreSQL timeline.
        timeline: Option<Timeline>,
        /// The range.
        wal: Option<WalRange>,
        /// The version that is flagged.
        version: Option<VersionNo>,
        /// Why.
        cause: Cause,
        /// When, by the agent's clock.
        at: Time,
    }

    /// The embassy takes nothing more under an old term, and says how far it had come.
    Fence = "fence", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// By which order.
        order: OrderId,
        /// Of which registry.
        registry: RegistryId,
        /// The term that ends and the one that begins.
        term: TermStep,
        /// The stream that was live.
        stream: Option<StreamId>,
        /// Its last frame's sequence.
        sequence: Option<u64>,
        /// Its running hash.
        chain: Option<Digest>,
        /// The PostgreSQL timeline.
        timeline: Option<Timeline>,
        /// The position after the last acknowledged byte.
        lsn: Option<Lsn>,
        /// When.
        at: Time,
    }

    /// The key, made in memory for one activation, that released keys are sealed to.
    Session = "session", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// For which order.
        order: OrderId,
        /// SHA-256 of the X-Wing public key, which is an attachment.
        key: Sha256,
        /// When.
        at: Time,
    }

    /// Epochs that the embassy opened.
    Opened = "opened", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// By which order.
        order: OrderId,
        /// Of which registry.
        registry: RegistryId,
        /// Which epochs.
        epochs: EpochSet,
        /// When.
        at: Time,
    }

    /// A step of an activation.
    Step = "step", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// By which order.
        order: OrderId,
        /// Of which registry.
        registry: RegistryId,
        /// Which step.
        step: StepKind,
        /// How far it is replayed.
        lsn: Option<Lsn>,
        /// When.
        at: Time,
    }

    /// What an activation or a drill measured.
    Report = "report", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// By which order.
        order: OrderId,
        /// Of which registry.
        registry: RegistryId,
        /// From which version.
        version: VersionNo,
        /// The PostgreSQL timeline it serves on.
        timeline: Option<Timeline>,
        /// How far it is replayed.
        lsn: Option<Lsn>,
        /// Age of the youngest data, in milliseconds, where it could be measured.
        rpo_ms: Option<u64>,
        /// From the release to serving, in milliseconds.
        rto_ms: u64,
        /// Probes passed.
        probes: Probes,
        /// How it ended.
        verdict: Verdict,
        /// When.
        at: Time,
    }

    /// The keys of an activation are gone from memory, and with them what they opened.
    Sealed = "sealed", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// Of which order.
        order: OrderId,
        /// Why.
        cause: SealCause,
        /// When.
        at: Time,
    }

    /// Something was submitted that the mandate does not allow.
    Refused = "refused", Embassy, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Sequence of the mandate.
        mandate: u32,
        /// Which embassy.
        embassy: Name,
        /// Digest of the statement.
        statement: Sha256,
        /// The rule of the specification that it broke.
        rule: u16,
        /// When.
        at: Time,
    }

    /// The embassy holds a stream's frames on stable storage up to here.
    Ack = "ack", EmbassyAside, MAX_TEXT {
        /// Whose.
        state: StateId,
        /// Which embassy.
        embassy: Name,
        /// Of which registry.
        registry: RegistryId,
        /// In which term.
        term: Term,
        /// Which stream.
        stream: StreamId,
        /// The last frame's sequence.
        sequence: u64,
        /// The running hash after it.
        chain: Digest,
        /// The position after its last byte.
        lsn: Lsn,
        /// When, by the embassy's clock.
        at: Time,
    }

    /// An officer opened his share envelope and found the shares that the mandate names.
    Proof = "proof", OfficerAside, MAX_TEXT {
        /// Digest of the mandate.
        mandate: Sha256,
        /// Who.
        officer: Name,
        /// His shares, by generation.
        share: Vec<ProvenRow>,
        /// When.
        at: Time,
    }

    /// What the host must not read about an order. The order holds its digest; the salt hides what could be guessed.
    Annex = "annex", Named, MAX_TEXT {
        /// Of which order.
        order: OrderId,
        /// Random.
        salt: Bytes32,
        /// What the registries are called.
        registry: Vec<TitleRow>,
        /// Why.
        reason: Line,
    }

    /// The public keys that a mandate names by digest.
    Keyring = "keyring", Named, MAX_ATTACHMENT {
        /// The keys, in the order of their digests.
        key: Vec<KeyRow>,
    }
}
