//! Errors as this API says them: one JSON shape, `{"error":{"code","message","requestId"}}`.
//!
//! A handler returns an `ApiError`; the outermost layer (`router::finish`), which knows the request's id, writes it out.

use crate::proto::http::head::HeadError;
use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refusal or a failure: a status, a bounded code, and a sentence for people.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// 4xx or 5xx.
    pub status: StatusCode,
    /// A sentence. Never holds what the client sent.
    pub message: &'static str,
    /// Headers that belong to it.
    pub headers: &'static [(&'static str, &'static str)],
}

impl ApiError {
    /// Without headers.
    pub const fn new(status: StatusCode, message: &'static str) -> Self {
        Self {
            status,
            message,
            headers: &[],
        }
    }

    /// For a head that the strict parser refuses.
    pub fn of_head(error: HeadError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Self {
            status,
            message: error.message(),
            headers: &[("connection", "close")],
        }
    }

    /// The JSON.
    pub fn body(&self, request_id: &str) -> Value {
        json!({"error": {
            "code": code(self.status),
            "message": self.message,
            "requestId": request_id,
        }})
    }

    /// Written out with the request's id.
    pub fn into_json(self, request_id: &str) -> Response {
        let mut response = (self.status, Json(self.body(request_id))).into_response();
        for (name, value) in self.headers {
            response.headers_mut().insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The sentence for a status that a layer made without one.
pub fn of_status(status: StatusCode) -> ApiError {
    let message = match status {
        StatusCode::NOT_FOUND => "There is nothing here; /api/routes lists what there is.",
        StatusCode::METHOD_NOT_ALLOWED => "This path does not take this method; see Allow.",
        _ if status.is_server_error() => "Something went wrong on our side.",
        _ => "The request can't be served.",
    };
    ApiError::new(status, message)
}

/// The bounded code of a status.
pub fn code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "bad_request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        405 => "method_not_allowed",
        408 => "timeout",
        413 => "payload_too_large",
        415 => "unsupported_media_type",
        426 => "upgrade_required",
        429 => "too_many_requests",
        431 => "headers_too_large",
        503 => "unavailable",
        505 => "http_version",
        _ if status.is_server_error() => "internal",
        _ => "refused",
    }
}
