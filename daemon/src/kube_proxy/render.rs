//! A configuration as the file would have it: for `--write-config-to`, and for who asks a running proxy.

use serde_json::{Map, Number, Value as Json};

use super::file::{API_VERSION, KIND};
use super::given::Settings;
use super::table::SETTINGS;
use super::value::{Kind, Value};

/// Every field, with its default where nothing was given.
pub fn tree(settings: &Settings) -> Json {
    let mut root = Map::new();
    root.insert("apiVersion".into(), API_VERSION.into());
    root.insert("kind".into(), KIND.into());
    for setting in SETTINGS {
        let value = settings.value(setting.field).map_or_else(|| nothing(setting.kind), |value| json(&value));
        insert(&mut root, setting.field, value);
    }
    Json::Object(root)
}

fn insert(root: &mut Map<String, Json>, field: &str, value: Json) {
    let Some((section, rest)) = field.split_once('.') else {
        root.insert(field.to_owned(), value);
        return;
    };
    let inner = root.entry(section.to_owned()).or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

fn nothing(kind: Kind) -> Json {
    match kind {
        Kind::Text | Kind::Quantity => "".into(),
        Kind::Gates => Json::Object(Map::new()),
        _ => Json::Null,
    }
}

fn json(value: &Value) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        // 5 and not 5.0, as Go has it.
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => (*value as i64).into(),
        Value::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
        Value::Text(value) => value.as_str().into(),
        Value::Duration(value) => value.to_string().into(),
        Value::Texts(values) => values.iter().map(String::as_str).collect(),
        Value::Gates(gates) => gates.iter().map(|(name, on)| (name.clone(), Json::from(*on))).collect(),
        Value::Patterns(patterns) => patterns
            .iter()
            .map(|(pattern, level)| serde_json::json!({"filePattern": pattern, "verbosity": level}))
            .collect(),
    }
}

/// The same as YAML.
pub fn yaml(settings: &Settings) -> String {
    let mut text = String::new();
    if let Json::Object(root) = tree(settings) {
        write(&mut text, &root, 0);
    }
    text
}

fn write(text: &mut String, object: &Map<String, Json>, depth: usize) {
    for (key, value) in object {
        text.push_str(&"  ".repeat(depth));
        text.push_str(key);
        match value {
            Json::Object(inner) if !inner.is_empty() => {
                text.push_str(":\n");
                write(text, inner, depth + 1);
            }
            // JSON is YAML; what is neither a plain word nor a number stands in quotes.
            Json::String(word) if is_plain(word) => text.push_str(&format!(": {word}\n")),
            value => text.push_str(&format!(": {value}\n")),
        }
    }
}

/// Whether a word is text to YAML without quotes.
fn is_plain(word: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let begins_well = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    begins_well
        && word.chars().all(is_safe)
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_defaults() {
        let text = yaml(&Settings::default());
        let mut warnings = Vec::new();
        let read = super::super::file::parse(&text, "config.conf", &mut warnings).expect("reads");
        assert!(warnings.is_empty(), "{warnings:?}");
        for setting in SETTINGS {
            assert_eq!(
                read.value(setting.field).filter(|value| !value.to_string().is_empty()),
                Settings::default().value(setting.field),
                "{}",
                setting.field
            );
        }
        for line in ["bindAddress: 0.0.0.0\n", "iptables:\n  masqueradeBit: 14\n", "  syncPeriod: 30s\n"] {
            assert!(text.replace('"', "").contains(line), "{line:?} is missing in:\n{text}");
        }
    }
}
