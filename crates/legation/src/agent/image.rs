//! Volumes, images of machines and container images as a source.

use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_core::source::Sink;
use legation_registry::image::{self, Shape, oci, snapshot};

use super::index::Index;
use super::tree::is_as_in;
use super::version::{Taken, source_failure};
use super::whole::Driver;
use crate::config::agent::Tree;
use crate::config::sources::{Format, Image as Config};
use crate::exit::Failure;
use crate::stop::Stop;

/// An image of a registry.
pub struct Image {
    config: Config,
    /// Says how a snapshot is removed while there is one.
    marker: PathBuf,
}

impl Image {
    /// With what it keeps in the registry's directory of the spool.
    pub fn new(config: Config, dir: &Path) -> Self {
        Self {
            config,
            marker: dir.join("snapshot"),
        }
    }

    fn shape(&self) -> Option<Shape> {
        match self.config.format {
            Format::Disk => Some(Shape::Disk),
            Format::Archive => Some(Shape::Archive),
            Format::Oci => None,
        }
    }
}

impl Driver for Image {
    fn kind(&self) -> &'static str {
        "image"
    }

    fn name(&self) -> &'static str {
        "image"
    }

    fn every(&self) -> Duration {
        self.config.every.0
    }

    fn is_unchanged(&self, parent: &Index, stop: &Stop) -> Result<bool, Failure> {
        // What a kill left behind goes also when there is nothing to capture.
        snapshot::clean(&self.marker, &|| stop.is_up()).map_err(source_failure)?;
        if self.shape().is_none() {
            return is_as_in(&Tree::of(&self.config.path), parent, stop);
        }
        let now = image::look(&self.config.path).map_err(source_failure)?;
        let name = image::name(&self.config.path).map_err(source_failure)?;
        Ok(now.is_some_and(|now| parent.stats == [(name, now)]))
    }

    fn take(&self, parent: &Index, sink: &mut dyn Sink, stop: &Stop) -> Result<Taken, Failure> {
        let (path, stopped) = (&self.config.path, &|| stop.is_up());
        let Some(shape) = self.shape() else {
            let report = oci::capture(path, &parent.parent(), sink, stopped);
            let report = report.map_err(source_failure)?;
            return Ok(Taken {
                stats: report.stats,
                entries: report.entries,
                bytes: report.size,
                ..Taken::default()
            });
        };
        let how = self.config.how();
        let report = image::capture(path, shape, &how, &self.marker, sink, stopped);
        let report = report.map_err(source_failure)?;
        let name = image::name(path).map_err(source_failure)?;
        Ok(Taken {
            stats: report.stat.map(|stat| (name, stat)).into_iter().collect(),
            entries: 1,
            bytes: report.size,
            memo: report.digest.0.to_vec(),
            unchanged: parent.memo == report.digest.0,
            ..Taken::default()
        })
    }
}
