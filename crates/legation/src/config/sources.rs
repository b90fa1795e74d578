//! Sources that are read by way of programs: commands, and images through snapshots.

use std::path::PathBuf;
use std::time::Duration;

use legation_registry::command::Output;
use legation_registry::image::Snapshot as How;
use legation_registry::program::Program;
use serde::{Deserialize, Serialize};

use super::units::Span;

/// What a program prints, as one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; no shell is between.
    pub argv: Vec<String>,
    /// What the file is called.
    #[serde(default = "Command::usual_name")]
    pub name: String,
    /// Time between two captures.
    #[serde(default = "usual_every")]
    pub every: Span,
    /// How long it may take.
    #[serde(default = "usual_timeout")]
    pub timeout: Span,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Names of variables of the agent's environment that it gets beside the usual ones.
    #[serde(default)]
    pub env: Vec<String>,
    /// Whether it may print nothing.
    #[serde(default)]
    pub may_be_empty: bool,
    /// How the file is read in again; told at a restore, and run by nothing of ours.
    #[serde(default)]
    pub restore_argv: Vec<String>,
}

/// A volume, an image of a machine, or a container image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The device, file or directory.
    pub path: PathBuf,
    /// What it is.
    #[serde(default)]
    pub format: Format,
    /// Time between two captures.
    #[serde(default = "usual_every")]
    pub every: Span,
    /// Where the bytes of one moment come from; needed for disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Nothing writes to it while it is captured: allows a disk without a snapshot.
    #[serde(default)]
    pub quiesced: bool,
}

/// What an image is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A volume or an image file of a machine: blocks change where they are.
    #[default]
    Disk,
    /// One file that is replaced, such as what `docker save` writes: bytes move.
    Archive,
    /// A directory in the OCI image layout.
    Oci,
}

/// Where the bytes of one moment come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "snapshot is \"reflink\", \"none\", or { create = [...], remove = [...], path = \"...\" }"
)]
pub enum Snapshot {
    /// A way that has a name.
    Named(Named),
    /// Programs of the owner.
    Hooks(Hooks),
}

/// A way that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// A clone beside the image, where the file system can do that.
    Reflink,
    /// The image itself.
    None,
}

/// Programs of the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Makes the snapshot.
    pub create: Vec<String>,
    /// Removes it.
    pub remove: Vec<String>,
    /// Where it then is.
    pub path: PathBuf,
    /// How long each may take.
    #[serde(default = "Hooks::usual_timeout")]
    pub timeout: Span,
    /// Names of variables of the agent's environment that they get beside the usual ones.
    #[serde(default)]
    pub env: Vec<String>,
}

fn usual_every() -> Span {
    Span(Duration::from_secs(3600))
}

fn usual_timeout() -> Span {
    Span(Duration::from_secs(1800))
}

fn program(argv: &[String], env: &[String], timeout: Span) -> Program {
    Program {
        argv: argv.iter().map(Into::into).collect(),
        directory: None,
        env: env.iter().map(Into::into).collect(),
        timeout: timeout.0,
    }
}

fn is_named(argv: &[String]) -> bool {
    argv.first().is_some_and(|program| !program.is_empty())
}

impl Command {
    fn usual_name() -> String {
        "output".into()
    }

    /// The program.
    pub fn program(&self) -> Program {
        Program {
            directory: self.directory.clone(),
            ..program(&self.argv, &self.env, self.timeout)
        }
    }

    /// As the driver takes it.
    pub fn output(&self) -> Output {
        Output {
            program: self.program(),
            name: self.name.clone(),
            may_be_empty: self.may_be_empty,
            restore: self.restore_argv.clone(),
        }
    }

    /// Checks what can be told from the file alone.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let plain = !matches!(self.name.as_str(), "" | "." | "..")
            && !self.name.contains(['/', '\0'])
            && self.name.len() <= 255;
        match (is_named(&self.argv), plain, self.timeout.0.is_zero()) {
            (false, ..) => Err("argv names no program"),
            (_, false, _) => Err("name is not the plain name of a file"),
            (.., true) => Err("timeout is nothing"),
            _ => Ok(()),
        }
    }
}

impl Hooks {
    fn usual_timeout() -> Span {
        Span(Duration::from_secs(300))
    }
}

impl Image {
    /// As the driver takes it.
    pub fn how(&self) -> How {
        match &self.snapshot {
            None | Some(Snapshot::Named(Named::None)) => How::None,
            Some(Snapshot::Named(Named::Reflink)) => How::Reflink,
            Some(Snapshot::Hooks(hooks)) => How::Hooks {
                create: program(&hooks.create, &hooks.env, hooks.timeout),
                remove: program(&hooks.remove, &hooks.env, hooks.timeout),
                path: hooks.path.clone(),
            },
        }
    }

    /// Checks what can be told from the file alone.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.format, &self.snapshot) {
            (Format::Disk, None) => Err(
                "an image of format \"disk\" needs snapshot: \"reflink\", { create, remove, path }, or \"none\" with \
                 quiesced = true",
            ),
            (Format::Disk, Some(Snapshot::Named(Named::None))) if !self.quiesced => Err(
                "snapshot is \"none\": say quiesced = true if nothing writes to the image while it is captured",
            ),
            (_, Some(Snapshot::Hooks(hooks)))
                if !is_named(&hooks.create) || !is_named(&hooks.remove) =>
            {
                Err("snapshot.create or snapshot.remove names no program")
            }
            (_, Some(Snapshot::Hooks(_) | Snapshot::Named(Named::Reflink))) if self.quiesced => {
                Err("quiesced is for an image without a snapshot")
            }
            (Format::Archive | Format::Oci, Some(_)) => Err(
                "snapshot is for images of format \"disk\": a file or directory that changes is noticed",
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
