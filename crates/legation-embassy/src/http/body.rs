//! Bodies: bounded in size, in time, and in memory, together and for each key.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use legation_core::id::Sha256;
use legation_repo::http::wire::OCTETS;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::Refused;
use crate::config::Limits;
use crate::hosted::Embassy;

/// A body in memory with its share of the memory that all bodies may take.
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    /// Returned when the bytes have been dealt with.
    pub lease: Lease,
}

/// How much of an answer is handed on at once: what the peer's slowness holds back beyond that stays leased here.
const CHUNK: usize = 64 << 10;

/// A share of the memory for bodies: of the key's part, and of the whole.
pub struct Lease(Option<[OwnedSemaphorePermit; 2]>);

impl Lease {
    /// Gives back what `length` bytes do not take.
    fn shrink(&mut self, length: usize) {
        for permit in self.0.iter_mut().flatten() {
            let beyond = permit.num_permits().saturating_sub(length.div_ceil(1024));
            drop(permit.split(beyond));
        }
    }
}

/// Takes a share for `length` bytes on behalf of the key `of`, waiting a bounded time.
pub async fn lease(embassy: &Embassy, of: Sha256, length: usize) -> Result<Lease, Refused> {
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    if kib == 0 {
        return Ok(Lease(None));
    }
    let both = async {
        // The key's own part first: whoever waits there holds nothing of what others need.
        let own = embassy.memory_of(of).acquire_many_owned(kib).await.ok()?;
        let all = embassy.memory.clone().acquire_many_owned(kib).await.ok()?;
        Some([own, all])
    };
    match timeout(embassy.limits.queue_wait, both).await {
        Ok(Some(permits)) => Ok(Lease(Some(permits))),
        _ => Err(Refused::busy()),
    }
}

/// Reads a whole body of at most `limit` bytes; its length must be stated and true.
pub async fn read(
    embassy: &Embassy,
    of: Sha256,
    headers: &HeaderMap,
    body: Body,
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
    let lease = lease(embassy, of, length).await?;
    let bytes = collect(&embassy.limits, body, length).await?;
    Ok(Held { bytes, lease })
}

/// Takes exactly `length` bytes, in the time that so many may take.
async fn collect(limits: &Limits, mut body: Body, length: usize) -> Result<Bytes, Refused> {
    let mut bytes = BytesMut::with_capacity(length);
    let until = Instant::now() + limits.body_within(length);
    loop {
        let next = timeout(limits.body_idle, body.frame());
        let frame = timeout_at(until, next)
            .await
            .map_err(|_| Refused::malformed("the body came too slowly"))?
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
    Ok(bytes.freeze())
}

/// An answer of opaque bytes, which keeps its share of memory until it is sent.
pub fn octets(status: StatusCode, bytes: Vec<u8>, lease: Lease) -> Response {
    sent(status, OCTETS, bytes, lease)
}

/// A JSON answer that may be long, with a share of memory as any other.
pub async fn json<T: serde::Serialize>(
    embassy: &Embassy,
    of: Sha256,
    value: &T,
) -> Result<Response, Refused> {
    let bytes = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written");
        Refused::failed()
    })?;
    let lease = lease(embassy, of, bytes.len()).await?;
    Ok(sent(StatusCode::OK, "application/json", bytes, lease))
}

fn sent(status: StatusCode, media: &'static str, bytes: Vec<u8>, mut lease: Lease) -> Response {
    lease.shrink(bytes.len());
    let body = Leased {
        left: Bytes::from(bytes),
        _lease: lease,
    };
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}

/// Bytes handed on a part at a time, as the peer takes them; the lease lasts as long.
struct Leased {
    left: Bytes,
    _lease: Lease,
}

impl hyper::body::Body for Leased {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = self.left.len().min(CHUNK);
        if length == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests;
