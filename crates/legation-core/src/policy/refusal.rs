//! Why something is refused: the numbered rules of `spec/statements.md`, and a message that says what to do.

use std::fmt;

/// What kind of refusal it is; the program's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not enough approvals: exit 5.
    Quorum,
    /// Written under a term that has ended: exit 6.
    Fenced,
    /// Not allowed by the mandate: exit 8.
    Mandate,
}

impl Class {
    /// The exit code of the program, and the `exit` member of HTTP errors.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Quorum => 5,
            Self::Fenced => 6,
            Self::Mandate => 8,
        }
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $Name:ident = $number:literal, $class:ident;)*) => {
        /// A rule of the fold, by its number in the specification. Numbers are never used again for other rules.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule { $($(#[$doc])* $Name = $number),* }

        impl Rule {
            /// Every rule, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$Name),*];

            /// What kind of refusal breaking it is.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$Name => Class::$class),* }
            }

            /// Its number.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The rule with this number.
            #[must_use]
            pub const fn of(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$Name),)* _ => None }
            }
        }
    };
}

rules! {
    /// Every entry obeys the grammar, and its kind is known.
    Text = 1, Mandate;
    /// Kinds that are not logged are never entries.
    NotLogged = 2, Mandate;
    /// Entries are numbered without a gap, and receive times never go back.
    Sequence = 3, Mandate;
    /// The first entry is a founding mandate that is whole in itself.
    Founding = 4, Mandate;
    /// What this version cannot hold to is refused, never ignored.
    Unsupported = 5, Mandate;
    /// A statement names this state.
    State = 6, Mandate;
    /// A statement names the mandate in force.
    MandateInForce = 7, Mandate;
    /// A mandate is replaced only by an amendment.
    Amendment = 8, Mandate;
    /// Every signature is from somebody entitled to sign this kind.
    Signer = 9, Mandate;
    /// Every signature verifies over the exact text.
    Signature = 10, Mandate;
    /// Enough officers approve, each counted once.
    Quorum = 11, Quorum;
    /// Enough of them are abroad.
    Abroad = 12, Quorum;
    /// An order is received within its validity, which is bounded.
    Validity = 13, Mandate;
    /// An order is accepted once.
    Once = 14, Mandate;
    /// An order's sentence is the one that its fields make.
    Sentence = 15, Mandate;
    /// An order's fields fit its act and each other.
    Shape = 16, Mandate;
    /// An order names a head of this very log, and one that was fresh when it was written.
    LogHead = 17, Mandate;
    /// An order's scope is exactly what its version and target need.
    Scope = 18, Mandate;
    /// An order's term step starts from the current term of every registry in scope.
    TermStep = 19, Mandate;
    /// A writer writes registries that the mandate gives it.
    Writer = 20, Mandate;
    /// Nothing is taken under a term that has ended.
    Fenced = 21, Fenced;
    /// Algorithms are those of the mandate's suite.
    Suite = 22, Mandate;
    /// Epochs are numbered without a gap.
    Epoch = 23, Mandate;
    /// New epochs are sealed to the generation in use, never to a spent one.
    Generation = 24, Mandate;
    /// Versions form one chain.
    Parent = 25, Mandate;
    /// A commit has the registry's retention class.
    RetentionClass = 26, Mandate;
    /// A commit or mark names epochs that are logged.
    EpochsLogged = 27, Mandate;
    /// What is said of how far a registry is covered only goes forward, and a stream that was left stays left.
    Forward = 28, Mandate;
    /// A commit's, gap's or fence's fields fit each other.
    Fields = 29, Mandate;
    /// An embassy's statement refers to an accepted order that is for this embassy and still open.
    Order = 30, Mandate;
    /// An activation has a session whose key is there, for as long as the order is valid.
    Session = 31, Mandate;
    /// Nothing is opened before the fence that the order asks for.
    FenceFirst = 32, Mandate;
    /// Only what is in scope is opened, and only what is opened goes further.
    Opened = 33, Mandate;
    /// A grant leaves a generation for new epochs.
    LastGeneration = 34, Mandate;
}

/// Why a statement was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that it breaks.
    pub rule: Rule,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(rule: Rule, message: impl Into<String>) -> Self {
        Self {
            rule,
            message: message.into(),
        }
    }

    /// What kind of refusal it is.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.rule.class()
    }

    /// 5, 6 or 8.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.class().exit_code()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rule {})", self.message, self.rule.number())
    }
}

impl std::error::Error for Refusal {}

/// Refuses unless the condition holds.
macro_rules! hold {
    ($condition:expr, $rule:ident, $($message:tt)+) => {
        if !$condition {
            return Err($crate::policy::Refusal::new($crate::policy::Rule::$rule, format!($($message)+)));
        }
    };
}
pub(crate) use hold;
