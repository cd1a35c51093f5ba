//! A serde reader over a parsed document that behaves like Go's decoder.

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Error;

/// Where in the document a reader stands; rendered only when something fails.
#[derive(Clone, Copy)]
pub(super) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    pub(super) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub(super) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    fn index(&'p self, index: usize) -> Path<'p> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    fn render(&self) -> String {
        let mut text = self.parent.map(Path::render).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
        text
    }
}

/// Go folds case when it looks for the field of a key.
pub(super) fn same_key(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!a.is_ascii() && folded(a).eq(folded(b)))
}

fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

pub(super) struct Lenient<'de, 'p> {
    value: &'de Value,
    path: &'p Path<'p>,
}

impl<'de, 'p> Lenient<'de, 'p> {
    pub(super) fn new(value: &'de Value, path: &'p Path<'p>) -> Self {
        Lenient { value, path }
    }

    fn located<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|e| if e.is_located() { e } else { e.locate(self.path.render(), self.value) })
    }

    fn refused<T>(&self, expected: &'static str) -> Result<T, Error> {
        self.located(Err(Error::invalid_type(serde::de::Unexpected::Unit, &expected)))
    }

    fn object<V: Visitor<'de>>(
        &self,
        object: Option<&'de Map<String, Value>>,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut entries: Vec<Entry<'de>> = Vec::new();
        for (written, value) in object.into_iter().flatten() {
            match fields {
                None => entries.push(Entry { name: written, written, value }),
                Some(fields) if !value.is_null() => {
                    let exact = fields.iter().find(|f| *f == written);
                    let Some(name) = exact.or_else(|| fields.iter().find(|f| same_key(f, written))) else {
                        continue;
                    };
                    entries.retain(|e| e.name != *name);
                    entries.push(Entry { name, written, value });
                }
                Some(_) => {}
            }
        }
        self.located(visitor.visit_map(Entries {
            entries: entries.into_iter(),
            value: None,
            path: self.path,
        }))
    }

    fn list<V: Visitor<'de>>(&self, items: &'de [Value], visitor: V) -> Result<V::Value, Error> {
        self.located(visitor.visit_seq(Items { items: items.iter().enumerate(), path: self.path }))
    }
}

macro_rules! null_is {
    ($visit:ident($default:expr): $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.value {
                Value::Null => self.located(visitor.$visit($default)),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Lenient<'de, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.located(visitor.visit_unit()),
            Value::Bool(v) => self.located(visitor.visit_bool(*v)),
            Value::String(v) => self.located(visitor.visit_borrowed_str(v)),
            Value::Array(items) => self.list(items, visitor),
            Value::Object(object) => self.object(Some(object), None, visitor),
            Value::Number(n) => self.located(match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(v), _, _) => visitor.visit_u64(v),
                (_, Some(v), _) => visitor.visit_i64(v),
                (_, _, v) => visitor.visit_f64(v.unwrap_or_default()),
            }),
        }
    }

    null_is!(visit_bool(false): deserialize_bool);
    null_is!(visit_u64(0): deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_f32 deserialize_f64);
    null_is!(visit_borrowed_str(""): deserialize_str deserialize_string deserialize_char deserialize_identifier
        deserialize_bytes deserialize_byte_buf);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (path, value) = (self.path, self.value);
        let result = visitor.visit_newtype_struct(self);
        Lenient { value, path }.located(result)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.list(&[], visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.object(None, None, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => self.object(None, Some(fields), visitor),
            Value::Object(object) => self.object(Some(object), Some(fields), visitor),
            _ => self.refused("an object"),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::String(variant) => {
                let variant: StrDeserializer<'_, Error> =
                    serde::de::IntoDeserializer::into_deserializer(variant.as_str());
                self.located(visitor.visit_enum(variant))
            }
            _ => self.refused("a string"),
        }
    }
}

struct Entry<'de> {
    name: &'de str,
    written: &'de str,
    value: &'de Value,
}

struct Entries<'de, 'p> {
    entries: std::vec::IntoIter<Entry<'de>>,
    value: Option<Entry<'de>>,
    path: &'p Path<'p>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        let key = seed.deserialize(serde::de::value::BorrowedStrDeserializer::new(entry.name))?;
        self.value = Some(entry);
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some(entry) = self.value.take() else {
            return Err(Error::custom("a value was asked for before its key"));
        };
        let path = self.path.key(entry.written);
        let result = seed.deserialize(Lenient::new(entry.value, &path));
        Lenient::new(entry.value, &path).located(result)
    }
}

struct Items<'de, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
    path: &'p Path<'p>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let path = self.path.index(index);
        let result = seed.deserialize(Lenient::new(value, &path));
        Lenient::new(value, &path).located(result).map(Some)
    }
}
