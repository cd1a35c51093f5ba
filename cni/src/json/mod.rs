//! JSON as CNI configurations are written in the wild: with the leniency of Go's decoder.
//!
//! * keys match without regard to case; of several that match, the last in the document wins;
//! * `null` leaves the default;
//! * unknown keys are ignored;
//! * an address of `""` is no address ([`OptIp`]).
//!
//! Types are ordinary `#[derive(Deserialize)] #[serde(default)]` structs; only `flatten` loses the leniency.
//! Every error names the path of the key and the value: `ranges[0][1].subnet: "10.1.0.0/33": prefix ...`.

mod addr;
mod de;
mod error;

use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

pub use addr::{Cidr, IpMaybeCidr, OptIp, parse_cidr, parse_ip};
pub use error::Error;

/// Decodes `value` with Go's leniency.
///
/// # Errors
/// Names the key's path below `value`, and the value found there.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(de::Lenient::new(value, &de::Path::ROOT))
}

/// Decodes `value`, which stands at key `key` of the document (for the error message).
///
/// # Errors
/// As [`decode`].
pub fn decode_at<T: DeserializeOwned>(key: &str, value: &Value) -> Result<T, Error> {
    T::deserialize(de::Lenient::new(value, &de::Path::ROOT.key(key)))
}

/// The value of `key` in `object`, matched as [`decode`] matches struct keys; `None` when absent or `null`.
pub fn member<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.iter().rev().find(|(k, v)| !v.is_null() && de::same_key(k, key)).map(|(_, v)| v)
}

/// Parses one document. Unlike `serde_json::from_slice`, a repeated key moves to its last place, and bytes that
/// are not UTF-8 become U+FFFD.
///
/// # Errors
/// The text is not one JSON value.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let text = String::from_utf8_lossy(bytes);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let value = InOrder.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// `value` on one line, as Go prints it: `<`, `>` and `&` are escaped.
pub fn compact(value: &Value) -> String {
    escape_html(value.to_string())
}

/// `value` indented by four blanks, no newline at the end: the form of everything a plug-in prints.
pub fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, form);
    serde::Serialize::serialize(value, &mut writer).expect("a Value always serializes into memory");
    escape_html(String::from_utf8(out).expect("serde_json writes UTF-8"))
}

/// `value` with the keys of every object sorted.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// These characters can stand only inside strings, so replacing them in the text is sound.
fn escape_html(text: String) -> String {
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

struct InOrder;

impl<'de> DeserializeSeed<'de> for InOrder {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for InOrder {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(InOrder)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(InOrder)?;
            if value.is_null() && out.contains_key(&key) {
                continue;
            }
            out.shift_remove(&key);
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests;
