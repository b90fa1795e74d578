//! How one field of a statement is written and read: every value has exactly one spelling.

use super::text::{Lines, ParseError};
use std::fmt::Display;
use std::str::FromStr;

/// A value that stands on one line of a statement.
pub trait Field: Sized {
    /// What the value must look like, for the person who reads the error.
    fn want() -> String;
    /// Reads the value; `None` if it is malformed or not spelled canonically.
    fn read(text: &str) -> Option<Self>;
    /// Writes the value.
    fn write(&self) -> String;
}

/// One or several lines under one name.
pub trait Rows: Sized {
    /// Takes the rows named `name`.
    fn take(name: &str, lines: &mut Lines<'_>) -> Result<Self, ParseError>;
    /// Appends the rows named `name`.
    fn put(&self, name: &str, out: &mut String);
}

impl<T: Field> Rows for T {
    fn take(name: &str, lines: &mut Lines<'_>) -> Result<Self, ParseError> {
        let line = lines.line();
        let value = lines.one(name)?;
        value_at(name, line, value)
    }

    fn put(&self, name: &str, out: &mut String) {
        out.push_str(name);
        out.push_str(": ");
        out.push_str(&self.write());
        out.push('\n');
    }
}

/// No line, or many: a list that may be empty has no line at all.
impl<T: Field> Rows for Vec<T> {
    fn take(name: &str, lines: &mut Lines<'_>) -> Result<Self, ParseError> {
        let mut all = Vec::new();
        loop {
            let line = lines.line();
            match lines.next_if(name)? {
                Some(value) => all.push(value_at(name, line, value)?),
                None => return Ok(all),
            }
        }
    }

    fn put(&self, name: &str, out: &mut String) {
        for value in self {
            value.put(name, out);
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn want() -> String {
        format!("{}, or none", T::want())
    }

    fn read(text: &str) -> Option<Self> {
        if text == "none" {
            Some(None)
        } else {
            T::read(text).map(Some)
        }
    }

    fn write(&self) -> String {
        self.as_ref()
            .map_or_else(|| "none".to_owned(), Field::write)
    }
}

fn value_at<T: Field>(name: &str, line: usize, value: &str) -> Result<T, ParseError> {
    T::read(value).ok_or_else(|| ParseError::Value {
        line,
        name: name.to_owned(),
        want: T::want(),
    })
}

/// Reads by `FromStr` and insists that printing gives the same text back.
pub(crate) fn canonical<T: FromStr + Display>(text: &str) -> Option<T> {
    text.parse::<T>()
        .ok()
        .filter(|value| value.to_string() == text)
}

/// Makes a field of a type that has `Display` and `FromStr`.
macro_rules! field {
    ($($type:ty => $want:expr),* $(,)?) => { $(
        impl $crate::statement::Field for $type {
            fn want() -> String { ($want).into() }
            fn read(text: &str) -> Option<Self> { $crate::statement::field::canonical(text) }
            fn write(&self) -> String { self.to_string() }
        }
    )* };
}

/// Makes a field of words: one lower-case word per variant.
macro_rules! words {
    ($(#[$doc:meta])* $Name:ident { $($(#[$vdoc:meta])* $Variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Name { $($(#[$vdoc])* $Variant),* }
        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$Variant => $word),* })
            }
        }
        impl std::str::FromStr for $Name {
            type Err = $crate::statement::NotAValue;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($word => Ok(Self::$Variant),)* _ => Err($crate::statement::NotAValue) }
            }
        }
        $crate::statement::field::field!($Name => [$($word),*].join(" | "));
    };
}

/// Makes a field of several values on one line, parted by single spaces; literals stand between them as they are.
/// The last value may itself hold spaces.
macro_rules! row {
    ($(#[$doc:meta])* $Name:ident($want:literal) { $($(#[$fdoc:meta])* $field:ident : $type:ty $(, then $word:literal)?);* $(;)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Name { $($(#[$fdoc])* pub $field: $type),* }
        impl $crate::statement::Field for $Name {
            fn want() -> String { $want.to_owned() }
            fn read(text: &str) -> Option<Self> {
                let count = [$(stringify!($field), $($word,)?)*].len();
                let mut words = text.splitn(count, ' ');
                let value = Self { $($field: {
                    let value = <$type as $crate::statement::Field>::read(words.next()?)?;
                    $(if words.next()? != $word { return None; })?
                    value
                }),* };
                words.next().is_none().then_some(value)
            }
            fn write(&self) -> String {
                [$($crate::statement::Field::write(&self.$field), $($word.to_owned(),)?)*].join(" ")
            }
        }
    };
}

pub(crate) use {field, row, words};
