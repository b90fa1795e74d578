//! Test builds only: every decoded request, as the host could see it, appended to a file that a test then searches.

use std::io::Write as _;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;

use super::Refused;

/// Environment variable that names the file.
const VARIABLE: &str = "LEGATION_TRACE_REQUESTS";

/// Writes the request to the file, then lets it through unchanged.
pub async fn request(request: Request, next: Next) -> Result<Response, Refused> {
    let Some(path) = std::env::var_os(VARIABLE) else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let bytes = body
        .collect()
        .await
        .map_err(|_| Refused::malformed("the body broke off"))?
        .to_bytes();
    let mut record = format!("{} {}\n", parts.method, parts.uri).into_bytes();
    for (name, value) in &parts.headers {
        record.extend_from_slice(name.as_str().as_bytes());
        record.extend_from_slice(b": ");
        record.extend_from_slice(value.as_bytes());
        record.push(b'\n');
    }
    record.push(b'\n');
    record.extend_from_slice(&bytes);
    record.push(b'\n');
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(&record));
    if let Err(error) = written {
        tracing::error!(%error, "cannot trace a request");
        return Err(Refused::failed());
    }
    Ok(next
        .run(Request::from_parts(parts, Body::from(bytes)))
        .await)
}
