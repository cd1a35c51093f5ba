//! What was given, by field, wherever it stood.

use std::collections::BTreeMap;

use super::flags::Line;
use super::table::{SETTINGS, of_field, of_flag};
use super::value::Value;

/// A value with its place, as errors name it: `--bind-address`, or `config.conf:3: bindAddress`.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub place: String,
}

/// Everything that was given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    given: BTreeMap<&'static str, Given>,
}

impl Settings {
    /// What the flags say.
    pub fn of_flags(line: &Line) -> Self {
        let mut settings = Settings::default();
        for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
            if let Some(value) = line.setting(setting.flag) {
                let dashes = if setting.flag.len() == 1 { "-" } else { "--" };
                settings.set(setting.field, Given { value, place: format!("{dashes}{}", setting.flag) });
            }
        }
        settings
    }

    /// Sets a field, in the place of what it was.
    pub fn set(&mut self, field: &'static str, given: Given) {
        self.given.insert(field, given);
    }

    /// What was given for a field.
    pub fn of(&self, field: &str) -> Option<&Given> {
        self.given.get(field)
    }

    /// Takes a field out.
    pub fn take(&mut self, field: &str) -> Option<Given> {
        self.given.remove(field)
    }

    /// Everything, by field.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Given)> {
        self.given.iter().map(|(field, given)| (*field, given))
    }

    /// A field's value, or its default; none where it has none.
    pub fn value(&self, field: &str) -> Option<Value> {
        self.of(field).map(|given| given.value.clone()).or_else(|| {
            let setting = of_field(field)?;
            if setting.default.is_empty() { None } else { setting.kind.of_flag(setting.default) }
        })
    }

    /// Where a field stands, for errors.
    pub fn place(&self, field: &str) -> String {
        self.of(field).map_or_else(|| field.to_owned(), |given| given.place.clone())
    }
}

/// The field of a flag.
pub fn field_of(flag: &str) -> Option<&'static str> {
    of_flag(flag).map(|setting| setting.field)
}
