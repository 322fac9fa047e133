//! Which schemas are taken: those whose every keyword is enforced.

use serde_json::Value;

use super::{LONGEST_GRAMMAR, wrong};
use crate::Error;

/// The deepest schema, counted in its objects and lists.
const DEEPEST: usize = 32;

/// Keywords that are enforced, or that say nothing about what is valid.
const KEYWORDS: &[&str] = &[
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "const",
    "enum",
    "type",
    "items",
    "additionalItems",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "$anchor",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "readOnly",
    "writeOnly",
    "examples",
    "contentMediaType",
    "contentEncoding",
];

/// Keywords whose value is a schema, a list of schemas, and schemas by name.
const ONE: [&str; 3] = ["items", "additionalItems", "additionalProperties"];
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

fn refused(at: &str, message: impl Into<String>) -> Error {
    Error::Grammar { at: at.to_owned(), message: message.into() }
}

/// An error, with its place, for a schema that is too large or too deep, or has a keyword that is not supported.
pub(super) fn check(schema: &Value) -> Result<(), Error> {
    let length = schema.to_string().len();
    if length > LONGEST_GRAMMAR {
        return Err(wrong(format!("{length} bytes of schema: at most {LONGEST_GRAMMAR} are taken")));
    }
    let depth = depth(schema);
    if depth > DEEPEST {
        return Err(wrong(format!("a schema of depth {depth}: at most {DEEPEST} is taken")));
    }
    walk(schema, "")
}

/// How deep objects and lists are within each other. The parser of JSON has bounded it.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn walk(schema: &Value, at: &str) -> Result<(), Error> {
    let map = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(map) => map,
        _ => return Err(refused(at, "want a schema: an object, true or false")),
    };
    for (keyword, value) in map {
        let here = format!("{at}.{keyword}");
        if !KEYWORDS.contains(&keyword.as_str()) {
            let shown: String = keyword.chars().take(60).collect();
            return Err(refused(&here, format!("the keyword `{shown}` is not supported")));
        }
        if NAMED.contains(&keyword.as_str()) {
            let named = value.as_object().ok_or_else(|| refused(&here, "want an object of schemas"))?;
            named.iter().try_for_each(|(name, schema)| walk(schema, &format!("{here}.{name}")))?;
        } else if let (true, Some(list)) = (LISTS.contains(&keyword.as_str()) || keyword == "items", value.as_array()) {
            list.iter().enumerate().try_for_each(|(i, schema)| walk(schema, &format!("{here}[{i}]")))?;
        } else if ONE.contains(&keyword.as_str()) {
            walk(value, &here)?;
        } else if LISTS.contains(&keyword.as_str()) {
            return Err(refused(&here, "want a list of schemas"));
        }
    }
    Ok(())
}
