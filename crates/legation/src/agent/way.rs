//! How capture goes on after a connection was lost: exactly where the sealed stream ends, over a promotion into the next
//! timeline, or not at all, because the source has another history now.

use legation_core::id::{Lsn, Timeline};
use legation_registry::postgres::{Lineage, Place};

use super::streams::Tail;

/// Where the sealed stream may be gone on with, by the source's ancestry alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// There is no stream to go on with.
    Anew,
    /// At this position of this timeline, if the source still has the log from there on.
    On(Timeline, Lsn),
    /// The source's history is another one from here on, or a wholly other one.
    Differs(Option<Lsn>),
}

/// Compares the end of the stream with what the source says of itself; `known` is what it said before.
pub fn way(tail: Option<Tail>, known: Option<&Lineage>, now: &Lineage) -> Way {
    let Some(tail) = tail else {
        return Way::Anew;
    };
    if tail.system_id != now.system_id {
        return Way::Differs(None);
    }
    let (timeline, end) = (tail.position.timeline, tail.position.end_lsn);
    if let Some(at) = known.and_then(|known| now.contradicts(known)) {
        return Way::Differs(Some(at));
    }
    match now.place(timeline, end) {
        Place::Current => Way::On(timeline, end),
        Place::Before { switch, next } if end == switch => Way::On(next, switch),
        // The rest of the timeline first; the server keeps it as long as the segment.
        Place::Before { .. } => Way::On(timeline, end),
        Place::Beyond { switch } => Way::Differs(Some(switch)),
        Place::Stranger => Way::Differs(now.parents.last().map(|(_, at)| *at)),
    }
}

#[cfg(test)]
mod tests {
    use legation_core::id::{Digest, StreamId};
    use legation_core::journal::Position;

    use super::{Lineage, Lsn, Tail, Timeline, Way, way};

    fn tail(system_id: u64, timeline: u32, end: u64) -> Option<Tail> {
        Some(Tail {
            system_id,
            position: Position {
                stream: StreamId([1; 16]),
                seq: 5,
                chain: Digest::of(b""),
                end_lsn: Lsn(end),
                timeline: Timeline(timeline),
            },
        })
    }

    fn now(timeline: u32, parents: &[(u32, u64)]) -> Lineage {
        let parent = |(timeline, at): &(u32, u64)| (Timeline(*timeline), Lsn(*at));
        Lineage {
            system_id: 9,
            timeline: Timeline(timeline),
            parents: parents.iter().map(parent).collect(),
        }
    }

    #[test]
    fn what_descends_is_followed_and_what_does_not_is_not() {
        let third = now(3, &[(1, 100), (2, 200)]);
        let on = |timeline, end| Way::On(Timeline(timeline), Lsn(end));
        for (tail, expected) in [
            (None, Way::Anew),
            (tail(9, 3, 250), on(3, 250)),
            (tail(9, 1, 90), on(1, 90)),
            (tail(9, 1, 100), on(2, 100)),
            (tail(9, 2, 150), on(2, 150)),
            (tail(9, 2, 200), on(3, 200)),
            (tail(9, 1, 101), Way::Differs(Some(Lsn(100)))),
            (tail(9, 4, 101), Way::Differs(Some(Lsn(200)))),
            (tail(8, 3, 250), Way::Differs(None)),
        ] {
            assert_eq!(way(tail, None, &third), expected, "{tail:?}");
        }
    }

    #[test]
    fn another_promotion_to_the_same_number_is_another_history() {
        let known = now(2, &[(1, 100)]);
        let other = now(2, &[(1, 120)]);
        assert_eq!(
            way(tail(9, 2, 130), Some(&known), &other),
            Way::Differs(Some(Lsn(100)))
        );
        assert_eq!(
            way(tail(9, 2, 130), Some(&known), &known),
            Way::On(Timeline(2), Lsn(130))
        );
        let later = now(3, &[(1, 100), (2, 140)]);
        assert_eq!(
            way(tail(9, 2, 130), Some(&known), &later),
            Way::On(Timeline(2), Lsn(130))
        );
    }
}
