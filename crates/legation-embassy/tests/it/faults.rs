//! Every named I/O edge fails in a real process: refused, persisted but reported failed, killed before and after. The
//! client only ever sends the same bytes again, and at the end everything that was acknowledged is there, once.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use legation_core::id::Digest;
use legation_core::statement::{Fence, LogHead, Statement};
use legation_embassy::EmbassyServer;
use legation_repo::edge::EDGES;
use legation_repo::http::{Client, ClientError, TlsIdentity, Trust};
use legation_repo::store::Kind;

use crate::orders::{ORDER, entries};
use crate::world::{Founded, LAND, World};

const ACTIONS: [&str; 4] = ["kill", "late-kill", "eio", "late-eio"];
/// Passages of an edge at which it fails: the start of the embassy passes some of them too.
const PASSAGES: [u32; 2] = [1, 4];
/// Edges that so short a life does not come to: a second segment of a journal, a full bundle of the log.
const NOT_MET: [&str; 2] = ["journal.create", "log.settle"];
/// Tries of one step. Each death of the embassy costs one or two.
const TRIES: u32 = 40;

/// An embassy as a process of its own, with one fault ahead of it.
struct Abroad<'a> {
    world: &'a World,
    child: Option<(Child, String)>,
    trust: Trust,
    /// Deaths of the process and answers that were no answers: how often the fault was felt.
    felt: u32,
}

impl Abroad<'_> {
    /// Starts the process; `None` when it died before it listened.
    fn start(&mut self, fault: Option<&str>) {
        let itself = Command::new(std::env::current_exe().unwrap());
        self.start_by(itself, fault);
    }

    fn start_by(&mut self, mut command: Command, fault: Option<&str>) {
        command
            .args(["--exact", "faults::child", "--ignored", "--nocapture"])
            .env("LEGATION_TEST_WORLD", self.world.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        match fault {
            Some(fault) => command.env("LEGATION_FAULT", fault),
            None => command.env_remove("LEGATION_FAULT"),
        };
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let said = out.lines().map_while(Result::ok).find_map(|line| {
            line.split_once("listening on ")
                .map(|(_, address)| address.to_owned())
        });
        match said {
            Some(address) => self.child = Some((child, address)),
            None => {
                child.wait().unwrap();
                self.child = None;
            }
        }
    }

    fn client(&self, identity: &TlsIdentity) -> Option<Client> {
        let (_, address) = self.child.as_ref()?;
        let mut options = self.world.options_at(&self.world.one, identity, address);
        options.trust = self.trust.clone();
        Some(Client::new(options).unwrap())
    }

    /// Does one step until it is acknowledged, starting the embassy again when it died.
    fn until<T>(
        &mut self,
        identity: &TlsIdentity,
        step: impl Fn(&Client) -> Result<T, ClientError>,
    ) -> T {
        for _ in 0..TRIES {
            let dead = match &mut self.child {
                Some((child, _)) => child.try_wait().unwrap().is_some(),
                None => true,
            };
            if dead {
                self.felt += 1;
                self.start(None);
                continue;
            }
            match step(&self.client(identity).unwrap()) {
                Ok(done) => return done,
                Err(e) if e.is_transient() => {
                    self.felt += 1;
                    std::thread::sleep(Duration::from_millis(30));
                }
                Err(e) => panic!("{e:?}"),
            }
        }
        panic!("the embassy did not come back");
    }
}

impl Drop for Abroad<'_> {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One life of a registry under one fault; how often it was felt.
fn live(fault: &str) -> u32 {
    let mut world = World::unstarted();
    world.save();
    let state = world.one.state;
    let Founded { vault, land, .. } = &mut world.one;
    let (slip, epoch) = land.epoch(state, vault, LAND, legation_core::id::EpochNo(1));
    let (pack, root) = world.one.land.pack(state, LAND, 1, 0, b"root");
    let (list, commit) = world
        .one
        .land
        .version(state, LAND, 1, None, &[(1, 0, &pack)], root);
    let (stream, frames) = world.one.land.stream(state, LAND, 6, None);

    let mut abroad = Abroad {
        world: &world,
        child: None,
        trust: world.trust(&world.one),
        felt: 0,
    };
    abroad.start(Some(fault));
    let agent = &world.one.land.tls;
    abroad.until(agent, |c| {
        c.put_object(Kind::Slip, &Digest::of(&slip), slip.clone())
    });
    abroad.until(agent, |c| c.submit(&epoch));
    abroad.until(agent, |c| {
        c.put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
    });
    abroad.until(agent, |c| {
        c.put_object(Kind::List, &Digest::of(&list), list.clone())
    });
    abroad.until(agent, |c| c.submit(&commit));
    let mut sent = 0;
    for until in [1, 3, 6, 7] {
        let ack = abroad.until(agent, |c| {
            c.append_journal(LAND, &stream, frames[sent..until].concat())
        });
        assert!(ack.sequence >= until as u64 - 1);
        sent = until;
    }
    let desk = &world.one.desk;
    let head = abroad.until(desk, |c| c.checkpoint());
    let order = world.one.activation(
        LogHead {
            size: head.size(),
            root: head.root(),
        },
        ORDER,
    );
    abroad.until(desk, |c| c.submit(&order));

    // Whatever happened, the next start owes nothing and holds it all.
    let (trust, felt) = (abroad.trust.clone(), abroad.felt);
    drop(abroad);
    world.start();
    let mut options = world.options(&world.one, &world.one.desk);
    options.trust = trust;
    let desk = Client::new(options).unwrap();
    let log = entries(&desk);
    let kinds: Vec<_> = log
        .iter()
        .map(|e| e.signed.text().split('\n').next().unwrap().to_owned())
        .collect();
    let expected =
        ["mandate", "epoch", "commit", "order", "fence"].map(|kind| format!("legation/{kind}/v1"));
    assert_eq!(kinds, expected);
    let Statement::Fence(fence) = log[4].signed.statement().unwrap() else {
        panic!("no fence")
    };
    let Fence {
        sequence,
        stream: fenced,
        ..
    } = &*fence;
    assert_eq!((*sequence, *fenced), (Some(6), Some(stream)));
    assert_eq!(
        desk.read_journal(LAND, &stream, 0, 1 << 20).unwrap(),
        frames.concat()
    );
    assert_eq!(
        desk.get_object(Kind::Pack, &pack.digest).unwrap(),
        pack.bytes
    );
    assert_eq!(
        desk.get_object(Kind::List, &Digest::of(&list)).unwrap(),
        list
    );
    world.stop();
    felt
}

#[test]
fn every_edge_fails_and_nothing_acknowledged_is_lost() {
    let mut faults: Vec<String> = Vec::new();
    // The agent's own edges are not passed here.
    for edge in EDGES.iter().filter(|edge| !edge.starts_with("agent.")) {
        for action in ACTIONS {
            faults.extend(PASSAGES.iter().map(|n| format!("{edge}:{n}={action}")));
        }
    }
    let queue = Mutex::new(faults);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let Some(fault) = queue.lock().unwrap().pop() else {
                        return;
                    };
                    let lived = std::panic::catch_unwind(|| live(&fault));
                    let Ok(felt) = lived else {
                        panic!("under {fault}")
                    };
                    // A process that kills itself cannot go unnoticed, so a silent run means a fault that never was.
                    let certain = fault.contains(":1=")
                        && fault.contains("kill")
                        && !NOT_MET.iter().any(|edge| fault.starts_with(edge));
                    assert!(felt > 0 || !certain, "{fault} was not felt");
                }
            });
        }
    });
}

/// A descriptor is held only for what is written to: streams that are over, however many, take none.
#[test]
fn streams_without_end_are_served_with_few_descriptors() {
    const FILES: u32 = 128;
    let mut world = World::unstarted();
    world.save();
    let state = world.one.state;
    let Founded { vault, land, .. } = &mut world.one;
    let (slip, epoch) = land.epoch(state, vault, LAND, legation_core::id::EpochNo(1));
    let mut abroad = Abroad {
        world: &world,
        child: None,
        trust: world.trust(&world.one),
        felt: 0,
    };
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -n {FILES} && exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap());
    abroad.start_by(limited, None);
    let land = &world.one.land;
    let client = abroad.client(&land.tls).unwrap();
    client
        .put_object(Kind::Slip, &Digest::of(&slip), slip)
        .unwrap();
    client.submit(&epoch).unwrap();
    let mut previous = None;
    for _ in 0..FILES {
        let (stream, frames) = land.stream(state, LAND, 1, previous);
        let ack = client
            .append_journal(LAND, &stream, frames.concat())
            .unwrap();
        previous = Some((stream, ack.chain));
    }
    assert_eq!(client.streams(LAND).unwrap().len(), FILES as usize);
}

/// The embassy's process: serves the saved world until its standard input ends.
#[test]
#[ignore = "started by the test above as a process of its own"]
fn child() {
    let Some(dir) = std::env::var_os("LEGATION_TEST_WORLD") else {
        return;
    };
    let embassy = EmbassyServer::start(World::saved(dir.as_ref())).unwrap();
    println!("listening on {}", embassy.local_addr().unwrap());
    let _ = std::io::stdin().read(&mut [0]);
}
