//! The shape of one JSON value, and its check with the path of what is wrong. Pure.

use super::super::error::ApiError;
use serde_json::{Map, Value};

/// The shape of one JSON value.
pub(super) enum Shape {
    Any,
    Bool,
    Text,
    /// Integer in a range, both ends inclusive.
    Int(i64, i64),
    /// Number in a range, both ends inclusive.
    Num(f64, f64),
    OneOf(&'static [&'static str]),
    /// Null or that.
    Maybe(&'static Shape),
    List(&'static Shape),
    Object(&'static [Field]),
    /// Objects told apart by `type`.
    Tagged(&'static [(&'static str, &'static [Field])]),
    /// Anything that this function accepts.
    Custom(fn(&Value, &str) -> Result<(), ApiError>),
}

/// One member of an object.
pub(super) struct Field {
    name: &'static str,
    required: bool,
    shape: Shape,
}

/// A member that may be left out.
pub(super) const fn may(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        required: false,
        shape,
    }
}

/// A member that must be there.
pub(super) const fn must(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        required: true,
        shape,
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_string()
    } else {
        format!("{path}.{name}")
    }
}

/// Checks an object's members; `also` are names that were checked elsewhere.
pub(super) fn object(
    value: &Map<String, Value>,
    fields: &[Field],
    also: &[&str],
    path: &str,
) -> Result<(), ApiError> {
    for name in value.keys() {
        if !also.contains(&name.as_str()) && !fields.iter().any(|f| f.name == name) {
            return Err(ApiError::unknown_parameter(&join(path, name)));
        }
    }
    for field in fields {
        let path = join(path, field.name);
        match value.get(field.name) {
            Some(value) => field.shape.check(value, &path)?,
            None if field.required => return Err(ApiError::missing(&path)),
            None => {}
        }
    }
    Ok(())
}

impl Shape {
    /// Checks `value`, which stands at `path`.
    pub(super) fn check(&self, value: &Value, path: &str) -> Result<(), ApiError> {
        match self {
            Self::Any => Ok(()),
            Self::Bool if value.is_boolean() => Ok(()),
            Self::Bool => Err(ApiError::wrong_type(path, "a boolean")),
            Self::Text if value.is_string() => Ok(()),
            Self::Text => Err(ApiError::wrong_type(path, "a string")),
            Self::Int(low, high) => match value.as_i64() {
                Some(n) if (*low..=*high).contains(&n) => Ok(()),
                Some(_) => Err(ApiError::invalid_value(
                    path,
                    value,
                    &format!("integers from {low} to {high}"),
                )),
                None if value.is_number() => Err(ApiError::wrong_type(
                    path,
                    "an integer, but got a decimal number instead",
                )),
                None => Err(ApiError::wrong_type(path, "an integer")),
            },
            Self::Num(low, high) => match value.as_f64() {
                Some(n) if (*low..=*high).contains(&n) => Ok(()),
                Some(_) => Err(ApiError::invalid_value(
                    path,
                    value,
                    &format!("numbers from {low} to {high}"),
                )),
                None => Err(ApiError::wrong_type(path, "a number")),
            },
            Self::OneOf(allowed) => match value.as_str() {
                Some(text) if allowed.contains(&text) => Ok(()),
                Some(_) => Err(ApiError::invalid_value(path, value, &quoted(allowed))),
                None => Err(ApiError::wrong_type(path, "a string")),
            },
            Self::Maybe(_) if value.is_null() => Ok(()),
            Self::Maybe(shape) => shape.check(value, path),
            Self::List(shape) => {
                let list = value
                    .as_array()
                    .ok_or_else(|| ApiError::wrong_type(path, "an array"))?;
                for (index, entry) in list.iter().enumerate() {
                    shape.check(entry, &format!("{path}[{index}]"))?;
                }
                Ok(())
            }
            Self::Object(fields) => {
                let value = value
                    .as_object()
                    .ok_or_else(|| ApiError::wrong_type(path, "an object"))?;
                object(value, fields, &[], path)
            }
            Self::Tagged(kinds) => {
                let value = value
                    .as_object()
                    .ok_or_else(|| ApiError::wrong_type(path, "an object"))?;
                let path_of_type = join(path, "type");
                let tag = value
                    .get("type")
                    .ok_or_else(|| ApiError::missing(&path_of_type))?;
                let Some((_, fields)) = kinds.iter().find(|(name, _)| tag == name) else {
                    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
                    return Err(ApiError::invalid_value(&path_of_type, tag, &quoted(&names)));
                };
                object(value, fields, &["type"], path)
            }
            Self::Custom(check) => check(value, path),
        }
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    names.join(", ")
}
