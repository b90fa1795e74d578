//! What waits to be sent, and what is remembered across runs.

use super::*;

impl Item {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (tag, bytes) = match self {
            Item::Object(Kind::Pack, bytes) => (0, bytes),
            Item::Object(Kind::List, bytes) => (1, bytes),
            Item::Object(Kind::Slip, bytes) => (2, bytes),
            Item::Statement(bytes) => (3, bytes),
        };
        let mut out = vec![tag];
        out.extend_from_slice(bytes);
        out
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let rest = rest.to_vec();
        Some(match tag {
            0 => Item::Object(Kind::Pack, rest),
            1 => Item::Object(Kind::List, rest),
            2 => Item::Object(Kind::Slip, rest),
            3 => Item::Statement(rest),
            _ => return None,
        })
    }

    pub(super) fn statement(&self) -> Option<Statement> {
        match self {
            Item::Object(..) => None,
            Item::Statement(bytes) => Signed::parse(bytes).ok()?.statement().ok(),
        }
    }

    pub(super) fn epoch(&self) -> Option<EpochNo> {
        match self.statement()? {
            Statement::Epoch(epoch) => Some(epoch.epoch),
            _ => None,
        }
    }

    pub(super) fn slip(&self) -> Option<Digest> {
        match self.statement()? {
            Statement::Epoch(epoch) => Some(epoch.slip),
            _ => None,
        }
    }

    pub(super) fn is_gap(&self) -> bool {
        matches!(self.statement(), Some(Statement::Gap(_)))
    }

    pub(super) fn is_commit(&self) -> bool {
        matches!(self.statement(), Some(Statement::Commit(_)))
    }

    pub(super) fn epochs(&self) -> Vec<EpochNo> {
        match self.statement() {
            Some(Statement::Commit(commit)) => commit.epochs.iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl Memory {
    pub(super) fn text(&self) -> String {
        format!(
            "{} {} {} {} {} {}\n",
            self.last_epoch, self.generation, self.term, self.fenced, self.ordinal, self.anew
        )
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.strip_suffix('\n')?.split(' ');
        Some(Self {
            last_epoch: EpochNo(words.next()?.parse().ok()?),
            generation: Generation(words.next()?.parse().ok()?),
            term: Term(words.next()?.parse().ok()?),
            fenced: words.next()?.parse().ok()?,
            ordinal: words.next()?.parse().ok()?,
            anew: words.next()?.parse().ok()?,
        })
    }
}
