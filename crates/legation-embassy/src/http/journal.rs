//! `journal`: frames of live WAL in, signed acknowledgements out; and the kept frames again.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use legation_core::id::{RegistryId, StreamId};
use legation_core::mandate::Role;
use legation_repo::http::wire::{MAX_JOURNAL, StreamsBody, TEXT};
use serde::Deserialize;

use super::{Caller, Refused, blocking, body, parse};
use crate::hosted::Embassy;

type Name = Path<(String, String, String)>;

/// Appends whole frames; the answer is signed after they are durable.
pub async fn append(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, registry, stream)): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let (registry, stream): (RegistryId, StreamId) = (parse(&registry)?, parse(&stream)?);
    let Role::Writer(writer) = caller.role else {
        return Err(Refused::role(
            "only the registry's writer appends to its journal",
        ));
    };
    let held = body::read(&embassy, caller.key, &headers, body, MAX_JOURNAL).await?;
    let ack = caller
        .hosted
        .journals
        .append(writer, registry, stream, held.bytes)
        .await?;
    drop(held.lease);
    Ok(([(header::CONTENT_TYPE, TEXT)], ack).into_response())
}

/// The streams of all registries.
pub async fn all(State(embassy): State<Arc<Embassy>>, caller: Caller) -> Result<Response, Refused> {
    let streams = caller.hosted.journals.streams(None)?;
    body::json(&embassy, caller.key, &StreamsBody { streams }).await
}

/// The streams of one registry.
pub async fn streams(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, registry)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let registry: RegistryId = parse(&registry)?;
    let streams = caller.hosted.journals.streams(Some(registry))?;
    body::json(&embassy, caller.key, &StreamsBody { streams }).await
}

/// Which frames.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

/// Whole frames from a number on, as they were sent.
pub async fn read(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, registry, stream)): Name,
    run: Result<Query<Run>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refused> {
    caller.may_read()?;
    let (registry, stream): (RegistryId, StreamId) = (parse(&registry)?, parse(&stream)?);
    let Query(Run { from, limit }) = run.map_err(|e| Refused::malformed(e.body_text()))?;
    let limit = limit.unwrap_or(MAX_JOURNAL).min(MAX_JOURNAL);
    let lease = body::lease(&embassy, caller.key, limit).await?;
    let hosted = caller.hosted;
    let frames = blocking(move || hosted.journals.read(registry, stream, from, limit)).await?;
    Ok(body::octets(StatusCode::OK, frames, lease))
}
