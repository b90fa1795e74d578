//! The line between home and abroad: what is sent arrives late, twice, in another order, or not at all.

use legation_core::id::{Digest, OrderId, RegistryId, StreamId};
use legation_core::log::Checkpoint;
use legation_core::statement::Name;
use legation_repo::http::wire::{Problem, ReceiptBody};
use legation_repo::store::Kind;

use crate::dice::Dice;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// An agent, in one of its runs.
    Agent(usize, u64),
    /// Somebody with all of home's keys.
    Thief,
    /// Whoever submits an order.
    Desk(OrderId),
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Body {
    /// Keep an object.
    Object(Kind, Digest, Vec<u8>),
    /// Log a statement.
    Statement(Vec<u8>),
    /// Append frames to a stream.
    Frames(Name, RegistryId, StreamId, Vec<u8>),
}

/// A request under way.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Which.
    pub id: u64,
    /// Whose.
    pub who: Who,
    /// What.
    pub body: Body,
    /// The checkpoint that the asker held.
    pub held: Option<Checkpoint>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The object is kept.
    Kept,
    /// The statement is logged.
    Receipt(Box<ReceiptBody>),
    /// The frames are durable.
    Ack(String),
    /// No.
    Refused(Box<Problem>),
}

/// How a line behaves.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Hundredths of messages that are lost.
    pub lost: usize,
    /// Hundredths that come twice.
    pub twice: usize,
    /// Most steps that a message takes.
    pub slowest: u64,
}

/// Messages under way in one direction.
#[derive(Debug)]
pub struct Lane<T> {
    under_way: Vec<(u64, T)>,
}

impl<T: Clone> Lane<T> {
    /// Nothing under way.
    #[must_use]
    pub fn new() -> Self {
        Self {
            under_way: Vec::new(),
        }
    }

    /// Sends a message at this step. Whether it will arrive.
    pub fn send(&mut self, step: u64, message: T, weather: &Weather, dice: &mut Dice) -> bool {
        if dice.percent(weather.lost) {
            return false;
        }
        if dice.percent(weather.twice) {
            let due = step + dice.between(0, 3 * weather.slowest);
            self.under_way.push((due, message.clone()));
        }
        let due = step + dice.between(0, weather.slowest);
        self.under_way.push((due, message));
        true
    }

    /// Takes what is due, in any order, at most so many.
    pub fn arrive(&mut self, step: u64, most: usize, dice: &mut Dice) -> Vec<T> {
        let mut arrived = Vec::new();
        while arrived.len() < most {
            let due = |(_, (at, _)): &(usize, &(u64, T))| *at <= step;
            let due: Vec<usize> = self
                .under_way
                .iter()
                .enumerate()
                .filter(due)
                .map(|(n, _)| n)
                .collect();
            if due.is_empty() {
                break;
            }
            let taken = *dice.pick(&due);
            arrived.push(self.under_way.remove(taken).1);
        }
        arrived
    }

    /// The line is cut: what was under way is gone.
    pub fn cut(&mut self) {
        self.under_way.clear();
    }
}

impl<T: Clone> Default for Lane<T> {
    fn default() -> Self {
        Self::new()
    }
}
