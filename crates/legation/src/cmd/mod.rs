//! The verbs: one file each, with its arguments, its example and its `run`.

pub mod activate;
pub mod agent;
pub mod bare;
pub mod bisect;
pub mod capture;
pub mod ceremony;
pub mod config;
pub mod dump;
pub mod embassy;
pub mod enrol;
pub mod log;
pub mod ls;
pub mod mandate;
pub mod officer;
pub mod order;
pub mod restore;
pub mod status;
pub mod verify;
pub mod versions;
pub mod waves;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::ctx::Ctx;
use crate::exit::Failure;
use crate::identity::{Identity, Role};

/// The one key of a role's configuration that must exist before the state does.
#[derive(Deserialize)]
struct Founding {
    identity: crate::config::IdentityAt,
}

/// Makes the identity that a role's configuration names, and its card.
fn init(ctx: &Ctx, config: &Path, role: Role) -> Result<(), Failure> {
    let founding: Founding = crate::config::load(config)?;
    let path = match &ctx.identity {
        Some(path) => path.clone(),
        None => crate::config::beside(config, &founding.identity.file),
    };
    let identity = Identity::create(role)?;
    let card: PathBuf = identity.save(&path, &identity.card()?)?;
    ctx.out.fact(
        "identity",
        &serde_json::json!({ "role": role.word(), "identity": path, "card": card }),
        format!("identity {}\ncard     {}", path.display(), card.display()),
    );
    Ok(())
}
