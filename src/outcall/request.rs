//! One HTTP tool, asked: tries, bounds, and what the model is told when it goes wrong. Shell, async.
//!
//! Everything that comes back is hostile. An answer is read no further than the tool may have, no redirect is
//! followed (the URL comes from the configuration alone, and a server must not be able to point us elsewhere, inside
//! our own network least of all), and no error of ours shows the URL or the secret to the model.

use super::signature;
use crate::base::id::CallId;
use crate::base::rng::Rng;
use crate::base::time::{Clock, Now};
use crate::call::tools::{Outcome, ToolCall, ToolResult, error_output};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use std::time::Duration;
use tokio::time::Instant;

/// The pause before the second try; it doubles, and half of it is chance.
const BACKOFF: Duration = Duration::from_millis(100);
/// No pause is longer: a caller waits.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// What of an error's body is shown to the model, bytes: "no such customer" is of use to it.
const DETAIL_BYTES_MAX: usize = 1_024;

/// What a try came to.
enum Failure {
    /// Another try may do better.
    Again(Outcome, String),
    /// It would not.
    Final(Outcome, String),
}

/// Asks until there is an answer, the tries are used up or the time is over. Never errs: what goes wrong is the
/// answer.
pub async fn run(
    client: &Client,
    clock: &impl Clock,
    call_id: &CallId,
    call: &ToolCall,
    rng: &mut Rng,
) -> ToolResult {
    let left = call.expires.since(clock.now().mono);
    let timeout = || {
        error_output(
            "The tool did not answer in time.",
            "Tell the caller that it can't be done right now, and offer another way.",
        )
    };
    if left.is_zero() {
        // Nobody waits any more: an order that can't be answered is not given.
        return ToolResult {
            tool_call_id: call.tool_call_id,
            output: timeout(),
            outcome: Outcome::Timeout,
        };
    }
    let end = Instant::now() + left;
    let body = body(call_id, call);
    let mut pause = BACKOFF;
    let mut tries = 0;
    let (outcome, output) = loop {
        tries += 1;
        let one = Duration::from_millis(u64::from(call.tool.timeout_ms));
        let until = end.min(Instant::now() + one);
        let attempt = attempt(client, clock.now(), call, &body);
        let failure = match tokio::time::timeout_at(until, attempt).await {
            Ok(Ok(answer)) => break (Outcome::Ok, answer),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Final(Outcome::Timeout, timeout()),
        };
        match failure {
            Failure::Final(outcome, output) => break (outcome, output),
            Failure::Again(outcome, output) => {
                let half = pause.as_nanos() as u64 / 2;
                let chance = (u64::from(rng.next_u32()) * half) >> 32;
                let next = Instant::now() + pause / 2 + Duration::from_nanos(chance);
                if tries > call.tool.retries || next >= end {
                    break (outcome, output);
                }
                tokio::time::sleep_until(next).await;
                pause = (2 * pause).min(BACKOFF_MAX);
            }
        }
    };
    tracing::debug!(
        call = call_id.as_str(),
        tool = call.name,
        tries,
        outcome = outcome.label(),
        "tool asked"
    );
    ToolResult {
        tool_call_id: call.tool_call_id,
        output,
        outcome,
    }
}

/// `{callId, toolCallId, name, arguments}`. The arguments are proven JSON and go in as they are: numbers keep their digits.
fn body(call_id: &CallId, call: &ToolCall) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{{\"callId\":{},\"toolCallId\":{},\"name\":{},\"arguments\":{}}}",
        text(call_id.as_str()),
        text(call.tool_call_id.as_str()),
        text(&call.name),
        call.arguments
    )
}

async fn attempt(
    client: &Client,
    now: Now,
    call: &ToolCall,
    body: &str,
) -> Result<String, Failure> {
    let tool = &call.tool;
    let mut request = client
        .post(&tool.url)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_owned());
    // The model chose this text: one that is no header value is only in the body.
    if let Ok(key) = HeaderValue::from_str(call.tool_call_id.as_str()) {
        request = request.header("idempotency-key", key);
    }
    if !tool.secret.is_empty() {
        let value = signature::sign(tool.secret.expose(), now.unix_ms / 1_000, body.as_bytes());
        request = request.header(signature::HEADER, value);
    }
    let response = request.send().await.map_err(|error| {
        let output = error_output(
            "The tool can't be reached.",
            "Tell the caller that it can't be done right now, and offer another way.",
        );
        // Only where nothing was sent is a second try surely not a second order.
        if error.is_connect() {
            Failure::Again(Outcome::Unreachable, output)
        } else {
            Failure::Final(Outcome::Unreachable, output)
        }
    })?;
    let status = response.status();
    if status.is_success() {
        return read(response, tool.response_bytes_max as usize).await;
    }
    let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let what = if status.is_redirection() {
        format!(
            "The tool answered HTTP {} and wants to be asked elsewhere, which is not allowed.",
            status.as_u16()
        )
    } else {
        format!("The tool answered HTTP {}.", status.as_u16())
    };
    let detail = match status.is_redirection() {
        true => None,
        false => detail(response).await,
    };
    let advice = "Tell the caller that it did not work, and offer another way.";
    let output = match detail {
        Some(detail) => {
            serde_json::json!({ "error": format!("{what} {advice}"), "detail": detail }).to_string()
        }
        None => error_output(&what, advice),
    };
    Err(match again {
        true => Failure::Again(Outcome::HttpError, output),
        false => Failure::Final(Outcome::HttpError, output),
    })
}

/// A whole answer of at most `max` bytes, JSON or text.
async fn read(mut response: Response, max: usize) -> Result<String, Failure> {
    let too_long = || {
        Failure::Final(
            Outcome::TooLong,
            error_output(
                "The tool's answer is too long to be read.",
                "Ask it for less, or tell the caller that it can't be done right now.",
            ),
        )
    };
    let bad = |what: &str| {
        Failure::Final(
            Outcome::BadContent,
            error_output(what, "Tell the caller that it can't be done right now."),
        )
    };
    let kind = kind(&response);
    if kind == Kind::Other {
        return Err(bad(
            "The tool answered something that is neither JSON nor text.",
        ));
    }
    if response
        .content_length()
        .is_some_and(|length| length > max as u64)
    {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => break,
            // Dropping the response closes the connection: the rest of a long answer is never read.
            Ok(Some(chunk)) if bytes.len() + chunk.len() > max => return Err(too_long()),
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Err(_) => {
                return Err(Failure::Final(
                    Outcome::Unreachable,
                    error_output(
                        "The tool broke off in the middle of its answer.",
                        "It may have done what it was asked; tell the caller that this is not certain.",
                    ),
                ));
            }
        }
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(bad("The tool's answer is not UTF-8 text."));
    };
    if text.trim().is_empty() {
        return Ok("{\"ok\":true}".to_owned());
    }
    if kind == Kind::Json && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return Err(bad("The tool's answer is said to be JSON and is not."));
    }
    Ok(text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Other,
}

/// What the answer says that it is; one that says nothing is taken for text.
fn kind(response: &Response) -> Kind {
    let Some(value) = response.headers().get(CONTENT_TYPE) else {
        return Kind::Text;
    };
    let value = value.to_str().unwrap_or("?").to_ascii_lowercase();
    let essence = value.split(';').next().unwrap_or("").trim();
    if essence == "application/json" || essence.ends_with("+json") {
        Kind::Json
    } else if essence.starts_with("text/") {
        Kind::Text
    } else {
        Kind::Other
    }
}

/// The beginning of an error's body, where it is text.
async fn detail(mut response: Response) -> Option<String> {
    if kind(&response) == Kind::Other {
        return None;
    }
    let mut bytes = Vec::new();
    while bytes.len() < DETAIL_BYTES_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        let room = DETAIL_BYTES_MAX - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        // A character that the bound cut in two; anything else is no text.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    (!text.trim().is_empty()).then(|| text.to_owned())
}
