//! One decoding error: where, what was found, what was expected.

use std::fmt::{self, Display};

use serde::de::{Expected, Unexpected};
use serde_json::Value;

use crate::{Code, Error as CniError};

/// Why a value could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The value has the wrong JSON type (as opposed to a bad value of the right type).
    pub wrong_type: bool,
    /// Path of the key, like `ranges[0].subnet`; empty for the document itself.
    pub path: String,
    /// The offending value as JSON, shortened; empty when a key is missing.
    pub value: String,
    msg: String,
    located: bool,
}

impl Error {
    fn at_unknown_place(wrong_type: bool, msg: String) -> Self {
        Error { wrong_type, path: String::new(), value: String::new(), msg, located: false }
    }

    pub(super) fn is_located(&self) -> bool {
        self.located
    }

    /// Fills in the innermost place and value; outer levels leave them alone.
    pub(super) fn locate(mut self, path: String, value: &Value) -> Self {
        if self.located {
            return self;
        }
        self.located = true;
        if let Some(field) = self.msg.strip_prefix(MISSING) {
            self.path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
            self.msg = "is missing".to_owned();
            return self;
        }
        self.path = path;
        self.value = shorten(value);
        self
    }
}

const MISSING: &str = "\0missing ";

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<&str> = [self.path.as_str(), self.value.as_str()].into();
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            return f.write_str(&self.msg);
        }
        let glue = if self.msg.starts_with("is ") { " " } else { ": " };
        write!(f, "{}{glue}{}", parts.join(": "), self.msg)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: Display>(msg: T) -> Self {
        Self::at_unknown_place(false, msg.to_string())
    }
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::at_unknown_place(true, format!("is not {}", plain(&expected.to_string())))
    }
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::at_unknown_place(false, format!("is not {}", plain(&expected.to_string())))
    }
    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::at_unknown_place(false, format!("is not {}", plain(&expected.to_string())))
    }
    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::at_unknown_place(false, format!("is not one of {}", expected.join(", ")))
    }
    fn missing_field(field: &'static str) -> Self {
        Self::at_unknown_place(false, format!("{MISSING}{field}"))
    }
}

impl From<Error> for CniError {
    /// Code 6 for a value of the wrong JSON type, 7 for any other bad value.
    fn from(e: Error) -> Self {
        let code = if e.wrong_type { Code::DECODE } else { Code::INVALID_CONFIG };
        CniError::new(code, e.to_string())
    }
}

/// Rust's names of types mean nothing to the author of a configuration.
fn plain(expected: &str) -> String {
    let range = match expected {
        "u8" => Some((0, u64::from(u8::MAX))),
        "u16" => Some((0, u64::from(u16::MAX))),
        "u32" => Some((0, u64::from(u32::MAX))),
        "u64" | "usize" => Some((0, u64::MAX)),
        "i8" => Some((i64::from(i8::MIN), i8::MAX as u64)),
        "i16" => Some((i64::from(i16::MIN), i16::MAX as u64)),
        "i32" => Some((i64::from(i32::MIN), i32::MAX as u64)),
        "i64" | "isize" => Some((i64::MIN, i64::MAX as u64)),
        _ => None,
    };
    match (range, expected) {
        (Some((low, high)), _) => format!("an integer from {low} to {high}"),
        (_, "f32" | "f64") => "a number".to_owned(),
        (_, "a sequence") => "a list".to_owned(),
        (_, text) if text.starts_with("struct ") || text == "a map" => "an object".to_owned(),
        (_, text) => text.to_owned(),
    }
}

fn shorten(value: &Value) -> String {
    const LIMIT: usize = 100;
    let mut text = value.to_string();
    if text.len() > LIMIT {
        text.truncate(text.floor_char_boundary(LIMIT));
        text.push_str("...");
    }
    text
}
