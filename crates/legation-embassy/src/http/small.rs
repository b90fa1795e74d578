//! Small things: attachments, releases, status and health.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use legation_core::id::{OrderId, Sha256};
use legation_core::mandate::Role;
use legation_repo::http::wire::{
    AttachmentsBody, MAX_ATTACHMENT, MAX_RELEASE, ReleasesBody, StatusBody,
};
use legation_repo::store::Put;

use super::{Caller, Json, Refused, blocking, body, parse};
use crate::hosted::Embassy;

/// The process runs.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Every state takes statements.
pub async fn readyz(State(embassy): State<Arc<Embassy>>) -> Result<&'static str, Refused> {
    if embassy.ready() {
        Ok("ready\n")
    } else {
        Err(Refused::failed())
    }
}

/// What this embassy says of itself.
pub async fn status(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
) -> Result<Json<StatusBody>, Refused> {
    let hosted = caller.hosted;
    blocking(move || hosted.status(&embassy)).await.map(Json)
}

/// Keeps an attachment under its SHA-256.
pub async fn put_attachment(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, digest)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let digest: Sha256 = parse(&digest)?;
    let held = body::read(&embassy, caller.key, &headers, body, MAX_ATTACHMENT).await?;
    let hosted = caller.hosted;
    let writer = matches!(caller.role, Role::Writer(_));
    let keep = move || {
        hosted
            .site
            .keep
            .put_attachment(&digest, &held.bytes, writer)
    };
    let put = blocking(keep).await?;
    Ok(created(put))
}

/// An attachment.
pub async fn get_attachment(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, digest)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let digest: Sha256 = parse(&digest)?;
    let lease = body::lease(&embassy, caller.key, MAX_ATTACHMENT).await?;
    let hosted = caller.hosted;
    let bytes = blocking(move || {
        hosted
            .site
            .keep
            .attachment(&digest)?
            .ok_or_else(|| Refused::not_found(format!("attachment {digest}")))
    })
    .await?;
    Ok(body::octets(StatusCode::OK, bytes, lease))
}

/// The digests of all attachments.
pub async fn list_attachments(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
) -> Result<Response, Refused> {
    let hosted = caller.hosted;
    let attachments = blocking(move || hosted.site.keep.attachments()).await?;
    body::json(&embassy, caller.key, &AttachmentsBody { attachments }).await
}

/// Keeps what was released for an order, beside whatever else was.
pub async fn put_release(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, order)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let order: OrderId = parse(&order)?;
    if matches!(caller.role, Role::Writer(_)) {
        return Err(Refused::role(
            "a writer delivers no releases; use a client's key",
        ));
    }
    let held = body::read(&embassy, caller.key, &headers, body, MAX_RELEASE).await?;
    let hosted = caller.hosted;
    let put = blocking(move || hosted.put_release(&order, &caller.key, &held.bytes)).await?;
    Ok(created(put))
}

/// The digests of what was released for an order to whom its keys are released now.
pub async fn list_releases(
    caller: Caller,
    Path((_, order)): Path<(String, String)>,
) -> Result<Json<ReleasesBody>, Refused> {
    caller.may_read()?;
    let order: OrderId = parse(&order)?;
    let hosted = caller.hosted;
    let releases = blocking(move || hosted.releases(&order)).await?;
    Ok(Json(ReleasesBody { releases }))
}

/// One release.
pub async fn get_release(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, order, digest)): Path<(String, String, String)>,
) -> Result<Response, Refused> {
    caller.may_read()?;
    let (order, digest): (OrderId, Sha256) = (parse(&order)?, parse(&digest)?);
    let lease = body::lease(&embassy, caller.key, MAX_RELEASE).await?;
    let hosted = caller.hosted;
    let bytes = blocking(move || {
        hosted
            .site
            .keep
            .release(&order, &digest)?
            .ok_or_else(|| Refused::not_found(format!("release {digest} for order {order}")))
    })
    .await?;
    Ok(body::octets(StatusCode::OK, bytes, lease))
}

fn created(put: Put) -> StatusCode {
    match put {
        Put::Created => StatusCode::CREATED,
        Put::Existing => StatusCode::OK,
    }
}
