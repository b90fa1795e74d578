//! Metrics as text: the exposition format of Prometheus, version 0.0.4, and a listener that serves it to whoever scrapes
//! this machine.
//!
//! The listener speaks just enough HTTP/1.1 for a scraper, one request a connection and one connection at a time, and
//! gives nobody more than a few seconds. It changes nothing and tells no address and no secret.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Largest head of a request: a scraper sends some hundred bytes.
const MAX_HEAD: usize = 8 << 10;
/// How long one scraper may take, and how often the listener looks whether it shall end.
const WITHIN: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up while the process lives.
    Counter,
}

/// Metrics in the making. Each family is begun once and given all of its samples before the next.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family of samples.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        let word = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {word}");
        self.family = name;
        self
    }

    /// Adds a sample to the family.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.text.push_str(self.family);
        for (at, (name, value)) in labels.iter().enumerate() {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// A family of one gauge.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.family(name, Kind::Gauge, help).sample(labels, value);
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Seconds since 1970, as metrics have them.
#[must_use]
pub fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// What is served.
pub trait Watched: Send + Sync + 'static {
    /// The metrics now.
    fn metrics(&self) -> String;
    /// Whether it does what it is there for now; if not, why, in a few words without names.
    fn ready(&self) -> Result<(), String>;
}

/// A listener; it ends when this is dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Serves `/metrics`, `/healthz` and `/readyz` at this address.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub fn start(address: SocketAddr, watched: Arc<dyn Watched>) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // A scraper that breaks off comes again.
                        Ok((stream, _)) => drop(answer(stream, &*watched)),
                        Err(_) => std::thread::sleep(LOOK),
                    }
                }
            })?;
        Ok(Listener {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, watched: &dyn Watched) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WITHIN))?;
    let head = head(&mut stream)?;
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (verb, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.split('?').next().unwrap_or("");
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (verb, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", CONTENT_TYPE, watched.metrics()),
        ("GET" | "HEAD", "/healthz") => ("200 OK", plain, "ok\n".to_owned()),
        ("GET" | "HEAD", "/readyz") => match watched.ready() {
            Ok(()) => ("200 OK", plain, "ok\n".to_owned()),
            Err(why) => ("503 Service Unavailable", plain, format!("{why}\n")),
        },
        ("GET" | "HEAD", _) => ("404 Not Found", plain, "no such path\n".to_owned()),
        _ => ("405 Method Not Allowed", plain, "GET only\n".to_owned()),
    };
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if verb != "HEAD" {
        out.push_str(&body);
    }
    stream.write_all(out.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// Reads a request's head, within its bounds.
fn head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let until = Instant::now() + WITHIN;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MAX_HEAD {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(part.get(..read).unwrap_or_default());
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
