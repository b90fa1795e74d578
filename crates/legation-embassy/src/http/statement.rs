//! `statement`: into the log, and out comes a receipt that proves it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use legation_core::statement::Signed;
use legation_repo::http::wire::{MAX_STATEMENT, ReceiptBody};
use serde::Deserialize;

use super::{Caller, Json, Refused, blocking, body};
use crate::admit;
use crate::hosted::{Embassy, Site};
use crate::keep;

/// From which tree the receipt's consistency proof starts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    #[serde(default)]
    old: u64,
}

/// Takes a statement from anybody with a role: what it may do is said by its signatures, not by who delivers it.
pub async fn post(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    from: Result<Query<From>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let Query(From { old }) = from.map_err(|e| Refused::malformed(e.body_text()))?;
    let held = body::read(&embassy, caller.key, &headers, body, MAX_STATEMENT).await?;
    let signed = Signed::parse(&held.bytes)
        .map_err(|e| Refused::malformed(format!("this is no signed statement: {e}")))?;
    drop(held);
    let hosted = caller.hosted;
    let before = hosted.site.log().size();

    let (site, journals) = (hosted.site.clone(), hosted.journals.clone());
    let signed = blocking(move || admit::facts(&site, &journals, &signed).map(|()| signed)).await?;
    let index = hosted.sequencer.submit(signed).await?;
    let receipt = blocking(move || receipt(&hosted.site, index, old)).await?;
    let status = if index < before {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(receipt)).into_response())
}

pub(crate) fn receipt(site: &Site, index: u64, old: u64) -> Result<ReceiptBody, Refused> {
    let log = site.log();
    let checkpoint = log.checkpoint();
    let size = checkpoint.size();
    // A client that holds a larger tree than this log has is shown the smaller one: that is for it to judge.
    let consistency = if old <= size {
        log.consistency(old, size).map_err(keep::refused)?
    } else {
        Vec::new()
    };
    Ok(ReceiptBody {
        index,
        entry: STANDARD.encode(log.entry(index).map_err(keep::refused)?),
        inclusion: log.inclusion(index, size).map_err(keep::refused)?,
        checkpoint: checkpoint.note().to_owned(),
        old,
        consistency,
    })
}
