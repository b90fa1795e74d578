//! Keeping bytes: objects checked on arrival, room kept for log and journal, evidence of conflicts.
//!
//! Objects are looked at from outside only: digest, size, and the clear header that says whose they are.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use legation_core::attachments::Attachments;
use legation_core::id::{Digest, OrderId, RegistryId, Sha256};
use legation_core::list::PackList;
use legation_core::pack::PackHeader;
use legation_core::size::SizeClass;
use legation_core::slip;
use legation_repo::durable;
use legation_repo::state::StateDir;
use legation_repo::store::{Kind, Put, RetainUntil, Store, StoreError};

use crate::config::Reserve;
use crate::http::Refused;

/// Smallest pack.
const MIN_PACK: u64 = 64 << 10;
/// Most pieces of evidence that are kept of one state: a liar needs to be shown once, not to fill the disk.
const MAX_EVIDENCE: usize = 1000;
/// Of the reserve, the part that journals leave to the log: an agent that fills everything it may cannot keep an order
/// from being logged.
const FLOOR: u64 = 2;
/// How much more than its quota a state's journals may reach, in parts of the quota: packs alone, which can wait, do not
/// stop the journal, which cannot.
const BEYOND_QUOTA: u64 = 10;
/// Most releases that one key delivers for one session: enough for mistakes, and no key can crowd out another.
const MAX_RELEASES: usize = 8;
/// Most packs that are remembered as whole, of one state: a version of 4 TiB in packs of 16 MiB; about 20 MiB of memory.
const MAX_SEEN: usize = 1 << 18;
/// Most attachments of one state. A session key is one, so is a grant's key, and 4 MiB is the largest.
const MAX_ATTACHED: usize = 4096;
/// Most that a writer's key may add to: it has nothing to attach but a keyring after an amendment.
const MAX_WRITERS: usize = 64;
/// Names asked for at once while the store is counted.
const COUNT_PAGE: usize = 1000;

/// What one state keeps here.
pub struct Keep {
    dir: StateDir,
    reserve: Reserve,
    quota: Option<Quota>,
    releasing: Mutex<()>,
    /// How many attachments there are.
    attached: Mutex<usize>,
    whole: Mutex<Seen>,
    /// Registries whose packs are being read for a commit.
    reading: Mutex<HashSet<RegistryId>>,
}

/// Packs that this process has seen whole: the newest of them, in two halves of which the older is let go.
#[derive(Default)]
struct Seen {
    newer: HashSet<Digest>,
    older: HashSet<Digest>,
}

/// The right to read a registry's packs, until it is dropped.
pub struct Turn<'a> {
    reading: &'a Mutex<HashSet<RegistryId>>,
    registry: RegistryId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.remove(&self.registry);
    }
}

struct Quota {
    limit: u64,
    used: Mutex<u64>,
}

impl Keep {
    /// Takes the opened directory of a state.
    pub fn new(dir: StateDir, reserve: Reserve, quota: Option<u64>) -> Result<Self, StoreError> {
        let attached = dir.attachments()?;
        let quota = match quota {
            Some(limit) => {
                let mut used = used(dir.objects())?;
                for name in &attached {
                    used += dir.attachment_size(name)?;
                }
                Some(Quota {
                    limit,
                    used: Mutex::new(used),
                })
            }
            None => None,
        };
        Ok(Self {
            dir,
            reserve,
            quota,
            releasing: Mutex::new(()),
            attached: Mutex::new(attached.len()),
            whole: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// The objects.
    pub fn store(&self) -> &dyn Store {
        self.dir.objects()
    }

    /// Keeps an object after looking at it from outside. Durable on return.
    pub fn put_object(&self, kind: Kind, digest: &Digest, bytes: &[u8]) -> Result<Put, Refused> {
        let size = bytes.len() as u64;
        self.inspect(kind, bytes)?;
        // A digest that is not that of the bytes is refused before room is asked for.
        if Digest::of(bytes) != *digest {
            return Err(Refused::bytes(format!(
                "{kind} {digest}: the bytes have another digest"
            )));
        }
        if !self.store().contains(kind, digest).map_err(refused)? {
            self.room(size)?;
        }
        let put = self
            .store()
            .put(kind, digest, bytes, RetainUntil::FOREVER)
            .map_err(refused)?;
        if kind == Kind::Pack {
            // Digest and header were checked above, and what lies here now was compared with it.
            self.saw_whole(digest);
        }
        if put == Put::Created {
            self.count(size);
        }
        Ok(put)
    }

    /// Counts bytes that this state now keeps here against its quota.
    pub fn count(&self, bytes: u64) {
        if let Some(quota) = &self.quota
            && let Ok(mut used) = quota.used.lock()
        {
            *used = used.saturating_add(bytes);
        }
    }

    /// Whether there is room for `size` more bytes of journals.
    pub fn journal_room(&self, size: u64) -> Result<(), Refused> {
        let quota = self.quota.as_ref().map_or(u64::MAX, |q| {
            let used = q.used.lock().map_or(q.limit, |used| *used);
            q.limit
                .saturating_add(q.limit / BEYOND_QUOTA)
                .saturating_sub(used)
        });
        if quota.min(self.disk_free(FLOOR)) >= size {
            return Ok(());
        }
        Err(Refused::full(
            "no room for journals: what is left is kept for the log, which goes on; raise the quota or add disks",
        ))
    }

    /// Whether this process has seen the pack whole.
    pub fn seen_whole(&self, pack: &Digest) -> bool {
        let seen = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        seen.newer.contains(pack) || seen.older.contains(pack)
    }

    /// Remembers that the pack was whole.
    pub fn saw_whole(&self, pack: &Digest) {
        let mut seen = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.newer.len() >= MAX_SEEN / 2 {
            seen.older = std::mem::take(&mut seen.newer);
        }
        seen.newer.insert(*pack);
    }

    /// The turn to read this registry's packs, unless somebody else has it.
    pub fn turn(&self, registry: RegistryId) -> Option<Turn<'_>> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.insert(registry).then_some(Turn {
            reading: &self.reading,
            registry,
        })
    }

    /// The size of an object.
    pub fn object_size(&self, kind: Kind, digest: &Digest) -> Result<u64, Refused> {
        self.store().size(kind, digest).map_err(refused)
    }

    /// A part of an object, as stored.
    pub fn read_object(
        &self,
        kind: Kind,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Refused> {
        self.store().get(kind, digest, range).map_err(refused)
    }

    /// Keeps an attachment. Durable on return.
    /// A writer's key may add to fewer, so that it cannot use up what orders and sessions need.
    pub fn put_attachment(
        &self,
        digest: &Sha256,
        bytes: &[u8],
        writer: bool,
    ) -> Result<Put, Refused> {
        if Sha256::of(bytes) != *digest {
            return Err(Refused::bytes(format!(
                "attachment {digest}: the bytes have another digest"
            )));
        }
        // Held from counting to keeping, so that the bound holds.
        let mut number = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let there = match self.dir.attachment(digest) {
            Ok(found) => found.is_some(),
            // The right bytes take the place of what is damaged.
            Err(StoreError::Damaged { what, why }) => {
                tracing::warn!(what, why, "damaged, and replaced by the right bytes");
                self.dir.put_attachment(bytes).map_err(refused)?;
                return Ok(Put::Created);
            }
            Err(other) => return Err(refused(other)),
        };
        if there {
            return Ok(Put::Existing);
        }
        let most = if writer { MAX_WRITERS } else { MAX_ATTACHED };
        if *number >= most {
            return Err(Refused::full(format!(
                "{number} attachments are kept here, as many as this key may add to"
            )));
        }
        let size = bytes.len() as u64;
        self.room(size)?;
        self.dir.put_attachment(bytes).map_err(refused)?;
        *number += 1;
        self.count(size);
        Ok(Put::Created)
    }

    /// An attachment.
    pub fn attachment(&self, digest: &Sha256) -> Result<Option<Vec<u8>>, Refused> {
        self.dir.attachment(digest).map_err(refused)
    }

    /// The names of all attachments.
    pub fn attachments(&self) -> Result<Vec<Sha256>, Refused> {
        self.dir.attachments().map_err(refused)
    }

    /// Keeps a release that the key `from` delivers. Durable on return.
    pub fn put_release(
        &self,
        order: &OrderId,
        recipient: &Sha256,
        from: &Sha256,
        bytes: &[u8],
    ) -> Result<Put, Refused> {
        // Held from counting to keeping, so that the bound holds.
        let _held = self
            .releasing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let digest = Sha256::of(bytes);
        let standing = self.dir.releases_to(order, recipient).map_err(refused)?;
        let same = standing.iter().find(|name| name.digest == digest);
        let from = match same {
            Some(name) => name.from,
            None => {
                let before = standing.iter().filter(|name| name.from == *from).count();
                if before >= MAX_RELEASES {
                    return Err(Refused::full(format!(
                        "this key has delivered {before} releases for order {order}, and none of them was opened; \
                         another key must deliver the next, or `legation activate` be started again"
                    )));
                }
                *from
            }
        };
        self.dir
            .put_release(order, recipient, &from, bytes)
            .map_err(refused)
    }

    /// The digests of what was released for an order to `recipient`: ascending, each once.
    pub fn releases(&self, order: &OrderId, recipient: &Sha256) -> Result<Vec<Sha256>, Refused> {
        let names = self.dir.releases_to(order, recipient).map_err(refused)?;
        let digests: BTreeSet<Sha256> = names.into_iter().map(|name| name.digest).collect();
        Ok(digests.into_iter().collect())
    }

    /// One release of an order.
    pub fn release(&self, order: &OrderId, digest: &Sha256) -> Result<Option<Vec<u8>>, Refused> {
        let names = self.dir.releases_of(order).map_err(refused)?;
        match names.iter().find(|name| name.digest == *digest) {
            Some(name) => self.dir.release(name).map_err(refused),
            None => Ok(None),
        }
    }

    /// Keeps bytes that contradict what was acknowledged, beside the store. Never fails the caller.
    pub fn evidence(&self, name: &str, bytes: &[u8]) {
        let dir = self.dir.root().join("evidence");
        let path = dir.join(format!("{name}-{}", Digest::of(bytes)));
        let kept = durable::create_dir(&dir).and_then(|()| {
            if path.exists() || std::fs::read_dir(&dir)?.count() >= MAX_EVIDENCE {
                return Ok(());
            }
            durable::write_atomic(&path, bytes)
        });
        match kept {
            Ok(()) => tracing::warn!(name, "kept bytes that contradict what was acknowledged"),
            Err(error) => tracing::error!(name, %error, "cannot keep evidence"),
        }
    }

    /// Bytes that objects may still take.
    pub fn free(&self) -> u64 {
        let quota = self.quota.as_ref().map_or(u64::MAX, |q| {
            let used = q.used.lock().map_or(q.limit, |used| *used);
            q.limit.saturating_sub(used)
        });
        quota.min(self.disk_free(1))
    }

    /// What the backing guarantees, in words.
    pub fn guarantees(&self) -> Vec<String> {
        let can = self.store().capabilities();
        let mut words = vec![format!("{} store", can.backing)];
        let mut say =
            |yes: bool, good: &str, bad: &str| words.push(if yes { good } else { bad }.to_owned());
        say(
            can.durable,
            "durable before it is acknowledged",
            "not durable",
        );
        say(
            can.retention_recorded,
            "retention recorded",
            "retention not recorded",
        );
        say(
            can.retention_enforced,
            "retention enforced by the backing",
            "retention not enforced by the backing",
        );
        words
    }

    /// Free bytes above this part of the reserve.
    fn disk_free(&self, part: u64) -> u64 {
        if let Some((total, free)) = legation_repo::disk::room() {
            return free.saturating_sub(self.reserve.bytes(total) / part);
        }
        match rustix::fs::statvfs(self.dir.root()) {
            Ok(fs) => {
                let total = fs.f_blocks.saturating_mul(fs.f_frsize);
                let free = fs.f_bavail.saturating_mul(fs.f_frsize);
                free.saturating_sub(self.reserve.bytes(total) / part)
            }
            // A file system that cannot be asked is left to say "full" itself.
            Err(_) => u64::MAX,
        }
    }

    fn room(&self, size: u64) -> Result<(), Refused> {
        if self.free() >= size {
            return Ok(());
        }
        Err(Refused::full(
            "no room for objects: what is left is kept for the log and the journal, which go on; \
             raise the quota or add disks",
        ))
    }

    /// Size and owner, from the outside.
    fn inspect(&self, kind: Kind, bytes: &[u8]) -> Result<(), Refused> {
        let bad = |why: String| Refused::bytes(format!("this is no {kind}: {why}"));
        let size = bytes.len() as u64;
        let in_table = SizeClass::exact(size).is_some();
        let state = match kind {
            Kind::Pack => {
                if !in_table || size < MIN_PACK {
                    return Err(bad(format!("{size} bytes is not a size of packs")));
                }
                PackHeader::parse(bytes)
                    .map_err(|e| bad(e.to_string()))?
                    .state
            }
            Kind::List => {
                if !in_table {
                    return Err(bad(format!("{size} bytes is not a size of lists")));
                }
                PackList::decode(bytes)
                    .map_err(|e| bad(e.to_string()))?
                    .state
            }
            Kind::Slip => slip::header(bytes).map_err(|e| bad(e.to_string()))?.state,
        };
        if state == *self.dir.state() {
            Ok(())
        } else {
            Err(Refused::bytes(format!("this {kind} is of another state")))
        }
    }
}

impl Attachments for Keep {
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>> {
        self.dir.attachment(digest).ok().flatten()
    }
}

/// A store's error as the client may see it: no paths, nothing of other states.
pub fn refused(error: StoreError) -> Refused {
    match error {
        StoreError::NotFound { what } => Refused::not_found(what),
        StoreError::Full { .. } => {
            Refused::full("the disk is full; nothing was kept of it, try again when there is room")
        }
        StoreError::Conflict { what } => {
            Refused::conflict(format!("{what} is kept with other bytes"))
        }
        StoreError::Refused { what, why } => Refused::bytes(format!("{what}: {why}")),
        StoreError::OutOfRange { size, .. } => Refused::range(size),
        StoreError::Damaged { what, why } => {
            tracing::error!(what, why, "damaged");
            Refused::incomplete(format!("{what} is damaged at this embassy"))
        }
        other => {
            tracing::error!(error = %other, "the store failed");
            Refused::failed()
        }
    }
}

/// Bytes of all objects.
fn used(store: &dyn Store) -> Result<u64, StoreError> {
    let mut sum = 0;
    for kind in Kind::ALL {
        let mut after = None;
        loop {
            let names = store.list(kind, after.as_ref(), COUNT_PAGE)?;
            for name in &names {
                sum += store.size(kind, name)?;
            }
            match names.last() {
                Some(last) => after = Some(*last),
                None => break,
            }
        }
    }
    Ok(sum)
}
