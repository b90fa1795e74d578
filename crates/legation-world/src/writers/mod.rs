//! Citizens: one thread to a registry that transacts without a pause, and an editor of the gazette.
//!
//! They know each other's news as people do: a land transfer may name a child registered a moment ago in another
//! database, so a loss can leave a reference that points nowhere.

mod gazette;
mod sql;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use gazette::{Edition, editions};

use crate::error::{Result, failed};
use crate::fixtures::{Plan, Registry};
use crate::pg::{CITIZEN_ROLE, Cluster};
use crate::rng::Rng;

/// How many newborns are news.
const NEWS: usize = 32;

/// What is heard across registries: children whose registration was just acknowledged.
#[derive(Debug, Default)]
pub struct News(Mutex<VecDeque<String>>);

impl News {
    fn tell(&self, code: String) {
        let mut news = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        news.push_back(code);
        if news.len() > NEWS {
            news.pop_front();
        }
    }

    /// A child of whom one hears now.
    pub fn hear(&self, rng: &mut Rng) -> Option<String> {
        let news = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The latest more often than not.
        let back = rng.below(NEWS as u64).min(rng.below(NEWS as u64)) as usize;
        news.iter().rev().nth(back).or(news.back()).cloned()
    }
}

/// What the threads share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    news: News,
    done: [AtomicU64; Registry::ALL.len()],
}

/// All citizens at work.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<(Registry, JoinHandle<Result<()>>)>,
}

/// Where the gazette is edited.
#[derive(Debug, Clone)]
pub struct Press {
    /// The captured tree.
    pub root: PathBuf,
    /// On the same file system, outside the tree: what is not finished.
    pub desk: PathBuf,
    /// Outside home: the base and every edition, byte for byte.
    pub shadow: PathBuf,
    /// Between two acts.
    pub pause: Duration,
}

impl Writers {
    /// Starts a writer on each of the clusters, and an editor if there is a press. Journals go to `journals`.
    /// `first` is the number of the first transaction, so that a second shift does not repeat the first one's.
    pub fn start(
        clusters: &[&Cluster],
        press: Option<&Press>,
        journals: &Path,
        plan: &Plan,
        first: i64,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for cluster in clusters {
            let Some(registry) = Registry::named(cluster.name()) else {
                return failed(format!("no registry is called {}", cluster.name()));
            };
            let desk = sql::Desk::open(
                registry,
                cluster.connect(CITIZEN_ROLE, cluster.name())?,
                journals,
                plan,
                first,
            )?;
            threads.push((
                registry,
                spawn(registry, &shared, move |shared| desk.work(shared))?,
            ));
        }
        if let Some(press) = press {
            let editor = gazette::Editor::new(press.clone(), plan, first)?;
            let registry = Registry::Gazette;
            threads.push((
                registry,
                spawn(registry, &shared, move |shared| editor.work(shared))?,
            ));
        }
        Ok(Self { shared, threads })
    }

    /// Transactions acknowledged so far in one registry.
    pub fn done(&self, registry: Registry) -> u64 {
        self.shared.done[registry as usize].load(Ordering::Relaxed)
    }

    /// Threads still at work.
    pub fn alive(&self) -> usize {
        self.threads.iter().filter(|t| !t.1.is_finished()).count()
    }

    /// Asks all to stop after the transaction in hand, and waits. An error of a writer whose server still answered
    /// is an error.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for (registry, thread) in std::mem::take(&mut self.threads) {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => return failed(format!("the writer of {} broke", registry.name())),
            }
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for (_, thread) in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

fn spawn(
    registry: Registry,
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(format!("writer {}", registry.name()));
    crate::error::Doing::doing(thread.spawn(move || work(&shared)), "starting a writer")
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, registry: Registry) {
        self.done[registry as usize].fetch_add(1, Ordering::Relaxed);
    }
}
