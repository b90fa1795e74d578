//! `object/{pack|list|slip}/{blake3}`: write-once, checked on arrival, read in ranges.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use legation_core::id::Digest;
use legation_core::mandate::Role;
use legation_repo::http::wire::{MAX_OBJECT, NamesBody, OCTETS};
use legation_repo::store::{Kind, MAX_LIST, Put};
use serde::Deserialize;

use super::{Caller, Refused, blocking, body, parse};
use crate::admit;
use crate::hosted::Embassy;

type Name = Path<(String, String, String)>;

/// Keeps an object. 201 when it is new, 200 when the same bytes were kept before.
pub async fn put(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, kind, digest)): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let (kind, digest): (Kind, Digest) = (parse(&kind)?, parse(&digest)?);
    if !matches!(caller.role, Role::Writer(_)) {
        return Err(Refused::role("only a writer of the mandate adds objects"));
    }
    let held = body::read(&embassy, caller.key, &headers, body, MAX_OBJECT).await?;
    let hosted = caller.hosted;
    let put = blocking(move || {
        let body::Held { bytes, lease } = held;
        admit::slip(&hosted.site, kind, &digest, &bytes)?;
        let put = hosted.site.keep.put_object(kind, &digest, &bytes);
        drop(lease);
        put
    })
    .await?;
    Ok(match put {
        Put::Created => StatusCode::CREATED,
        Put::Existing => StatusCode::OK,
    })
}

/// The size of an object.
pub async fn head(caller: Caller, Path((_, kind, digest)): Name) -> Result<Response, Refused> {
    let (kind, digest): (Kind, Digest) = (parse(&kind)?, parse(&digest)?);
    let hosted = caller.hosted;
    let size = blocking(move || hosted.site.keep.object_size(kind, &digest)).await?;
    let mut response = ([
        (header::CONTENT_TYPE, OCTETS),
        (header::ACCEPT_RANGES, "bytes"),
    ])
    .into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

/// An object or one range of it.
pub async fn get(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, kind, digest)): Name,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    caller.may_read()?;
    let (kind, digest): (Kind, Digest) = (parse(&kind)?, parse(&digest)?);
    let hosted = caller.hosted.clone();
    let size = blocking(move || hosted.site.keep.object_size(kind, &digest)).await?;
    let range = match headers.get(header::RANGE) {
        Some(asked) => asked_range(asked, size)?,
        None => None,
    };
    let bytes = range.clone().unwrap_or(0..size);
    let lease = body::lease(&embassy, caller.key, (bytes.end - bytes.start) as usize).await?;
    let hosted = caller.hosted;
    let bytes = blocking(move || hosted.site.keep.read_object(kind, &digest, bytes)).await?;
    let status = if range.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let mut response = body::octets(status, bytes, lease);
    response
        .headers_mut()
        .insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        let said = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        if let Ok(said) = HeaderValue::from_str(&said) {
            response.headers_mut().insert(header::CONTENT_RANGE, said);
        }
    }
    Ok(response)
}

/// A page of names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    after: Option<Digest>,
    limit: Option<usize>,
}

/// The digests of a kind, ascending.
pub async fn list(
    State(embassy): State<Arc<Embassy>>,
    caller: Caller,
    Path((_, kind)): Path<(String, String)>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refused> {
    caller.may_read()?;
    let kind: Kind = parse(&kind)?;
    let Query(page) = page.map_err(|e| Refused::malformed(e.body_text()))?;
    let hosted = caller.hosted;
    let limit = page.limit.unwrap_or(MAX_LIST).min(MAX_LIST);
    let names = blocking(move || {
        hosted
            .site
            .keep
            .store()
            .list(kind, page.after.as_ref(), limit)
            .map_err(crate::keep::refused)
    })
    .await?;
    body::json(&embassy, caller.key, &NamesBody { names }).await
}

/// One `bytes=` range within `size`; anything else that is well-formed is ignored, as RFC 9110 allows.
fn asked_range(value: &HeaderValue, size: u64) -> Result<Option<Range<u64>>, Refused> {
    let Some(spec) = value.to_str().ok().and_then(|v| v.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Err(Refused::range(size));
    };
    if spec.contains(',') {
        return Ok(None);
    }
    let number = |text: &str| text.parse::<u64>().map_err(|_| Refused::range(size));
    let range = match (first, last) {
        ("", suffix) => size.saturating_sub(number(suffix)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => number(first)?..number(last)?.saturating_add(1).min(size),
    };
    if range.start < range.end {
        Ok(Some(range))
    } else {
        Err(Refused::range(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let asked = |text: &str| {
            asked_range(&HeaderValue::from_str(text).unwrap(), 100).map_err(|e| e.0.status)
        };
        assert_eq!(asked("bytes=0-9"), Ok(Some(0..10)));
        assert_eq!(asked("bytes=90-"), Ok(Some(90..100)));
        assert_eq!(asked("bytes=-10"), Ok(Some(90..100)));
        assert_eq!(asked("bytes=95-400"), Ok(Some(95..100)));
        assert_eq!(asked("lines=1-2"), Ok(None));
        assert_eq!(asked("bytes=0-1,5-6"), Ok(None));
        for bad in [
            "bytes=100-",
            "bytes=9-3",
            "bytes=x-3",
            "bytes=-0",
            "bytes=7",
        ] {
            assert_eq!(asked(bad), Err(416), "{bad}");
        }
    }
}
