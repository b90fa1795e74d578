//! Refusals as RFC 9457 has them. Two readers: `detail` tells a person what to do, `type` and `exit` a program.
//!
//! Nothing in a problem names another state, a path on disk or an address.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use legation_repo::http::wire::{EXIT_NOTHING_THERE, PROBLEM_JSON, Position, Problem, kind};

/// Exit code of a command whose bytes could not be verified.
const EXIT_UNVERIFIED: u8 = 4;
/// Exit code of a command that a term has fenced off.
const EXIT_FENCED: u8 = 6;
/// Exit code of a command that the mandate does not allow.
const EXIT_MANDATE: u8 = 8;
/// Exit code of a command that lacks approvals.
const EXIT_QUORUM: u8 = 5;

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub struct Refused(pub Box<Problem>);

impl Refused {
    fn new(
        status: StatusCode,
        kind: &str,
        title: &str,
        exit: u8,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Problem {
            kind: kind.into(),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            exit,
            position: None,
        }))
    }

    /// The request cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            kind::MALFORMED,
            "malformed request",
            1,
            detail,
        )
    }

    /// Nothing there, or nothing that this key may see: the two are not told apart.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        let detail = format!("there is no {what} here");
        Self::new(
            StatusCode::NOT_FOUND,
            kind::NOT_FOUND,
            "nothing there",
            EXIT_NOTHING_THERE,
            detail,
        )
    }

    /// The caller's role has no such verb.
    pub fn role(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            kind::ROLE,
            "not this role's to do",
            EXIT_MANDATE,
            detail,
        )
    }

    /// The fold says no; the class of the refusal picks kind and exit code.
    pub fn policy(exit: u8, detail: impl Into<String>) -> Self {
        let (kind, title) = match exit {
            EXIT_FENCED => (kind::FENCED, "the term has passed"),
            EXIT_QUORUM => (kind::QUORUM, "not enough approvals"),
            _ => (kind::MANDATE, "refused by the mandate"),
        };
        Self::new(StatusCode::FORBIDDEN, kind, title, exit, detail)
    }

    /// Other bytes are kept under that name.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            kind::CONFLICT,
            "other bytes are kept there",
            EXIT_UNVERIFIED,
            detail,
        )
    }

    /// Frames that do not continue the stream.
    pub fn position(position: Position, detail: impl Into<String>) -> Self {
        let mut refused = Self::new(
            StatusCode::CONFLICT,
            kind::POSITION,
            "the frames do not continue the stream",
            1,
            detail,
        );
        refused.0.position = Some(position);
        refused
    }

    /// Bytes that are not what they are said to be.
    pub fn bytes(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            kind::BYTES,
            "not the bytes that were named",
            EXIT_UNVERIFIED,
            detail,
        )
    }

    /// A statement names something that is not here, or not whole.
    pub fn incomplete(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            kind::INCOMPLETE,
            "something it names is not here",
            EXIT_UNVERIFIED,
            detail,
        )
    }

    /// A body beyond its limit.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is longer than the {limit} bytes that are taken here");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            kind::TOO_LARGE,
            "too large",
            1,
            detail,
        )
    }

    /// A body without a stated length.
    pub fn length_required() -> Self {
        let detail = "say the length of the body first (content-length)";
        Self::new(
            StatusCode::LENGTH_REQUIRED,
            kind::MALFORMED,
            "malformed request",
            1,
            detail,
        )
    }

    /// No room.
    pub fn full(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            kind::FULL,
            "no room",
            1,
            detail,
        )
    }

    /// Too much at once.
    pub fn busy() -> Self {
        let detail = "the embassy has as much to do as it takes at once; try again shortly";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            kind::BUSY,
            "busy",
            1,
            detail,
        )
    }

    /// A verb or path that does not exist.
    pub fn no_such_verb() -> Self {
        let detail = "this path has no such verb";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            kind::MALFORMED,
            "no such verb",
            1,
            detail,
        )
    }

    /// A range outside the object.
    pub fn range(size: u64) -> Self {
        let detail = format!("the range is not one within {size} bytes");
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            kind::MALFORMED,
            "no such range",
            1,
            detail,
        )
    }

    /// The machine's clock jumped ahead.
    pub fn clock() -> Self {
        let detail = "the embassy's clock has jumped more than a day ahead and stamps nothing until it agrees again; its \
                      operator must set it right, or, where it is right, write clock_checked into the configuration and restart";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            kind::FAILED,
            "the embassy's clock jumped",
            1,
            detail,
        )
    }

    /// The state's store cannot be opened. What is wrong with it is in the embassy's own journal.
    pub fn closed() -> Self {
        let detail = "the embassy cannot open this state's store and takes nothing for it until its operator has mended it";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            kind::FAILED,
            "this state cannot be opened",
            1,
            detail,
        )
    }

    /// The embassy failed. What failed is in its own journal; the client learns only that nothing was acknowledged.
    pub fn failed() -> Self {
        let detail =
            "the embassy could not do it and acknowledged nothing; send the same bytes again";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            kind::FAILED,
            "the embassy failed",
            1,
            detail,
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&*self.0).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        response
    }
}
