//! What happened, in order: a running hash that two runs of a seed must agree on, and the last events to read.

use std::collections::VecDeque;
use std::fmt;

/// How many of the last events are kept to be read.
const KEPT: usize = 120;

/// The events of one run.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    last: VecDeque<String>,
    echo: bool,
    /// The step that is being made.
    pub step: u64,
}

impl Trace {
    /// No events yet. With `echo` each is printed when it happens.
    #[must_use]
    pub fn new(echo: bool) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            last: VecDeque::new(),
            echo,
            step: 0,
        }
    }

    /// Something happened. It must depend on the seed alone: no digests of what is signed, for signatures are random.
    pub fn say(&mut self, event: fmt::Arguments<'_>) {
        let line = format!("{:5} {event}", self.step);
        self.hasher.update(line.as_bytes()).update(b"\n");
        if self.echo {
            println!("{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The hash over all events so far.
    #[must_use]
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex()[..16].to_owned()
    }

    /// The last events, oldest first.
    #[must_use]
    pub fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}
