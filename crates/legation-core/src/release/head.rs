//! The clear part of a release: for which order it was made and whose key opens it. An embassy reads this and no more.

use crate::error::FormatError;
use crate::id::{OrderId, Sha256, StateId};
use std::fmt;

/// The first line of a release.
pub const RELEASE_HEAD: &str = "legation/released/v1";
/// Largest release: about 2,600 keys.
pub const MAX_RELEASE: usize = 4 << 20;
/// Longest clear part: four lines of an id each, with room to spare.
const MAX_HEAD: usize = 1024;

/// What a release says of itself in the clear. Nothing here opens anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseHead {
    /// The state.
    pub state: StateId,
    /// The order.
    pub order: OrderId,
    /// Digest of the order's exact text.
    pub statement: Sha256,
    /// SHA-256 of the public key that can open the rest.
    pub recipient: Sha256,
}

impl ReleaseHead {
    /// Reads the clear part at the beginning of a release. Returns how many bytes it has; sealed lines follow.
    ///
    /// # Errors
    /// `Malformed` when the bytes do not begin with one, or are more than a release has.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), FormatError> {
        let bad = |why: &'static str| FormatError::malformed("release", why);
        if bytes.len() > MAX_RELEASE {
            return Err(bad("it is longer than any"));
        }
        let clear = &bytes[..bytes.len().min(MAX_HEAD)];
        let mut at = 0;
        let mut line = |name: &str| {
            let rest = &clear[at..];
            let end = rest.iter().position(|b| *b == b'\n')?;
            at += end + 1;
            let text = std::str::from_utf8(&rest[..end]).ok()?;
            Some(text.strip_prefix(name)?.to_owned())
        };
        if line(RELEASE_HEAD).is_none_or(|rest| !rest.is_empty()) {
            return Err(bad("its first line is another"));
        }
        let (state, order) = (line("state: "), line("order: "));
        let (statement, recipient) = (line("statement: "), line("recipient: "));
        let head = (|| {
            Some(Self {
                state: state?.parse().ok()?,
                order: order?.parse().ok()?,
                statement: statement?.parse().ok()?,
                recipient: recipient?.parse().ok()?,
            })
        })();
        Ok((head.ok_or_else(|| bad("its clear lines are not its"))?, at))
    }
}

impl fmt::Display for ReleaseHead {
    /// The clear lines, as they stand at the beginning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{RELEASE_HEAD}\nstate: {}\norder: {}\nstatement: {}\nrecipient: {}\n",
            self.state, self.order, self.statement, self.recipient
        )
    }
}
