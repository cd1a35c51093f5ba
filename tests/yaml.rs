//! Objects as YAML that every parser reads alike.

use std::fmt::Write as _;

use serde_json::Value;

/// The documents, one after the other, keys in the order that they have.
pub fn render(documents: &[Value]) -> String {
    let rendered: Vec<String> = documents.iter().map(document).collect();
    rendered.join("---\n")
}

fn document(object: &Value) -> String {
    let mut text = String::new();
    block(&mut text, object, 0);
    text
}

/// A value that begins on a line of its own.
fn block(text: &mut String, value: &Value, indent: usize) {
    let blank = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(text, "{blank}{}:", scalar(key));
                behind(text, value, indent);
            }
        }
        Value::Array(list) => list.iter().for_each(|item| self::item(text, item, indent)),
        other => {
            let _ = writeln!(text, "{blank}{}", flow(other));
        }
    }
}

/// A value behind its key.
fn behind(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(text, value, indent + 2);
        }
        Value::Array(list) if !list.is_empty() => {
            text.push('\n');
            block(text, value, indent);
        }
        Value::String(lines) if lines.ends_with('\n') => literal(text, lines, indent + 2),
        other => {
            let _ = writeln!(text, " {}", flow(other));
        }
    }
}

/// An item of a list: its first line stands behind the dash.
fn item(text: &mut String, value: &Value, indent: usize) {
    let mut inner = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut inner, value, indent + 2),
        other => inner = format!("{}{}\n", " ".repeat(indent + 2), flow(other)),
    }
    let _ = write!(text, "{}- {}", " ".repeat(indent), inner.trim_start());
}

fn literal(text: &mut String, lines: &str, indent: usize) {
    text.push_str(" |\n");
    for line in lines.lines() {
        let _ = writeln!(text, "{}", format!("{}{line}", " ".repeat(indent)).trim_end());
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Plain where nobody could take it for anything but a string; else as JSON has it.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", ".inf"];
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./$()=".contains(letter);
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let plain = begins && text.chars().all(is_plain) && !WORDS.contains(&text.to_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let odd = json!({
            "a": [], "b": {}, "c": [{"d": [1, true, null], "e": {"f": "10%"}}, "off", "--x=1,2", "a: b", "# c", "", "1e3", "0x1f"],
            "g": "line\n\n  indented # no comment\n", "y": "no\nend", "h/i.j": -1, "k": "-", "l": "é\"\\",
        });
        let text = render(&[odd.clone(), json!({"second": "x"})]);
        let read: Vec<Value> = serde_saphyr::from_multiple(&text).expect(&text);
        assert_eq!(read, [odd, json!({"second": "x"})], "{text}");
    }
}
