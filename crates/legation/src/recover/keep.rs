//! Where sealed bytes are read from: the embassy's own directory, or the embassy over the network. Either gives the
//! same objects and the same frames; neither is believed, everything is checked where it is opened.

use std::path::Path;
use std::sync::Arc;

use legation_core::id::{RegistryId, StateId, StreamId};
use legation_core::journal::FrameHeader;
use legation_core::source::ObjectSource;
use legation_repo::dir::DirStore;
use legation_repo::http::{Client, RemoteStore};
use legation_repo::state::StateDir;
use legation_repo::store::Objects;

use super::damaged;
use super::scope::Held;
use crate::exit::Failure;

/// How much of a journal one request fetches.
const FETCH: usize = 4 << 20;

/// Frames of one stream, from the first on.
pub type Frames = Box<dyn Iterator<Item = Result<(FrameHeader, Vec<u8>), Failure>> + Send>;

/// A source of sealed bytes.
#[derive(Clone)]
pub enum Keep {
    /// The store's directory, read beside its one writer.
    Local {
        /// Journals.
        dir: Arc<StateDir>,
        /// Packs and lists.
        objects: Arc<DirStore>,
        /// Who tells how far journals are.
        client: Client,
    },
    /// The embassy, over the network.
    Remote(Client),
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local { .. } => "Keep::Local",
            Self::Remote(_) => "Keep::Remote",
        })
    }
}

impl Keep {
    /// The store's own directory, for reading.
    ///
    /// # Errors
    /// When it is not there, or is another state's.
    pub fn local(path: &Path, state: &StateId, client: Client) -> Result<Self, Failure> {
        let dir = StateDir::open_reader(path, state)?;
        let objects = DirStore::open_reader(&dir.root().join("object"))?;
        Ok(Self::Local {
            dir: Arc::new(dir),
            objects: Arc::new(objects),
            client,
        })
    }

    /// Packs and lists.
    pub fn objects(&self) -> Arc<dyn ObjectSource> {
        match self {
            Self::Local { objects, .. } => Arc::new(Objects(objects.clone())),
            Self::Remote(client) => Arc::new(Objects(RemoteStore(client.clone()))),
        }
    }

    /// What is held of a registry's streams.
    ///
    /// # Errors
    /// When the embassy does not answer.
    pub fn streams(&self, registry: RegistryId) -> Result<Vec<Held>, Failure> {
        let (Self::Local { client, .. } | Self::Remote(client)) = self;
        Ok(Held::all(&client.streams(registry)?))
    }

    /// The frames of one stream.
    ///
    /// # Errors
    /// When it is not there.
    pub fn frames(&self, registry: RegistryId, stream: StreamId) -> Result<Frames, Failure> {
        match self {
            Self::Local { dir, .. } => {
                let frames = dir.read_journal(registry, &stream)?.frames(0)?;
                Ok(Box::new(frames.map(|frame| frame.map_err(Failure::from))))
            }
            Self::Remote(client) => Ok(Box::new(Fetched {
                client: client.clone(),
                registry,
                stream,
                next: 0,
                bytes: Vec::new(),
                at: 0,
                done: false,
            })),
        }
    }
}

/// Frames fetched in runs.
struct Fetched {
    client: Client,
    registry: RegistryId,
    stream: StreamId,
    next: u64,
    bytes: Vec<u8>,
    at: usize,
    done: bool,
}

impl Fetched {
    fn frame(&mut self) -> Result<Option<(FrameHeader, Vec<u8>)>, Failure> {
        if self.at == self.bytes.len() {
            self.bytes = self
                .client
                .read_journal(self.registry, &self.stream, self.next, FETCH)?
                .to_vec();
            self.at = 0;
            if self.bytes.is_empty() {
                return Ok(None);
            }
        }
        let rest = &self.bytes[self.at..];
        let header = FrameHeader::parse(rest)?;
        let size = header.size.bytes();
        let frame = rest.get(..size).ok_or_else(|| {
            damaged(format!(
                "frame {} of stream {} is cut",
                header.seq, self.stream
            ))
        })?;
        self.at += size;
        self.next = header.seq + 1;
        Ok(Some((header, frame.to_vec())))
    }
}

impl Iterator for Fetched {
    type Item = Result<(FrameHeader, Vec<u8>), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let frame = self.frame().transpose();
        self.done = !matches!(frame, Some(Ok(_)));
        frame
    }
}
