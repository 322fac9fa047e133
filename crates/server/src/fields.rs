//! The fields of a request's JSON, each with its path.

use std::ops::RangeInclusive;

use hyper::StatusCode;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// An object of a request.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The path of the object and a dot, or nothing for the request itself.
    path: String,
}

/// The words for what a value is.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Parses a body: an object.
pub(crate) fn parse(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(bad(format!("the body is {}: want an object", kind(&other)))),
        Err(e) => Err(bad(format!("the body is no JSON: {e}"))),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, path: String::new() }
    }

    /// The fields of an object at `path`.
    pub(crate) fn of(value: &'a Value, path: &str) -> Result<Self, Refusal> {
        let map = value.as_object().ok_or_else(|| wrong(path, "an object", value))?;
        Ok(Self { map, path: format!("{path}.") })
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(crate) fn want(&self, name: &str) -> Result<&'a Value, Refusal> {
        let missing =
            || Refusal::field("missing_required", self.path(name), format!("`{}` is missing", self.path(name)));
        self.get(name).ok_or_else(missing)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let read = |value: &'a Value| value.as_str().ok_or_else(|| wrong(&self.path(name), "a string", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| wrong(&self.path(name), "a boolean", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, Refusal> {
        let read = |value: &'a Value| value.as_array().ok_or_else(|| wrong(&self.path(name), "a list", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Refusal> {
        self.get(name).map(|value| Self::of(value, &self.path(name))).transpose()
    }

    /// A whole number in a range.
    pub(crate) fn whole(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let path = self.path(name);
        let number = whole(value).ok_or_else(|| wrong(&path, "a whole number", value))?;
        if !range.contains(&number) {
            let (least, most) = range.into_inner();
            return Err(Refusal::value(&path, format!("`{path}`: want {least} to {most}, found {number}")));
        }
        Ok(Some(number))
    }

    /// A number in a range.
    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let path = self.path(name);
        let number = value.as_f64().ok_or_else(|| wrong(&path, "a number", value))?;
        if !range.contains(&number) {
            let (least, most) = range.into_inner();
            return Err(Refusal::value(&path, format!("`{path}`: want {least} to {most}, found {number}")));
        }
        Ok(Some(number as f32))
    }

    /// Refuses fields that are not among `known`, with the nearest name; or returns them, if `lenient`. Nulls are accepted.
    pub(crate) fn unknown(&self, known: &[&str], lenient: bool) -> Result<Vec<String>, Refusal> {
        let mut ignored = Vec::new();
        for (name, value) in self.map {
            if known.contains(&name.as_str()) || value.is_null() {
                continue;
            }
            if lenient {
                ignored.push(self.path(name));
                continue;
            }
            let near = known.iter().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
            let near = near.filter(|(distance, known)| *distance <= 1 + known.len() / 4);
            let near = near.map_or_else(String::new, |(_, known)| format!(": did you mean `{known}`?"));
            let path: String = self.path(name).chars().take(200).collect();
            return Err(Refusal::field("unknown_parameter", &path, format!("there is no field `{path}`{near}")));
        }
        Ok(ignored)
    }
}

/// A number without a fraction, also if it is written as 3.0.
fn whole(value: &Value) -> Option<i64> {
    let float = |x: f64| (x.fract() == 0.0 && x.abs() < 9e15).then_some(x as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(float))
}

/// The refusal of a value of the wrong type.
pub(crate) fn wrong(path: &str, want: &str, found: &Value) -> Refusal {
    Refusal::field("invalid_type", path, format!("`{path}`: want {want}, found {}", kind(found)))
}

/// Token ids.
pub(crate) fn ids(list: &[Value], path: &str, vocabulary: usize) -> Result<Vec<u32>, Refusal> {
    let read = |(i, value): (usize, &Value)| {
        let at = format!("{path}[{i}]");
        let id = whole(value).ok_or_else(|| wrong(&at, "a token id", value))?;
        let within = u32::try_from(id).ok().filter(|id| (*id as usize) < vocabulary);
        within.ok_or_else(|| {
            let message = format!("`{at}`: the vocabulary has {vocabulary} tokens, found {id}");
            Refusal::field("token_out_of_range", at.clone(), message)
        })
    };
    list.iter().enumerate().map(read).collect()
}
