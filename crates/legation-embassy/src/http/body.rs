//! Bodies: bounded in size, in idle time, and together in memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, SizeHint};
use legation_repo::http::wire::OCTETS;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Refused;
use crate::hosted::Embassy;

/// A body in memory with its share of the memory that all bodies may take.
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    /// Returned when the bytes have been dealt with.
    pub lease: Lease,
}

/// A share of the memory for bodies.
pub struct Lease(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

/// Takes a share for `length` bytes, waiting a bounded time.
pub async fn lease(embassy: &Embassy, length: usize) -> Result<Lease, Refused> {
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    if kib == 0 {
        return Ok(Lease(None));
    }
    let permit = timeout(
        embassy.limits.queue_wait,
        embassy.memory.clone().acquire_many_owned(kib),
    )
    .await;
    match permit {
        Ok(Ok(permit)) => Ok(Lease(Some(permit))),
        _ => Err(Refused::busy()),
    }
}

/// Reads a whole body of at most `limit` bytes; its length must be stated and true.
pub async fn read(
    embassy: &Embassy,
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
) -> Result<Held, Refused> {
    let stated = headers
        .get(header::CONTENT_LENGTH)
        .ok_or_else(Refused::length_required)?;
    let length: usize = stated
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Refused::malformed("content-length is not a number"))?;
    if length > limit {
        return Err(Refused::too_large(limit));
    }
    let lease = lease(embassy, length).await?;
    let mut bytes = BytesMut::with_capacity(length);
    loop {
        let frame = timeout(embassy.limits.body_idle, body.frame())
            .await
            .map_err(|_| Refused::malformed("the body stopped coming"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Refused::malformed("the body broke off"))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > length {
                return Err(Refused::malformed("the body is longer than it says"));
            }
            bytes.extend_from_slice(&data);
        }
    }
    if bytes.len() != length {
        return Err(Refused::malformed("the body is shorter than it says"));
    }
    Ok(Held {
        bytes: bytes.freeze(),
        lease,
    })
}

/// An answer of opaque bytes, which keeps its share of memory until it is sent.
pub fn octets(status: StatusCode, bytes: Vec<u8>, lease: Lease) -> Response {
    let body = Leased {
        inner: Full::new(Bytes::from(bytes)),
        _lease: lease,
    };
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(OCTETS));
    response
}

struct Leased {
    inner: Full<Bytes>,
    _lease: Lease,
}

impl hyper::body::Body for Leased {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
