//! The API's own errors: shape, codes and texts as the reference quotes them. Pure.

use serde_json::{Value, json};

/// The `error` member of an `error` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// `invalid_request_error` or `server_error`.
    pub kind: &'static str,
    /// What clients branch on.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The path of the offending member.
    pub param: Option<String>,
    /// Whether the client's `event_id` comes back; the real one often leaves it out.
    pub echoes_id: bool,
}

impl ApiError {
    /// An `invalid_request_error`.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: "invalid_request_error",
            code,
            message: message.into(),
            param: None,
            echoes_id: true,
        }
    }

    /// The same, naming the offending member.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same, without the client's `event_id`.
    pub fn without_id(mut self) -> Self {
        self.echoes_id = false;
        self
    }

    /// A member that the schema does not have.
    pub fn unknown_parameter(param: &str) -> Self {
        Self::new(
            "unknown_parameter",
            format!("Unknown parameter: '{param}'."),
        )
        .at(param)
    }

    /// A member that must be there.
    pub fn missing(param: &str) -> Self {
        Self::new(
            "missing_required_parameter",
            format!("Missing required parameter: '{param}'."),
        )
        .at(param)
    }

    /// A member of another type.
    pub fn wrong_type(param: &str, expected: &str) -> Self {
        Self::new(
            "invalid_type",
            format!("Invalid type for '{param}': expected {expected}."),
        )
        .at(param)
    }

    /// A member whose value is not one of those allowed.
    pub fn invalid_value(param: &str, value: &Value, allowed: &str) -> Self {
        Self::new(
            "invalid_value",
            format!("Invalid value for '{param}': {value}. Supported values are: {allowed}."),
        )
        .at(param)
    }

    /// The `error` member; `event_id` is the client's.
    pub fn to_json(&self, event_id: Option<&str>) -> Value {
        json!({
            "type": self.kind,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": event_id.filter(|_| self.echoes_id),
        })
    }
}
