//! What an entry says of itself when it is not what the source held (spec/format.md §7.6).

use super::{Entry, EntryKind, Extents};

/// Attributes under names that begin so are the format's own. No file system has them.
pub const RESERVED: &[u8] = b"legation.";
/// The attribute of an entry that is not whole.
const NAME: &[u8] = b"legation.incomplete";
/// The longest reason in bytes; what is longer is cut.
const MAX_WHY: usize = 512;

/// In what way an entry is not what the source held at one moment, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incomplete {
    /// It is as an earlier version has it.
    Stale(String),
    /// Its bytes are of more than one moment, or something that belongs to it was left out.
    Torn(String),
    /// What is in it could not be read and nothing of it is known: of a file there is the name only.
    Missing(String),
}

impl Incomplete {
    /// The reason.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Stale(why) | Self::Torn(why) | Self::Missing(why) => why,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Stale(_) => "stale",
            Self::Torn(_) => "torn",
            Self::Missing(_) => "missing",
        }
    }
}

impl std::fmt::Display for Incomplete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.word(), self.why())
    }
}

impl Entry {
    /// Says of the entry that it is not whole.
    pub fn mark(&mut self, mark: &Incomplete) {
        let why = mark.why();
        let end = (0..=MAX_WHY.min(why.len())).rfind(|end| why.is_char_boundary(*end));
        let text = format!("{}: {}", mark.word(), &why[..end.unwrap_or(0)]);
        self.xattrs.insert(NAME.to_vec(), text.into_bytes());
        if self.validate().is_err() {
            // So many attributes that there is no room to say it: saying it goes first.
            self.xattrs.retain(|name, _| name == NAME);
        }
    }

    /// What the entry says of itself, if it is not whole. A word that is not known counts as missing.
    #[must_use]
    pub fn incomplete(&self) -> Option<Incomplete> {
        let text = String::from_utf8_lossy(self.xattrs.get(NAME)?).into_owned();
        Some(match text.split_once(": ") {
            Some(("stale", why)) => Incomplete::Stale(why.to_owned()),
            Some(("torn", why)) => Incomplete::Torn(why.to_owned()),
            Some(("missing", why)) => Incomplete::Missing(why.to_owned()),
            _ => Incomplete::Missing(text),
        })
    }

    /// Whether there is nothing but a name: such an entry must not be restored as an empty file.
    #[must_use]
    pub fn is_name_only(&self) -> bool {
        self.kind == EntryKind::File
            && self.extents == Extents::default()
            && matches!(self.incomplete(), Some(Incomplete::Missing(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mtime;
    use super::*;

    fn entry() -> Entry {
        Entry {
            path: b"a".to_vec(),
            kind: EntryKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: 0,
            xattrs: Default::default(),
            extents: Extents::default(),
        }
    }

    #[test]
    fn what_an_entry_says_of_itself_reads_back_and_never_breaks_a_rule() {
        for mark in [
            Incomplete::Stale("it changed".into()),
            Incomplete::Torn("\u{e9}: twice".into()),
            Incomplete::Missing(String::new()),
        ] {
            let mut marked = entry();
            marked.mark(&mark);
            assert_eq!(marked.incomplete(), Some(mark));
            marked.validate().unwrap();
        }
        assert_eq!(entry().incomplete(), None);
        let mut long = entry();
        long.mark(&Incomplete::Torn("\u{20ac}".repeat(1000)));
        let kept = long.incomplete().unwrap().why().len();
        assert_eq!(kept, 510, "cut between characters");
        // An entry whose attributes leave no room.
        let mut full = entry();
        let most = super::super::MAX_XATTRS - 6;
        full.xattrs.insert(b"user.a".to_vec(), vec![0; most]);
        full.validate().unwrap();
        full.mark(&Incomplete::Stale("why".into()));
        full.validate().unwrap();
        assert_eq!(full.incomplete(), Some(Incomplete::Stale("why".into())));
    }
}
