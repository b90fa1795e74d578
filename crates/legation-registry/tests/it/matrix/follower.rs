//! The receiver over crashes and promotions: one log after the other, without a gap.

use std::thread::JoinHandle;

use legation_core::id::Lsn;
use legation_core::source::SourceResult;
use legation_registry::Result;
use legation_registry::postgres::{WalEnd, WalOptions, WalPiece, WalReport};

use crate::cluster::Cluster;
use crate::memory::MemoryWal;

pub struct Follower {
    /// One for each timeline.
    logs: Vec<MemoryWal>,
    options: WalOptions,
    receiver: Option<JoinHandle<Result<WalReport>>>,
}

impl Follower {
    pub fn of(cluster: &Cluster) -> Self {
        let (wal, options) = cluster.begin();
        let receiver = Some(cluster.receive(&wal, options.clone()));
        Follower {
            logs: vec![wal],
            options,
            receiver,
        }
    }

    fn last(&self) -> &MemoryWal {
        self.logs.last().unwrap()
    }

    fn receive(&mut self, cluster: &Cluster) -> JoinHandle<Result<WalReport>> {
        self.options.start = self.last().end();
        cluster.receive(self.last(), self.options.clone())
    }

    /// The server went away, and is there again on the same timeline.
    pub fn after_crash(&mut self, cluster: &Cluster) {
        self.ended();
        self.receiver = Some(self.receive(cluster));
    }

    /// The server went away, and is there again on another timeline: the rest of the last one, then that.
    pub fn after_promotion(&mut self, cluster: &Cluster) {
        self.ended();
        let report = self.receive(cluster).join().unwrap().unwrap();
        let WalEnd::TimelineChanged { next, switch } = report.end else {
            panic!("{report:?}");
        };
        assert_eq!(switch, self.last().end());
        self.logs.push(MemoryWal::starting_at(switch));
        self.options.timeline = next;
        self.receiver = Some(self.receive(cluster));
    }

    fn ended(&mut self) {
        let receiver = self.receiver.take().unwrap();
        let report = receiver.join().unwrap().unwrap();
        let gone = matches!(report.end, WalEnd::Disconnected(_) | WalEnd::ServerStopped);
        assert!(gone, "{report:?}");
        self.last().forget_pending();
        assert_eq!(report.flushed, self.last().end());
    }

    pub fn wait_for(&self, lsn: Lsn) {
        self.last().wait_for(lsn);
    }

    pub fn halt(&mut self) {
        self.last().halt();
        self.receiver.take().unwrap().join().unwrap().unwrap();
    }

    /// From where to where the log reaches.
    pub fn reach(&self) -> (Lsn, Lsn) {
        (self.logs[0].first(), self.last().end())
    }

    pub fn pieces(&self) -> Vec<SourceResult<WalPiece>> {
        self.logs.iter().flat_map(MemoryWal::pieces).collect()
    }
}
