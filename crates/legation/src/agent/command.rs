//! What a program prints, as a source: only its whole output tells whether anything changed.

use std::time::Duration;

use legation_core::source::Sink;
use legation_registry::command;

use super::index::Index;
use super::version::{Taken, source_failure};
use super::whole::Driver;
use crate::config::sources::Command as Config;
use crate::exit::Failure;
use crate::stop::Stop;

impl Driver for Config {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn name(&self) -> &'static str {
        "output"
    }

    fn every(&self) -> Duration {
        self.every.0
    }

    fn is_unchanged(&self, _parent: &Index, _stop: &Stop) -> Result<bool, Failure> {
        Ok(false)
    }

    fn take(&self, parent: &Index, sink: &mut dyn Sink, stop: &Stop) -> Result<Taken, Failure> {
        let report = command::capture(&self.output(), sink, &|| stop.is_up());
        let report = report.map_err(source_failure)?;
        Ok(Taken {
            entries: 1,
            bytes: report.bytes,
            memo: report.digest.0.to_vec(),
            unchanged: parent.memo == report.digest.0,
            ..Taken::default()
        })
    }
}
