//! What people and programs read: text, or one JSON object a line; progress on anything that takes a while.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use legation_core::statement::text::is_allowed;
use serde::Serialize;

/// Nothing shorter than this shows progress.
const QUIET: Duration = Duration::from_secs(2);
/// Time between two progress lines under `--json`.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Where a verb's results go.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    colour: bool,
}

impl Output {
    /// Text, or JSON lines; `quiet` leaves out progress.
    pub fn new(json: bool, quiet: bool) -> Output {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Output {
            json,
            quiet,
            colour: wanted && !json && std::io::stdout().is_terminal(),
        }
    }

    /// Whether a program reads us.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether colour is welcome.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// One line of text for a person; nothing under `--json`.
    pub fn line(&self, text: impl Display) {
        if !self.json {
            write_line(&text.to_string());
        }
    }

    /// One JSON object with its `message_type`; nothing for a person.
    pub fn record(&self, message_type: &str, value: &impl Serialize) {
        if self.json {
            write_line(&tagged(message_type, value));
        }
    }

    /// The same fact for both readers: a line of text, or a JSON object.
    pub fn fact(&self, message_type: &str, value: &impl Serialize, text: impl Display) {
        if self.json {
            self.record(message_type, value);
        } else {
            self.line(text);
        }
    }

    /// A remark on standard error, in either mode.
    pub fn note(&self, text: impl Display) {
        if self.json {
            let _ = writeln!(
                std::io::stderr(),
                "{}",
                tagged("note", &serde_json::json!({ "message": text.to_string() }))
            );
        } else {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Progress of something with `total` steps of `unit` (bytes when the unit is "bytes"); `None` when unknown.
    pub fn progress(&self, what: &str, unit: &'static str, total: Option<u64>) -> Progress {
        let face = if self.quiet {
            Face::Silent
        } else if self.json {
            Face::Lines
        } else if std::io::stderr().is_terminal() {
            Face::Bar(None)
        } else {
            Face::Silent
        };
        Progress::new(what, unit, total, face)
    }
}

/// How far something has come. Clones share it; dropping the last one clears the bar.
#[derive(Debug, Clone)]
pub struct Progress {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    what: String,
    unit: &'static str,
    total: Option<u64>,
    done: u64,
    started: Instant,
    told: Option<Instant>,
    face: Face,
}

#[derive(Debug)]
enum Face {
    Silent,
    Lines,
    Bar(Option<ProgressBar>),
}

#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    unit: &'a str,
    done: u64,
    total: Option<u64>,
    per_second: f64,
    seconds_left: Option<f64>,
}

impl Progress {
    fn new(what: &str, unit: &'static str, total: Option<u64>, face: Face) -> Progress {
        Progress {
            shared: Arc::new(Mutex::new(Shared {
                what: what.to_owned(),
                unit,
                total,
                done: 0,
                started: Instant::now(),
                told: None,
                face,
            })),
        }
    }

    /// Shows nothing.
    pub fn silent() -> Progress {
        Progress::new("", "", None, Face::Silent)
    }

    /// Adds to what is done.
    pub fn add(&self, steps: u64) {
        self.update(|shared| shared.done += steps);
    }

    /// Sets what is done.
    pub fn set(&self, done: u64) {
        self.update(|shared| shared.done = done);
    }

    /// Sets the total once it is known.
    pub fn total(&self, total: u64) {
        self.update(|shared| shared.total = Some(total));
    }

    /// Removes the bar; the lines already printed stay.
    pub fn finish(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Face::Bar(Some(bar)) = &shared.face {
            bar.finish_and_clear();
        }
        shared.face = Face::Silent;
    }

    fn update(&self, change: impl FnOnce(&mut Shared)) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shared);
        shared.show();
    }
}

impl Shared {
    fn show(&mut self) {
        let elapsed = self.started.elapsed();
        if elapsed < QUIET {
            return;
        }
        match &mut self.face {
            Face::Silent => {}
            Face::Lines => {
                if self.told.is_none_or(|told| told.elapsed() >= LINE_EVERY) {
                    self.told = Some(Instant::now());
                    let per_second = self.done as f64 / elapsed.as_secs_f64();
                    let left = self
                        .total
                        .map(|total| total.saturating_sub(self.done) as f64 / per_second.max(1e-9));
                    let line = Line {
                        what: &self.what,
                        unit: self.unit,
                        done: self.done,
                        total: self.total,
                        per_second,
                        seconds_left: left.filter(|_| self.done > 0),
                    };
                    write_line(&tagged("progress", &line));
                }
            }
            Face::Bar(bar) => {
                let bar =
                    bar.get_or_insert_with(|| bar_for(&self.what, self.unit, self.total, elapsed));
                if let Some(total) = self.total {
                    bar.set_length(total);
                }
                bar.set_position(self.done);
            }
        }
    }
}

fn bar_for(what: &str, unit: &str, total: Option<u64>, elapsed: Duration) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let template = match (unit, total) {
        ("bytes", Some(_)) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
        ("bytes", None) => "{msg} {spinner} {bytes} {bytes_per_sec}",
        (_, Some(_)) => "{msg} {wide_bar} {pos}/{len} {per_sec} {eta} left",
        (_, None) => "{msg} {spinner} {pos} {per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.with_elapsed(elapsed)
}

/// Bytes that others chose, such as the name of a captured file, as they can be shown at a terminal: what would move
/// the cursor, turn the line around or not be seen is written as an escape, and so is what is no UTF-8.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Signed texts stay in the basic plane; names of files need not, but for its invisible tags.
            let beyond = u32::from(c) >= 0x1_0000 && !(0xE_0000..0xF_0000).contains(&u32::from(c));
            match c {
                '\\' => text.push_str("\\\\"),
                c if is_allowed(c) || beyond => text.push(c),
                c => text.extend(c.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The value as one JSON object with its `message_type`.
fn tagged(message_type: &str, value: &impl Serialize) -> String {
    let mut object = serde_json::Map::new();
    object.insert("message_type".into(), message_type.into());
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(members)) => object.extend(members),
        Ok(other) => {
            object.insert("value".into(), other);
        }
        Err(error) => {
            object.insert("unprintable".into(), error.to_string().into());
        }
    }
    serde_json::Value::Object(object).to_string()
}

/// Writes one line to standard output; a reader that went away is no error of ours.
fn write_line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_write_to_the_terminal() {
        for (name, wanted) in [
            (&b"acts/1995/29.xml"[..], "acts/1995/29.xml"),
            ("põhiseadus 🏛".as_bytes(), "põhiseadus 🏛"),
            (b"a\x1b[2Jb\nc", "a\\u{1b}[2Jb\\nc"),
            ("gpj.\u{202e}exe".as_bytes(), "gpj.\\u{202e}exe"),
            ("a\u{200b}\u{e0041}".as_bytes(), "a\\u{200b}\\u{e0041}"),
            (b"a\xffb\\n", "a\\xffb\\\\n"),
        ] {
            assert_eq!(shown(name), wanted);
        }
    }
}
