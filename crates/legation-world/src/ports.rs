//! Loopback ports that nobody else takes: below those that the system gives to outgoing connections, and claimed for as
//! long as this process lives, so that tests side by side do not meet.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

use crate::error::{Doing, Result, failed};

/// The first port that is claimed.
const FIRST: u16 = 10_000;
/// Ports in one claim: a world has at most this many databases abroad.
pub const BLOCK: u16 = 16;
/// Where the system says which ports it gives away by itself.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Names that stand for claimed blocks. They vanish with the process, however it ends.
static CLAIMED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// The first of [`BLOCK`] ports in a row that are ours and on which nobody listens.
///
/// # Errors
/// When all are taken.
pub fn claim() -> Result<u16> {
    let blocks = (ephemeral()?.saturating_sub(FIRST) / BLOCK).max(1);
    let mut random = [0; 2];
    if getrandom::fill(&mut random).is_err() {
        return failed("the system gives no randomness");
    }
    let start = u16::from_le_bytes(random) % blocks;
    for n in 0..blocks {
        let first = FIRST + (start + n) % blocks * BLOCK;
        let name = SocketAddr::from_abstract_name(format!("legation-ports-{first}"))
            .doing("naming a block of ports")?;
        let Ok(claim) = UnixListener::bind_addr(&name) else {
            continue;
        };
        if (first..first + BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            let mut claimed = CLAIMED
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            claimed.push(claim);
            return Ok(first);
        }
    }
    failed(format!("no {BLOCK} loopback ports in a row are free"))
}

/// The first port that outgoing connections may be given.
fn ephemeral() -> Result<u16> {
    let range = std::fs::read_to_string(EPHEMERAL).doing("reading which ports are ephemeral")?;
    let first = range
        .split_whitespace()
        .next()
        .and_then(|port| port.parse().ok());
    first.doing("reading which ports are ephemeral")
}
