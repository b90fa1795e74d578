//! One blocking connection to a PostgreSQL server: start-up, authentication, simple queries and the framing on which
//! replication builds. Knows nothing of WAL, backups or what is done with the rows.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use rustix::net::sockopt;

use super::tls::{self, Binding, SslMode, Tls};
use super::url::{ConnectConfig, Host};
use crate::error::{Context, ServerError};
use crate::{Error, Result};

/// No message that we ask for is larger: CopyData is at most some 128 KiB, rows are settings and probe answers.
const MAX_MESSAGE: usize = 64 << 20;
/// libpq's own bound for what comes before authentication is done.
const MAX_AUTH_MESSAGE: usize = 30_000;
/// The rows of one answer, together: a probe that returns more is not a probe.
const MAX_ROWS_BYTES: usize = 64 << 20;
/// How long a blocked read lasts before the caller may look at its stop flag.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// A server that accepts but does not answer is given up after this.
const AUTH_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Ordinary SQL in the configured database.
    Sql,
    /// Physical replication commands.
    Replication,
}

/// One row as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A message of the server.
pub(crate) struct Message {
    pub tag: u8,
    pub body: Bytes,
}

/// An authenticated connection.
pub struct Conn {
    stream: Stream,
    buffer: BytesMut,
    /// `server_version_num` as far as the start-up told it, e.g. 15 from "15.14 (Debian 15.14-0+deb12u1)".
    pub(crate) major: u32,
    /// The server's version text.
    pub(crate) version: String,
    peer: String,
}

impl Conn {
    /// Opens an ordinary SQL connection.
    pub fn sql(config: &ConnectConfig) -> Result<Self> {
        Self::open(config, Mode::Sql)
    }

    pub(crate) fn open(config: &ConnectConfig, mode: Mode) -> Result<Self> {
        let attempts = attempts(config);
        let (last, first) = attempts.split_last().unwrap_or((&Encrypt::No, &[]));
        for encrypt in first {
            match Self::attempt(config, mode, *encrypt) {
                // What libpq tries without, or with, in its stead: what pg_hba.conf does not admit, and a handshake that fails.
                Err(Error::Server(e)) if e.code == "28000" => {}
                Err(Error::Refused { .. }) if *encrypt == Encrypt::IfItCan => {}
                other => return other,
            }
        }
        Self::attempt(config, mode, *last)
    }

    fn attempt(config: &ConnectConfig, mode: Mode, encrypt: Encrypt) -> Result<Self> {
        let stream = Stream::connect(config)?.encrypted(config, encrypt)?;
        let mut conn = Conn {
            stream,
            buffer: BytesMut::new(),
            major: 0,
            version: String::new(),
            peer: config.to_string(),
        };
        let mut parameters = vec![
            ("user", config.user.as_str()),
            ("database", config.database.as_str()),
            ("application_name", config.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        if !config.options.is_empty() {
            parameters.push(("options", config.options.as_str()));
        }
        if mode == Mode::Replication {
            parameters.push(("replication", "true"));
        }
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out).at(|| "start-up message".into())?;
        conn.send(&out)?;
        conn.authenticate(config)?;
        Ok(conn)
    }

    fn authenticate(&mut self, config: &ConnectConfig) -> Result<()> {
        let until = Instant::now() + AUTH_TIMEOUT.max(config.connect_timeout);
        let mut scram: Option<ScramSha256> = None;
        let (end_point, require) = match (&self.stream, config.tls.binding) {
            (_, Binding::Disable) => (None, false),
            (Stream::Tls(tls), binding) => (tls.end_point(), binding == Binding::Require),
            // Nobody listens in on a socket of this machine; libpq refuses all the same.
            (_, binding) => (None, binding == Binding::Require),
        };
        let (mut binds, mut bound, mut proven) = (false, false, true);
        loop {
            let Some(message) = self.poll(MAX_AUTH_MESSAGE)? else {
                if Instant::now() > until {
                    return Err(self.silent("does not answer the start-up"));
                }
                continue;
            };
            let mut body = message.body;
            match message.tag {
                b'R' => {
                    let code = take_u32(&mut body)?;
                    let mut out = BytesMut::new();
                    if require && !bound && !matches!(code, 10..=12) {
                        return Err(not_bound("it asks for no proof that can be bound"));
                    }
                    match code {
                        0 if proven => continue,
                        0 => {
                            return Err(unexpected(
                                "the server let us in before it proved that it knows the password",
                            ));
                        }
                        3 => frontend::password_message(password(config)?.as_bytes(), &mut out),
                        5 => {
                            let salt = take::<4>(&mut body)?;
                            let hash = md5_hash(
                                config.user.as_bytes(),
                                password(config)?.as_bytes(),
                                salt,
                            );
                            frontend::password_message(hash.as_bytes(), &mut out)
                        }
                        10 => {
                            let offers =
                                |name: &str| body.split(|b| *b == 0).any(|m| m == name.as_bytes());
                            let (mechanism, binding) = match &end_point {
                                Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                                    binds = true;
                                    let binding =
                                        ChannelBinding::tls_server_end_point(hash.clone());
                                    (SCRAM_SHA_256_PLUS, binding)
                                }
                                _ if require => {
                                    return Err(not_bound(
                                        "it does not offer SCRAM-SHA-256-PLUS over TLS",
                                    ));
                                }
                                _ if !offers(SCRAM_SHA_256) => {
                                    return Err(unsupported_auth(
                                        "a SASL mechanism other than SCRAM-SHA-256",
                                    ));
                                }
                                // Says that we could have: a server that offered it knows then that somebody took it out.
                                Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
                                None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
                            };
                            let state = ScramSha256::new(password(config)?.as_bytes(), binding);
                            let sent = frontend::sasl_initial_response(
                                mechanism,
                                state.message(),
                                &mut out,
                            );
                            scram = Some(state);
                            proven = false;
                            sent
                        }
                        11 => {
                            let state = scram
                                .as_mut()
                                .ok_or_else(|| unexpected("SASL data without a start"))?;
                            state
                                .update(&body)
                                .at(|| format!("SCRAM with {}", self.peer))?;
                            frontend::sasl_response(state.message(), &mut out)
                        }
                        12 => {
                            let state = scram
                                .as_mut()
                                .ok_or_else(|| unexpected("SASL end without a start"))?;
                            state.finish(&body).at(|| {
                                format!("SCRAM: {} does not know the password itself", self.peer)
                            })?;
                            (bound, proven) = (binds, true);
                            continue;
                        }
                        7..=9 => return Err(unsupported_auth("GSSAPI or SSPI")),
                        n => return Err(unsupported_auth(&format!("method {n}"))),
                    }
                    .at(|| "authentication message".into())?;
                    self.send(&out)?;
                }
                b'S' => {
                    let name = take_cstr(&mut body)?;
                    let value = take_cstr(&mut body)?;
                    if name == "server_version" {
                        let digits: String =
                            value.chars().take_while(char::is_ascii_digit).collect();
                        self.major = digits.parse().unwrap_or(0);
                        self.version = value;
                    }
                }
                b'E' => return Err(self.server_error(body)),
                b'Z' => return Ok(()),
                b'K' | b'N' => {}
                b'v' => return Err(unexpected("the server does not speak protocol 3.0")),
                other => {
                    return Err(unexpected(&format!(
                        "message {:?} during start-up",
                        char::from(other)
                    )));
                }
            }
        }
    }

    /// Runs a simple query and returns the rows of all its statements.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.query_until(sql, &|| false)
    }

    /// As [`Conn::query`], giving up within a tick of `stop` becoming true.
    pub fn query_until(&mut self, sql: &str, stop: &dyn Fn() -> bool) -> Result<Vec<Row>> {
        self.start_query(sql)?;
        let (mut rows, mut bytes, mut failed) = (Vec::new(), 0, None);
        loop {
            let message = self.next(stop)?;
            match message.tag {
                b'D' => {
                    bytes += message.body.len();
                    if bytes > MAX_ROWS_BYTES {
                        return Err(unexpected(&format!(
                            "an answer of more than {MAX_ROWS_BYTES} bytes"
                        )));
                    }
                    rows.push(row(message.body)?);
                }
                b'E' => failed = Some(self.server_error(message.body)),
                b'Z' => return failed.map_or(Ok(rows), Err),
                b'G' | b'H' | b'W' => return Err(unexpected("a COPY where rows were asked for")),
                _ => {}
            }
            // After a fatal error no ReadyForQuery follows.
            if let Some(Error::Server(e)) = &failed
                && e.severity != "ERROR"
            {
                return failed.map_or(Ok(rows), Err);
            }
        }
    }

    /// The first column of the first row.
    pub fn scalar(&mut self, sql: &str) -> Result<Option<String>> {
        Ok(self
            .query(sql)?
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
            .flatten())
    }

    pub(crate) fn start_query(&mut self, sql: &str) -> Result<()> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out).at(|| "query message".into())?;
        self.send(&out)
    }

    /// The next message, however long it takes, unless `stop` becomes true.
    pub(crate) fn next(&mut self, stop: &dyn Fn() -> bool) -> Result<Message> {
        loop {
            if stop() {
                return Err(Error::Stopped);
            }
            if let Some(message) = self.poll(MAX_MESSAGE)? {
                return Ok(message);
            }
        }
    }

    /// The next message, or `None` when none came within a tick.
    pub(crate) fn tick(&mut self) -> Result<Option<Message>> {
        self.poll(MAX_MESSAGE)
    }

    fn poll(&mut self, limit: usize) -> Result<Option<Message>> {
        loop {
            match frame_length(&self.buffer, limit)? {
                Some(length) if self.buffer.len() >= length => {
                    let mut body = self.buffer.split_to(length).freeze();
                    let tag = body.get_u8();
                    body.advance(4);
                    return Ok(Some(Message { tag, body }));
                }
                Some(length) => self.buffer.reserve(length - self.buffer.len()),
                None => {}
            }
            match self.stream.read_some(&mut self.buffer) {
                Ok(0) => {
                    return Err(Error::io(
                        &self.peer,
                        io::Error::from(io::ErrorKind::UnexpectedEof),
                    ));
                }
                Ok(_) => {}
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(
                        tls::refusal(&self.peer, &e).unwrap_or_else(|| Error::io(&self.peer, e))
                    );
                }
            }
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes)
            .at(|| format!("write to {}", self.peer))
    }

    /// A second handle on the same socket, for a thread that only writes.
    pub(crate) fn writer(&self) -> Result<Stream> {
        self.stream
            .try_clone()
            .at(|| format!("second handle on {}", self.peer))
    }

    pub(crate) fn server_error(&self, body: Bytes) -> Error {
        Error::Server(Box::new(server_error(&body)))
    }

    fn silent(&self, what: &str) -> Error {
        Error::refused(
            format!("{} {what}", self.peer),
            "check that a PostgreSQL server listens there and that it is not overloaded",
        )
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // A polite goodbye keeps "unexpected EOF" out of the server's log; nothing depends on it.
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        let _ = self.stream.write_all(&out);
        self.stream.shutdown();
    }
}

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encrypt {
    No,
    IfItCan,
    Yes,
}

/// What is tried, in order, until one is let in.
fn attempts(config: &ConnectConfig) -> Vec<Encrypt> {
    match (&config.host, config.tls.mode) {
        (Host::Unix(_), _) | (_, SslMode::Disable) => vec![Encrypt::No],
        (_, SslMode::Allow) => vec![Encrypt::No, Encrypt::Yes],
        (_, SslMode::Prefer) => vec![Encrypt::IfItCan, Encrypt::No],
        _ => vec![Encrypt::Yes],
    }
}

/// A TCP or Unix stream with a read time-out of one tick.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Tls>),
}

impl Stream {
    fn connect(config: &ConnectConfig) -> Result<Self> {
        let fix = |what: String, e: io::Error| {
            Error::refused(
                format!("{what}: {e}"),
                "check that the server runs and that host, port or socket directory are right",
            )
        };
        match &config.host {
            Host::Unix(dir) => {
                let path = dir.join(format!(".s.PGSQL.{}", config.port));
                let stream =
                    UnixStream::connect(&path).map_err(|e| fix(path.display().to_string(), e))?;
                stream
                    .set_read_timeout(Some(TICK))
                    .at(|| path.display().to_string())?;
                Ok(Stream::Unix(stream))
            }
            Host::Tcp(host) => {
                let what = || format!("{host}:{}", config.port);
                let mut last = io::Error::other("the name has no address");
                for address in (host.as_str(), config.port)
                    .to_socket_addrs()
                    .map_err(|e| fix(what(), e))?
                {
                    match TcpStream::connect_timeout(&address, config.connect_timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true).at(what)?;
                            stream.set_read_timeout(Some(TICK)).at(what)?;
                            // A line that dies silently is noticed within some 40 seconds.
                            sockopt::set_socket_keepalive(&stream, true).at(what)?;
                            sockopt::set_tcp_keepidle(&stream, Duration::from_secs(10)).at(what)?;
                            sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(10))
                                .at(what)?;
                            sockopt::set_tcp_keepcnt(&stream, 3).at(what)?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(e) => last = e,
                    }
                }
                Err(fix(what(), last))
            }
        }
    }

    /// Asks the server for TLS, and goes over to it.
    fn encrypted(self, config: &ConnectConfig, encrypt: Encrypt) -> Result<Self> {
        let (mut socket, host) = match (self, &config.host) {
            (Stream::Tcp(socket), Host::Tcp(host)) if encrypt != Encrypt::No => (socket, host),
            (other, _) => return Ok(other),
        };
        let what = || format!("TLS with {config}");
        let mut out = BytesMut::new();
        frontend::ssl_request(&mut out);
        socket.write_all(&out).at(what)?;
        // One byte and no more: what an intruder sends after it, in the clear, is not taken for the server's.
        let mut answer = [0];
        let until = Instant::now() + AUTH_TIMEOUT.max(config.connect_timeout);
        loop {
            match socket.read_exact(&mut answer) {
                Ok(()) => break,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) && Instant::now() < until => {}
                Err(e) => return Err(Error::io(what(), e)),
            }
        }
        match answer[0] {
            b'S' => Tls::connect(&config.tls, host, socket).map(|tls| Stream::Tls(Box::new(tls))),
            b'N' if encrypt == Encrypt::IfItCan => Ok(Stream::Tcp(socket)),
            b'N' => Err(Error::refused(
                format!("{config} does not speak TLS, and sslmode asks for it"),
                "set ssl = on at the server with a certificate; a server that had it may be another one now",
            )),
            _ => Err(unexpected("an answer to the request for TLS that is none")),
        }
    }

    /// Appends what one read gives.
    fn read_some(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        const CHUNK: usize = 128 << 10;
        let start = buffer.len();
        buffer.resize(start + CHUNK, 0);
        let result = match self {
            Stream::Tcp(s) => s.read(&mut buffer[start..]),
            Stream::Unix(s) => s.read(&mut buffer[start..]),
            Stream::Tls(s) => s.read(&mut buffer[start..]),
        };
        buffer.truncate(start + result.as_ref().copied().unwrap_or(0));
        result
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.write_all(bytes),
            Stream::Unix(s) => s.write_all(bytes),
            Stream::Tls(s) => s.write_all(bytes),
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Stream::Tcp(s) => s.try_clone().map(Stream::Tcp),
            Stream::Unix(s) => s.try_clone().map(Stream::Unix),
            Stream::Tls(s) => s.try_clone().map(|s| Stream::Tls(Box::new(s))),
        }
    }

    /// Ends both directions for every handle.
    pub(crate) fn shutdown(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Both),
            Stream::Unix(s) => s.shutdown(Shutdown::Both),
            Stream::Tls(s) => s.socket().shutdown(Shutdown::Both),
        };
    }
}

fn password(config: &ConnectConfig) -> Result<&str> {
    config.password.as_ref().map(|p| p.as_str()).ok_or_else(|| {
        Error::refused(
            format!("{config} asks for a password and none was found"),
            "put host:port:database:user:password into ~/.pgpass (mode 0600), or set PGPASSWORD",
        )
    })
}

fn not_bound(why: &str) -> Error {
    Error::refused(
        format!("channel_binding=require, and the server does not bind: {why}"),
        "give the role a scram-sha-256 password and a hostssl line with scram-sha-256, and use sslmode=require or above",
    )
}

fn unsupported_auth(what: &str) -> Error {
    Error::refused(
        format!("the server asks for {what}"),
        "give this role a pg_hba.conf line with scram-sha-256 (or peer on the Unix socket)",
    )
}

fn unexpected(detail: &str) -> Error {
    Error::malformed("PostgreSQL protocol", detail)
}

/// The length of the first message of `buffer`, tag included, once its head is there.
pub(crate) fn frame_length(buffer: &[u8], limit: usize) -> Result<Option<usize>> {
    let Some([tag, a, b, c, d]) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    if length < 4 || length > limit {
        return Err(unexpected(&format!(
            "message {:?} claims {length} bytes",
            char::from(*tag)
        )));
    }
    Ok(Some(length + 1))
}

pub(crate) fn take<const N: usize>(body: &mut Bytes) -> Result<[u8; N]> {
    let head = *body
        .first_chunk::<N>()
        .ok_or_else(|| unexpected("a message ends too soon"))?;
    body.advance(N);
    Ok(head)
}

pub(crate) fn take_u8(body: &mut Bytes) -> Result<u8> {
    Ok(take::<1>(body)?[0])
}

pub(crate) fn take_u32(body: &mut Bytes) -> Result<u32> {
    Ok(u32::from_be_bytes(take(body)?))
}

pub(crate) fn take_u64(body: &mut Bytes) -> Result<u64> {
    Ok(u64::from_be_bytes(take(body)?))
}

/// Takes a NUL-terminated text; bytes that are no UTF-8 are replaced.
pub(crate) fn take_cstr(body: &mut Bytes) -> Result<String> {
    let end = body
        .iter()
        .position(|b| *b == 0)
        .ok_or_else(|| unexpected("a text without its end"))?;
    let text = String::from_utf8_lossy(&body[..end]).into_owned();
    body.advance(end + 1);
    Ok(text)
}

/// Reads a DataRow.
pub(crate) fn row(mut body: Bytes) -> Result<Row> {
    let columns = u16::from_be_bytes(take(&mut body)?);
    let mut row = Row::with_capacity(columns.into());
    for _ in 0..columns {
        row.push(match take_u32(&mut body)? {
            u32::MAX => None,
            length => {
                let length = length as usize;
                if length > body.len() {
                    return Err(unexpected("a column reaches past its row"));
                }
                Some(String::from_utf8_lossy(&body.split_to(length)).into_owned())
            }
        });
    }
    Ok(row)
}

/// Reads the fields of an ErrorResponse or a NoticeResponse; what is missing stays empty.
pub(crate) fn server_error(body: &[u8]) -> ServerError {
    let mut error = ServerError::default();
    for field in body.split(|b| *b == 0) {
        let Some((kind, text)) = field.split_first() else {
            continue;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'V' => error.severity = text,
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = text,
            b'H' => error.hint = text,
            _ => {}
        }
    }
    error
}

#[cfg(test)]
mod tests;
