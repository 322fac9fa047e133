//! Reading `config.json`: typed access to fields by name, with defaults, and errors that name the field.

use serde_json::Value;

use crate::json::{self, NotNumbers};
use crate::{Error, recognise};

/// The fields of a configuration file. The accessors return an error that names the field if its value has another
/// type or is out of range.
#[derive(Clone, Debug)]
pub struct Fields {
    file: String,
    map: serde_json::Map<String, Value>,
}

/// The upper limit of any size in a configuration: far above all models, and far below overflow.
const LARGEST: u64 = 1 << 28;

/// The upper limit of the number of layers.
const MOST_LAYERS: usize = 10_000;

impl Fields {
    /// Parses a JSON object; errors refer to it as `file`.
    pub fn parse(file: impl Into<String>, text: &str) -> Result<Self, Error> {
        let file = file.into();
        match json::parse(text, NotNumbers::Text) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(_) => Err(Error::Config { file, message: "want a JSON object".into() }),
            Err(e) => Err(Error::Config {
                file,
                message: match recognise(text.as_bytes()) {
                    Some(what) => format!("this file is {what}"),
                    None => format!("not JSON: {e}"),
                },
            }),
        }
    }

    /// The fields of a nested object of the same file.
    pub(crate) fn within(&self, map: serde_json::Map<String, Value>) -> Self {
        Self { file: self.file.clone(), map }
    }

    /// The names of all fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Sets a field, overriding the file.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Sets a field that is absent from the file.
    pub(crate) fn set_default(&mut self, name: &str, value: Value) {
        if self.get(name).is_none() {
            self.map.insert(name.to_owned(), value);
        }
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// An error about the file, with `message`.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Config { file: self.file.clone(), message: message.into() }
    }

    fn wrong(&self, name: &str, want: &str, found: &Value) -> Error {
        self.error(format!("field `{name}`: want {want}, found {found}"))
    }

    /// The value of a field; `None` if it is absent or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// A string; `None` if the field is absent.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        self.get(name).map(|v| v.as_str().ok_or_else(|| self.wrong(name, "a string", v))).transpose()
    }

    /// A size of at least 1; `default` if the field is absent.
    pub fn size(&self, name: &str, default: usize) -> Result<usize, Error> {
        let Some(v) = self.get(name) else { return Ok(default) };
        match v.as_u64() {
            Some(n) if (1..=LARGEST).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(name, "a positive integer", v)),
        }
    }

    /// A count, which may be 0; `default` if the field is absent.
    pub fn count(&self, name: &str, default: usize) -> Result<usize, Error> {
        match self.get(name) {
            Some(v) if v.as_u64() == Some(0) => Ok(0),
            _ => self.size(name, default),
        }
    }

    /// Whether the field exists, even if it is null.
    pub fn given(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// A number of layers; `default` if the field is absent.
    pub fn layers(&self, name: &str, default: usize) -> Result<usize, Error> {
        match self.size(name, default)? {
            n if n <= MOST_LAYERS => Ok(n),
            n => Err(self.error(format!("field `{name}`: want at most {MOST_LAYERS}, found {n}"))),
        }
    }

    /// A finite number; `default` if the field is absent.
    pub fn number(&self, name: &str, default: f64) -> Result<f64, Error> {
        let Some(v) = self.get(name) else { return Ok(default) };
        v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(name, "a number", v))
    }

    /// A boolean; `default` if the field is absent.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Error> {
        let Some(v) = self.get(name) else { return Ok(default) };
        v.as_bool().ok_or_else(|| self.wrong(name, "true or false", v))
    }

    /// `N` numbers, or `None` if the field is absent or null. Errors on anything else.
    pub fn numbers<const N: usize>(&self, name: &str) -> Result<Option<[f32; N]>, Error> {
        let Some(found) = self.get(name) else { return Ok(None) };
        let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        let list: Option<Vec<f32>> = found.as_array().and_then(|list| list.iter().map(number).collect());
        let numbers = list.and_then(|list| list.try_into().ok());
        numbers.map(Some).ok_or_else(|| self.error(format!("field `{name}`: want {N} numbers, found {found}")))
    }

    /// Two bounds, which may be infinite; `default` if the field is absent.
    pub fn bounds(&self, name: &str, default: (f32, f32)) -> Result<(f32, f32), Error> {
        let Some(v) = self.get(name) else { return Ok(default) };
        let want = "two numbers in increasing order";
        let pair = v.as_array().and_then(|pair| match &pair[..] {
            [low, high] => Some((bound(low)?, bound(high)?)),
            _ => None,
        });
        pair.filter(|(low, high)| low <= high).ok_or_else(|| self.wrong(name, want, v))
    }

    /// `size`, the product of a field and a size, truncated to an integer. Errors, naming the field, unless it is a
    /// valid size.
    pub fn scaled(&self, name: &str, size: f64) -> Result<usize, Error> {
        if (1.0..=LARGEST as f64).contains(&size) {
            return Ok(size as usize);
        }
        Err(self.error(format!("field `{name}`: results in a size of {size}, want 1 to {LARGEST}")))
    }

    /// A size of at least 1; `None` if the field is absent.
    pub fn some_size(&self, name: &str) -> Result<Option<usize>, Error> {
        self.get(name).map(|_| self.size(name, 1)).transpose()
    }

    /// An object or a list of objects, each as fields of its own; empty if the field is absent.
    pub fn objects(&self, name: &str) -> Result<Vec<Fields>, Error> {
        let Some(v) = self.get(name) else { return Ok(Vec::new()) };
        let fields = |v: &Value| v.as_object().map(|map| Self { file: self.file.clone(), map: map.clone() });
        let found = match v {
            Value::Array(list) => list.iter().map(fields).collect(),
            one => fields(one).map(|one| vec![one]),
        };
        found.ok_or_else(|| self.wrong(name, "an object or a list of them", v))
    }

    /// A name, an object, or a list of these. Returns for each its name and these fields, overridden by those of the
    /// object. The name of an object is its field `key`.
    pub fn named(&self, name: &str, key: &str) -> Result<Vec<(String, Fields)>, Error> {
        let Some(v) = self.get(name) else { return Ok(Vec::new()) };
        let one = |v: &Value| match v {
            Value::String(text) => Some((text.clone(), self.clone())),
            Value::Object(map) => {
                let text = map.get(key)?.as_str()?.to_owned();
                let mut own = self.clone();
                own.map.extend(map.clone());
                Some((text, own))
            }
            _ => None,
        };
        let found = match v {
            Value::Array(list) => list.iter().map(one).collect(),
            v => one(v).map(|found| vec![found]),
        };
        let want = format!("a name, an object with a `{key}`, or a list of these");
        found.ok_or_else(|| self.wrong(name, &want, v))
    }

    /// A list of booleans; `None` if the field is absent.
    pub fn flags(&self, name: &str) -> Result<Option<Vec<bool>>, Error> {
        let Some(v) = self.get(name) else { return Ok(None) };
        let flags = v.as_array().and_then(|list| list.iter().map(Value::as_bool).collect());
        flags.map(Some).ok_or_else(|| self.wrong(name, "a list of true and false", v))
    }

    /// A token id; `default` if the field is absent.
    pub fn id(&self, name: &str, default: u32) -> Result<u32, Error> {
        let Some(v) = self.get(name) else { return Ok(default) };
        let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
        id.ok_or_else(|| self.wrong(name, "a token id", v))
    }

    /// A token id or a list of them; empty if the field is absent.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>, Error> {
        let Some(v) = self.get(name) else { return Ok(Vec::new()) };
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match v {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(name, "a token id or a list of them", v))
    }
}

/// A number, or an infinity in one of its notations.
fn bound(v: &Value) -> Option<f32> {
    let word = |s: &str| match s {
        "Infinity" | "inf" => Some(f32::INFINITY),
        "-Infinity" | "-inf" => Some(f32::NEG_INFINITY),
        _ => None,
    };
    match v {
        Value::String(s) => word(s),
        Value::Object(o) => o.get("__float__").and_then(Value::as_str).and_then(word),
        v => v.as_f64().map(|x| x as f32),
    }
}
