//! The interface: requests of `spec/wire.md` turned into calls.
//!
//! A handler knows the caller's role, bounds and shapes. It decides nothing that the mandate decides: that is the
//! fold's, behind `admit`, `sequence` and `journal`. A state that the caller has no role in does not exist for him.

mod body;
mod journal;
mod log;
mod object;
mod problem;
mod small;
pub(crate) mod statement;
#[cfg(feature = "trace-requests")]
mod trace;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::header;
use http::request::Parts;
use legation_core::id::{Sha256, StateId};
use legation_core::mandate::Role;

pub use problem::Refused;

use crate::hosted::{Embassy, Hosted};

/// Whoever sent a request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// SHA-256 of the TLS public key.
    pub key: Sha256,
    /// The states served here that the certificate names.
    pub states: Arc<[StateId]>,
}

/// All paths.
pub fn router(embassy: Arc<Embassy>) -> Router {
    let state = Router::new()
        .route("/object/{kind}", get(object::list))
        .route(
            "/object/{kind}/{digest}",
            put(object::put).get(object::get).head(object::head),
        )
        .route("/attachment", get(small::list_attachments))
        .route(
            "/attachment/{digest}",
            put(small::put_attachment).get(small::get_attachment),
        )
        .route("/statement", post(statement::post))
        .route("/journal", get(journal::all))
        .route("/journal/{registry}", get(journal::streams))
        .route(
            "/journal/{registry}/{stream}",
            post(journal::append).get(journal::read),
        )
        .route("/log/checkpoint", get(log::checkpoint))
        .route("/log/consistency", get(log::consistency))
        .route("/log/{*path}", get(log::tile))
        .route(
            "/release/{order}",
            put(small::put_release).get(small::list_releases),
        )
        .route("/release/{order}/{digest}", get(small::get_release))
        .route("/status", get(small::status));
    let router = Router::new()
        .route("/healthz", get(small::healthz))
        .route("/readyz", get(small::readyz))
        .nest("/v1/{state}", state)
        .fallback(async || Refused::not_found("such path"))
        .method_not_allowed_fallback(async || Refused::no_such_verb())
        .with_state(embassy);
    #[cfg(feature = "trace-requests")]
    let router = router.layer(axum::middleware::from_fn(trace::request));
    router
}

/// A caller with a role in the state of the path.
pub struct Caller {
    /// The state.
    pub hosted: Arc<Hosted>,
    /// What the mandate in force says that this key is.
    pub role: Role,
    /// SHA-256 of the key.
    pub key: Sha256,
}

impl Caller {
    /// Writers give; they have no verb that reads what is kept.
    pub fn may_read(&self) -> Result<(), Refused> {
        match self.role {
            Role::Writer(_) => Err(Refused::role(
                "a writer may add, not read; use a client's or the embassy's key",
            )),
            Role::Client(_) | Role::Embassy(_) => Ok(()),
        }
    }
}

impl FromRequestParts<Arc<Embassy>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut Parts,
        embassy: &Arc<Embassy>,
    ) -> Result<Self, Refused> {
        let unknown = || Refused::not_found("such path");
        let peer = parts.extensions.get::<Peer>().cloned();
        let Peer { key: spki, states } = peer.ok_or_else(unknown)?;
        let params = RawPathParams::from_request_parts(parts, embassy)
            .await
            .map_err(|_| unknown())?;
        let state: StateId = params
            .iter()
            .find(|(name, _)| *name == "state")
            .and_then(|(_, v)| v.parse().ok())
            .filter(|state| states.contains(state))
            .ok_or_else(unknown)?;
        let Some(hosted) = embassy.hosted(&state) else {
            return Err(match embassy.is_closed(&state, &spki) {
                true => Refused::closed(),
                false => unknown(),
            });
        };
        let role = hosted.role_of(&spki).ok_or_else(unknown)?;
        Ok(Self {
            hosted,
            role,
            key: spki,
        })
    }
}

/// A JSON answer.
struct Json<T>(T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be written");
                Refused::failed().into_response()
            }
        }
    }
}

/// Reads a path's or query's text form of an id.
fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Refused>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| Refused::malformed(format!("{e}")))
}

/// Runs what touches a disk off the network's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "a request failed inside");
            Err(Refused::failed())
        }
    }
}
