//! `log`: the static files of the transparency log at their tlog-tiles paths, and consistency proofs.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use legation_repo::http::wire::{ConsistencyBody, TEXT};
use legation_repo::log::LogSource as _;
use serde::Deserialize;

use super::{Caller, Json, Refused, blocking, body};
use crate::hosted::Embassy;
use crate::keep;

/// Longest file of the log: a bundle of 256 entries, each with its length.
const MAX_TILE: usize = 256 * ((64 << 10) + 2);

/// The newest checkpoint, a signed note.
pub async fn checkpoint(caller: Caller) -> Response {
    let note = caller.hosted.site.checkpoint().note().to_owned();
    (
        [
            (header::CONTENT_TYPE, TEXT),
            (header::CACHE_CONTROL, "no-store"),
        ],
        note,
    )
        .into_response()
}

/// Between which trees.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
    #[serde(default)]
    old: u64,
    new: Option<u64>,
}

/// The proof that the tree of `old` entries is a prefix of the one of `new`, by default the newest.
pub async fn consistency(
    caller: Caller,
    between: Result<Query<Between>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ConsistencyBody>, Refused> {
    let Query(Between { old, new }) = between.map_err(|e| Refused::malformed(e.body_text()))?;
    let hosted = caller.hosted;
    blocking(move || {
        let log = hosted.site.log();
        let checkpoint = log.checkpoint();
        let new = new.unwrap_or(checkpoint.size()).min(checkpoint.size());
        // A client that holds a larger tree is shown the smaller one: that is for it to judge.
        let consistency = if old <= new {
            log.consistency(old, new).map_err(keep::refused)?
        } else {
            Vec::new()
        };
        Ok(Json(ConsistencyBody {
            checkpoint: checkpoint.note().to_owned(),
            old,
            new,
            consistency,
        }))
    })
    .await
}

/// A file of the log.
pub async fn tile(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, path)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let lease = body::lease(&embassy, caller.key, MAX_TILE).await?;
    let hosted = caller.hosted;
    let bytes = blocking(move || {
        let found = hosted.site.log().fetch(&path).map_err(keep::refused)?;
        found.ok_or_else(|| Refused::not_found("such file of the log"))
    })
    .await?;
    Ok(body::octets(StatusCode::OK, bytes, lease))
}
