//! YAML and JSON as a tree that knows where each value stands, so that a fault can be named by line and column.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Spanned, UserMessageFormatter};

/// A place in a file; both count from 1, in characters. 0 is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// A value, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Where.
    pub mark: Mark,
    /// What.
    pub value: Value,
}

/// What YAML and JSON can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~`, nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Tree>),
    /// A mapping, in the file's order.
    Map(Vec<(String, Tree)>),
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub mark: Mark,
    /// The field; empty where the text is no YAML at all.
    pub field: String,
    /// What.
    pub what: String,
}

/// The documents of a file. Empty ones are left out.
///
/// # Errors
/// The first thing that is no YAML; of everything before and after it nothing is returned.
pub fn parse(text: &str) -> Result<Vec<Tree>, Fault> {
    // Enough for a dump of some thousand Nodes with all their images; a file's size is limited by its reader.
    let options = serde_saphyr::options! {
        with_snippet: false,
        // YAML 1.2: `no` and `on` are text.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: 100_000,
            max_nodes: 4_000_000,
            max_events: 10_000_000,
        },
        // Aliases repeat a label or an address; a tree of a million copies is no manifest.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 50_000 },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let location = error.location();
        let mark = location.map_or(Mark::default(), |at| Mark { line: at.line(), column: at.column() });
        let what = error.render_with_formatter(&UserMessageFormatter);
        let suffix = format!(" at line {}, column {}", mark.line, mark.column);
        Fault { mark, field: String::new(), what: what.strip_suffix(&suffix).unwrap_or(&what).to_owned() }
    })
}

impl Tree {
    /// What stands under `key`.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, tree)| tree),
            _ => None,
        }
    }

    /// The text that this is.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where `field` (`spec.podCIDRs[0]`, `metadata.annotations[a.b/c]`) stands, or the innermost thing around it.
    pub fn locate(&self, field: &str) -> Mark {
        let mut tree = self;
        let mut rest = field;
        while !rest.is_empty() {
            let (step, after) = first_step(rest);
            let inner = match &tree.value {
                Value::List(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
                _ => tree.get(step),
            };
            match inner {
                Some(inner) => (tree, rest) = (inner, after),
                None => break,
            }
        }
        tree.mark
    }

    /// Decodes a `T` out of it.
    ///
    /// # Errors
    /// The field that is not as `T` wants it, and where it stands.
    pub fn decode<'de, T: Deserialize<'de>>(&'de self) -> Result<T, Fault> {
        T::deserialize(self).map_err(|error| Fault { mark: error.mark.unwrap_or(self.mark), ..error.fault() })
    }
}

/// `a.b[0]` is `a` and `b[0]`; `[a.b/c].d` is `a.b/c` and `d`.
fn first_step(field: &str) -> (&str, &str) {
    if let Some(bracketed) = field.strip_prefix('[') {
        let (step, after) = bracketed.split_once(']').unwrap_or((bracketed, ""));
        return (step, after.strip_prefix('.').unwrap_or(after));
    }
    let end = field.find(['.', '[']).unwrap_or(field.len());
    let after = &field[end..];
    (&field[..end], after.strip_prefix('.').unwrap_or(after))
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Tree { mark: Mark { line: at.line(), column: at.column() }, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

/// Why a tree is not what a type wants: found innermost, it gathers mark and field on its way out.
#[derive(Debug)]
pub struct DecodeError {
    mark: Option<Mark>,
    field: String,
    what: String,
}

impl DecodeError {
    fn fault(self) -> Fault {
        Fault { mark: self.mark.unwrap_or_default(), field: self.field, what: self.what }
    }

    fn at(mut self, mark: Mark) -> Self {
        self.mark.get_or_insert(mark);
        self
    }

    fn within(mut self, step: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{step}{dot}{}", self.field);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        DecodeError { mark: None, field: String::new(), what: what.to_string() }
    }
}

impl<'de> Deserializer<'de> for &'de Tree {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let outcome = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), at: None }),
        };
        outcome.map_err(|error| error.at(self.mark))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Tree>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.within(&format!("[{index}]")))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, (String, Tree)>,
    at: Option<&'de (String, Tree)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        self.at = self.entries.next();
        let Some((key, _)) = self.at else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some((key, tree)) = self.at else { return Err(de::Error::custom("a value without a key")) };
        let step = if key.contains(['.', '[']) { format!("[{key}]") } else { key.clone() };
        seed.deserialize(tree).map_err(|error| error.within(&step))
    }
}
