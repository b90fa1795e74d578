//! Connection strings, with the meaning that libpq gives them: URL, `PG*` environment and password file.
//! Knows no sockets.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::tls::{Binding, SslMode, TlsOptions};
use crate::{Error, Result};

/// Where libpq looks for a socket when no host is named, on Debian and upstream.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// A password file larger than this is not one.
const MAX_PASSFILE: u64 = 1 << 20;
const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or address.
    Tcp(String),
    /// The directory that holds `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// How to reach one PostgreSQL server as one role.
#[derive(Clone)]
pub struct ConnectConfig {
    /// Host name or socket directory.
    pub host: Host,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database for ordinary queries; replication itself is of the whole cluster.
    pub database: String,
    /// The password, from the URL, the environment or the password file.
    pub password: Option<Zeroizing<String>>,
    /// What `pg_stat_replication` shows, and what `synchronous_standby_names` may name.
    pub application_name: String,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// Settings of the session, like `-c name=value`: they outrank those of the database and of the role.
    pub options: String,
    /// How the connection is encrypted; of no account on a Unix socket.
    pub tls: TlsOptions,
}

impl ConnectConfig {
    /// Reads `postgresql://user@host:port/db?host=/socket/dir`, filling gaps from the `PG*` environment and, for the
    /// password, from `PGPASSFILE` or `~/.pgpass`.
    pub fn parse(url: &str) -> Result<Self> {
        Self::parse_with(url, &|name| {
            std::env::var(name).ok().filter(|v| !v.is_empty())
        })
    }

    /// As [`ConnectConfig::parse`], with the environment given: for tests.
    pub fn parse_with(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let parts = Parts::of(url)?;
        let pick = |given: &Option<String>, name: &str| given.clone().or_else(|| env(name));
        let tls = tls(&parts, env)?;
        let port = match pick(&parts.port, "PGPORT") {
            None => DEFAULT_PORT,
            Some(p) => p
                .parse()
                .map_err(|_| bad(url, &format!("port {p:?} is not a number up to 65535")))?,
        };
        let host = match pick(&parts.host, "PGHOST") {
            Some(h) if h.contains(',') => {
                return Err(bad(url, "several hosts are not supported: name one"));
            }
            Some(h) if h.starts_with('/') => Host::Unix(h.into()),
            Some(h) => Host::Tcp(h),
            None => default_host(port),
        };
        let user = pick(&parts.user, "PGUSER")
            .or_else(|| env("USER"))
            .ok_or_else(|| {
                bad(
                    url,
                    "it names no user: write postgresql://user@host/database",
                )
            })?;
        let database = pick(&parts.database, "PGDATABASE").unwrap_or_else(|| user.clone());
        let connect_timeout = match pick(&parts.connect_timeout, "PGCONNECT_TIMEOUT") {
            None => DEFAULT_CONNECT_TIMEOUT,
            Some(t) => Duration::from_secs(
                t.parse::<u16>()
                    .map_err(|_| bad(url, "connect_timeout is a number of seconds"))?
                    .max(1)
                    .into(),
            ),
        };
        let mut config = ConnectConfig {
            host,
            port,
            user,
            database,
            password: pick(&parts.password, "PGPASSWORD").map(Zeroizing::new),
            application_name: pick(&parts.application_name, "PGAPPNAME")
                .unwrap_or_else(|| "legation".into()),
            connect_timeout,
            options: String::new(),
            tls,
        };
        if config.password.is_none() {
            let file = pick(&parts.passfile, "PGPASSFILE")
                .map(PathBuf::from)
                .or_else(|| env("HOME").map(|h| Path::new(&h).join(".pgpass")));
            if let Some(file) = file {
                config.password = config.password_from(&file);
            }
        }
        Ok(config)
    }

    /// The same server and role, another database.
    pub fn with_database(&self, database: &str) -> Self {
        ConnectConfig {
            database: database.into(),
            ..self.clone()
        }
    }

    fn password_from(&self, file: &Path) -> Option<Zeroizing<String>> {
        let meta = std::fs::metadata(file).ok()?;
        if !meta.is_file() || meta.len() > MAX_PASSFILE {
            return None;
        }
        if meta.mode() & 0o077 != 0 {
            tracing::warn!(file = %file.display(), "password file is readable by others and is ignored: chmod 600 it");
            return None;
        }
        let text = Zeroizing::new(std::fs::read_to_string(file).ok()?);
        let host = match &self.host {
            Host::Tcp(h) => h.clone(),
            // libpq's rule: a default socket directory is called localhost, any other by its path.
            Host::Unix(dir) if SOCKET_DIRS.iter().any(|d| Path::new(d) == dir) => {
                "localhost".into()
            }
            Host::Unix(dir) => dir.to_string_lossy().into_owned(),
        };
        let port = self.port.to_string();
        text.lines().find_map(|line| {
            let fields = passfile_fields(line)?;
            let is = |i: usize, wanted: &[&str]| {
                fields[i] == "*" || wanted.contains(&fields[i].as_str())
            };
            let hit = is(0, &[&host])
                && is(1, &[&port])
                && is(2, &[&self.database, "replication"])
                && is(3, &[&self.user]);
            hit.then(|| Zeroizing::new(fields[4].clone()))
        })
    }
}

impl fmt::Display for ConnectConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(h) if h.contains(':') => write!(
                f,
                "postgresql://{}@[{h}]:{}/{}",
                self.user, self.port, self.database
            ),
            Host::Tcp(h) => write!(
                f,
                "postgresql://{}@{h}:{}/{}",
                self.user, self.port, self.database
            ),
            Host::Unix(dir) => {
                write!(
                    f,
                    "postgresql://{}@:{}/{}?host={}",
                    self.user,
                    self.port,
                    self.database,
                    dir.display()
                )
            }
        }
    }
}

impl fmt::Debug for ConnectConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectConfig({self})")
    }
}

impl std::str::FromStr for ConnectConfig {
    type Err = Error;
    fn from_str(url: &str) -> Result<Self> {
        Self::parse(url)
    }
}

/// libpq's parameters and variables for TLS.
fn tls(parts: &Parts, env: &dyn Fn(&str) -> Option<String>) -> Result<TlsOptions> {
    let pick = |given: &Option<String>, name: &str| given.clone().or_else(|| env(name));
    for name in ["PGSSLCRL", "PGSSLCRLDIR"] {
        if env(name).is_some() {
            return Err(Error::refused(
                format!("{name} is set, and lists of revoked certificates are not read"),
                format!("unset {name}, and replace sslrootcert when a certificate is revoked"),
            ));
        }
    }
    let mode = pick(&parts.sslmode, "PGSSLMODE").map(|mode| mode.parse());
    let binding = pick(&parts.channel_binding, "PGCHANNELBINDING").map(|binding| binding.parse());
    let path = |given: &Option<String>, name: &str| pick(given, name).map(PathBuf::from);
    let options = TlsOptions {
        mode: mode.unwrap_or(Ok(SslMode::Prefer))?,
        binding: binding.unwrap_or(Ok(Binding::Prefer))?,
        root: path(&parts.sslrootcert, "PGSSLROOTCERT"),
        cert: path(&parts.sslcert, "PGSSLCERT"),
        key: path(&parts.sslkey, "PGSSLKEY"),
    };
    if options.root.as_deref() == Some(Path::new("system")) {
        return Err(Error::refused(
            "sslrootcert=system: the system's roots are not used",
            "name the file that holds the root of your server's certificate",
        ));
    }
    Ok(options.with_usual_places(env("HOME").as_deref()))
}

fn default_host(port: u16) -> Host {
    let dir = SOCKET_DIRS
        .iter()
        .find(|d| Path::new(d).join(format!(".s.PGSQL.{port}")).exists());
    Host::Unix(dir.unwrap_or(&SOCKET_DIRS[0]).into())
}

fn bad(url: &str, why: &str) -> Error {
    // The text may hold a password; only what follows the credentials is repeated.
    let shown = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    Error::refused(
        format!("connection string \"…{shown}\": {why}"),
        "write postgresql://user@host:port/database, or ?host=/directory for a Unix socket",
    )
}

#[derive(Default)]
struct Parts {
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<String>,
    database: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
    channel_binding: Option<String>,
    application_name: Option<String>,
    connect_timeout: Option<String>,
    passfile: Option<String>,
}

impl Parts {
    fn of(url: &str) -> Result<Self> {
        let rest = url
            .strip_prefix("postgresql://")
            .or_else(|| url.strip_prefix("postgres://"))
            .ok_or_else(|| bad(url, "it does not begin with postgresql://"))?;
        let decode =
            |text: &str| percent_decode(text).ok_or_else(|| bad(url, "a % escape is broken"));
        let some = |text: &str| -> Result<Option<String>> {
            Ok(Some(decode(text)?).filter(|t| !t.is_empty()))
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let mut parts = Parts {
            database: some(database)?,
            ..Parts::default()
        };
        let address = match authority.rsplit_once('@') {
            None => authority,
            Some((who, address)) => {
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                parts.user = some(user)?;
                parts.password = some(password)?;
                address
            }
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6
                    .split_once(']')
                    .ok_or_else(|| bad(url, "'[' without ']'"))?;
                (host, after.strip_prefix(':').unwrap_or(after))
            }
            None => address.rsplit_once(':').unwrap_or((address, "")),
        };
        parts.host = some(host)?;
        parts.port = some(port)?;
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| bad(url, &format!("parameter {pair:?} has no value")))?;
            let slot = match name {
                "host" => &mut parts.host,
                "port" => &mut parts.port,
                "user" => &mut parts.user,
                "password" => &mut parts.password,
                "dbname" => &mut parts.database,
                "sslmode" => &mut parts.sslmode,
                "sslrootcert" => &mut parts.sslrootcert,
                "sslcert" => &mut parts.sslcert,
                "sslkey" => &mut parts.sslkey,
                "channel_binding" => &mut parts.channel_binding,
                "application_name" => &mut parts.application_name,
                "connect_timeout" => &mut parts.connect_timeout,
                "passfile" => &mut parts.passfile,
                _ => return Err(bad(url, &format!("parameter {name:?} is not known"))),
            };
            *slot = some(value)?;
        }
        Ok(parts)
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = |b: u8| char::from(b).to_digit(16);
        let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok().filter(|t| !t.contains('\0'))
}

/// Splits a line of the password file at unescaped colons; `None` for comments and short lines.
fn passfile_fields(line: &str) -> Option<[String; 5]> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields: [String; 5] = Default::default();
    let mut at = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => fields[at].push(chars.next()?),
            ':' if at < 4 => at += 1,
            c => fields[at].push(c),
        }
    }
    (at == 4).then_some(fields)
}

#[cfg(test)]
mod tests;
