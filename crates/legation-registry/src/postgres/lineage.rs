//! A cluster's ancestry: which timelines led to the current one, and where each was left. It says whether WAL that was
//! captured before a promotion belongs to the history that the server has now.

use legation_core::id::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use super::conn::Conn;
use super::probe::{column, identify_on, replication};
use super::url::ConnectConfig;
use crate::{Error, Result};

/// A line for each promotion since the cluster was made; PostgreSQL itself knows no bound, and nobody promotes so often.
const MAX_PARENTS: usize = 10_000;

/// The current timeline and those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// The current timeline.
    pub timeline: Timeline,
    /// Those before it, oldest first, each with the position at which it was left.
    pub parents: Vec<(Timeline, Lsn)>,
}

/// How a position on some timeline lies to a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the current timeline.
    Current,
    /// On a timeline before it, no further than where that was left.
    Before {
        /// Where it was left.
        switch: Lsn,
        /// What followed it there.
        next: Timeline,
    },
    /// On a timeline before it, further than where that was left: what lies beyond is not of this history.
    Beyond {
        /// Where it was left.
        switch: Lsn,
    },
    /// On a timeline that is none of these.
    Stranger,
}

impl Lineage {
    /// Reads a timeline history file, such as `00000003.history`.
    ///
    /// # Errors
    /// When it is none, or does not lead to `timeline`.
    pub fn parse(system_id: u64, timeline: Timeline, text: &str) -> Result<Self> {
        let mut parents: Vec<(Timeline, Lsn)> = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace();
            let parent = fields.next().and_then(|t| t.parse().ok()).map(Timeline);
            let switch = fields.next().and_then(|lsn| lsn.parse::<Lsn>().ok());
            let (Some(parent), Some(switch)) = (parent, switch) else {
                return Err(bad(&format!("a line {line:?}")));
            };
            let grows = parents
                .last()
                .is_none_or(|(before, at)| *before < parent && *at <= switch);
            if !grows || parent >= timeline || parents.len() >= MAX_PARENTS {
                return Err(bad(&format!("timeline {parent} out of order")));
            }
            parents.push((parent, switch));
        }
        Ok(Lineage {
            system_id,
            timeline,
            parents,
        })
    }

    /// Where a position lies that was reached on `timeline`.
    pub fn place(&self, timeline: Timeline, end: Lsn) -> Place {
        if timeline == self.timeline {
            return Place::Current;
        }
        let Some(at) = self.parents.iter().position(|(t, _)| *t == timeline) else {
            return Place::Stranger;
        };
        let switch = self.parents[at].1;
        if end > switch {
            return Place::Beyond { switch };
        }
        let next = self.parents.get(at + 1).map_or(self.timeline, |(t, _)| *t);
        Place::Before { switch, next }
    }

    /// From where on the two differ; `None` when they are the same as far as both go.
    pub fn parts_at(&self, other: &Lineage) -> Option<Lsn> {
        let pairs = self.parents.iter().zip(&other.parents);
        let differing = pairs.filter(|(a, b)| a != b).map(|(a, b)| a.1.min(b.1));
        let mut longer = self
            .parents
            .iter()
            .skip(other.parents.len())
            .chain(other.parents.iter().skip(self.parents.len()));
        differing.min().or_else(|| longer.next().map(|(_, at)| *at))
    }
}

/// Asks the server for its ancestry.
///
/// # Errors
/// When it cannot be reached, or what it says is no history.
pub fn lineage(config: &ConnectConfig) -> Result<Lineage> {
    let mut conn = replication(config)?;
    let system = identify_on(&mut conn)?;
    let text = match system.timeline.0 {
        // The first one has no history file.
        0 | 1 => String::new(),
        _ => history_file(&mut conn, system.timeline, &|| false)?,
    };
    Lineage::parse(system.id, system.timeline, &text)
}

/// The text of a timeline's history file.
pub(crate) fn history_file(
    conn: &mut Conn,
    timeline: Timeline,
    stop: &dyn Fn() -> bool,
) -> Result<String> {
    let rows = conn.query_until(&format!("TIMELINE_HISTORY {timeline}"), stop)?;
    rows.first()
        .and_then(|row| column(row, 1))
        .map(str::to_owned)
        .ok_or_else(|| bad("the server has none of its timeline"))
}

fn bad(what: &str) -> Error {
    Error::malformed("timeline history", what)
}

#[cfg(test)]
mod tests {
    use super::{Lineage, Lsn, Place, Timeline};

    const TEXT: &str =
        "1\t0/3000148\tno recovery target specified\n\n# a remark\n2\t0/5000000\tbefore 2026\n";

    fn lineage(text: &str) -> Lineage {
        Lineage::parse(7, Timeline(4), text).unwrap()
    }

    #[test]
    fn a_position_is_before_or_beyond_the_switch_or_of_another_history() {
        let lineage = lineage(TEXT);
        let place = |timeline, end| lineage.place(Timeline(timeline), Lsn(end));
        assert_eq!(place(4, 0), Place::Current);
        let first = Lsn(0x300_0148);
        let before = Place::Before {
            switch: first,
            next: Timeline(2),
        };
        assert_eq!((place(1, 1), place(1, first.0)), (before, before));
        assert_eq!(place(1, first.0 + 1), Place::Beyond { switch: first });
        let last = Place::Before {
            switch: Lsn(0x500_0000),
            next: Timeline(4),
        };
        assert_eq!(place(2, 0x400_0000), last);
        assert_eq!(
            (place(3, 0), place(5, 0)),
            (Place::Stranger, Place::Stranger)
        );
    }

    #[test]
    fn two_histories_of_one_number_part_where_they_were_promoted() {
        let one = lineage(TEXT);
        assert_eq!(one.parts_at(&one), None);
        let other = lineage("1\t0/3000200\tx\n2\t0/5000000\ty\n");
        assert_eq!(one.parts_at(&other), Some(Lsn(0x300_0148)));
        let shorter = lineage("1\t0/3000148\tx\n");
        assert_eq!(one.parts_at(&shorter), Some(Lsn(0x500_0000)));
        assert_eq!(shorter.parts_at(&one), Some(Lsn(0x500_0000)));
    }

    #[test]
    fn what_is_no_history_is_refused() {
        for text in [
            "1",
            "x\t0/1\ty",
            "1\t0-1\ty",
            "2\t0/1\tx\n1\t0/2\ty",
            "4\t0/1\tx",
        ] {
            let parsed = Lineage::parse(7, Timeline(4), text);
            assert!(parsed.is_err(), "{text:?}");
        }
    }
}
