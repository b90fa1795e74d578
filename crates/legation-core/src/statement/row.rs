//! Values of several words on one line: officers, keys, scopes, ranges.

use super::field::{Field, row};
use super::value::{Base64, EpochSet, Keep, Line, Name};
use super::word::{Act, Territory, Tier};
use crate::id::{Digest, EpochNo, Generation, Lsn, RegistryId, Sha256, Term};

row! {
    /// `3 of 5`.
    KOfN("k of n, like 3 of 5") {
        /// How many are needed.
        k: u16, then "of";
        /// Of how many.
        n: u16;
    }
}
row! {
    /// `officer-1 home ssh-ed25519 AAAA…`
    OfficerRow("a name, home or abroad, and an SSH public key without comment") {
        /// What he is called in statements.
        name: Name;
        /// Where he is.
        territory: Territory;
        /// The key that he signs with.
        key: crate::sshsig::SshPublicKey;
    }
}
row! {
    /// `officer-1 1 <digest of share A> <digest of share B, or none>`
    ShareRow("an officer, a generation, and the digests of his share A and of his share B or none") {
        /// Whose.
        officer: Name;
        /// Of which vault.
        generation: Generation;
        /// Digest of his share of A, which all officers hold.
        a: Sha256;
        /// Digest of his share of B, which officers abroad hold if the mandate asks for some.
        b: Option<Sha256>;
    }
}
row! {
    /// `1 <SHA-256 of the X-Wing public key>`
    VaultRow("a generation and the digest of its public key") {
        /// The generation.
        generation: Generation;
        /// Digest of the public key, which is in the keyring.
        key: Sha256;
    }
}
row! {
    /// `activate 3 abroad 1`
    ThresholdRow("an act, the approvals it needs, 'abroad', and how many of them from abroad, like: activate 3 abroad 1") {
        /// For which act.
        act: Act;
        /// Approvals needed.
        need: u16, then "abroad";
        /// Approvals from abroad among them.
        abroad: u16;
    }
}
row! {
    /// `a luxembourg physical <key> <log key> <TLS key>`
    EmbassyRow("a label, a jurisdiction, a class, and the digests of its key, log key and TLS key") {
        /// All that anybody else ever sees of it.
        label: Name;
        /// Under whose law.
        jurisdiction: Name;
        /// What kind of site.
        class: Name;
        /// Digest of its signing key (Ed25519 + ML-DSA-65), which is in the keyring.
        key: Sha256;
        /// Digest of its log key (Ed25519 + ML-DSA-44), which is in the keyring.
        log_key: Sha256;
        /// SHA-256 of the SPKI of its TLS key.
        tls: Sha256;
    }
}
row! {
    /// `permanent forever`
    RetentionRow("a class, and forever or days, like 90d") {
        /// The class that registries and commits name.
        class: Name;
        /// How long it keeps.
        keep: Keep;
    }
}
row! {
    /// `w-1 <key> <TLS key>`
    WriterRow("a name, and the digests of its key and TLS key") {
        /// What it is called.
        name: Name;
        /// Digest of its signing key (Ed25519 + ML-DSA-65), which is in the keyring.
        key: Sha256;
        /// SHA-256 of the SPKI of its TLS key.
        tls: Sha256;
    }
}
row! {
    /// `desk <TLS key>`
    ClientRow("a name and the digest of its TLS key") {
        /// What it is called.
        name: Name;
        /// SHA-256 of the SPKI of its TLS key.
        tls: Sha256;
    }
}
row! {
    /// `r-3f9a1c T0 permanent w-1 a`
    RegistryRow("a registry, its tier, retention class, writer and embassy") {
        /// Its opaque number.
        id: RegistryId;
        /// Its service level.
        tier: Tier;
        /// Its retention class.
        class: Name;
        /// Who writes it in the first term.
        writer: Name;
        /// Where it is kept.
        embassy: Name;
    }
}
row! {
    /// `216 <root>`: a checkpoint's size and root hash.
    LogHead("the size of the log and its root hash") {
        /// Entries.
        size: u64;
        /// RFC 6962 tree hash.
        root: Sha256;
    }
}
row! {
    /// `r-3f9a1c epochs 1-4`
    ScopeRow("a registry, 'epochs' and ranges, like: r-3f9a1c epochs 1-4") {
        /// Which registry.
        registry: RegistryId, then "epochs";
        /// Which of its epochs.
        epochs: EpochSet;
    }
}
row! {
    /// `1 to 2`
    TermStep("a term, 'to' and the next term, like 1 to 2") {
        /// The term that ends.
        from: Term, then "to";
        /// The term that begins.
        to: Term;
    }
}
row! {
    /// `12 <digest of the pack list>`
    Packs("how many packs, and the digest of the list object") {
        /// How many.
        count: u64;
        /// BLAKE3 of the list object.
        list: Digest;
    }
}
row! {
    /// `0/1000000 0/2000000`
    WalRange("two positions, the first not after the second") {
        /// First byte.
        start: Lsn;
        /// After the last byte.
        stop: Lsn;
    }
}
/// `0/1000000 0/2000000 16`: the log that makes a version of a database consistent, and of which major release its server
/// is. Who will start it learns from the statement, before any key is released, what must be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseWal {
    /// The range.
    pub range: WalRange,
    /// The major release; none in what was written before it was told.
    pub server: Option<u16>,
}

impl std::ops::Deref for BaseWal {
    type Target = WalRange;
    fn deref(&self) -> &WalRange {
        &self.range
    }
}

impl From<WalRange> for BaseWal {
    fn from(range: WalRange) -> Self {
        Self {
            range,
            server: None,
        }
    }
}

impl Field for BaseWal {
    fn want() -> String {
        "two positions, the first not after the second, and the server's major release".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(range) = WalRange::read(text) {
            return Some(range.into());
        }
        let (range, server) = text.rsplit_once(' ')?;
        Some(Self {
            range: WalRange::read(range)?,
            server: Some(u16::read(server)?),
        })
    }

    fn write(&self) -> String {
        let range = self.range.write();
        self.server
            .map_or_else(|| range.clone(), |server| format!("{range} {server}"))
    }
}

row! {
    /// Where the root of the manifest lies: epoch, pack sequence, frame, offset, sealed bytes, plain bytes.
    RootRow("six numbers: epoch, pack, frame, offset, sealed bytes, plain bytes") {
        /// Epoch of its pack.
        epoch: EpochNo;
        /// Sequence of its pack in the epoch.
        seq: u32;
        /// Frame in the pack.
        index: u32;
        /// Offset in the pack, in bytes.
        offset: u32;
        /// Sealed length in bytes.
        sealed: u32;
        /// Plain length in bytes.
        plain: u32;
    }
}
row! {
    /// `<SHA-256> <base64>`
    KeyRow("the SHA-256 of a public key, and the key in base64") {
        /// SHA-256 of the bytes.
        id: Sha256;
        /// The bytes.
        bytes: Base64;
    }
}
row! {
    /// `r-3f9a1c Population Register`
    TitleRow("a registry and what people call it") {
        /// Its opaque number.
        id: RegistryId;
        /// What people call it.
        title: Line;
    }
}
row! {
    /// `4 of 4`
    Probes("passed of all, like 4 of 4") {
        /// Passed.
        passed: u32, then "of";
        /// Asked.
        asked: u32;
    }
}
row! {
    /// `1 <digest of share A> <digest of share B, or none>`: a share that its holder opened and found whole.
    ProvenRow("a generation, and the digests of share A and of share B or none") {
        /// Of which vault.
        generation: Generation;
        /// Digest of the share of A.
        a: Sha256;
        /// Digest of the share of B.
        b: Option<Sha256>;
    }
}
