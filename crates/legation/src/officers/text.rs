//! The small texts that officers' machines exchange: a first line that says what it is, then `name: value` lines in
//! fixed order. They are not statements: nothing here is signed, everything secret in them is sealed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::exit::Failure;

/// Reads fields in order.
#[derive(Debug)]
pub struct Fields<'a> {
    what: &'static str,
    lines: std::str::Lines<'a>,
    line: usize,
}

impl<'a> Fields<'a> {
    /// Opens a text whose first line is `head`.
    ///
    /// # Errors
    /// When it is another text.
    pub fn open(text: &'a str, what: &'static str, head: &str) -> Result<Self, Failure> {
        let mut lines = text.lines();
        if lines.next() != Some(head) {
            return Err(Failure::usage(format!("this is not {what}")));
        }
        Ok(Self {
            what,
            lines,
            line: 1,
        })
    }

    /// The next line, which is the field `name`.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn take<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, Failure> {
        let value = self.value(name)?;
        value.parse().map_err(|_| self.wrong())
    }

    /// The next line, which is the field `name` in base64.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        let value = self.value(name)?;
        STANDARD.decode(value).map_err(|_| self.wrong())
    }

    /// The values of all lines that are left, each the field `name`.
    ///
    /// # Errors
    /// When another line stands among them, or there are more than `most`.
    pub fn rest(mut self, name: &str, most: usize) -> Result<Vec<&'a str>, Failure> {
        let mut all = Vec::new();
        while let Some(line) = self.lines.next() {
            self.line += 1;
            match line
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(": "))
            {
                Some(value) if all.len() < most => all.push(value),
                _ => return Err(self.wrong()),
            }
        }
        Ok(all)
    }

    /// Makes sure that nothing is left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(mut self) -> Result<(), Failure> {
        self.line += 1;
        if self.lines.next().is_none() {
            Ok(())
        } else {
            Err(self.wrong())
        }
    }

    /// What to say about the line just read.
    pub fn wrong(&self) -> Failure {
        Failure::usage(format!(
            "line {} of {} is malformed; it was edited or damaged",
            self.line, self.what
        ))
    }

    fn value(&mut self, name: &str) -> Result<&'a str, Failure> {
        self.line += 1;
        let line = self.lines.next().ok_or_else(|| self.wrong())?;
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(": "))
            .ok_or_else(|| self.wrong())
    }
}

/// Bytes as they stand in a line.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
